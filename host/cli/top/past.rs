//! What a VM did up to now, in so many cells of the same time. Pure.

use std::time::Duration;

use quantix::message::node::Sample;

/// So far back goes what stands beside a VM.
pub const RECENT_SECONDS: u32 = 600;

/// A gap between two samples of more than this is one in which nothing is known.
const GAP_MS: u64 = 150_000;

/// The most that was in each cell, the oldest first; `None` where nothing is known. `age`: of the samples' answer.
pub fn cells(
    samples: &[Sample],
    age: Duration,
    span: Duration,
    count: usize,
    value: impl Fn(&Sample) -> Option<f64>,
) -> Vec<Option<f64>> {
    let mut cells = vec![None; count];
    let cell_ms = (millis(span) / count.max(1) as u64).max(1);
    let mut before = None;
    for sample in samples {
        let from = sample.age_ms.saturating_add(millis(age));
        // What is counted is what was since the sample before.
        let to = before.filter(|to| to - from.min(*to) <= GAP_MS);
        before = Some(from);
        let Some(value) = value(sample) else { continue };
        let oldest = to.unwrap_or(from).saturating_sub(1).max(from) / cell_ms;
        for at in from / cell_ms..=oldest {
            let index = usize::try_from(at).ok();
            let index = index.and_then(|at| count.checked_sub(at + 1));
            if let Some(cell) = index.and_then(|index| cells.get_mut(index)) {
                *cell = Some(cell.unwrap_or(value).max(value));
            }
        }
    }
    cells
}

fn millis(of: Duration) -> u64 {
    u64::try_from(of.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(of: &[(u64, f64)]) -> Vec<Sample> {
        let sample = |(age, cpu_usage_percent): &(u64, f64)| Sample {
            age_ms: age * 1000,
            cpu_usage_percent: *cpu_usage_percent,
            ..Default::default()
        };
        of.iter().map(sample).collect()
    }

    fn shown(of: &[(u64, f64)], age: u64) -> Vec<Option<f64>> {
        let (age, span) = (Duration::from_secs(age), Duration::from_secs(600));
        cells(&samples(of), age, span, 6, |of| Some(of.cpu_usage_percent))
    }

    #[test]
    fn a_cell_has_the_most_of_its_time() {
        let found = shown(&[(30, 5.0), (20, 9.0), (10, 7.0), (0, 1.0)], 0);
        assert_eq!(found, [None, None, None, None, None, Some(9.0)]);
        assert_eq!(shown(&[(20, 9.0), (10, 7.0)], 95)[4..], [Some(9.0), None]);
        assert_eq!(shown(&[(900, 9.0)], 0), [None; 6]);
        assert_eq!(shown(&[], 0), [None; 6]);
    }

    #[test]
    fn samples_that_are_far_apart_stand_for_the_time_between_and_gaps_are_gaps() {
        let found = shown(&[(240, 2.0), (120, 4.0), (0, 6.0)], 0);
        assert_eq!(found[..3], [None; 3]);
        assert_eq!(found[3..], [Some(4.0), Some(6.0), Some(6.0)]);
        let found = shown(&[(590, 1.0), (10, 3.0)], 0);
        assert_eq!(found, [Some(1.0), None, None, None, None, Some(3.0)]);
    }
}
