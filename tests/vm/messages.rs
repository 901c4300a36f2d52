//! What a guest that is well is asked: signs of life, reports, commands.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::harness::{Use, count, shared, wait_until};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn number(text: &str) -> u64 {
    let whole = text.split(['.', ' ']).next().unwrap();
    whole.parse().unwrap_or_else(|e| panic!("{e} in {text:?}"))
}

fn exec(host: &Use, words: &[&str]) -> Value {
    let words = [&["exec", "web1", "--json"], words].concat();
    host.node.cli(&words).json()
}

#[test]
fn a_ping_is_answered_with_version_and_uptime() {
    let host = shared();
    let answer = host.node.cli(&["ping", "web1", "--json"]).json();
    assert_eq!(answer["version"], VERSION);
    assert!(answer["rtt_us"].as_u64().unwrap() > 0);
    let now = number(&host.node.sh("web1", "cat /proc/uptime"));
    let said = answer["uptime_seconds"].as_u64().unwrap();
    assert!(said <= now && now - said < 30, "{said}, then {now}");
    let text = host.node.cli(&["ping", "web1", "-c", "2"]).text();
    assert!(text.contains("web1: seq=1 time="), "{text}");
    assert!(text.contains("2 answered"), "{text}");
}

#[test]
fn info_shows_what_the_guest_is() {
    let host = shared();
    let info = host.node.cli(&["info", "web1", "--json"]).json();
    let sh = |line| host.node.sh("web1", line);
    assert_eq!(info["state"], "ready");
    assert_eq!(info["reason"], "");
    assert_eq!(info["agent"]["version"], VERSION);
    assert_eq!(info["agent"]["hostname"], "web1");
    assert_eq!(info["agent"]["os_name"], "quantix-test");
    assert_eq!(info["agent"]["os_version"], "1");
    assert_eq!(info["agent"]["kernel_version"], sh("uname -r").as_str());
    assert_eq!(info["agent"]["architecture"], "x86_64");
    let addresses = info["agent"]["ip_addresses"].as_array().unwrap();
    assert!(
        addresses
            .iter()
            .any(|a| a.as_str().unwrap().starts_with("10.0.2.15")),
        "{info}"
    );
    let boot = sh("cat /proc/sys/kernel/random/boot_id");
    assert_eq!(info["boot_id"], boot.as_str());
    let text = host.node.cli(&["info", "web1"]).text();
    assert!(text.contains("quantix-test 1"), "{text}");
}

#[test]
fn the_channel_of_a_guest_that_is_well_drops_nothing() {
    let host = shared();
    host.node.sh("web1", "true");
    let vm = host.node.vm("web1");
    assert_eq!(count(&vm, "connects"), 1, "{vm}");
    assert_eq!(count(&vm, "sessions"), 1, "{vm}");
    for counter in ["stale_frames", "bad_frames", "garbage_bytes"] {
        assert_eq!(count(&vm, counter), 0, "{vm}");
    }
}

#[test]
fn telemetry_agrees_with_what_the_guest_says() {
    let host = shared();
    let sh = |line: &str| host.node.sh("web1", line);
    sh(
        "mkdir -p /mnt/disk /mnt/again; mount -t ext4 /dev/vda /mnt/disk && \
        mount -o bind /mnt/disk /mnt/again",
    );
    // A report after that.
    let mut watch = host.node.begin(&["telemetry", "web1", "--watch", "--json"]);
    let report = loop {
        let report: Value = serde_json::from_str(&watch.line()).unwrap();
        if report["disks"].to_string().contains("/dev/vda") {
            break report;
        }
    };
    assert_eq!(report["hostname"], "web1");
    let kib = |key: &str| {
        number(&sh(&format!(
            "awk '/^{key}:/ {{ print $2 }}' /proc/meminfo"
        )))
    };
    let (total, available) = (kib("MemTotal") * 1024, kib("MemAvailable") * 1024);
    let said = |key: &str| report["memory"][key].as_u64().unwrap();
    assert_eq!(said("total"), total);
    assert!(said("available").abs_diff(available) < 32 << 20, "{report}");
    assert_eq!(said("used"), said("total") - said("available"));
    assert_eq!(report["swap"]["total"], 0);
    let uptime = number(&sh("cat /proc/uptime"));
    let said = report["uptime_seconds"].as_u64().unwrap();
    assert!(said <= uptime && uptime - said < 60, "{said} of {uptime}");
    let cpu = report["cpu_usage_percent"].as_f64().unwrap();
    assert!((0.0..=100.0).contains(&cpu), "{cpu}");
    let processes = number(&sh("cd /proc; set -- [0-9]*; echo $#"));
    let said = report["process_count"].as_u64().unwrap();
    assert!(said.abs_diff(processes) < 20, "{said} of {processes}");
    let load = report["load_avg"][0].as_f64().unwrap();
    assert!((0.0..50.0).contains(&load));

    // The root and the disk, that once, though it is mounted twice; nothing that is no disk.
    let disks = report["disks"].as_array().unwrap();
    let of = |key: &str| -> Vec<&str> {
        disks
            .iter()
            .map(|disk| disk[key].as_str().unwrap())
            .collect()
    };
    assert_eq!(of("mount_point"), ["/", "/mnt/disk"], "{report}");
    assert_eq!(of("device"), ["rootfs", "/dev/vda"], "{report}");
    assert_eq!(of("filesystem"), ["rootfs", "ext4"], "{report}");
    let blocks = number(&sh("stat -f -c '%b' /mnt/disk"));
    let size = number(&sh("stat -f -c '%S' /mnt/disk"));
    assert_eq!(disks[1]["total"].as_u64().unwrap(), blocks * size);

    let interfaces = report["interfaces"].as_array().unwrap();
    let eth0 = interfaces.iter().find(|i| i["name"] == "eth0").unwrap();
    assert_eq!(eth0["mac"], "52:54:00:12:34:56");
    assert_eq!(eth0["ipv4"], serde_json::json!(["10.0.2.15/24"]));
    assert_eq!(eth0["mtu"], 1500);
    assert_eq!(eth0["state"], "up");
    // Reports go on.
    let next: Value = serde_json::from_str(&watch.line()).unwrap();
    assert!(next["uptime_seconds"].as_u64() > report["uptime_seconds"].as_u64());
    let text = host.node.cli(&["telemetry", "web1"]).text();
    assert!(text.contains("/mnt/disk"), "{text}");
}

