//! What a request does: the words for it in both audits, the role that it takes on the host, and the group by which
//! a guest allows it. Pure.

use std::fmt;

use crate::error::{Code, Failure};
use crate::message::{Body, agent};
use crate::text::cut;

/// What somebody on the host may do to a VM; each has the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See it, and what it reports of itself.
    View,
    /// Change its state: freeze, shut down, set its clock, restart a service.
    Operate,
    /// What root may in it.
    Admin,
}

impl Role {
    /// From the least to the most.
    pub const ALL: [Self; 3] = [Self::View, Self::Operate, Self::Admin];

    /// Its key in node.conf.
    pub const fn word(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

/// What a guest lets be done to it, or does not: the words of `allow` in agent.conf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// To look, but at files.
    Info,
    /// Commands, shells, and commands that are kept.
    Exec,
    /// To take files out of it.
    Read,
    /// To put files into it.
    Write,
    /// Freeze and thaw.
    Freeze,
    /// Shut down, restart, suspend.
    Power,
    /// Set the clock.
    Time,
    /// Trim and grow file systems.
    Storage,
    /// Processors and memory on and off.
    Hardware,
    /// Start, stop, enable services.
    Services,
    /// Send signals to processes.
    Processes,
    /// Passwords and keys.
    Users,
    /// Addresses, host name, time zone.
    Network,
    /// What a clone or a snapshot that was put back needs.
    Restored,
}

impl Group {
    /// All of them, with what the configuration calls them and what they allow.
    pub const ALL: [(Self, &'static str, &'static str); 14] = [
        (
            Self::Info,
            "info",
            "hardware, disks, network, packages, services, processes, users, clock",
        ),
        (
            Self::Exec,
            "exec",
            "commands, shells, commands that are kept",
        ),
        (Self::Read, "read", "files to the host"),
        (Self::Write, "write", "files from the host"),
        (Self::Freeze, "freeze", "freeze and thaw file systems"),
        (Self::Power, "power", "shut down, restart, suspend"),
        (Self::Time, "time", "set the clock"),
        (Self::Storage, "storage", "trim and grow file systems"),
        (
            Self::Hardware,
            "hardware",
            "processors and memory on and off",
        ),
        (Self::Services, "services", "start, stop, enable services"),
        (Self::Processes, "processes", "signals to processes"),
        (Self::Users, "users", "passwords and SSH keys"),
        (Self::Network, "network", "addresses, host name, time zone"),
        (
            Self::Restored,
            "restored",
            "what a clone or an old snapshot needs",
        ),
    ];

    /// What the configuration calls it.
    pub const fn word(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The one with this name.
    pub fn parse(word: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|(_, name, _)| *name == word).map(|found| found.0)
    }
}

/// A request, for whoever judges it.
#[derive(Debug, PartialEq, Eq)]
pub struct Action {
    /// What it takes on the host.
    pub role: Role,
    /// What it takes in the guest.
    pub group: Group,
    /// Its command.
    pub word: &'static str,
    /// To what: a command line, a path, a name. Never a secret.
    pub what: String,
    /// It changes the guest, or takes files out of it: an audit has it.
    pub counts: bool,
}

/// Bytes of a user's name, as a guest is told it.
pub const MAX_USER: usize = 64;

/// Bytes of `what`.
const MAX_WHAT: usize = 512;

impl Action {
    fn new(role: Role, group: Group, word: &'static str, what: impl Into<String>) -> Self {
        let mut what = what.into();
        if what.len() > MAX_WHAT {
            what = format!("{}...", cut(&what, MAX_WHAT));
        }
        Self {
            role,
            group,
            word,
            what,
            counts: true,
        }
    }

    /// One that only looks.
    pub fn look(role: Role, word: &'static str) -> Self {
        Self {
            counts: false,
            ..Self::new(role, Group::Info, word, "")
        }
    }

    /// What is new takes what is most until somebody says otherwise.
    pub fn unknown() -> Self {
        Self::new(Role::Admin, Group::Exec, "unknown", "")
    }

