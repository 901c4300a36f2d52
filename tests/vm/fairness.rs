//! Much at once through one port: each stream goes on, and what is urgent goes ahead of them.

use std::fs::{self, File};
use std::process::Stdio;

use super::harness::{Running, shared, wait_until};

/// How much a client has read and written so far, its socket included.
fn moved(client: &Running) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", client.child.id())).unwrap();
    let count = |line: &str| {
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    io.lines().take(2).map(count).sum()
}

#[test]
fn four_transfers_and_a_chatty_command_advance_together_and_pings_pass_them_by() {
    const ENDLESS: u64 = 1 << 40;
    let host = shared();
    host.node
        .sh("web1", &format!("truncate -s {ENDLESS} /tmp/endless"));
    let source = host.place.file("endless");
    File::create(&source).unwrap().set_len(ENDLESS).unwrap();
    let down = ["cat", "web1", "/tmp/endless"];
    let up = ["cp", source.to_str().unwrap(), "web1:/dev/null"];
    let chatty = ["exec", "web1", "--", "yes a chatty command"];
    let begin = |words: &[&str]| host.node.begin_to(words, Stdio::null());
    let clients = [
        begin(&down),
        begin(&down),
        begin(&up),
        begin(&up),
        begin(&chatty),
    ];
    for round in 1..=10 {
        let before: Vec<u64> = clients.iter().map(moved).collect();
        host.node.cli(&["ping", "web1"]).text();
        for (at, (client, before)) in clients.iter().zip(before).enumerate() {
            let what = format!("client {at} in round {round}");
            wait_until(&what, 60, || moved(client) > before + (1 << 20));
        }
    }
    // A request that comes now is not behind what they still want to move.
    assert_eq!(host.node.sh("web1", "echo between"), "between");
    drop(clients);
    host.node.sh("web1", "rm /tmp/endless");
    fs::remove_file(source).unwrap();
}
