//! The page itself, in Prometheus' text format 0.0.4: one family of metrics after the other, each with a line a VM
//! or more. Names follow the rules of https://prometheus.io/docs/practices/naming/: base units, `_total` for what
//! only grows. What guests say is cut, escaped and bounded in number before it becomes a label.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::io::{self, Write};

use quantix::message::agent::{Disk, Interface, LinkState, Pressure, Telemetry};
use quantix::message::node::{self, Counters, VmState};
use quantix::rt::sys::process::page_size;
use quantix::text::plain;

use crate::daemon::{own, state_word};

/// Of one VM: as many mounts, and as many interfaces.
const MOST: usize = 32;

/// Characters of a label's value.
const LABEL: usize = 128;

/// What is told of a VM.
pub struct View {
    pub vm: node::Vm,
    /// Its last report, if its guest is there.
    pub report: Option<Telemetry>,
    /// When something came from it last, in seconds since 1970.
    pub seen: Option<f64>,
}

/// What is told of the daemon.
pub struct About {
    clients: usize,
    requests: usize,
    /// Of /proc: seconds of processor time, bytes of memory, descriptors.
    cpu_seconds: f64,
    resident: u64,
    descriptors: usize,
}

impl About {
    /// The daemon with this number.
    pub fn new(pid: u32, clients: usize, requests: usize) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // utime and stime, in hundredths (proc(5)); the name before them may hold anything.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .flat_map(str::parse::<u64>)
            .sum();
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        let pages = statm
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse::<u64>().ok());
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        Self {
            clients,
            requests,
            cpu_seconds: ticks as f64 / 100.0,
            resident: pages.unwrap_or(0) * page_size(),
            descriptors: descriptors.map_or(0, Iterator::count),
        }
    }
}

/// Writes all of it.
pub fn write(out: &mut dyn Write, views: &[View], about: &About) -> io::Result<()> {
    of_daemon(out, views, about)?;
    for family in FAMILIES {
        let mut lines = Lines::begin(out, family.name, family.kind, family.help)?;
        for view in views {
            (family.each)(view, &mut lines)?;
        }
    }
    Ok(())
}

fn of_daemon(out: &mut dyn Write, views: &[View], about: &About) -> io::Result<()> {
    let one = |out: &mut dyn Write, name, kind, help, value: &dyn Display| {
        Lines::begin(out, name, kind, help)?.line(&[], value)
    };
    let version = [
        ("version", quantix::VERSION),
        ("revision", quantix::REVISION),
    ];
    Lines::begin(
        out,
        "quantix_node_info",
        "gauge",
        "The daemon that tells this.",
    )?
    .line(&version, &1)?;
    let mut lines = Lines::begin(
        out,
        "quantix_node_vms",
        "gauge",
        "VMs by the state of their channels.",
    )?;
    for state in STATES {
        let count = views
            .iter()
            .filter(|view| view.vm.state == state as i32)
            .count();
        lines.line(&[("state", state_word(state))], &count)?;
    }
    one(
        out,
        "quantix_node_clients",
        "gauge",
        "Connections to the control socket.",
        &about.clients,
    )?;
    one(
        out,
        "quantix_node_requests",
        "gauge",
        "Requests that are under way.",
        &about.requests,
    )?;
    let help = "Processor time of the daemon.";
    one(
        out,
        "process_cpu_seconds_total",
        "counter",
        help,
        &about.cpu_seconds,
    )?;
    let help = "Memory of the daemon.";
    one(
        out,
        "process_resident_memory_bytes",
        "gauge",
        help,
        &about.resident,
    )?;
    let help = "Descriptors that the daemon has open.";
    one(out, "process_open_fds", "gauge", help, &about.descriptors)
}

const STATES: [VmState; 6] = [
    VmState::Absent,
    VmState::Connecting,
    VmState::Queued,
    VmState::Waiting,
    VmState::Ready,
    VmState::Stalled,
];

/// Lines of one family, behind its head.
struct Lines<'a> {
    out: &'a mut dyn Write,
    name: &'static str,
}

