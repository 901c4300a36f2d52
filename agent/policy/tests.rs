//! What a policy lets pass, and by which line it does not.

use quantix::message::agent::Execute;

use super::explain::{doubts, explain};
use super::*;
use crate::config;

fn judge(text: &str) -> Judge {
    let (config, _) = config::parse(text, "agent.conf");
    Judge::new(config.policy)
}

fn asks(judge: &mut Judge, mut body: Body) -> Result<Body, String> {
    let action = Action::of(&body);
    match judge.judge(Time::default(), &action, &mut body) {
        Ok(()) => Ok(body),
        Err(failure) => Err(failure.to_string()),
    }
}

fn line(command: &str) -> Execute {
    Execute {
        command: command.to_owned(),
        ..Default::default()
    }
}

fn words(words: &[&str]) -> Execute {
    Execute {
        args: words[1..].iter().map(|word| (*word).to_owned()).collect(),
        ..line(words[0])
    }
}

fn exec(judge: &mut Judge, request: Execute) -> Result<(String, Vec<String>), String> {
    match asks(judge, Body::Execute(request))? {
        Body::Execute(request) => Ok((request.command, request.args)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_line_all_is_allowed_and_none_leaves_ping_and_telemetry() {
    let requests = || {
        [
            Body::Execute(line("id; id")),
            Body::ReadFile(agent::ReadFile::default()),
            Body::Shutdown(agent::Shutdown::default()),
            Body::GetHardware(agent::GetHardware::default()),
            Body::SyncTime(agent::SyncTime::default()),
        ]
    };
    for body in requests() {
        assert_eq!(
            asks(&mut judge("log_level = debug"), body.clone()),
            Ok(body)
        );
    }
    for body in requests() {
        let why = asks(&mut judge("\nallow = none"), body).unwrap_err();
        assert!(
            why.ends_with("is not allowed in this guest: agent.conf line 2: allow = none (POLICY)"),
            "{why}"
        );
    }
    let mut some = judge("allow = info power");
    assert!(asks(&mut some, Body::Shutdown(agent::Shutdown::default())).is_ok());
    let set = agent::SyncTime {
        step_ns: 1,
        ..Default::default()
    };
    assert!(asks(&mut some, Body::SyncTime(agent::SyncTime::default())).is_ok());
    assert!(asks(&mut some, Body::SyncTime(set)).is_err());
}

#[test]
fn what_makes_no_sense_closes_the_guest_and_says_so() {
    for (text, why) in [
        (
            "allow = exce",
            "line 1: allow = exce: exce is no group; takes all, none, or some of info",
        ),
        ("allow =", "line 1: allow =: takes all, none"),
        ("alow = none", "line 1: alow = none: unknown key"),
        ("nonsense", "line 1: nonsense: is not of the form"),
        (
            "allow = info\nallow = all",
            "line 2: allow = all: is there twice",
        ),
        (
            "read_path = var",
            "line 1: read_path = var: takes an absolute path",
        ),
        (
            "write_path = /srv/../etc",
            "line 1: write_path = /srv/../etc: takes",
        ),
        (
            "command = systemctl",
            "line 1: command = systemctl: takes the absolute path",
        ),
        ("command = /bin/x;id", "line 1: command = /bin/x;id: takes"),
        ("run_as =", "line 1: run_as =: takes users"),
        (
            "rate = exec 0/minute",
            "line 1: rate = exec 0/minute: takes a group",
        ),
        (
            "rate = exec 5/week",
            "line 1: rate = exec 5/week: takes a group",
        ),
        (
            "rate = exce 5/hour",
            "line 1: rate = exce 5/hour: exce is no group",
        ),
    ] {
        let found = asks(&mut judge(text), Body::Execute(line("id"))).unwrap_err();
        assert!(
            found.contains(why) && found.contains("until that is mended"),
            "{found}"
        );
    }
    // What is none of a policy's closes nothing.
    let mut open = judge("log_level = loud\ntelemetry_interval = x");
    assert!(asks(&mut open, Body::Execute(line("id"))).is_ok());
    let many = "read_path = /a\n".repeat(MAX_LINES + 1);
    assert!(asks(&mut judge(&many), Body::Execute(line("id"))).is_err());
}

#[test]
fn commands_are_those_that_are_listed_and_run_by_the_path_in_the_line() {
    let text = "command = /usr/bin/systemctl restart nginx*\ncommand = /usr/bin/uptime\n\
                command = /opt/tools/report ...\n";
    let mut judge = judge(text);
    let runs = |command: &str, args: &[&str]| {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        Ok((command.to_owned(), args))
    };
    let restart = runs("/usr/bin/systemctl", &["restart", "nginx.service"]);
    for asked in [
        words(&["systemctl", "restart", "nginx.service"]),
        words(&["/usr/bin/systemctl", "restart", "nginx.service"]),
        line("systemctl  restart nginx.service"),
    ] {
        assert_eq!(exec(&mut judge, asked), restart);
    }
    assert_eq!(
        exec(&mut judge, line("uptime")),
        runs("exec /usr/bin/uptime", &[])
    );
    assert_eq!(
        exec(&mut judge, words(&["/opt/tools/report", "a b", ";"])),
        runs("/opt/tools/report", &["a b", ";"])
    );
    for asked in [
        words(&["systemctl", "stop", "nginx"]),
        words(&["systemctl", "restart", "nginx", "sshd"]),
        words(&["systemctl", "restart"]),
        words(&["/tmp/systemctl", "restart", "nginx"]),
        words(&["/usr/bin/../bin/systemctl", "restart", "nginx"]),
        words(&["report", "x"]),
        words(&["uptime", "-p"]),
        line("systemctl restart nginx; id"),
        line("systemctl restart $(id)"),
        line("uptime\nid"),
        line("PATH=/tmp uptime"),
        line(""),
        Execute {
            login_shell: true,
            ..line("")
        },
        Execute {
            login_shell: true,
            ..line("uptime")
        },
    ] {
        let shown = format!("{asked:?}");
        let why = exec(&mut judge, asked).expect_err(&shown);
        let expected =
            "is not allowed in this guest: agent.conf line 1: none of the 3 command lines";
        assert!(why.contains(expected) && why.ends_with("(POLICY)"), "{why}");
    }
}

#[test]
fn a_refusal_is_no_longer_than_people_read() {
    let long = line(&"x; ".repeat(1000));
    let why = exec(&mut judge("command = /usr/bin/uptime"), long).unwrap_err();
    assert!(
        why.len() < 300 && why.contains("x;\"... is not allowed"),
        "{why}"
    );
}

#[test]
fn a_listed_command_is_given_nothing_that_has_it_run_another() {
    let mut judge = judge("command = /usr/bin/uptime");
    for name in [
        "LD_PRELOAD",
        "PATH",
        "BASH_ENV",
        "IFS",
        "LD_LIBRARY_PATH",
        "TERMINFO",
    ] {
        let environment = [(name.to_owned(), "x".to_owned())].into();
        let why = exec(
            &mut judge,
            Execute {
                environment,
                ..line("uptime")
            },
        );
        assert!(
            why.unwrap_err().contains("requests set only TERM"),
            "{name}"
        );
    }
    let environment = [("LC_ALL".to_owned(), "C".to_owned())].into();
    let harmless = Execute {
        environment,
        ..line("uptime")
    };
    assert!(exec(&mut judge, harmless).is_ok());
    let elsewhere = Execute {
        working_directory: "/tmp".to_owned(),
        ..line("uptime")
    };
    assert!(
        exec(&mut judge, elsewhere)
            .unwrap_err()
            .contains("no working directory")
    );
}

#[test]
fn users_are_those_that_are_listed_by_the_names_they_are_listed_by() {
    let mut some = judge("run_as = alice bob");
    let run = |user: &str, group: &str| Execute {
        run_as_user: user.to_owned(),
        run_as_group: group.to_owned(),
        ..line("id")
    };
    assert!(exec(&mut some, run("bob", "")).is_ok());
    for (user, group) in [
        ("", ""),
        ("root", ""),
        ("0", ""),
        ("bob ", ""),
        ("bob", "docker"),
    ] {
        let why = exec(&mut some, run(user, group)).unwrap_err();
        assert!(
            why.contains("agent.conf line 1: run_as = alice bob"),
            "{why}"
        );
    }
    assert!(exec(&mut judge("run_as = root"), run("", "")).is_ok());
}

#[test]
fn a_rate_lets_so_many_pass_and_says_when_the_next_may() {
    let mut judge = judge("rate = power 2/minute");
    let mut ask = |seconds: u64| {
        let mut body = Body::Shutdown(agent::Shutdown::default());
        let now = Time::from_micros((3600 + seconds) * 1_000_000);
        let action = Action::of(&body);
        judge
            .judge(now, &action, &mut body)
            .map_err(|failure| failure.to_string())
    };
    assert_eq!((ask(0), ask(1)), (Ok(()), Ok(())));
    let why = ask(10).unwrap_err();
    assert!(
        why.contains("line 1: rate = power 2/minute; try again in 21 s (BUSY)"),
        "{why}"
    );
    assert_eq!(ask(31), Ok(()));
    // Other groups have nothing to do with it.
    assert!(asks(&mut judge, Body::Thaw(agent::Thaw::default())).is_ok());
}

#[test]
fn an_explanation_names_each_group_its_lines_and_what_is_doubtful() {
    let text = "allow = exec write info\nwrite_path = /etc/app\ncommand = /bin/sh -c *\n\
                run_as = root\nrate = exec 5/minute\nread_path = /var/log\n";
    let (config, faults) = config::parse(text, "agent.conf");
    assert_eq!(faults, Vec::<String>::new());
    let shown = explain(&config.policy);
    for line in [
        "  info       yes  hardware, disks,",
        "  exec       yes  line 3: /bin/sh -c *\n                  line 4: as root\n                  line 5: at most 5/minute\n",
        "  write      yes  line 2: below /etc/app\n",
        "  read       no   line 1: allow = exec write info\n",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let found = doubts(&config.policy);
    for doubt in [
        "line 2: write_path = /etc/app: who may write in /etc may do everything",
        "line 3: sh runs what its arguments say",
        "line 6: below /var/log: counts for nothing, read is not allowed",
    ] {
        assert!(
            found.iter().any(|found| found.starts_with(doubt)),
            "{found:?}"
        );
    }
    let all = Policy::new("agent.conf");
    assert_eq!(doubts(&all), Vec::<String>::new());
    assert!(!explain(&all).contains(" no "));
}
