//! `qx-node time`: the guest's clocks beside this host's.

use quantix::error::{Code, Failure};
use quantix::message::Body;
use quantix::message::agent::{SyncTime, TimeReport, Timestamp};
use quantix::rt::civil::Civil;
use quantix::rt::clock;
use serde_json::{Value, json};

use super::client::{Client, unexpected};
use super::options::Typed;
use super::render::{given, plain};
use super::run::print_json;
use super::{Trouble, client, print, utf8, vm};

/// What the guest said, and what this host's clock was meanwhile.
pub struct Reading {
    report: TimeReport,
    /// How far the guest was ahead of us when it read its clock, and how wrong that can be.
    pub ahead_ns: i128,
    within_ns: i128,
    host: Timestamp,
}

/// `qx-node time`
pub fn time(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let to = match (typed.value("set"), typed.has("sync")) {
        (Some(_), true) => {
            let why = "either --set or --sync";
            return Err(Trouble::Usage(why.to_owned()));
        }
        (Some(word), false) => Some(parse(utf8("--set", word)?)?),
        (None, _) => None,
    };
    let mut client = client(typed)?;
    let mut request = SyncTime {
        set_time: to,
        ..Default::default()
    };
    if typed.has("sync") {
        let found = read(&mut client, name, SyncTime::default())?;
        request.step_ns = i64::try_from(-found.ahead_ns).map_err(|_| {
            let why = "the clocks are further apart than one can be stepped; use --set";
            Trouble::Failed(Failure::new(Code::Invalid, why))
        })?;
    }
    let was_set = request != SyncTime::default();
    let mut found = read(&mut client, name, request)?;
    if was_set {
        // How far it is off now.
        let problem = std::mem::take(&mut found.report.rtc_problem);
        found = read(&mut client, name, SyncTime::default())?;
        found.report.rtc_problem = problem;
    }
    if typed.has("json") {
        return print_json(&to_json(name, &found));
    }
    print(&text(&found))
}

pub fn read(client: &mut Client, name: &str, request: SyncTime) -> Result<Reading, Trouble> {
    let sent = nanos(clock::wall());
    let id = client.ask_agent(name, Body::SyncTime(request))?;
    let Body::SyncTimeResponse(report) = client.wait_agent(id)? else {
        return Err(unexpected());
    };
    let host = clock::wall();
    let heard = nanos(host);
    let guest = nanos(report.before.ok_or_else(unexpected)?);
    Ok(Reading {
        ahead_ns: guest - i128::midpoint(sent, heard),
        within_ns: (heard - sent) / 2,
        host,
        report,
    })
}

const BILLION: i128 = 1_000_000_000;

fn nanos(time: Timestamp) -> i128 {
    i128::from(time.seconds) * BILLION + i128::from(time.nanos)
}

fn parse(word: &str) -> Result<Timestamp, Trouble> {
    let seconds = Civil::parse(word).and_then(Civil::seconds);
    let seconds = seconds.ok_or_else(|| {
        let why = format!(
            "--set takes a time in UTC, as \"2026-11-25 20:27:37\", not {}",
            plain(word)
        );
        Trouble::Usage(why)
    })?;
    Ok(Timestamp { seconds, nanos: 0 })
}

fn show(time: Timestamp) -> String {
    let date = Civil::of(time.seconds);
    format!(
        "{date}.{:03} UTC",
        time.nanos.clamp(0, 999_999_999) / 1_000_000
    )
}

/// `3 ms`, `1 h 2 min`
fn span(nanos: i128) -> String {
    let nanos = nanos.unsigned_abs();
    let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
    match nanos {
        0..1_000_000 => format!("{} us", nanos / 1000),
        1_000_000..10_000_000_000 => format!("{} ms", nanos / 1_000_000),
        _ => super::render::span(seconds),
    }
}

fn text(found: &Reading) -> String {
    let zero = Timestamp::default();
    let apart = if found.ahead_ns.abs() <= found.within_ns {
        format!(
            "the same, as far as can be told ({})",
            span(found.within_ns)
        )
    } else {
        let side = if found.ahead_ns > 0 {
            "ahead"
        } else {
            "behind"
        };
        format!("{} {side}", span(found.ahead_ns))
    };
    let rtc = match (&found.report.rtc, &*found.report.rtc_problem) {
        (Some(rtc), "") => format!("{} UTC", Civil::of(rtc.seconds)),
        (_, problem) => plain(problem),
    };
    format!(
        "guest  {}  {apart}\nhost   {}\nrtc    {rtc}\n",
        show(found.report.now.unwrap_or(zero)),
        show(found.host)
    )
}

fn to_json(vm: &str, found: &Reading) -> Value {
    let seconds = |time: Timestamp| time.seconds as f64 + f64::from(time.nanos) / 1e9;
    json!({
        "vm": vm,
        "guest": found.report.now.map(seconds),
        "host": seconds(found.host),
        "ahead_seconds": found.ahead_ns as f64 / 1e9,
        "uncertainty_seconds": found.within_ns as f64 / 1e9,
        "rtc": found.report.rtc.map(|time| time.seconds),
        "rtc_problem": given(&found.report.rtc_problem),
    })
}
