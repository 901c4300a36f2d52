//! How long tasks had to wait for CPU, memory and disks: /proc/pressure (Documentation/accounting/psi.rst).

use std::path::Path;

use quantix::message::agent::Pressure;

use super::{fields, number, read as read_file};

/// Of cpu, memory and io, where the kernel counts.
pub fn read(buffer: &mut Vec<u8>) -> Vec<Pressure> {
    let all = ["cpu", "memory", "io"].into_iter();
    let found = all.filter_map(|resource| {
        let path = Path::new("/proc/pressure").join(resource);
        let found = parse(read_file(path, 256, buffer))?;
        Some(Pressure {
            resource: resource.to_owned(),
            ..found
        })
    });
    found.collect()
}

/// Two lines, as `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`; before 5.13 cpu has no `full`.
fn parse(text: &[u8]) -> Option<Pressure> {
    let line = |name: &[u8]| {
        let mut lines = text.split(|b| *b == b'\n');
        let line = lines.find_map(|line| line.strip_prefix(name))?;
        let value = |key: &[u8]| fields(line).find_map(|field| field.strip_prefix(key));
        // NaN and infinity are numbers to parse().
        let share = |key| {
            value(key)
                .and_then(number::<f64>)
                .filter(|share| share.is_finite())
        };
        Some((
            share(b"avg10=")?,
            share(b"avg60=")?,
            value(b"total=").and_then(number)?,
        ))
    };
    let (some_10, some_60, some_us) = line(b"some ")?;
    let (full_10, full_60, full_us) = line(b"full ").unwrap_or_default();
    Some(Pressure {
        some_10,
        some_60,
        some_us,
        full_10,
        full_60,
        full_us,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_read() {
        let text = b"some avg10=1.50 avg60=0.25 avg300=0.00 total=12345\n\
            full avg10=0.75 avg60=0.10 avg300=0.00 total=678\n";
        let found = Pressure {
            some_10: 1.5,
            some_60: 0.25,
            some_us: 12_345,
            full_10: 0.75,
            full_60: 0.1,
            full_us: 678,
            ..Default::default()
        };
        assert_eq!(parse(text), Some(found));
        // Of cpu, on kernels before 5.13.
        let some = &text[..text.iter().position(|b| *b == b'\n').unwrap()];
        let found = parse(some).unwrap();
        assert_eq!((found.some_us, found.full_us), (12_345, 0));
    }

    #[test]
    fn a_kernel_that_does_not_count_says_nothing() {
        for text in [
            &b""[..],
            b"some\n",
            b"some avg10=x avg60=0 total=1",
            b"some avg10=nan avg60=0 total=1",
            b"some avg10=1 avg60=0 total=-1",
        ] {
            assert_eq!(parse(text), None);
        }
    }
}