impl<'a> Lines<'a> {
    fn begin(
        out: &'a mut dyn Write,
        name: &'static str,
        kind: &'static str,
        help: &'static str,
    ) -> io::Result<Self> {
        write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n")?;
        Ok(Self { out, name })
    }

    fn line(&mut self, labels: &[(&str, &str)], value: &dyn Display) -> io::Result<()> {
        self.out.write_all(self.name.as_bytes())?;
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            write!(self.out, "{before}{label}=\"{}\"", escaped(text))?;
        }
        if !labels.is_empty() {
            self.out.write_all(b"}")?;
        }
        writeln!(self.out, " {value}")
    }
}

/// A label's value: nothing in it ends it, and it has an end.
fn escaped(text: &str) -> String {
    let text: String = text.chars().take(LABEL).collect();
    plain(&text).replace('\\', "\\\\").replace('"', "\\\"")
}

/// Writes a VM's lines of a family.
type Each = fn(&View, &mut Lines) -> io::Result<()>;

struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    each: Each,
}

const fn family(name: &'static str, kind: &'static str, help: &'static str, each: Each) -> Family {
    Family {
        name,
        kind,
        help,
        each,
    }
}

const fn gauge(name: &'static str, help: &'static str, each: Each) -> Family {
    family(name, "gauge", help, each)
}

const fn counter(name: &'static str, help: &'static str, each: Each) -> Family {
    family(name, "counter", help, each)
}

fn of_vm(view: &View, lines: &mut Lines, value: &dyn Display) -> io::Result<()> {
    lines.line(&[("vm", &view.vm.name)], value)
}

/// Of what the daemon counts of a channel.
fn counted(view: &View, lines: &mut Lines, of: fn(&Counters) -> u64) -> io::Result<()> {
    match &view.vm.counters {
        Some(counters) => of_vm(view, lines, &of(counters)),
        None => Ok(()),
    }
}

/// Of a report, if there is one.
fn reported(view: &View, lines: &mut Lines, of: fn(&Telemetry) -> f64) -> io::Result<()> {
    match view.report.as_ref().map(of) {
        Some(value) if value.is_finite() => of_vm(view, lines, &value),
        _ => Ok(()),
    }
}

fn bytes(view: &View, lines: &mut Lines, of: fn(&Telemetry) -> u64) -> io::Result<()> {
    match &view.report {
        Some(report) => of_vm(view, lines, &of(report)),
        None => Ok(()),
    }
}

fn mounts(view: &View, lines: &mut Lines, of: fn(&Disk) -> Option<u64>) -> io::Result<()> {
    let all = view.report.iter().flat_map(|report| &report.disks);
    let own = all.filter(|disk| own::mount(&disk.filesystem, &disk.mount_point));
    for disk in once(own, |disk| &disk.mount_point) {
        if let Some(value) = of(disk) {
            let labels = [
                ("vm", &*view.vm.name),
                ("mountpoint", &disk.mount_point),
                ("device", &disk.device),
                ("fstype", &disk.filesystem),
            ];
            lines.line(&labels, &value)?;
        }
    }
    Ok(())
}

fn interfaces(view: &View, lines: &mut Lines, of: fn(&Interface) -> u64) -> io::Result<()> {
    let all = view.report.iter().flat_map(|report| &report.interfaces);
    let own = all.filter(|interface| own::interface(&interface.name));
    for interface in once(own, |interface| &interface.name) {
        let labels = [("vm", &*view.vm.name), ("device", &interface.name)];
        lines.line(&labels, &of(interface))?;
    }
    Ok(())
}

/// The first of them, each name once: two lines with the same labels spoil the whole page.
fn once<'a, T: 'a>(
    all: impl Iterator<Item = &'a T>,
    name: fn(&'a T) -> &'a String,
) -> impl Iterator<Item = &'a T> {
    let mut told = BTreeSet::new();
    all.take(MOST).filter(move |of| told.insert(name(of)))
}

