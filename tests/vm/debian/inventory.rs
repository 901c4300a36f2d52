//! Processes and memory, as the guest's own tools count them.

use super::Guest;

pub fn processes_and_memory_are_those_of_its_tools(guest: &Guest) {
    let all = guest.json("ps", &[]);
    let all = all.as_array().unwrap();
    let command = guest.sh("ps -o args= -p 1");
    let first = all.iter().find(|process| process["pid"] == 1).unwrap();
    assert_eq!(first["command"], command.as_str(), "{first}");
    let owners = guest.sh("ps -e -o pid=,user:32=,ppid=");
    let mut found = 0;
    for line in owners.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let pid: u64 = words[0].parse().unwrap();
        // What has come since, as ps itself, is not among them.
        if let Some(process) = all.iter().find(|process| process["pid"] == pid) {
            let parent: u64 = words[2].parse().unwrap();
            assert_eq!(process["user"], words[1], "{process}");
            assert_eq!(process["parent"], parent, "{process}");
            found += 1;
        }
    }
    assert!(
        found > 40 && found + 8 > all.len(),
        "{found} of {}: {owners}",
        all.len()
    );

    let telemetry = guest.json("telemetry", &[]);
    let number = |key: &str| {
        let found = telemetry["memory"][key].as_u64();
        found.unwrap_or_else(|| panic!("{telemetry}"))
    };
    let free = guest.sh("free -b | sed -n 2p");
    let free: Vec<u64> = free
        .split_whitespace()
        .skip(1)
        .map(|n| n.parse().unwrap())
        .collect();
    let (total, used, available) = (free[0], free[1], free[5]);
    assert_eq!(number("total"), total);
    assert_eq!(number("used") + number("available"), total);
    // It is ten seconds old.
    let near = |a: u64, b: u64| a.abs_diff(b) < 32 << 20;
    assert!(near(number("used"), used), "{used}: {telemetry}");
    assert!(
        near(number("available"), available),
        "{available}: {telemetry}"
    );
}
