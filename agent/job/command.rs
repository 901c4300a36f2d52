//! What a command is started as: which program, who it is, where it is, what it inherits.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::fchown;
use std::path::Path;

use quantix::error::{Code, Failure};
use quantix::message::agent;
use quantix::rt::sys::process::{self, Pid};
use quantix::rt::sys::program::{Identity, Program, Step};
use quantix::rt::users::{Texts, User};

/// Its ends of what its standard streams are connected to.
#[derive(Debug)]
pub enum Streams {
    /// Those that the request does not ask for become /dev/null.
    Pipes {
        stdin: Option<File>,
        output: Option<(File, File)>,
    },
    /// The command's end.
    Terminal(File),
}

/// The C library's and every distribution's default for root.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The group that terminals belong to, by name, so that `write` and `wall` may write to them.
const TTY_GROUP: &str = "tty";

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

/// Starts the command.
///
/// # Errors
/// Why there is none: for a keeper, which waits for as long as its file takes to be found.
pub fn start(request: &agent::Execute, streams: &Streams) -> Result<Pid, Failure> {
    let texts = Texts::read();
    let files = texts.databases();
    let me = process::effective_user();
    let user = match request.run_as_user.as_str() {
        "" => files.user(&me.to_string())?,
        name => files.user(name)?,
    };
    if me != 0 && user.uid != me {
        let why = format!("become user {}: the agent does not run as root", user.name);
        return Err(Failure::new(Code::Permission, why));
    }
    let gid = match request.run_as_group.as_str() {
        "" => user.gid,
        group => files.group(group)?,
    };
    let open = File::options().read(true).write(true).open("/dev/null");
    let null = open.map_err(|e| Failure::system("open", "/dev/null", &e))?;
    let streams = match streams {
        Streams::Pipes { stdin, output } => {
            let output = output.as_ref();
            let (out, err) = output.map_or((&null, &null), |(out, err)| (out, err));
            [stdin.as_ref().unwrap_or(&null), out, err]
        }
        Streams::Terminal(slave) => {
            // As login(1) leaves it: the user's, and not writable by others than its group. Without
            // root it is the agent's user's, who is also the command's.
            let tty = files.group(TTY_GROUP).unwrap_or(gid);
            let _ = fchown(slave, Some(user.uid), Some(tty));
            let _ = slave.set_permissions(fs::Permissions::from_mode(0o620));
            [slave; 3]
        }
    };
    let mut program = describe(request, &user)?;
    if me == 0 {
        let mut groups = vec![gid];
        if request.include_supplementary_groups {
            groups.extend(files.supplementary(&user.name));
            groups.dedup();
        }
        let uid = user.uid;
        program.user = Some(Identity { uid, gid, groups });
    }
    program.start(streams).map_err(|(step, e)| match step {
        Step::Streams => Failure::system("connect", "the command's streams", &e),
        Step::User => Failure::system("become user", &user.name, &e),
        Step::Directory => Failure::system("working directory", &request.working_directory, &e),
        Step::Run => Failure::system("run", &name(request, &user), &e),
    })
}

/// The program's name, as it is looked for.
fn name(request: &agent::Execute, user: &User) -> String {
    if request.login_shell {
        user.shell.clone()
    } else if request.args.is_empty() {
        "/bin/sh".to_owned()
    } else {
        request.command.clone()
    }
}

fn describe(request: &agent::Execute, user: &User) -> Result<Program, Failure> {
    let name = name(request, user);
    let line = [String::from("-c"), request.command.clone()];
    let args = if request.login_shell {
        // A dash in front is how login(1) says that it is one.
        let name = Path::new(&name).file_name().unwrap_or_default();
        let name = format!("-{}", name.to_string_lossy());
        let line = line.into_iter().filter(|_| !request.command.is_empty());
        std::iter::once(name).chain(line).collect()
    } else if request.args.is_empty() {
        std::iter::once(name.clone()).chain(line).collect()
    } else {
        let args = request.args.iter().cloned();
        std::iter::once(name.clone())
            .chain(args)
            .collect::<Vec<_>>()
    };
    let terminal = request.terminal.as_ref();
    let terminal = terminal.map(|terminal| match terminal.r#type.as_str() {
        "" => "dumb",
        known => known,
    });
    let ours = [
        ("PATH", Some(PATH)),
        ("HOME", Some(&user.home)),
        ("USER", Some(&user.name)),
        ("LOGNAME", Some(&user.name)),
        ("SHELL", Some(&user.shell)),
        ("TERM", terminal),
    ];
    let wanted = &request.environment;
    let ours = ours
        .into_iter()
        .filter(|(key, _)| !wanted.contains_key(*key));
    let ours = ours.filter_map(|(key, value)| Some(format!("{key}={}", value?)));
    let theirs = wanted.iter().map(|(key, value)| format!("{key}={value}"));
    let path = wanted.get("PATH").map_or(PATH, String::as_str);
    let directories = match request.working_directory.as_str() {
        "" => vec![user.home.clone(), "/".to_owned()],
        wanted => vec![wanted.to_owned()],
    };
    Ok(Program {
        paths: Program::candidates(&name, path),
        args: strings(args)?,
        environment: strings(ours.chain(theirs))?,
        directories: strings(directories)?,
        user: None,
        with_terminal: request.terminal.is_some(),
    })
}

/// What the request says has no NUL byte (see [`check`]); what /etc/passwd says may.
fn strings(all: impl IntoIterator<Item = String>) -> Result<Vec<CString>, Failure> {
    let all: Result<_, _> = all.into_iter().map(CString::new).collect();
    all.map_err(|_| Failure::new(Code::Invalid, "a NUL byte in the user's home or shell"))
}
