//! The manual pages of the agent, made of its table of options and of its configuration, and compared with those in
//! `docs/man`. Only tests have this.

#[path = "../tests/man/roff.rs"]
// The host's page needs more of it.
#[allow(dead_code)]
mod roff;

use crate::cli::{DOCTOR, OPTIONS, Opt};
use crate::config;

use roff::{Page, bold, italic, usage};

const AGENT_CONF: &str = include_str!("agent.conf");

fn options<T>(page: &mut Page, options: &[Opt<T>]) {
    for option in options {
        let short = option.short.map(|c| bold(&format!("-{c}")) + ", ");
        let value = match option.value {
            "" => String::new(),
            value if value.contains('|') => format!(" {}", usage(value)),
            value => format!(" {}", italic(value)),
        };
        let tag = format!(
            "{}{}{value}",
            short.unwrap_or_default(),
            bold(&format!("--{}", option.long))
        );
        let mut about = option.about.replace('\n', " ") + ".";
        about[..1].make_ascii_uppercase();
        page.item(&tag, &about);
    }
}

fn agent() -> Page {
    let mut page = Page::new(
        "quantix-kvm-agent",
        8,
        "agent in a virtual machine, for its KVM host",
    );
    page.section("SYNOPSIS");
    for line in ["[OPTION]...", "doctor [OPTION]..."] {
        page.synopsis(&format!("{} {}", bold("quantix-kvm-agent"), usage(line)));
    }
    page.section("DESCRIPTION");
    for part in DESCRIPTION {
        page.paragraph(part);
    }
    page.section("OPTIONS");
    options(&mut page, OPTIONS);
    page.section("DOCTOR");
    page.paragraph(
        "`quantix-kvm-agent doctor` checks the guest's side of the channel: driver, port, who has it open, whether a host is \
         there, the unit, crashes in the kernel's log, file systems that hang, the configuration. It names the cause of what \
         is wrong and what to do, and changes nothing. It needs no agent that runs, and as root it sees most.",
    );
    options(&mut page, DOCTOR);
    page.section("SIGNALS");
    page.item(
        &bold("SIGTERM"),
        "Ends it. Commands that are kept go on; the next agent finds them.",
    );
    page.item(&bold("SIGHUP"), "Has it read its configuration again.");
    page.section("EXIT STATUS");
    page.item(&bold("0"), "SIGTERM has ended it. Of `doctor`: healthy.");
    page.item(
        &bold("1"),
        "It cannot run; the line on stderr says why. Of `doctor`: warnings.",
    );
    page.item(&bold("2"), "Wrong usage. Of `doctor`: faults.");
    page.section("ENVIRONMENT");
    page.item(
        &bold("JOURNAL_STREAM"),
        "Set by systemd(1): lines on stderr begin with how much they matter.",
    );
    page.item(
        &format!(
            "{}, {}, {}",
            bold("NOTIFY_SOCKET"),
            bold("WATCHDOG_USEC"),
            bold("WATCHDOG_PID")
        ),
        "Set by systemd(1): it is told when the port is open, or why it is not.",
    );
    page.section("FILES");
    for (path, about) in FILES {
        page.item(&italic(path), about);
    }
    page.section("EXAMPLES");
    page.example(
        "As a unit has it; the journal has its log:",
        "quantix-kvm-agent --log stderr",
    );
    page.example(
        "What is wrong, in a guest that its host does not reach:",
        "quantix-kvm-agent doctor",
    );
    page.section("SEE ALSO");
    page.paragraph("quantix-kvm-agent.conf(5), qx-node(8), systemd(1), fsfreeze(8)");
    page
}

const DESCRIPTION: &[&str] = &[
    "`quantix-kvm-agent` runs in a virtual machine and does what its host asks: it runs commands, copies files in and out, \
     freezes file systems, changes what an operator wants changed, and tells how the machine does. It is spoken to by \
     qx-node(8), over the virtio-serial port org.quantix.agent.0 and nothing else. It opens no network port.",
    "It waits for the port to appear, and says nothing until the host speaks. Without a host it sleeps. When the host, \
     QEMU or the agent itself was restarted, or the machine was put back to a snapshot, the channel recovers by itself.",
    "With systemd there is nothing to enable: udev(7) starts the unit where the port is. Elsewhere have init keep it \
     running as root. The kernel needs the module `virtio_console`.",
    "Whoever can open the other end of the port, on the host, is root in this machine.",
];

const FILES: &[(&str, &str)] = &[
    (
        config::PATH,
        "The configuration: see quantix-kvm-agent.conf(5).",
    ),
    (
        "/dev/virtio-ports/org.quantix.agent.0",
        "The port, as udev names it. It is found in /sys/class/virtio-ports without udev, too.",
    ),
    (
        "/etc/quantix-kvm/freeze.d",
        "Programs that are called with `freeze` before file systems are frozen, in the order of their names, and with \
         `thaw` after, in the reverse order. They are root's and writable by nobody else, have 30 s each, and one that \
         fails ends the freeze.",
    ),
    (
        "/etc/quantix-kvm/restore.d",
        "Programs that are called with `restore` after the machine was put back, restored or cloned.",
    ),
    (
        "/run/quantix-kvm",
        "Commands that are kept, whoever leaves or is restarted.",
    ),
];

fn agent_conf() -> Page {
    roff::conf_page(
        "quantix-kvm-agent.conf",
        "configuration of the agent in a virtual machine",
        config::PATH,
        AGENT_CONF,
        "quantix-kvm-agent(8)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_agent_is_what_its_table_says() {
        agent().assert_stored("quantix-kvm-agent.8");
    }

    #[test]
    fn the_page_of_its_configuration_is_what_its_file_says() {
        agent_conf().assert_stored("quantix-kvm-agent.conf.5");
    }
}
