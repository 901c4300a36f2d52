//! From facts to findings, each of which depends on those before it. Pure.

use std::path::Path;

use quantix::message::node::VmState;
use quantix::rt::check::{Check, Status};

use super::super::channel::PORT;
use super::super::render::{bytes, millis, span};
use super::ends::{End, Ends};
use super::facts::{Facts, Kind};
use crate::daemon::state_text;

/// A guest's clock may be off by so much, in ms.
const SKEW: i64 = 2000;

/// All findings.
pub fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.extend(privileges(facts));
    checks.push(directory(facts));
    checks.push(channel(facts));
    let socket = socket(facts);
    let is_there = socket.status != Status::Fail;
    checks.push(socket);
    if !is_there {
        return checks;
    }
    let listens = listener(facts);
    let is_there = listens.status != Status::Fail;
    checks.push(listens);
    checks.extend(daemon(facts));
    if !is_there {
        return checks;
    }
    checks.extend(client(facts));
    checks.extend(flow(facts));
    checks.extend(vm(facts));
    checks.extend(facts.other.clone());
    checks.extend(guest(facts));
    checks.extend(port(facts));
    checks.extend(session(facts));
    checks.extend(clock(facts));
    checks.extend(facts.probe.clone());
    checks
}

fn fail(name: &'static str, seen: impl Into<String>, why: &str, next: impl Into<String>) -> Check {
    Check::of(name, Status::Fail, seen, why, next)
}

fn privileges(facts: &Facts) -> Option<Check> {
    let next = format!("sudo qx-node doctor {}", facts.name);
    let why = "not root: processes of other users are not shown";
    (!facts.is_root).then(|| Check::unknown("root", why, next))
}

fn directory(facts: &Facts) -> Check {
    let path = facts.directory.path.display().to_string();
    match &facts.directory.kind {
        Kind::Directory { mode } if mode & 0o002 != 0 => Check::of(
            "directory",
            Status::Warn,
            format!("{path}, mode {mode:04o}"),
            "everyone may put sockets there, and speak for a VM",
            format!("chmod o-w {path}"),
        ),
        Kind::Directory { .. } => Check::ok("directory", path),
        Kind::Missing => fail(
            "directory",
            &path,
            "the directory for the VMs' sockets does not exist",
            format!("mkdir -p {path}, or name another with --vms-dir"),
        ),
        Kind::Hidden(why) => fail(
            "directory",
            format!("{path}: {why}"),
            "the directory for the VMs' sockets may not be looked into",
            format!("sudo qx-node doctor {}", facts.name),
        ),
        Kind::Socket { .. } | Kind::Other => {
            let why = "what should be the directory for the VMs' sockets is none";
            fail("directory", &path, why, "name another with --vms-dir")
        }
    }
}

/// What libvirt's XML says.
fn channel(facts: &Facts) -> Check {
    let name = facts.name;
    if let Err(why) = facts.libvirt {
        return Check::unknown("channel", why, "");
    }
    let Some(domain) = facts.domain() else {
        let why = format!("libvirt has no domain {name}");
        return Check::unknown("channel", why, "");
    };
    let Some(channel) = domain.channel(PORT) else {
        return fail(
            "channel",
            format!("domain {name} is {}", domain.state),
            "libvirt gives the VM no channel for the agent",
            format!("qx-node channel {name} --attach"),
        );
    };
    let wanted = &facts.socket.path;
    if !channel.binds {
        fail(
            "channel",
            &channel.path,
            "QEMU is told to connect to the socket instead of making it",
            format!("virsh edit {name}, and set mode='bind'"),
        )
    } else if !same(Path::new(&channel.path), wanted) {
        fail(
            "channel",
            &channel.path,
            "libvirt's channel for the agent leads to another socket",
            format!("virsh edit {name}, and set path='{}'", wanted.display()),
        )
    } else {
        Check::ok("channel", format!("libvirt: {PORT}, bound by QEMU"))
    }
}

