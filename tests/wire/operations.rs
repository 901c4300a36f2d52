//! What an operator does to a guest.

use quantix::message::agent::{
    ConfigureNetwork, Cpu, DefaultRoute, Freeze, FreezeMount, FreezeOutcome, FreezeReport,
    FreezeState, GetHardware, Grow, GrowReport, Hardware, HardwareKind, Hook, ListPackages,
    MemoryBlocks, NetworkAddress, NetworkChange, NetworkOutcome, NetworkState, Numbers,
    OnlineFailure, OnlineReport, Package, PackageList, PowerAction, Restored, RestoredReport,
    RestoredStep, SetOnline, SetPassword, Shutdown, ShutdownResponse, SyncTime, Thaw, TimeReport,
    Timestamp, Trim, TrimMount, TrimReport,
};
use quantix::message::{Body, message};

use super::{Golden, REQUEST, WALL, sealed};

/// Requests, each with its answer.
pub fn all() -> Vec<Golden> {
    let bodies = [
        (
            "freeze",
            "Host to guest: freezes two file systems for 30 s, or none.",
            Body::Freeze(Freeze {
                mount_points: vec!["/srv/db".into(), "/".into()],
                timeout_seconds: 30,
                ..Default::default()
            }),
        ),
        (
            "freeze_response",
            "Guest to host: one is frozen, one was left out, and a hook was called.",
            Body::FreezeResponse(freeze_report()),
        ),
        (
            "thaw",
            "Host to guest: whatever is frozen, whoever froze it.",
            Body::Thaw(Thaw { force: true }),
        ),
        (
            "shutdown",
            "Host to guest: a reboot in a minute.",
            Body::Shutdown(Shutdown {
                r#type: PowerAction::Reboot.into(),
                delay_seconds: 60,
                message: "a new kernel".into(),
                ..Default::default()
            }),
        ),
        (
            "shutdown_response",
            "Guest to host: it is going to be done.",
            Body::ShutdownResponse(ShutdownResponse {
                accepted: true,
                ..Default::default()
            }),
        ),
        (
            "sync_time",
            "Host to guest: steps the clock back by a second and a half.",
            Body::SyncTime(SyncTime {
                step_ns: -1_500_000_000,
                ..Default::default()
            }),
        ),
        (
            "sync_time_response",
            "Guest to host: what the clocks show; there is no battery-backed one.",
            Body::SyncTimeResponse(TimeReport {
                before: Some(WALL),
                now: Some(Timestamp {
                    seconds: WALL.seconds - 1,
                    ..WALL
                }),
                rtc: None,
                rtc_problem: "this guest has none".into(),
            }),
        ),
        (
            "set_password",
            "Host to guest: the hash of a user's new password.",
            Body::SetPassword(SetPassword {
                username: "alice".into(),
                password: "$6$salt$hash".into(),
                crypted: true,
                ..Default::default()
            }),
        ),
        (
            "trim",
            "Host to guest: tells the disk below /srv of free pieces of at least 1 MiB.",
            Body::Trim(Trim {
                mount_points: vec!["/srv".into()],
                minimum: 1 << 20,
                progress: true,
            }),
        ),
        (
            "trim_response",
            "Guest to host: 5 GiB were.",
            Body::TrimResponse(TrimReport {
                mounts: vec![TrimMount {
                    mount_point: "/srv".into(),
                    trimmed: 5 << 30,
                    ..Default::default()
                }],
            }),
        ),
        (
            "get_hardware",
            "Host to guest: what it runs on.",
            Body::GetHardware(GetHardware {}),
        ),
        (
            "hardware",
            "Guest to host: a machine with two CPUs and 512 MiB, one of each not in use.",
            Body::Hardware(Hardware {
                vendor: "QEMU".into(),
                cpu_model: "QEMU Virtual CPU".into(),
                cpus: vec![
                    Cpu {
                        online: true,
                        fixed: true,
                        ..Default::default()
                    },
                    Cpu {
                        id: 1,
                        ..Default::default()
                    },
                ],
                memory_block: 128 << 20,
                memory: vec![
                    MemoryBlocks {
                        count: 3,
                        online: true,
                        ..Default::default()
                    },
                    MemoryBlocks {
                        first: 32,
                        count: 1,
                        ..Default::default()
                    },
                ],
                ..Default::default()
            }),
        ),
        (
            "set_online",
            "Host to guest: takes CPUs 1 to 3 online.",
            Body::SetOnline(SetOnline {
                kind: HardwareKind::Cpu.into(),
                online: true,
                numbers: vec![Numbers { first: 1, last: 3 }],
            }),
        ),
        (
            "online_report",
            "Guest to host: two went, one did not.",
            Body::OnlineReport(OnlineReport {
                changed: 2,
                failed: 1,
                failures: vec![OnlineFailure {
                    id: 3,
                    reason: "Input/output error".into(),
                    errno: 5,
                }],
                ..Default::default()
            }),
        ),
        (
            "list_packages",
            "Host to guest: those behind the last one that it had.",
            Body::ListPackages(ListPackages {
                after: "bash 5.2.15-2+b9 amd64".into(),
            }),
        ),
        (
            "package_list",
            "Guest to host: one, the last there is.",
            Body::PackageList(PackageList {
                manager: "dpkg".into(),
                packages: vec![Package {
                    name: "zlib1g".into(),
                    version: "1:1.2.13.dfsg-1".into(),
                    architecture: "amd64".into(),
                    size: 171_008,
                    ..Default::default()
                }],
                ..Default::default()
            }),
        ),
        (
            "grow",
            "Host to guest: the file system at /srv is to reach to the end of its disk.",
            Body::Grow(Grow {
                mount_point: "/srv".into(),
                dry_run: true,
            }),
        ),
        (
            "grow_response",
            "Guest to host: from 1 GiB to 2, but for what the table needs.",
            Body::GrowResponse(GrowReport {
                filesystem: "ext4".into(),
                device: "vda1".into(),
                disk: "vda".into(),
                table: "GPT".into(),
                disk_size: 2 << 30,
                device_before: 1022 << 20,
                device_after: 2046 << 20,
                filesystem_before: 1022 << 20,
                filesystem_after: 2046 << 20,
            }),
        ),
        (
            "restored",
            "Host to guest: it was put back by 90 s.",
            Body::Restored(Restored {
                step_ns: 90_000_000_000,
                entropy: (0..32).collect(),
                ..Default::default()
            }),
        ),
        (
            "restored_response",
            "Guest to host: one step was taken, one failed.",
            Body::RestoredResponse(RestoredReport {
                steps: vec![
                    RestoredStep {
                        name: "clock".into(),
                        detail: "stepped by +90000 ms".into(),
                        ..Default::default()
                    },
                    RestoredStep {
                        name: "dhcp".into(),
                        failed: true,
                        detail: "dhcpcd: it ended with status 1".into(),
                    },
                ],
                hooks: Vec::new(),
            }),
        ),
        (
            "configure_network",
            "Host to guest: an address, its gateway and DNS, for 90 s unless it is confirmed.",
            Body::ConfigureNetwork(ConfigureNetwork {
                interface: "eth0".into(),
                addresses: vec!["10.0.0.5/24".into()],
                gateways: vec!["10.0.0.1".into()],
                dns_servers: vec!["10.0.0.3".into()],
                mtu: 1400,
                confirm_seconds: 90,
                ..Default::default()
            }),
        ),
        (
            "configure_network_response",
            "Guest to host: it is so, and is to be confirmed.",
            Body::ConfigureNetworkResponse(network_change()),
        ),
        (
            "configure_network_confirm",
            "Host to guest: it stays.",
            Body::ConfigureNetwork(ConfigureNetwork {
                confirm: CHANGE,
                ..Default::default()
            }),
        ),
    ];
    let number = |about: &str| if about.starts_with("Host") { 5 } else { 6 };
    bodies
        .into_iter()
        .map(|(file, about, body)| sealed(file, about, number(about), message(REQUEST, body)))
        .collect()
}

