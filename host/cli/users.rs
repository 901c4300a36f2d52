//! `qx-node users`: who is logged in.

use quantix::message::Body;
use quantix::message::agent::{ListUsers, LoggedIn};
use serde_json::{Value, json};

use super::client::unexpected;
use super::options::Typed;
use super::pages::Pages;
use super::render::{given, iso_time, or_dash, plain, table};
use super::run::print_json;
use super::{Trouble, client, print, vm};

/// `qx-node users`
pub fn users(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let mut client = client(typed)?;
    let mut users = Vec::new();
    let mut pages = Pages::of("users");
    loop {
        let after = u32::try_from(users.len()).unwrap_or(u32::MAX);
        let id = client.ask_agent(name, Body::ListUsers(ListUsers { after }))?;
        let Body::UserList(part) = client.wait_agent(id)? else {
            return Err(unexpected());
        };
        if part.more {
            pages.more(&part, !part.users.is_empty())?;
        }
        users.extend(part.users);
        if !part.more {
            break;
        }
    }
    users.sort_by_key(since);
    if typed.has("json") {
        let all = users.iter().map(|user| to_json(name, user)).collect();
        return print_json(&Value::Array(all));
    }
    print(&text(&users))
}

fn since(user: &LoggedIn) -> i64 {
    let since = user.since.map_or(0, |since| since.seconds);
    // 100,000 years: what a guest says has to be a date.
    since.clamp(0, 3_155_760_000_000)
}

fn to_json(vm: &str, user: &LoggedIn) -> Value {
    json!({
        "vm": vm,
        "user": user.name,
        "terminal": given(&user.terminal),
        "from": given(&user.host),
        "since": since(user),
        "pid": user.pid,
    })
}

fn text(users: &[LoggedIn]) -> String {
    if users.is_empty() {
        return "nobody is logged in\n".to_owned();
    }
    let head = ["USER", "TERMINAL", "FROM", "SINCE", "PID"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for user in users {
        rows.push(vec![
            plain(&user.name),
            or_dash(&user.terminal),
            or_dash(&user.host),
            iso_time(since(user)),
            user.pid.to_string(),
        ]);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use quantix::message::agent::Timestamp;

    use super::*;

    #[test]
    fn what_a_guest_says_of_its_users_is_text_in_a_table() {
        let user = LoggedIn {
            name: "al\x1b[2J".into(),
            terminal: "pts/0".into(),
            host: String::new(),
            since: Some(Timestamp {
                seconds: i64::MIN,
                nanos: -1,
            }),
            pid: 42,
        };
        assert_eq!(
            text(&[user]),
            "USER       TERMINAL  FROM  SINCE                 PID\n\
             al\\x1b[2J  pts/0     -     1970-01-01T00:00:00Z  42\n"
        );
        assert_eq!(text(&[]), "nobody is logged in\n");
    }
}
