//! `qx-node telemetry VM --since`: what a guest has reported up to now, as a table, CSV or JSON.

use quantix::message::node::{self, Sample, node_message};
use quantix::rt::clock;
use serde_json::{Value, json};

use super::client::{Client, unexpected};
use super::options::Typed;
use super::render::{bytes, iso_time, table};
use super::run::print_json;
use super::{Trouble, client, print, vm};

/// `qx-node telemetry VM --since 30m`
pub fn history(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    if typed.has("watch") {
        return Err(Trouble::Usage("--since or --watch, not both".to_owned()));
    }
    let since = typed.value("since").unwrap_or_default();
    let seconds = seconds(&since.to_string_lossy()).ok_or_else(|| {
        let since = since.to_string_lossy();
        Trouble::Usage(format!("--since takes 90s, 30m or 1h, not {since}"))
    })?;
    let mut client = client(typed)?;
    let asked = node_message::Body::GetHistory(node::GetHistory { seconds });
    let id = client.ask(name, asked)?;
    let samples = samples(&mut client, id)?;
    let now = clock::wall().seconds;
    if typed.has("json") {
        let samples = samples.iter().map(|of| sample_json(of, now));
        let samples: Vec<Value> = samples.collect();
        return print_json(&json!({ "vm": name, "samples": samples }));
    }
    match typed.has("csv") {
        true => print(&csv(&samples, now)),
        false => print(&text(&samples, now)),
    }
}

/// All that the answer to a GetHistory has.
pub fn samples(client: &mut Client, id: u64) -> Result<Vec<Sample>, Trouble> {
    let mut samples = Vec::new();
    client.gather(id, |body| {
        let node_message::Body::History(mut part) = body else {
            return Err(unexpected());
        };
        samples.append(&mut part.samples);
        Ok(part.more)
    })?;
    Ok(samples)
}

/// A number with its unit. More than an hour is all that there is.
fn seconds(since: &str) -> Option<u32> {
    let at = since.find(|c: char| !c.is_ascii_digit())?;
    let number: u32 = since[..at].parse().ok().filter(|number| *number > 0)?;
    match &since[at..] {
        "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        _ => None,
    }
}

fn time_of(sample: &Sample, now: i64) -> String {
    iso_time(now - i64::try_from(sample.age_ms / 1000).unwrap_or(0))
}

fn text(samples: &[Sample], now: i64) -> String {
    if samples.is_empty() {
        return "nothing was reported in that time\n".to_owned();
    }
    let head = [
        "TIME",
        "CPU",
        "LOAD",
        "MEMORY",
        "DISK",
        "READ/S",
        "WRITTEN/S",
        "RECEIVED/S",
        "SENT/S",
        "IO WAIT",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let rate = |of: Option<u64>| of.map_or("-".to_owned(), bytes);
    let percent = |of: f64| format!("{of:.1} %");
    for of in samples {
        rows.push(vec![
            time_of(of, now),
            percent(of.cpu_usage_percent),
            format!("{:.2}", of.load_avg_1m),
            percent(memory_percent(of)),
            percent(of.fullest_disk_percent),
            rate(of.disk_read),
            rate(of.disk_written),
            rate(of.received),
            rate(of.sent),
            of.io_waiting.map_or("-".to_owned(), percent),
        ]);
    }
    table(&rows)
}

/// 0 where nothing is known of it.
pub fn memory_percent(of: &Sample) -> f64 {
    match of.memory_total {
        0 => 0.0,
        total => of.memory_used as f64 * 100.0 / total as f64,
    }
}

/// The names and values of a sample, for CSV and JSON alike.
fn columns(of: &Sample, now: i64) -> [(&'static str, Value); 14] {
    [
        ("time", json!(time_of(of, now))),
        ("cpu_percent", json!(of.cpu_usage_percent)),
        ("load_1m", json!(of.load_avg_1m)),
        ("memory_used_bytes", json!(of.memory_used)),
        ("memory_total_bytes", json!(of.memory_total)),
        ("swap_percent", json!(of.swap_used_percent)),
        ("fullest_disk_percent", json!(of.fullest_disk_percent)),
        ("disk_read_bytes_per_second", json!(of.disk_read)),
        ("disk_written_bytes_per_second", json!(of.disk_written)),
        ("received_bytes_per_second", json!(of.received)),
        ("sent_bytes_per_second", json!(of.sent)),
        ("cpu_waiting_percent", json!(of.cpu_waiting)),
        ("memory_waiting_percent", json!(of.memory_waiting)),
        ("io_waiting_percent", json!(of.io_waiting)),
    ]
}

/// For programs.
pub fn sample_json(of: &Sample, now: i64) -> Value {
    let columns = columns(of, now).into_iter();
    Value::Object(
        columns
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

/// RFC 4180, but with line ends as everything here has them. No value needs quotes.
fn csv(samples: &[Sample], now: i64) -> String {
    let names = columns(&Sample::default(), now).map(|(name, _)| name);
    let mut text = names.join(",") + "\n";
    for of in samples {
        let values = columns(of, now).map(|(_, value)| match value {
            Value::String(time) => time,
            Value::Null => String::new(),
            number => number.to_string(),
        });
        text += &(values.join(",") + "\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_with_its_unit() {
        for (text, expected) in [("90s", 90), ("30m", 1800), ("1h", 3600), ("200h", 720_000)] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "30",
            "m",
            "0m",
            "-1m",
            "1.5h",
            "1d",
            "5 m",
            "99999999h",
            "1hm",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_empty() {
        let sample = Sample {
            age_ms: 1500,
            memory_used: 3 << 30,
            memory_total: 8 << 30,
            disk_read: Some(0),
            ..Default::default()
        };
        let text = csv(&[sample], 100);
        let (head, row) = text.trim_end().split_once('\n').unwrap();
        assert_eq!(head.split(',').count(), row.split(',').count());
        assert_eq!(
            row,
            "1970-01-01T00:01:39Z,0.0,0.0,3221225472,8589934592,0.0,0.0,0,,,,,,"
        );
    }
}
