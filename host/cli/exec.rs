//! The commands that run commands.

use std::io::{self, IsTerminal, Write};

use quantix::message::{Body, agent};
use quantix::rt::random;

use super::client::unexpected;
use super::live::{self, Asked, Input, Life, Output};
use super::options::Typed;
use super::run::print_json;
use super::{Trouble, client, print, report, terminal, utf8, vm};

/// `qx-node exec`
pub fn exec(typed: &Typed) -> Result<u8, Trouble> {
    let usage = |why: &str| Trouble::Usage(why.to_owned());
    if typed.rest.is_none() && typed.words.len() > 1 {
        return Err(usage("put -- in front of the command"));
    }
    let (name, _) = vm(typed, 0)?;
    let mut words = typed.rest.iter().flatten();
    let command = words
        .next()
        .ok_or_else(|| usage("no command: put -- and the command behind the VM"))?;
    let text = |long| utf8(long, typed.value(long).unwrap_or_default());
    let mut request = agent::Execute {
        command: utf8("command", command)?.to_owned(),
        working_directory: text("cwd")?.to_owned(),
        run_as_user: text("user")?.to_owned(),
        run_as_group: text("group")?.to_owned(),
        include_supplementary_groups: true,
        timeout_seconds: typed
            .number("timeout")
            .map_err(Trouble::Usage)?
            .unwrap_or(0),
        wait_for_exit: true,
        keep: typed.has("detach"),
        ..Default::default()
    };
    for word in words {
        request.args.push(utf8("argument", word)?.to_owned());
    }
    for pair in typed.values("env") {
        let (key, value) = utf8("--env", pair)?
            .split_once('=')
            .ok_or_else(|| usage("--env takes KEY=VALUE"))?;
        request.environment.insert(key.to_owned(), value.to_owned());
    }
    if typed.has("detach") {
        if typed.has("interactive") || typed.has("tty") {
            return Err(usage(
                "--detach leaves the command without us: no -i, no -t",
            ));
        }
        if typed.has("outcome") {
            return Err(usage("--detach knows no outcome; attach shows it"));
        }
        let mut client = client(typed)?;
        let id = client.ask_agent(name, Body::Execute(request))?;
        let Body::ExecuteResponse(answer) = client.wait_agent(id)? else {
            return Err(unexpected());
        };
        if typed.has("json") {
            return print_json(&report::started_json(name, &answer));
        }
        return print(&format!("{}\n", answer.job));
    }
    let word = text("outcome")?;
    if typed.has("outcome") && (word.is_empty() || word.contains(char::is_whitespace)) {
        return Err(usage("--outcome takes one word"));
    }
    let input = match (typed.has("interactive"), typed.has("tty")) {
        (_, true) if io::stdin().is_terminal() => Input::Terminal,
        (true, _) => Input::Stdin,
        _ => Input::None,
    };
    request.stream_output = true;
    request.stream_input = input != Input::None;
    request.terminal = typed.has("tty").then(our_terminal);
    let output = match typed.has("json") {
        true => Output::Kept,
        false => Output::Shown,
    };
    // What the agent's end has cut off from its input would not be the same afterwards.
    let life = match input {
        Input::None => Life::Found(format!("{:016x}", random::number())),
        Input::Stdin | Input::Terminal => Life::Tied,
    };
    if let Life::Found(token) = &life {
        request.token.clone_from(token);
    }
    let asked = Asked {
        vm: name,
        request: Body::Execute(request),
        input,
        output,
        life,
        from: [0, 0],
    };
    let answer = live::run(&|| client(typed), asked)?;
    let status = show_outcome(typed, name, &answer)?;
    if !word.is_empty() {
        // On a line of its own, whatever the command has left stderr at. There is none where the command did not
        // come to its end: that is how a program tells its statuses from ours.
        writeln!(io::stderr(), "\n{word} {}", outcome_words(&answer))
            .map_err(|e| Trouble::Local(format!("stderr: {e}")))?;
    }
    Ok(status)
}

/// For programs: how the command ended.
fn outcome_words(answer: &agent::ExecuteResponse) -> String {
    let how = match (answer.timed_out, answer.signal) {
        (true, _) => "timeout".to_owned(),
        (_, 0) => format!("exit {}", answer.exit_code),
        (_, signal) => format!("signal {signal}"),
    };
    match answer.truncated {
        true => how + " incomplete",
        false => how,
    }
}

/// `qx-node shell`
pub fn shell(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let input = match live::is_interactive() {
        true => Input::Terminal,
        false => Input::Stdin,
    };
    let user = utf8("user", typed.value("user").unwrap_or_default())?;
    let request = agent::Execute {
        run_as_user: user.to_owned(),
        include_supplementary_groups: true,
        wait_for_exit: true,
        stream_output: true,
        stream_input: true,
        terminal: (input == Input::Terminal).then(our_terminal),
        login_shell: true,
        ..Default::default()
    };
    let asked = Asked {
        vm: name,
        request: Body::Execute(request),
        input,
        output: Output::Shown,
        life: Life::Tied,
        from: [0, 0],
    };
    let answer = live::run(&|| client(typed), asked)?;
    show_outcome(typed, name, &answer)
}

/// One for the command that is like ours.
fn our_terminal() -> agent::Terminal {
    let size = terminal::size().unwrap_or_default();
    agent::Terminal {
        rows: size.rows.into(),
        columns: size.columns.into(),
        r#type: std::env::var("TERM").unwrap_or_default(),
    }
}

/// What a command's end means for us.
pub fn show_outcome(
    typed: &Typed,
    name: &str,
    answer: &agent::ExecuteResponse,
) -> Result<u8, Trouble> {
    let status = match answer {
        answer if answer.timed_out => 124,
        answer => u8::try_from(answer.exit_code).unwrap_or(255),
    };
    if typed.has("json") {
        print_json(&report::exec_json(name, answer))?;
        return Ok(status);
    }
    io::stdout().write_all(&answer.stdout)?;
    io::stdout().flush()?;
    let mut err = io::stderr().lock();
    let _ = err.write_all(&answer.stderr);
    let kept = answer.stdout.len() + answer.stderr.len();
    // What was lost of a stream has been told of where it was.
    if answer.truncated && kept > 0 {
        let _ = writeln!(
            err,
            "qx-node: output cut after {kept} bytes; write it to a file and cp that"
        );
    }
    if answer.timed_out {
        let seconds = answer.duration_ms / 1000;
        let _ = writeln!(
            err,
            "qx-node: killed after {seconds} s: it had not ended in time"
        );
    }
    Ok(status)
}