    /// Of a request to a guest.
    pub fn of(body: &Body) -> Self {
        let view = |word| Self::look(Role::View, word);
        let operate = |group, word, what: String| Self::new(Role::Operate, group, word, what);
        let admin = |group, word, what: String| Self::new(Role::Admin, group, word, what);
        let path = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match body {
            Body::GetFreezeStatus(_) => view("freeze-status"),
            Body::GetStorage(_) => view("disks"),
            Body::GetHardware(_) => view("hardware"),
            Body::GetNetwork(_) => view("network"),
            Body::ListPackages(_) => view("packages"),

            // Command lines of processes and jobs may hold what is nobody's business.
            Body::ListProcesses(_) => Self::look(Role::Operate, "ps"),
            Body::ListUsers(_) => Self::look(Role::Operate, "users"),
            Body::ListServices(_) => Self::look(Role::Operate, "services"),
            Body::ServiceControl(request) if request.action() == agent::ServiceAction::Status => {
                Self {
                    counts: false,
                    ..operate(Group::Info, "service", request.name.clone())
                }
            }
            Body::ServiceControl(request) => {
                let word = words(request.action().as_str_name(), "SERVICE_ACTION_");
                let what = format!("{} {word}", request.name);
                operate(Group::Services, "service", what)
            }
            Body::Freeze(request) => {
                operate(Group::Freeze, "freeze", request.mount_points.join(" "))
            }
            Body::Thaw(_) => operate(Group::Freeze, "thaw", String::new()),
            Body::Shutdown(request) => {
                let word = words(request.r#type().as_str_name(), "POWER_ACTION_");
                let what = match request.cancel {
                    true => "cancel".to_owned(),
                    false => format!("{word} in {} s", request.delay_seconds),
                };
                operate(Group::Power, "shutdown", what)
            }
            Body::SyncTime(request) if request.set_time.is_none() && request.step_ns == 0 => {
                view("time")
            }
            Body::SyncTime(_) => operate(Group::Time, "time", "set".to_owned()),
            Body::Trim(request) => operate(Group::Storage, "trim", request.mount_points.join(" ")),
            Body::Restored(_) => operate(Group::Restored, "restored", String::new()),
            Body::Grow(request) => operate(Group::Storage, "grow", request.mount_point.clone()),
            Body::SetOnline(_) => operate(Group::Hardware, "hardware", "set online".to_owned()),

            Body::Execute(request) => admin(Group::Exec, "exec", command_line(request)),
            Body::ListJobs(_) => Self {
                group: Group::Exec,
                ..Self::look(Role::Admin, "jobs")
            },
            Body::AttachJob(request) => admin(Group::Exec, "attach", request.job.to_string()),
            Body::KillJob(request) => admin(Group::Exec, "kill", request.job.to_string()),
            Body::KillProcess(request) => {
                let what = format!("{} to {}", request.signal, request.pid);
                admin(Group::Processes, "signal", what)
            }
            // It only tells how much of a file is there already.
            Body::ReadFile(request) if request.partial => {
                admin(Group::Write, "read", request.path.clone())
            }
            Body::ReadFile(request) => admin(Group::Read, "read", request.path.clone()),
            Body::WriteFile(request) => admin(Group::Write, "write", request.path.clone()),
            Body::ReadTree(tree) => admin(Group::Read, "read", path(&tree.path)),
            Body::WriteTree(tree) => admin(Group::Write, "write", path(&tree.path)),
            Body::SetPassword(request) => admin(Group::Users, "passwd", request.username.clone()),
            Body::AuthorizedKeys(request) => admin(Group::Users, "keys", request.user.clone()),
            Body::SetName(request) => {
                let what = format!("{} {}", request.hostname, request.timezone);
                admin(Group::Network, "name", what)
            }
            Body::ConfigureNetwork(request) => {
                admin(Group::Network, "network", request.interface.clone())
            }
            _ => Self::unknown(),
        }
    }
}

/// What an audit writes down of a request, as often as there is something to say of it.
#[derive(Clone, Debug)]
pub struct Record {
    who: String,
    word: &'static str,
    what: String,
    request: String,
}

impl Record {
    /// `who` is in its lines as it is. `request`: its number in the guest; empty for one that gets none.
    pub fn new(who: String, action: &Action, request: &str) -> Self {
        let request = match request {
            "" => String::new(),
            request => format!(" request={request:?}"),
        };
        Self {
            who,
            word: action.word,
            what: action.what.clone(),
            request,
        }
    }

