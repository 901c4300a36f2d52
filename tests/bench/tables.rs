//! What is printed, as it stands in README.md.

use std::fs;
use std::process::Command;

use crate::load::Load;
use crate::vm::Vm;
use crate::{Cost, Figures, Samples};

/// The machine.
pub fn print_head(vm: &Vm, release: &str) {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model
        .unwrap_or_default()
        .trim_start_matches(['\t', ':', ' ']);
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output();
    let qemu = qemu.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    let qemu = qemu.unwrap_or_default();
    let qemu = qemu.split_whitespace().nth(3).unwrap_or("?");
    let accel = vm.accel();
    println!(
        "QEMU {qemu}, accelerator {accel}, guest Linux {release}, 1 CPU; host {count} x {model}\n"
    );
}

/// The comparisons.
pub fn print(f: &Figures, load: &Load, down: &Cost, up: &Cost) {
    let line = |what: &str, ours: &Samples, bare: &Samples, unit: &str, scale: f64| {
        let (ours, bare) = (ours.median() / scale, bare.median() / scale);
        let ratio = ours / bare;
        println!("| {what} | {ours:.2} {unit} | {bare:.2} {unit} | {ratio:.2} |");
    };
    let alone = |what: &str, micros: f64| {
        println!("| {what} | {:.2} ms | | |", micros / 1e3);
    };
    let head = |other: &str| {
        println!("\n| | Ours | {other} | Ours : {other} |\n|---|---|---|---|");
    };
    head("bare port");
    let what = "Round trip, one after the other";
    line(what, &f.ping, &f.echo, "ms", 1e3);
    let what = "the same, as the daemon's client sees it";
    alone(what, f.ping_client.median());
    let slow = "Round trip, one a second, `--direct`";
    line(slow, &f.slow_ping, &f.slow_echo, "ms", 1e3);
    let what = "Download of a file, `cat`";
    line(what, &f.download, &f.source_file, "MB/s", 1.0);
    let what = "the same, bare from memory";
    line(what, &f.download, &f.source, "MB/s", 1.0);
    let what = "Upload to a file, `cp`";
    line(what, &f.upload_file, &f.sink_file, "MB/s", 1.0);
    let what = "Upload to /dev/null, `cp`";
    line(what, &f.upload, &f.sink, "MB/s", 1.0);

    println!("\n| Round trip, one every 10 ms | Median | 99 of 100 |\n|---|---|---|");
    let row = |what: &str, pings: &Samples| {
        let (half, most) = (pings.median() / 1e3, pings.percentile(99) / 1e3);
        println!("| {what} | {half:.2} ms | {most:.2} ms |");
    };
    row("Nothing else", &load.idle);
    row("Two downloads and two uploads", &load.transfers);
    row("These, and a command that never stops writing", &load.all);

    println!(
        "\n| Processor time per GB | Agent and its workers | Daemon and client |\n|---|---|---|"
    );
    let row = |what: &str, cost: &Cost| {
        println!("| {what} | {:.2} s | {:.2} s |", cost.guest, cost.host);
    };
    row("Download", down);
    row("Upload", up);

    head("qemu-ga");
    let what = "Download, `cat`; 64 KiB a call, as qemu-ga's Ansible plugin";
    line(what, &f.download, &f.qga_read, "MB/s", 1.0);
    let what = "the same; 1 MiB a call";
    line(what, &f.download, &f.qga_read_large, "MB/s", 1.0);
    let what = "Upload to /dev/null, `cp`; 64 KiB a call";
    line(what, &f.upload, &f.qga_write, "MB/s", 1.0);
    let what = "the same; 1 MiB a call";
    line(what, &f.upload, &f.qga_write_large, "MB/s", 1.0);
    let what = "`true` in the guest's shell, by the control socket";
    line(what, &f.exec, &f.qga_exec, "ms", 1e3);
    let what = "`qx-node exec VM -- true`, the whole process";
    line(what, &f.exec_process, &f.qga_exec, "ms", 1e3);
}
