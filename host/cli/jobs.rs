//! Commands that are kept in a guest: what there is, what they write, their end.

use quantix::error::{Code, Failure};
use quantix::message::Body;
use quantix::message::agent::{self, Job, JobState};
use serde_json::{Value, json};

use super::client::unexpected;
use super::exec::show_outcome;
use super::live::{self, Asked, Input, Life, Output};
use super::options::Typed;
use super::render::{bytes, plain, span, table};
use super::run::print_json;
use super::{Trouble, client, print, utf8, vm};

/// `qx-node jobs`
pub fn jobs(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let mut client = client(typed)?;
    let id = client.ask_agent(name, Body::ListJobs(agent::ListJobs {}))?;
    let Body::JobList(list) = client.wait_agent(id)? else {
        return Err(unexpected());
    };
    if typed.has("json") {
        let all = list.jobs.iter().map(|job| job_json(name, job)).collect();
        return print_json(&Value::Array(all));
    }
    print(&job_table(&list.jobs))
}

/// `qx-node attach`
pub fn attach(typed: &Typed) -> Result<u8, Trouble> {
    let (name, words) = vm(typed, 1)?;
    let job = number(words.first().map(|word| word.as_os_str()))?;
    let from = from(typed)?;
    let asked = Asked {
        vm: name,
        request: Body::AttachJob(agent::AttachJob {
            job,
            stdout_from: from[0],
            stderr_from: from[1],
            ..Default::default()
        }),
        input: Input::None,
        output: match typed.has("json") {
            true => Output::Kept,
            false => Output::Shown,
        },
        life: Life::Kept(job),
        from,
    };
    let answer = live::run(&|| client(typed), asked)?;
    show_outcome(typed, name, &answer)
}

/// `qx-node kill`
pub fn kill(typed: &Typed) -> Result<u8, Trouble> {
    let (name, words) = vm(typed, 1)?;
    let job = number(words.first().map(|word| word.as_os_str()))?;
    let signal = match typed.value("signal") {
        None => 0,
        Some(word) => signal_number(utf8("--signal", word)?)?,
    };
    let mut client = client(typed)?;
    let id = client.ask_agent(name, Body::KillJob(agent::KillJob { job, signal }))?;
    let Body::KillJobResponse(agent::KillJobResponse { job: Some(job) }) = client.wait_agent(id)?
    else {
        return Err(unexpected());
    };
    if typed.has("json") {
        return print_json(&job_json(name, &job));
    }
    print(&format!("job {}: {}\n", job.job, state(&job)))
}

fn number(word: Option<&std::ffi::OsStr>) -> Result<u32, Trouble> {
    let number = word.and_then(|word| word.to_str()?.parse().ok());
    number.filter(|number| *number > 0).ok_or_else(|| {
        let why = "a job is named by its number; `qx-node jobs VM` lists them";
        Trouble::Usage(why.to_owned())
    })
}

/// `OUT` or `OUT,ERR`
fn from(typed: &Typed) -> Result<[u64; 2], Trouble> {
    let Some(value) = typed.value("from") else {
        return Ok([0, 0]);
    };
    let mut parts = value.to_str().unwrap_or_default().split(',');
    let mut part = |default| parts.next().map_or(Some(default), |text| text.parse().ok());
    match (part(0), part(0), parts.next()) {
        (Some(stdout), Some(stderr), None) => Ok([stdout, stderr]),
        _ => {
            let why = "--from takes a byte of stdout, and of stderr behind a comma";
            Err(Trouble::Usage(why.to_owned()))
        }
    }
}

/// The signals that have names here.
pub const SIGNALS: [(&str, u32); 10] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("TERM", 15),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
];

/// What a signal is called, as `SIGTERM`.
pub fn signal_name(number: u32) -> String {
    match SIGNALS.iter().find(|(_, known)| *known == number) {
        Some((name, _)) => format!("SIG{name}"),
        None => format!("signal {number}"),
    }
}

/// The number of a signal with this name or number.
pub fn signal_number(word: &str) -> Result<u32, Trouble> {
    let upper = word.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = SIGNALS.iter().find(|(known, _)| *known == name);
    let number = named.map(|(_, number)| *number).or(word.parse().ok());
    number
        .filter(|number| (1..=31).contains(number))
        .ok_or_else(|| {
            let why = format!("{word}: not a signal; --signal takes a name as HUP, or 1 to 31");
            Trouble::Failed(Failure::new(Code::Invalid, why))
        })
}

fn job_table(jobs: &[Job]) -> String {
    if jobs.is_empty() {
        let next = "`qx-node exec --detach VM -- COMMAND` starts one";
        return format!("no jobs: {next}\n");
    }
    let head = ["JOB", "STATE", "RAN", "OUTPUT", "USER", "COMMAND"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for job in jobs {
        let user = if job.user.is_empty() {
            "root"
        } else {
            &job.user
        };
        rows.push(vec![
            job.job.to_string(),
            state(job),
            match job.state() {
                JobState::Ended => span(job.duration_ms / 1000),
                _ => "-".to_owned(),
            },
            bytes(job.stdout_bytes.saturating_add(job.stderr_bytes)),
            plain(user),
            plain(&job.command),
        ]);
    }
    table(&rows)
}

fn state(job: &Job) -> String {
    match job.state() {
        JobState::Running if job.adopted => "running, outlived its agent".to_owned(),
        JobState::Running => "running".to_owned(),
        JobState::Lost => "lost: its keeper was killed".to_owned(),
        _ if job.timed_out => "killed: timed out".to_owned(),
        _ if job.signal > 0 => format!("ended by signal {}", job.signal),
        _ => format!("ended, status {}", job.exit_code),
    }
}

fn job_json(vm: &str, job: &Job) -> Value {
    let has_ended = job.state() == JobState::Ended;
    json!({
        "vm": vm,
        "job": job.job,
        "state": match job.state() {
            JobState::Running => "running",
            JobState::Ended => "ended",
            _ => "lost",
        },
        "command": job.command,
        "user": job.user,
        "pid": job.pid,
        "started": job.started.map_or(0, |time| time.seconds),
        "exit_code": has_ended.then_some(job.exit_code),
        "signal": Some(job.signal).filter(|signal| *signal > 0),
        "timed_out": job.timed_out,
        "duration_ms": has_ended.then_some(job.duration_ms),
        "stdout_bytes": job.stdout_bytes,
        "stderr_bytes": job.stderr_bytes,
        "adopted": job.adopted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (word, number) in [("HUP", 1), ("sigterm", 15), ("9", 9), ("31", 31)] {
            assert_eq!(signal_number(word).unwrap(), number);
        }
        assert_eq!([15, 31].map(signal_name), ["SIGTERM", "signal 31"]);
        for bad in ["", "NOPE", "0", "32", "-1"] {
            assert!(signal_number(bad).is_err(), "{bad}");
        }
    }
}