/// Two names of one place: /var/run is a link to /run.
fn same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| {
        let directory = path.parent().and_then(|parent| parent.canonicalize().ok());
        (directory, path.file_name().map(ToOwned::to_owned))
    };
    one == other || (real(one).0.is_some() && real(one) == real(other))
}

fn socket(facts: &Facts) -> Check {
    let (name, path) = (facts.name, facts.socket.path.display().to_string());
    match &facts.socket.kind {
        Kind::Socket { refused, mode, .. } => match refused {
            None => Check::ok("socket", path),
            Some(why) => fail(
                "socket",
                format!("{path}, mode {mode:04o}: {why}"),
                "the socket may not be connected to",
                format!("run as root, or as a user who may write to {path}"),
            ),
        },
        Kind::Missing => match facts.domain().map(|domain| domain.state.as_str()) {
            Some("shut off") => {
                let next = format!("virsh start {name}");
                fail("socket", path, "the VM is off", next)
            }
            _ => fail(
                "socket",
                path,
                "there is no socket: the VM is off, or was started without the channel",
                format!("start the VM; `qx-node channel {name}` prints what it needs"),
            ),
        },
        Kind::Hidden(why) => {
            let next = format!("sudo qx-node doctor {name}");
            fail(
                "socket",
                format!("{path}: {why}"),
                "it may not be looked at",
                next,
            )
        }
        Kind::Directory { .. } | Kind::Other => fail(
            "socket",
            &path,
            "what should be the VM's socket is none",
            format!("rm {path}, and start the VM again"),
        ),
    }
}

fn listener(facts: &Facts) -> Check {
    let Some(ends) = facts.ends else {
        let why = "the kernel does not show sockets (CONFIG_UNIX_DIAG)";
        return Check::unknown("listener", why, "");
    };
    let Some(listener) = &ends.listener else {
        return fail(
            "listener",
            "nobody listens",
            "the socket is left from a QEMU that was killed",
            format!("start the VM {}", facts.name),
        );
    };
    let mut seen = format!("{}: LISTEN{}", who(listener), fd(listener));
    for pair in &ends.served {
        seen += &format!(", CONNECTED{}", fd(&pair.server));
    }
    Check::ok("listener", seen)
}

/// `socat, pid 12`
fn who(end: &End) -> String {
    match &end.owner {
        Some(owner) => format!("{}, pid {}", owner.command, owner.pid),
        None if end.inode == 0 => "a process that has closed it".to_owned(),
        None => "a process that is not shown".to_owned(),
    }
}

fn fd(end: &End) -> String {
    let owner = end.owner.as_ref();
    owner.map_or(String::new(), |owner| format!(" fd {}", owner.fd))
}

fn daemon(facts: &Facts) -> Option<Check> {
    let daemons = facts.daemons?;
    let pids: Vec<String> = daemons.running.iter().map(|d| d.pid.to_string()).collect();
    let seen = match &pids[..] {
        [] => String::new(),
        pids => format!("pid {}", pids.join(", pid ")),
    };
    Some(match &daemons.says {
        _ if pids.len() > 1 => fail(
            "daemon",
            seen,
            "several daemons serve this directory, and a VM's socket serves one",
            format!("kill {}", daemons.running[1].pid),
        ),
        Err(why) if pids.is_empty() => fail(
            "daemon",
            why,
            "no daemon runs",
            "systemctl start quantix-node",
        ),
        Err(why) => fail(
            "daemon",
            format!("{seen}: {why}"),
            "a daemon runs and does not answer here",
            "name its socket with --control, or systemctl restart quantix-node",
        ),
        Ok(_) if facts.told().is_none() => fail(
            "daemon",
            seen,
            "the daemon does not know this VM",
            "name its directory with --vms-dir, for both",
        ),
        Ok(_) => Check::ok("daemon", seen),
    })
}

