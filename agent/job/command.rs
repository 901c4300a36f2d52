//! What the child does before it becomes the command: who it is, where it is, what it inherits.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::fchown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use quantix::error::{Code, Failure};
use quantix::message::agent;
use quantix::rt::sys::process;
use quantix::rt::sys::tty;

use crate::users::{Databases, User};

/// Its standard streams.
#[derive(Debug)]
pub enum Streams {
    /// Those that are not there are /dev/null.
    Pipes {
        stdin: Option<File>,
        output: Option<(File, File)>,
    },
    /// The command's end.
    Terminal(File),
}

/// The C library's and every distribution's default for root.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The group that terminals belong to, by name, so that `write` and `wall` may write to them.
const TTY_GROUP: &str = "tty";

impl Streams {
    /// The files that the child has to keep.
    pub fn files(&self) -> Vec<&File> {
        match self {
            Self::Pipes { stdin, output } => {
                let output = output.iter().flat_map(|(out, err)| [out, err]);
                stdin.iter().chain(output).collect()
            }
            Self::Terminal(slave) => vec![slave],
        }
    }
}

/// What can be refused without a child.
pub fn check(request: &agent::Execute) -> Result<(), Failure> {
    let invalid = |why: String| Err(Failure::new(Code::Invalid, why));
    let nul = |text: &String| text.contains('\0');
    let (key, value) = (request.environment.keys(), request.environment.values());
    if request.command.trim().is_empty() && !request.login_shell {
        return invalid("the command is empty".to_owned());
    }
    if nul(&request.command) || request.args.iter().any(nul) || key.clone().chain(value).any(nul) {
        return invalid("the command or its environment has a NUL byte in it".to_owned());
    }
    if let Some(bad) = key.clone().find(|key| key.is_empty() || key.contains('=')) {
        return invalid(format!("environment: {bad:?} is not a variable's name"));
    }
    let cwd = &request.working_directory;
    if !cwd.is_empty() && !cwd.starts_with('/') {
        return invalid(format!(
            "working directory {cwd}: not an absolute path in the guest"
        ));
    }
    if request.terminal.is_some() && !request.stream_output {
        return invalid("a terminal's output can only be streamed".to_owned());
    }
    Ok(())
}

/// Becomes the command. Returns only why it could not.
pub fn become_command(request: &agent::Execute, streams: &Streams) -> Failure {
    match prepare(request, streams) {
        Ok(mut command) => {
            let error = command.exec();
            Failure::system("run", &command.get_program().to_string_lossy(), &error)
        }
        Err(failure) => failure,
    }
}

fn prepare(request: &agent::Execute, streams: &Streams) -> Result<Command, Failure> {
    let read = |path: &str| fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned());
    let (passwd, group) = (read("/etc/passwd"), read("/etc/group"));
    let files = Databases {
        passwd: passwd.as_deref().unwrap_or_default(),
        group: group.as_deref().unwrap_or_default(),
    };
    let me = process::effective_user().to_string();
    let wanted = match request.run_as_user.as_str() {
        "" => me.as_str(),
        name => name,
    };
    let user = files.user(wanted)?;
    let gid = match request.run_as_group.as_str() {
        "" => user.gid,
        group => files.group(group)?,
    };
    let mut groups = vec![gid];
    if request.include_supplementary_groups {
        groups.extend(files.supplementary(&user.name));
        groups.dedup();
    }

    attach(streams, &user, files.group(TTY_GROUP).unwrap_or(gid))?;
    process::set_umask(0o022);
    // The agent is hard to kill when memory runs out; what it starts must not be.
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    process::become_ordinary();
    if process::effective_user() == 0 {
        process::become_user(user.uid, gid, &groups)
            .map_err(|e| Failure::system("become user", &user.name, &e))?;
    } else if user.uid != process::effective_user() {
        let why = format!("become user {}: the agent does not run as root", user.name);
        return Err(Failure::new(Code::Permission, why));
    }
    enter(&request.working_directory, &user.home)?;

    let mut command = program(request, &user);
    command
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", &user.home)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name)
        .env("SHELL", &user.shell);
    if let Some(terminal) = &request.terminal {
        let known = !terminal.r#type.is_empty();
        command.env("TERM", if known { &terminal.r#type } else { "dumb" });
    }
    command.envs(&request.environment);
    Ok(command)
}

fn program(request: &agent::Execute, user: &User) -> Command {
    if request.login_shell {
        let mut shell = Command::new(&user.shell);
        // A dash in front is how login(1) says that it is one.
        let name = Path::new(&user.shell).file_name().unwrap_or_default();
        shell.arg0(format!("-{}", name.to_string_lossy()));
        if !request.command.is_empty() {
            shell.arg("-c").arg(&request.command);
        }
        return shell;
    }
    if request.args.is_empty() {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(&request.command);
        return shell;
    }
    let mut program = Command::new(&request.command);
    program.args(&request.args);
    program
}

/// Makes the streams 0, 1 and 2.
fn attach(streams: &Streams, user: &User, tty: u32) -> Result<(), Failure> {
    let open = File::options().read(true).write(true).open("/dev/null");
    let null = open.map_err(|e| Failure::system("open", "/dev/null", &e))?;
    let (stdin, stdout, stderr) = match streams {
        Streams::Pipes { stdin, output } => {
            let (out, err) = output
                .as_ref()
                .map_or((&null, &null), |(out, err)| (out, err));
            (stdin.as_ref().unwrap_or(&null), out, err)
        }
        Streams::Terminal(slave) => {
            tty::take_control(slave).map_err(|e| Failure::system("take", "a terminal", &e))?;
            // As login(1) leaves it: the user's, and not writable by others than its group. Without
            // root it is the agent's user's, who is also the command's.
            let _ = fchown(slave, Some(user.uid), Some(tty));
            let _ = slave.set_permissions(fs::Permissions::from_mode(0o620));
            (slave, slave, slave)
        }
    };
    for (file, fd) in [(stdin, 0), (stdout, 1), (stderr, 2)] {
        process::redirect(file, fd).map_err(|e| Failure::system("redirect", "a stream", &e))?;
    }
    Ok(())
}

/// The directory that was asked for, or the user's home, or `/`.
fn enter(wanted: &str, home: &str) -> Result<(), Failure> {
    if !wanted.is_empty() {
        return std::env::set_current_dir(wanted)
            .map_err(|e| Failure::system("working directory", wanted, &e));
    }
    if std::env::set_current_dir(home).is_err() {
        let _ = std::env::set_current_dir("/");
    }
    Ok(())
}