    /// Words of others stand in quotes, so that none of them passes for a word of ours, and the longest stand last,
    /// where what a log has no room for is cut.
    pub fn line(&self, result: &dyn fmt::Display) -> String {
        let Self {
            who,
            word,
            what,
            request,
        } = self;
        format!("audit: {who} action={word}{request} result={result} what={what:?}")
    }
}

/// What came of a request, as an audit has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// The command ended with this status.
    Exited(i32),
    /// It failed.
    Failed(Code),
}

impl Outcome {
    /// What this answer says.
    pub fn of(answer: &Body) -> Self {
        match answer {
            Body::Error(error) => Self::Failed(Failure::from_wire(error).code),
            Body::ExecuteResponse(answer) => Self::Exited(answer.exit_code),
            _ => Self::Done,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Done => f.write_str("ok"),
            Self::Exited(status) => write!(f, "exit:{status}"),
            Self::Failed(code) => f.write_str(code.as_str()),
        }
    }
}

/// The name of one of an enumeration, as people write it.
fn words(name: &str, prefix: &str) -> String {
    let name = name.strip_prefix(prefix).unwrap_or(name);
    name.to_lowercase().replace('_', " ")
}

/// Its words, of which no line is made that could be run: it is to be read.
fn command_line(request: &agent::Execute) -> String {
    let user = match request.run_as_user.as_str() {
        "" => String::new(),
        user => format!("as {user}: "),
    };
    let words = [std::slice::from_ref(&request.command), &request.args].concat();
    match words.join(" ") {
        line if line.is_empty() => format!("{user}a shell"),
        line => format!("{user}{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_looks_is_not_kept_and_what_changes_is() {
        let view = Action::of(&Body::GetHardware(agent::GetHardware::default()));
        assert_eq!((view.role, view.counts), (Role::View, false));
        let time = Action::of(&Body::SyncTime(agent::SyncTime::default()));
        assert_eq!((time.role, time.counts), (Role::View, false));
        let set = Action::of(&Body::SyncTime(agent::SyncTime {
            step_ns: 1,
            ..Default::default()
        }));
        assert_eq!((set.role, set.counts), (Role::Operate, true));
        assert_eq!((time.group, set.group), (Group::Info, Group::Time));
        let read = Action::of(&Body::ReadFile(agent::ReadFile {
            path: "/etc/shadow".to_owned(),
            ..Default::default()
        }));
        let expected = (Role::Admin, "read", "/etc/shadow", true);
        let found = (read.role, read.word, &*read.what, read.counts);
        assert_eq!(found, expected);
        // An answer is no request.
        let answer = Action::of(&Body::Pong(agent::Pong::default()));
        assert_eq!((answer.role, answer.group), (Role::Admin, Group::Exec));
    }

    #[test]
    fn what_only_looks_is_bounded_too() {
        let status = Action::of(&Body::ServiceControl(agent::ServiceControl {
            name: "x".repeat(5000),
            action: agent::ServiceAction::Status.into(),
            ..Default::default()
        }));
        assert_eq!((status.group, status.counts), (Group::Info, false));
        assert!(status.what.len() <= MAX_WHAT + 3);
    }

    #[test]
    fn secrets_are_left_out_and_the_rest_is_bounded() {
        let password = Action::of(&Body::SetPassword(agent::SetPassword {
            username: "alice".to_owned(),
            password: "hush".to_owned(),
            ..Default::default()
        }));
        assert_eq!(password.what, "alice");
        let exec = Action::of(&Body::Execute(agent::Execute {
            command: "echo".to_owned(),
            args: vec!["\u{e9}".repeat(5000)],
            environment: [("TOKEN".to_owned(), "hush".to_owned())].into(),
            run_as_user: "bob".to_owned(),
            ..Default::default()
        }));
        assert!(exec.what.starts_with("as bob: echo \u{e9}"));
        assert!(exec.what.len() <= MAX_WHAT + 3 && !exec.what.contains("hush"));
    }

    #[test]
    fn no_word_of_others_passes_for_one_of_ours_or_drives_it_out() {
        let action = Action::of(&Body::Execute(agent::Execute {
            command: "x\" result=ok\n\u{1b}[2J\u{202e}".to_owned(),
            ..Default::default()
        }));
        let record = Record::new("uid=7".to_owned(), &action, "1\" result=ok\n");
        let expected = "audit: uid=7 action=exec request=\"1\\\" result=ok\\n\" result=exit:3 \
            what=\"x\\\" result=ok\\n\\u{1b}[2J\\u{202e}\"";
        assert_eq!(record.line(&Outcome::Exited(3)), expected);
        let refused = Record::new("uid=7".to_owned(), &action, "").line(&"DENIED");
        assert!(refused.starts_with("audit: uid=7 action=exec result=DENIED what="));
    }

    #[test]
    fn groups_stand_where_their_number_says() {
        for (group, word, about) in Group::ALL {
            assert_eq!((group.word(), Group::parse(word)), (word, Some(group)));
            assert!(!about.is_empty());
        }
        assert_eq!(Group::parse("all"), None);
    }
}