/// Who is connected, and who waits.
fn client(facts: &Facts) -> Option<Check> {
    let ends = facts.ends?;
    let ours = |end: &End| {
        let pid = end.owner.as_ref().map(|owner| owner.pid);
        let running = facts.daemons.map(|daemons| &daemons.running[..]);
        pid.is_some() && running.is_some_and(|all| all.iter().any(|d| Some(d.pid) == pid))
    };
    let line = waiting(ends);
    let Some(pair) = ends.served.first() else {
        return Some(if ends.waiting.is_empty() {
            Check::unknown("client", "nobody is connected", "")
        } else {
            fail(
                "client",
                line,
                "QEMU does not accept connections: it is stopped, or hangs",
                "look at QEMU's process, and at the VM's state",
            )
        });
    };
    let holder = &pair.client;
    let since = holder
        .age
        .map_or(String::new(), |age| format!(", for {}", span(age)));
    let seen = format!(
        "{}{since}, socket {} to {}{line}",
        who(holder),
        holder.inode,
        pair.server.inode
    );
    let hidden = holder.owner.is_none() && holder.inode != 0;
    // Who is not shown may well be the daemon.
    let ready = facts.told().is_some_and(|vm| vm.state() != VmState::Queued);
    Some(match &holder.owner {
        _ if ours(holder) || (hidden && ready) => Check::ok("client", seen),
        None if holder.inode == 0 => fail(
            "client",
            seen,
            "a client has left, and QEMU has not noticed: the VM is paused, or QEMU hangs",
            format!("virsh resume {}", facts.name),
        ),
        None => Check::unknown("client", seen, "look in containers, or be root"),
        Some(_) if facts.daemons.is_none() => Check::of(
            "client",
            Status::Warn,
            seen,
            "another client is connected, and QEMU serves one at a time",
            "",
        ),
        Some(owner) => fail(
            "client",
            seen,
            &format!(
                "{} is connected, and QEMU serves one client at a time",
                who(holder)
            ),
            format!("kill {}", owner.pid),
        ),
    })
}

/// `; 2 wait: qx-node, pid 3; socat, pid 4`
fn waiting(ends: &Ends) -> String {
    let names: Vec<String> = ends.waiting.iter().map(who).collect();
    match names.len() {
        0 => String::new(),
        // Backlog 1 takes two (QEMU's chardev/char-socket.c; unix_stream_connect of the kernel).
        n => {
            let full = match n {
                1 => "",
                _ => ", the queue is full, and one more gets EAGAIN",
            };
            format!("; {n} wait{full}: {}", names.join("; "))
        }
    }
}

fn flow(facts: &Facts) -> Option<Check> {
    let ends = facts.ends?;
    let pair = ends.served.first()?;
    let count = |n: u32| bytes(n.into());
    Some(match facts.stuck {
        stuck if stuck.to_host > 0 => fail(
            "flow",
            format!("{} unread by {}", count(stuck.to_host), who(&pair.client)),
            "the client does not read what the guest has sent",
            match &pair.client.owner {
                Some(owner) => format!("end or continue {}", owner.pid),
                None => String::new(),
            },
        ),
        stuck if stuck.to_guest > 0 => Check::of(
            "flow",
            Status::Warn,
            format!("{} unread by QEMU", count(stuck.to_guest)),
            "the guest takes no more: nothing reads its port, or the VM is paused",
            "",
        ),
        _ => Check::ok("flow", "nothing waits in either socket"),
    })
}

fn vm(facts: &Facts) -> Option<Check> {
    let by_libvirt = facts.domain().map(|domain| domain.state != "paused");
    let running = facts.monitor.map(|said| said.running).or(by_libvirt)?;
    let by = if facts.monitor.is_some() {
        "QEMU"
    } else {
        "libvirt"
    };
    Some(match running {
        true => Check::ok("vm", format!("it runs, says {by}")),
        false => fail(
            "vm",
            format!("says {by}"),
            "the VM is paused",
            format!("virsh resume {}", facts.name),
        ),
    })
}