fn pressures(view: &View, lines: &mut Lines, of: fn(&Pressure) -> u64) -> io::Result<()> {
    for resource in ["cpu", "memory", "io"] {
        let all = view.report.iter().flat_map(|report| &report.pressures);
        if let Some(pressure) = all
            .into_iter()
            .find(|pressure| pressure.resource == resource)
        {
            let seconds = of(pressure) as f64 / 1e6;
            lines.line(&[("vm", &view.vm.name), ("resource", resource)], &seconds)?;
        }
    }
    Ok(())
}

fn info(view: &View, lines: &mut Lines) -> io::Result<()> {
    let Some(agent) = &view.vm.agent else {
        return Ok(());
    };
    let labels = [
        ("vm", &*view.vm.name),
        ("agent_version", &agent.version),
        ("os", &agent.os_name),
        ("os_version", &agent.os_version),
        ("kernel", &agent.kernel_version),
        ("architecture", &agent.architecture),
        ("hostname", &agent.hostname),
        ("address", &agent.primary_address),
    ];
    lines.line(&labels, &1)
}

fn state(view: &View, lines: &mut Lines) -> io::Result<()> {
    let state = VmState::try_from(view.vm.state).unwrap_or_default();
    lines.line(&[("vm", &view.vm.name), ("state", state_word(state))], &1)
}

fn is_frozen(view: &View) -> u8 {
    u8::from(view.vm.agent.as_ref().is_some_and(|agent| agent.frozen))
}