#[test]
fn a_commands_streams_and_status_are_its_own() {
    let host = shared();
    let out = host
        .node
        .cli(&["exec", "web1", "--", "echo out; echo err >&2; exit 42"]);
    assert_eq!((out.status, &out.stdout[..]), (42, &b"out\n"[..]));
    assert_eq!(out.stderr, "err\n");
    let out = host.node.cli(&["exec", "web1", "--", "kill -9 $$"]);
    assert_eq!(out.status, 137);
    // Words are not looked at by any shell.
    let words = [
        "exec", "web1", "--", "printf", "%s|", "a b", "$HOME", "*", "",
    ];
    assert_eq!(host.node.cli(&words).text(), "a b|$HOME|*||");
    // Standard input is at its end.
    assert_eq!(host.node.sh("web1", "cat; echo done"), "done");
}

#[test]
fn output_that_is_no_text_comes_as_it_is() {
    let host = shared();
    let line = r"i=0; while [ $i -lt 256 ]; do printf \\$(printf %03o $i); i=$((i+1)); done";
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(host.node.cli(&["exec", "web1", "--", line]).ok(), all);
}

#[test]
fn a_command_runs_as_the_user_with_its_groups() {
    let host = shared();
    let line = "id -u; id -g; id -G; pwd; echo $HOME $USER $LOGNAME; touch /tmp/alices; \
                stat -c %U:%a /tmp/alices; cat ~root/x 2>&1";
    let out = host
        .node
        .cli(&["exec", "web1", "--user", "alice", "--", line]);
    let lines = String::from_utf8(out.stdout).unwrap();
    let mut lines = lines.lines();
    assert_eq!(lines.next(), Some("1000"));
    assert_eq!(lines.next(), Some("1000"));
    let mut groups: Vec<u64> = lines.next().unwrap().split(' ').map(number).collect();
    groups.sort_unstable();
    assert_eq!(groups, [6, 10, 1000]);
    assert_eq!(lines.next(), Some("/home/alice"));
    assert_eq!(lines.next(), Some("/home/alice alice alice"));
    assert_eq!(lines.next(), Some("alice:644"));
    assert!(lines.next().unwrap().contains("Permission denied"));
    let group = ["--user", "alice", "--group", "nogroup", "--", "id -g"];
    assert_eq!(exec(&host, &group)["stdout"], "65534\n");
    assert_eq!(
        host.node.sh("web1", "id -u; id -g; id -G; pwd"),
        "0\n0\n0\n/root"
    );
}

#[test]
fn a_command_has_its_directory_and_its_environment() {
    let host = shared();
    let words = [
        "--cwd",
        "/proc/self",
        "--env",
        "A=1 2",
        "--env",
        "B=c=d",
        "--",
        "pwd; echo \"$A,$B\"; env | grep -c .",
    ];
    let out = exec(&host, &words)["stdout"].as_str().unwrap().to_owned();
    assert!(out.starts_with("/proc/"), "{out}");
    assert!(out.contains("\n1 2,c=d\n"), "{out}");
}