/// Whether the guest has the port open.
fn port(facts: &Facts) -> Option<Check> {
    let channel = facts.domain().and_then(|domain| domain.channel(PORT));
    let by_libvirt = channel.and_then(|channel| channel.open);
    let by_qemu = facts.monitor.and_then(|said| said.open);
    let (open, by) = match (by_qemu, by_libvirt) {
        (Some(open), _) => (open, "QEMU"),
        (None, Some(open)) => (open, "libvirt"),
        (None, None) => return None,
    };
    Some(match open {
        true => Check::ok("port", format!("open in the guest, says {by}")),
        false => fail(
            "port",
            format!("closed in the guest, says {by}"),
            "nothing in the guest has the port open: no agent is installed, or it does not run",
            "in the guest: systemctl start quantix-kvm-agent, or quantix-kvm-agent doctor",
        ),
    })
}

/// What the daemon says of its connection.
fn session(facts: &Facts) -> Option<Check> {
    let vm = facts.told()?;
    let state = state_text(vm.state(), vm.behind.as_ref());
    let ago = |ms: u64| format!("last frame {} ago", span(ms / 1000));
    let mut seen = format!("{state} for {}", span(vm.since_ms / 1000));
    if vm.last_frame_ms > 0 {
        seen += &format!(", {}", ago(vm.last_frame_ms));
    }
    if vm.rtt_us > 0 {
        seen += &format!(", round trip {}", millis(vm.rtt_us));
    }
    if vm.held_bytes > 0 {
        seen += &format!(", {} wait in the daemon", bytes(vm.held_bytes));
    }
    let counters = vm.counters.unwrap_or_default();
    let dropped = [
        (counters.stale_frames, "stale frames"),
        (counters.bad_frames, "damaged frames"),
        (counters.garbage_bytes, "bytes of garbage"),
        (counters.coalesced, "reports replaced"),
    ];
    for (count, what) in dropped.into_iter().filter(|(count, _)| *count > 0) {
        seen += &format!(", {count} {what}");
    }
    Some(match vm.state() {
        VmState::Ready => Check::ok("session", seen),
        state => {
            let why = match vm.reason.as_str() {
                "" => format!("the channel is {seen}"),
                reason => reason.to_owned(),
            };
            let next = match state {
                VmState::Waiting | VmState::Stalled => {
                    "in the guest: quantix-kvm-agent doctor".to_owned()
                }
                _ => String::new(),
            };
            Check::of("session", Status::Fail, seen, why, next)
        }
    })
}

/// The findings of the guest's own doctor.
fn guest(facts: &Facts) -> Vec<Check> {
    let told = facts.told().and_then(|vm| vm.agent.as_ref());
    if told.is_some_and(|agent| agent.frozen) {
        // It runs nothing meanwhile.
        return vec![Check::of(
            "guest",
            Status::Warn,
            "the agent lives, and does nothing that could touch a disk",
            "its file systems are frozen",
            format!("qx-node thaw {}", facts.name),
        )];
    }
    match &facts.guest {
        None => Vec::new(),
        Some(Ok(checks)) => checks.clone(),
        Some(Err(why)) => vec![Check::unknown("guest", why, "")],
    }
}

fn clock(facts: &Facts) -> Option<Check> {
    let vm = facts.told().filter(|vm| vm.state() == VmState::Ready)?;
    let skew = vm.clock_skew_ms;
    let size = skew.unsigned_abs();
    let seen = match size {
        0..1000 => format!("{size} ms off"),
        _ => format!(
            "{} {}",
            span(size / 1000),
            if skew < 0 { "behind" } else { "ahead" }
        ),
    };
    Some(if skew.abs() <= SKEW {
        Check::ok("clock", seen)
    } else {
        Check::of(
            "clock",
            Status::Warn,
            seen,
            "the guest's clock is not the host's",
            format!("qx-node exec {} -- date -s \"@$(date +%s)\"", facts.name),
        )
    })
}