#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    gauge("quantix_vm_up", "Whether the VM's agent answers.",
        |v, l| of_vm(v, l, &u8::from(v.vm.state == VmState::Ready as i32))),
    gauge("quantix_vm_state", "The state of the VM's channel, as a label; always 1.", state),
    gauge("quantix_vm_state_seconds", "For how long it has been in this state.",
        |v, l| of_vm(v, l, &(v.vm.since_ms as f64 / 1000.0))),
    gauge("quantix_vm_info", "What the VM's agent says of its guest; always 1.", info),
    gauge("quantix_vm_last_seen_timestamp_seconds", "When something came from the agent last.",
        |v, l| v.seen.map_or(Ok(()), |seen| of_vm(v, l, &format_args!("{seen:.3}")))),
    gauge("quantix_vm_ping_seconds", "Round trip of the last Ping.",
        |v, l| if v.vm.rtt_us == 0 { Ok(()) } else { of_vm(v, l, &(v.vm.rtt_us as f64 / 1e6)) }),
    gauge("quantix_vm_clock_skew_seconds", "The guest's clock minus the host's.",
        |v, l| if v.vm.rtt_us == 0 { Ok(()) } else { of_vm(v, l, &(v.vm.clock_skew_ms as f64 / 1e3)) }),
    gauge("quantix_vm_frozen", "Whether the guest's file systems are frozen.", |v, l| of_vm(v, l, &is_frozen(v))),
    gauge("quantix_vm_ailing", "Whether a disk or process 1 of the guest does not do its work.",
        |v, l| of_vm(v, l, &u8::from(!v.vm.ills.is_empty()))),
    counter("quantix_vm_sessions_total", "Sessions opened with the agent.", |v, l| counted(v, l, |c| c.sessions)),
    counter("quantix_vm_connects_total", "Connections made to the VM's socket.", |v, l| counted(v, l, |c| c.connects)),
    counter("quantix_vm_received_bytes_total", "Read from the channel.", |v, l| counted(v, l, |c| c.bytes_in)),
    counter("quantix_vm_sent_bytes_total", "Written to the channel.", |v, l| counted(v, l, |c| c.bytes_out)),
    counter("quantix_vm_bad_frames_total", "Frames of the channel that were damaged.",
        |v, l| counted(v, l, |c| c.bad_frames)),
    counter("quantix_vm_garbage_bytes_total", "Bytes of the channel outside any frame.",
        |v, l| counted(v, l, |c| c.garbage_bytes)),
    counter("quantix_vm_reports_coalesced_total", "Reports that the agent replaced before they could be sent.",
        |v, l| counted(v, l, |c| c.coalesced)),
    gauge("quantix_vm_uptime_seconds", "Since the guest's kernel started.",
        |v, l| bytes(v, l, |t| t.uptime_seconds)),
    gauge("quantix_vm_cpu_usage_ratio", "Of all CPUs of the guest together.",
        |v, l| reported(v, l, |t| t.cpu_usage_percent / 100.0)),
    gauge("quantix_vm_load1", "Load of the last minute.", |v, l| reported(v, l, |t| t.load_avg_1m)),
    gauge("quantix_vm_load5", "Load of the last 5 minutes.", |v, l| reported(v, l, |t| t.load_avg_5m)),
    gauge("quantix_vm_load15", "Load of the last 15 minutes.", |v, l| reported(v, l, |t| t.load_avg_15m)),
    gauge("quantix_vm_processes", "Processes of the guest.", |v, l| bytes(v, l, |t| t.process_count.into())),
    gauge("quantix_vm_memory_bytes", "Memory of the guest.", |v, l| bytes(v, l, |t| t.memory_total)),
    gauge("quantix_vm_memory_available_bytes", "Of it what programs can have.",
        |v, l| bytes(v, l, |t| t.memory_available)),
    gauge("quantix_vm_swap_bytes", "Swap space of the guest.", |v, l| bytes(v, l, |t| t.swap_total)),
    gauge("quantix_vm_swap_used_bytes", "Of it what is in use.", |v, l| bytes(v, l, |t| t.swap_used)),
    gauge("quantix_vm_balloon_bytes", "What the balloon has taken.", |v, l| bytes(v, l, |t| t.ballooned)),
    counter("quantix_vm_swapped_in_bytes_total", "Read from swap.", |v, l| bytes(v, l, |t| t.swapped_in)),
    counter("quantix_vm_swapped_out_bytes_total", "Written to swap.", |v, l| bytes(v, l, |t| t.swapped_out)),
    counter("quantix_vm_major_faults_total", "Pages that had to come from a disk.",
        |v, l| bytes(v, l, |t| t.major_faults)),
    counter("quantix_vm_oom_kills_total", "Processes killed for memory.", |v, l| bytes(v, l, |t| t.oom_kills)),
    counter("quantix_vm_disk_read_bytes_total", "Read from block devices.", |v, l| bytes(v, l, |t| t.disk_read)),
    counter("quantix_vm_disk_written_bytes_total", "Written to block devices.",
        |v, l| bytes(v, l, |t| t.disk_written)),
    counter("quantix_vm_pressure_waiting_seconds_total", "Time in which some task waited for this.",
        |v, l| pressures(v, l, |p| p.some_us)),
    counter("quantix_vm_pressure_stalled_seconds_total", "Time in which all tasks waited for this.",
        |v, l| pressures(v, l, |p| p.full_us)),
    gauge("quantix_vm_filesystem_size_bytes", "Size of a file system.", |v, l| mounts(v, l, |d| Some(d.total))),
    gauge("quantix_vm_filesystem_used_bytes", "Of it what is in use.", |v, l| mounts(v, l, |d| Some(d.used))),
    gauge("quantix_vm_filesystem_avail_bytes", "Of it what an ordinary user can have.",
        |v, l| mounts(v, l, |d| Some(d.available))),
    gauge("quantix_vm_filesystem_files", "Inodes of a file system.",
        |v, l| mounts(v, l, |d| (d.inodes_total > 0).then_some(d.inodes_total))),
    gauge("quantix_vm_filesystem_files_used", "Of them those in use.",
        |v, l| mounts(v, l, |d| (d.inodes_total > 0).then_some(d.inodes_used))),
    gauge("quantix_vm_filesystem_device_error", "Whether a block of its disk could not be read.",
        |v, l| mounts(v, l, |d| Some(u64::from(!d.problem.is_empty())))),
    gauge("quantix_vm_filesystems_stuck", "Mounts whose file system does not answer.",
        |v, l| bytes(v, l, |t| t.stuck_mounts.len() as u64)),
    counter("quantix_vm_network_receive_bytes_total", "Received by an interface.",
        |v, l| interfaces(v, l, |i| i.rx_bytes)),
    counter("quantix_vm_network_transmit_bytes_total", "Sent by an interface.",
        |v, l| interfaces(v, l, |i| i.tx_bytes)),
    counter("quantix_vm_network_receive_packets_total", "Packets received by an interface.",
        |v, l| interfaces(v, l, |i| i.rx_packets)),
    counter("quantix_vm_network_transmit_packets_total", "Packets sent by an interface.",
        |v, l| interfaces(v, l, |i| i.tx_packets)),
    gauge("quantix_vm_network_up", "Whether an interface has a link.",
        |v, l| interfaces(v, l, |i| u64::from(i.state == LinkState::Up as i32))),
];