#[test]
fn a_timeout_kills_all_that_the_command_has_started() {
    let host = shared();
    let begun = Instant::now();
    let line = "echo begun; sleep 3071 & (sleep 3071 | sleep 3071) & sleep 3071";
    let out = host
        .node
        .cli(&["exec", "web1", "--timeout", "1", "--", line]);
    assert_eq!(out.status, 124);
    assert_eq!(out.stdout, b"begun\n");
    assert!(out.stderr.contains("killed after 1 s"), "{}", out.stderr);
    assert!(begun.elapsed() < Duration::from_secs(20));
    wait_until("its processes to be gone", 10, || {
        host.node.processes("web1", "sleep 3071").is_empty()
    });
}

#[test]
fn a_process_left_behind_does_not_delay_the_answer() {
    let host = shared();
    let begun = Instant::now();
    assert_eq!(host.node.sh("web1", "sleep 40 & echo hi"), "hi");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let left = host.node.processes("web1", "sleep 40");
    assert_eq!(left.len(), 1);
    host.node.sh("web1", &format!("kill {}", left[0]));
}

#[test]
fn much_output_comes_whole_and_the_command_goes_on() {
    let host = shared();
    let line = "head -c 3000000 /dev/zero; echo done >/tmp/went-on; exit 3";
    let out = host.node.cli(&["exec", "web1", "--", line]);
    assert_eq!((out.status, &out.stderr[..]), (3, ""));
    assert!(out.stdout == vec![0; 3_000_000]);
    assert_eq!(
        host.node.sh("web1", "cat /tmp/went-on; rm /tmp/went-on"),
        "done"
    );
}

#[test]
fn a_detached_command_goes_on_alone() {
    let host = shared();
    let begun = Instant::now();
    let words = [
        "exec",
        "web1",
        "--detach",
        "--json",
        "--",
        "exec sleep 3072",
    ];
    let started: Value = serde_json::from_str(&host.node.cli(&words).text()).unwrap();
    let pid = started["pid"].as_u64().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20));
    let line = format!("tr '\\0' ' ' </proc/{pid}/cmdline");
    assert_eq!(host.node.sh("web1", &line), "sleep 3072 ");
    host.node.sh("web1", &format!("kill {pid}"));
    let gone = format!("kill -0 {pid} 2>&1 || true");
    wait_until("it to be reaped", 10, || {
        host.node.sh("web1", &gone).contains("No such process")
    });
}

#[test]
fn commands_run_beside_each_other_and_leave_no_zombies() {
    let host = shared();
    let running: Vec<_> = (0..12)
        .map(|i| {
            let line = format!("sleep 1; echo {i}");
            host.node.begin(&["exec", "web1", "--", &line])
        })
        .collect();
    for (i, command) in running.into_iter().enumerate() {
        assert_eq!(command.finish().text(), i.to_string());
    }
    wait_until("no zombies", 10, || {
        host.node.sh(
            "web1",
            "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l",
        ) == "0"
    });
}

#[test]
fn bad_commands_fail_with_the_reason() {
    let host = shared();
    let fails = |words: &[&str], why: &[&str]| {
        let words = [&["exec", "web1"], words].concat();
        host.node.cli(&words).failed(125, why);
    };
    fails(
        &["--", "/no/such", "x"],
        &["/no/such", "No such file or directory"],
    );
    fails(
        &["--", "/etc/passwd", "x"],
        &["/etc/passwd", "Permission denied"],
    );
    fails(
        &["--user", "mallory", "--", "id"],
        &["mallory", "/etc/passwd"],
    );
    fails(
        &["--group", "mallory", "--", "id"],
        &["mallory", "/etc/group"],
    );
    fails(
        &["--cwd", "/no/such", "--", "id"],
        &["/no/such", "No such file or directory"],
    );
    fails(
        &["--cwd", "tmp", "--", "id"],
        &["tmp", "not an absolute path"],
    );
    fails(&["--", " "], &["empty"]);
    let out = host.node.cli(&["exec", "web9", "--", "id"]);
    out.failed(125, &["web9"]);
    assert_eq!(host.node.sh("web1", "echo well"), "well");
}

#[test]
fn a_client_that_leaves_takes_its_command_with_it() {
    let host = shared();
    let command = host.node.begin(&["exec", "web1", "--", "sleep 3073; true"]);
    let running = || host.node.processes("web1", "sleep 3073").len();
    wait_until("the command to run", 20, || running() == 1);
    drop(command);
    wait_until("the command to be gone", 20, || running() == 0);
}

#[test]
fn without_udev_there_are_no_links_and_the_agent_finds_its_port() {
    let host = shared();
    let links = host.node.sh("web1", "ls /dev/virtio-ports 2>&1 || true");
    assert!(links.contains("No such file or directory"), "{links}");
    let console = host.vm.console();
    assert!(console.contains("port /dev/vport"), "{console}");
}