const CHANGE: u64 = 0x0123_4567_89ab_cdef;

fn network_change() -> NetworkChange {
    let state = |address: &str| {
        Some(NetworkState {
            addresses: vec![NetworkAddress {
                address: address.into(),
                scope: 1,
                ..Default::default()
            }],
            routes: vec![DefaultRoute {
                gateway: "10.0.0.1".into(),
                interface: "eth0".into(),
                ..Default::default()
            }],
            mtu: 1400,
        })
    };
    NetworkChange {
        change: CHANGE,
        outcome: NetworkOutcome::Pending.into(),
        interface: "eth0".into(),
        manager: "ifupdown".into(),
        profile: "etc/network/interfaces".into(),
        files: vec!["/etc/network/interfaces".into()],
        before: state("10.0.0.4/24"),
        after: state("10.0.0.5/24"),
        remaining_seconds: 90,
        ..Default::default()
    }
}

fn freeze_report() -> FreezeReport {
    FreezeReport {
        state: FreezeState::Frozen.into(),
        mounts: vec![
            FreezeMount {
                mount_point: "/srv/db".into(),
                filesystem: "xfs".into(),
                device: "/dev/vdb".into(),
                outcome: FreezeOutcome::Frozen.into(),
                ..Default::default()
            },
            FreezeMount {
                mount_point: "/".into(),
                filesystem: "ext4".into(),
                device: "/dev/vda1".into(),
                outcome: FreezeOutcome::Failed.into(),
                reason: "Input/output error".into(),
                errno: 5,
            },
        ],
        hooks: vec![Hook {
            name: "10-mysql".into(),
            argument: "freeze".into(),
            output: b"flushed\n".to_vec(),
            duration_ms: 18,
            ..Default::default()
        }],
        remaining_ms: 29_900,
        ..Default::default()
    }
}