#[cfg(test)]
mod tests {
    use quantix::message::agent::AgentReady;

    use super::*;

    fn page(views: &[View]) -> String {
        let about = About::new(std::process::id(), 2, 3);
        let mut out = Vec::new();
        write(&mut out, views, &about).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn ready(name: &str, report: Telemetry) -> View {
        View {
            vm: node::Vm {
                name: name.to_owned(),
                state: VmState::Ready.into(),
                agent: Some(AgentReady {
                    hostname: "a\"b\\c\n\u{1b}[31m".to_owned() + &"x".repeat(300),
                    ..Default::default()
                }),
                ..Default::default()
            },
            report: Some(report),
            seen: Some(1_000.5),
        }
    }

    #[test]
    fn names_and_kinds_are_as_prometheus_wants_them() {
        let mut names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FAMILIES.len());
        for family in FAMILIES {
            let counts = family.kind == "counter";
            assert_eq!(family.name.ends_with("_total"), counts, "{}", family.name);
            assert!(family.name.starts_with("quantix_vm_") && family.help.ends_with('.'));
        }
    }

    #[test]
    fn what_a_guest_says_stays_inside_its_label() {
        let text = page(&[ready("vm \"1\"", Telemetry::default())]);
        let line = text
            .lines()
            .find(|line| line.starts_with("quantix_vm_info"))
            .unwrap();
        assert!(
            line.starts_with(r#"quantix_vm_info{vm="vm \"1\"","#),
            "{line}"
        );
        assert!(
            line.contains(r#"hostname="a\"b\\c\\x0a\\x1b[31mxx"#),
            "{line}"
        );
        assert!(line.len() < 400, "{line}");
    }

    #[test]
    fn a_guest_has_only_so_many_lines_and_none_twice() {
        let disk = |n: usize| Disk {
            mount_point: format!("/{n}"),
            filesystem: "ext4".to_owned(),
            ..Default::default()
        };
        let interface = |name: String| Interface {
            name,
            ..Default::default()
        };
        let mut report = Telemetry {
            disks: (0..1000).map(disk).collect(),
            interfaces: (0..1000).map(|n| interface(format!("eth{n}"))).collect(),
            cpu_usage_percent: f64::NAN,
            ..Default::default()
        };
        report.disks[1].mount_point = "/0".to_owned();
        report.disks[2].filesystem = "overlay".to_owned();
        report.interfaces[1].name = "eth0".to_owned();
        report.interfaces[2].name = "veth9".to_owned();
        let text = page(&[ready("vm", report)]);
        let lines = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(lines("quantix_vm_filesystem_size_bytes{"), MOST - 1);
        assert_eq!(lines("quantix_vm_network_up{"), MOST - 1);
        assert_eq!(lines("quantix_vm_cpu_usage_ratio{"), 0);
        assert!(!text.contains("NaN") && !text.contains("overlay") && !text.contains("veth9"));
    }

    #[test]
    fn of_a_vm_that_is_off_nothing_is_told_that_it_said_before() {
        let mut view = ready("vm", Telemetry::default());
        view.vm.state = VmState::Absent.into();
        view.vm.agent = None;
        view.report = None;
        let text = page(&[view]);
        assert!(text.contains("quantix_vm_up{vm=\"vm\"} 0\n"), "{text}");
        assert!(text.contains("quantix_vm_state{vm=\"vm\",state=\"absent\"} 1\n"));
        assert!(text.contains("quantix_node_vms{state=\"absent\"} 1\n"));
        assert!(!text.contains("quantix_vm_memory_bytes{"));
    }
}
