//! Who is logged in. utmp(5) has those who came by login(1) and sshd(8), where it is still written;
//! systemd-logind those for whom PAM told it. Each knows some that the other does not.

use std::path::Path;

use prost::Message;
use quantix::message::agent::{ListUsers, LoggedIn, Timestamp, UserList};

use super::{PAGE, read_regular};
use crate::names;

/// The users who are logged in.
pub fn list(request: &ListUsers) -> UserList {
    let mut users = Vec::new();
    for path in ["/run/utmp", "/var/run/utmp"] {
        if let Some(utmp) = read_regular(Path::new(path), MAX_UTMP) {
            users = parse_utmp(&utmp);
            break;
        }
    }
    let sessions = Path::new("/run/systemd/sessions");
    for name in names::all(sessions).unwrap_or_default() {
        let Some(text) = read_regular(&sessions.join(name), MAX_SESSION) else {
            continue;
        };
        if let Some(session) = parse_session(&String::from_utf8_lossy(&text))
            && users.len() < MAX_USERS
            && !is_among(&users, &session)
        {
            users.push(session);
        }
    }
    let mut list = UserList::default();
    let (mut left_out, mut bytes) = (request.after, 0);
    for user in users {
        if !Path::new(&["/proc/", &user.pid.to_string()].concat()).exists() {
            continue;
        }
        if left_out > 0 {
            left_out -= 1;
            continue;
        }
        bytes += user.encoded_len();
        if bytes > PAGE {
            list.more = true;
            break;
        }
        list.users.push(user);
    }
    list
}

/// Thousands of them.
const MAX_UTMP: usize = 1024 * 1024;
const MAX_USERS: usize = 4096;
const MAX_SESSION: usize = 16 * 1024;

/// Both tell of the same session.
fn is_among(users: &[LoggedIn], session: &LoggedIn) -> bool {
    users.iter().any(|user| {
        let same = !session.terminal.is_empty() && user.terminal == session.terminal;
        user.name == session.name && (same || user.pid == session.pid)
    })
}

/// Of a `struct utmp` with times of 32 bits, as x86-64 has it: its length, and where what stands.
const RECORD: usize = 384;
const PID: usize = 4;
const LINE: (usize, usize) = (8, 32);
const USER: (usize, usize) = (44, 32);
const HOST: (usize, usize) = (76, 256);
const SECONDS: usize = 340;
const USER_PROCESS: i16 = 7;

fn parse_utmp(bytes: &[u8]) -> Vec<LoggedIn> {
    let (records, _) = bytes.as_chunks::<RECORD>();
    records.iter().filter_map(parse_record).collect()
}

fn parse_record(record: &[u8; RECORD]) -> Option<LoggedIn> {
    let number = |at: usize| {
        record
            .get(at..)?
            .first_chunk()
            .map(|n| i32::from_ne_bytes(*n))
    };
    let text = |(at, length): (usize, usize)| {
        let bytes = record.get(at..at + length).unwrap_or_default();
        let end = bytes.iter().position(|byte| *byte == 0);
        let bytes = bytes.get(..end.unwrap_or(length)).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let kind = record.first_chunk().map(|n| i16::from_ne_bytes(*n));
    let name = text(USER);
    if kind != Some(USER_PROCESS) || name.is_empty() {
        return None;
    }
    // Unsigned, it lasts until 2106.
    let seconds = number(SECONDS)?.cast_unsigned().into();
    Some(LoggedIn {
        name,
        terminal: text(LINE),
        host: text(HOST),
        since: Some(Timestamp { seconds, nanos: 0 }),
        pid: u32::try_from(number(PID)?).ok()?,
    })
}

/// `NAME=value`, a line each. Sessions that are not a person's, as a greeter's, are none.
fn parse_session(text: &str) -> Option<LoggedIn> {
    let mut session = LoggedIn::default();
    let mut is_persons = false;
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        match name {
            "CLASS" => is_persons = value.starts_with("user"),
            "USER" => session.name = value.to_owned(),
            "TTY" => session.terminal = value.to_owned(),
            "REMOTE_HOST" => session.host = value.to_owned(),
            "LEADER" => session.pid = value.parse().ok()?,
            "REALTIME" => {
                let micros: i64 = value.parse().ok()?;
                session.since = Some(Timestamp {
                    seconds: micros / 1_000_000,
                    nanos: 0,
                });
            }
            _ => {}
        }
    }
    let is_whole = session.pid > 0 && session.since.is_some() && !session.name.is_empty();
    Some(session).filter(|_| is_persons && is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: i16, pid: i32, line: &str, user: &str, host: &str, seconds: u32) -> Vec<u8> {
        let mut record = vec![0; RECORD];
        let mut put = |at: usize, bytes: &[u8]| {
            record[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &kind.to_ne_bytes());
        put(4, &pid.to_ne_bytes());
        put(8, line.as_bytes());
        put(44, user.as_bytes());
        put(76, host.as_bytes());
        put(340, &seconds.to_ne_bytes());
        record
    }

    #[test]
    fn utmp_has_users_among_other_records() {
        let long = "h".repeat(256);
        let mut utmp = record(2, 0, "~", "reboot", "6.1", 1);
        utmp.extend(record(7, 42, "pts/0", "alice", "10.0.0.1", 1_800_000_000));
        utmp.extend(record(8, 43, "pts/1", "alice", "", 1));
        utmp.extend(record(7, -1, "pts/2", "bob", "", 1));
        utmp.extend(record(7, 44, "tty1", "", "", 1));
        utmp.extend(record(7, 45, "tty2", &"u".repeat(32), &long, 4_000_000_000));
        utmp.extend([7; 100]);
        let found = parse_utmp(&utmp);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].name, "alice");
        assert_eq!(
            (&*found[0].terminal, &*found[0].host),
            ("pts/0", "10.0.0.1")
        );
        assert_eq!(found[0].since.unwrap().seconds, 1_800_000_000);
        assert_eq!((found[1].name.len(), &found[1].host), (32, &long));
        assert_eq!(found[1].since.unwrap().seconds, 4_000_000_000);
    }

    #[test]
    fn logind_has_sessions_of_people_and_of_greeters() {
        let text = "# This is private data. Do not parse.\nUID=1000\nUSER=alice\nACTIVE=1\n\
            STATE=active\nREMOTE=1\nTYPE=tty\nCLASS=user\nTTY=pts/0\nREMOTE_HOST=10.0.0.1\n\
            SERVICE=sshd\nLEADER=42\nREALTIME=1800000000123456\n";
        let alice = parse_session(text).unwrap();
        assert_eq!((&*alice.name, alice.pid), ("alice", 42));
        assert_eq!((&*alice.terminal, &*alice.host), ("pts/0", "10.0.0.1"));
        assert_eq!(alice.since.unwrap().seconds, 1_800_000_000);
        assert_eq!(
            parse_session(&text.replace("CLASS=user", "CLASS=greeter")),
            None
        );
        assert_eq!(parse_session(&text.replace("LEADER=42", "LEADER=x")), None);
        assert_eq!(parse_session(&text.replace("LEADER=42", "")), None);
        assert_eq!(parse_session(""), None);

        // The same session, as utmp tells of it.
        let utmp = parse_utmp(&record(7, 41, "pts/0", "alice", "h", 1));
        assert!(is_among(&utmp, &alice));
        let other = parse_session(&text.replace("TTY=pts/0\n", "")).unwrap();
        assert!(!is_among(&utmp, &other));
    }
}
