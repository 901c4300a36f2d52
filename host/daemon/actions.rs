//! What a request does: the role that it takes, and the words for it in the audit. Pure.

use quantix::message::node::node_message;
use quantix::message::{Body, agent};

use super::journal::cut;
use crate::access::Role;

/// A request, for whoever judges it.
#[derive(Debug, PartialEq, Eq)]
pub struct Action {
    /// What it takes.
    pub role: Role,
    /// Its command.
    pub word: &'static str,
    /// To what: a command line, a path, a name. Never a secret.
    pub what: String,
    /// It changes the guest, or takes files out of it: the audit has it.
    pub counts: bool,
}

/// Bytes of `what`.
const MAX_WHAT: usize = 1024;

impl Action {
    fn new(role: Role, word: &'static str, what: impl Into<String>) -> Self {
        let mut what = what.into();
        if what.len() > MAX_WHAT {
            what = format!("{}...", cut(&what, MAX_WHAT));
        }
        let counts = role != Role::View;
        Self {
            role,
            word,
            what,
            counts,
        }
    }

    /// It only looks, though not everybody may.
    fn looks(self) -> Self {
        Self {
            counts: false,
            ..self
        }
    }

    /// Of a request.
    pub fn of(body: &node_message::Body) -> Self {
        let view = |word| Self::new(Role::View, word, "");
        match body {
            node_message::Body::ListVms(_) => view("vms"),
            node_message::Body::PingVm(_) => view("ping"),
            node_message::Body::GetTelemetry(_) => view("telemetry"),
            node_message::Body::GetEvents(_) => view("events"),
            node_message::Body::GetHistory(_) => view("history"),
            node_message::Body::Agent(message) => match &message.body {
                Some(body) => Self::of_agents(body),
                None => Self::new(Role::Admin, "nothing", ""),
            },
            // Answers are none.
            _ => Self::new(Role::Admin, "unknown", ""),
        }
    }

    fn of_agents(body: &Body) -> Self {
        let view = |word| Self::new(Role::View, word, "");
        let operate = |word, what: String| Self::new(Role::Operate, word, what);
        let admin = |word, what: String| Self::new(Role::Admin, word, what);
        let path = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match body {
            Body::GetFreezeStatus(_) => view("freeze-status"),
            Body::GetStorage(_) => view("disks"),
            Body::GetHardware(_) => view("hardware"),
            Body::GetNetwork(_) => view("network"),
            Body::ListPackages(_) => view("packages"),

            // Command lines of processes and jobs may hold what is nobody's business.
            Body::ListProcesses(_) => operate("ps", String::new()).looks(),
            Body::ListUsers(_) => operate("users", String::new()).looks(),
            Body::ListServices(_) => operate("services", String::new()).looks(),
            Body::ServiceControl(request) => {
                let word = words(request.action().as_str_name(), "SERVICE_ACTION_");
                let action = operate("service", format!("{} {word}", request.name));
                match request.action() {
                    agent::ServiceAction::Status => action.looks(),
                    _ => action,
                }
            }
            Body::Freeze(request) => operate("freeze", request.mount_points.join(" ")),
            Body::Thaw(_) => operate("thaw", String::new()),
            Body::Shutdown(request) if request.cancel => operate("shutdown", "cancel".to_owned()),
            Body::Shutdown(request) => {
                let word = words(request.r#type().as_str_name(), "POWER_ACTION_");
                operate("shutdown", format!("{word} in {} s", request.delay_seconds))
            }
            Body::SyncTime(request) if request.set_time.is_none() && request.step_ns == 0 => {
                view("time")
            }
            Body::SyncTime(_) => operate("time", "set".to_owned()),
            Body::Trim(request) => operate("trim", request.mount_points.join(" ")),
            Body::Restored(_) => operate("restored", String::new()),
            Body::Grow(request) => operate("grow", request.mount_point.clone()),
            Body::SetOnline(_) => operate("hardware", "set online".to_owned()),

            Body::Execute(request) => admin("exec", command_line(request)),
            Body::ListJobs(_) => admin("jobs", String::new()).looks(),
            Body::AttachJob(request) => admin("attach", request.job.to_string()),
            Body::KillJob(request) => admin("kill", request.job.to_string()),
            Body::KillProcess(request) => {
                admin("signal", format!("{} to {}", request.signal, request.pid))
            }
            Body::ReadFile(request) => admin("read", request.path.clone()),
            Body::WriteFile(request) => admin("write", request.path.clone()),
            Body::ReadTree(tree) => admin("read", path(&tree.path)),
            Body::WriteTree(tree) => admin("write", path(&tree.path)),
            Body::SetPassword(request) => admin("passwd", request.username.clone()),
            Body::AuthorizedKeys(request) => admin("keys", request.user.clone()),
            Body::SetName(request) => {
                admin("name", format!("{} {}", request.hostname, request.timezone))
            }
            Body::ConfigureNetwork(request) => admin("network", request.interface.clone()),
            // What is new takes what is most until somebody says otherwise.
            _ => admin("unknown", String::new()),
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
    use quantix::message::message;

    use super::*;

    fn of(body: Body) -> Action {
        Action::of(&node_message::Body::Agent(message("", body)))
    }

    #[test]
    fn what_only_looks_is_not_kept_and_what_changes_is() {
        let view = of(Body::GetHardware(agent::GetHardware::default()));
        assert_eq!((view.role, view.counts), (Role::View, false));
        let time = of(Body::SyncTime(agent::SyncTime::default()));
        assert_eq!((time.role, time.counts), (Role::View, false));
        let set = of(Body::SyncTime(agent::SyncTime {
            step_ns: 1,
            ..Default::default()
        }));
        assert_eq!((set.role, set.counts), (Role::Operate, true));
        let read = of(Body::ReadFile(agent::ReadFile {
            path: "/etc/shadow".to_owned(),
            ..Default::default()
        }));
        let expected = (Role::Admin, "read", "/etc/shadow", true);
        let found = (read.role, read.word, &*read.what, read.counts);
        assert_eq!(found, expected);
        // An answer is no request.
        assert_eq!(of(Body::Pong(agent::Pong::default())).role, Role::Admin);
    }

    #[test]
    fn secrets_are_left_out_and_the_rest_is_bounded() {
        let password = of(Body::SetPassword(agent::SetPassword {
            username: "alice".to_owned(),
            password: "hush".to_owned(),
            ..Default::default()
        }));
        assert_eq!(password.what, "alice");
        let exec = of(Body::Execute(agent::Execute {
            command: "echo".to_owned(),
            args: vec!["\u{e9}".repeat(5000)],
            environment: [("TOKEN".to_owned(), "hush".to_owned())].into(),
            run_as_user: "bob".to_owned(),
            ..Default::default()
        }));
        assert!(exec.what.starts_with("as bob: echo \u{e9}"));
        assert!(exec.what.len() <= MAX_WHAT + 3 && !exec.what.contains("hush"));
    }
}
