//! What the guest runs on, and hot-plugged CPUs and memory.

use serde_json::{Value, json};

use crate::vm::harness::{Options, Own, PATIENCE, wait_for};

#[test]
fn what_was_plugged_goes_online_and_off_again() {
    let own = Own::ready(&Options {
        // Without the latter two the kernel may put pages of its own into what was plugged, which then stays.
        append: "qx.args=--telemetry-interval,1 memhp_default_state=offline movable_node",
        qemu: &[
            "-smp",
            "1,maxcpus=3",
            "-m",
            "256,slots=2,maxmem=1G",
            "-smbios",
            "type=1,manufacturer=Quantix,product=Test,serial=S-1,uuid=6f1b0c1e-0000-4000-8000-000000000001",
        ],
    });
    let cli = |words: &[&str]| own.node.cli(words);
    let sh = |line: &str| own.node.sh("db1", line);
    let found = cli(&["hardware", "db1", "--json"]).json();
    let machine = &found["machine"];
    assert_eq!(
        (&machine["vendor"], &machine["product"], &machine["serial"]),
        (&"Quantix".into(), &"Test".into(), &"S-1".into())
    );
    assert_eq!(machine["uuid"], "6f1b0c1e-0000-4000-8000-000000000001");
    assert_eq!(found["cpus"].as_array().unwrap().len(), 1, "{found}");
    assert!(found["cpu_model"].as_str().unwrap().starts_with("QEMU"));
    let text = cli(&["hardware", "db1"]).text();
    assert!(text.contains("Quantix Test"), "{text}");

    let mut qmp = own.vm.qmp();
    for core in 1..3 {
        let place = json!({ "driver": "qemu64-x86_64-cpu", "id": format!("c{core}"),
            "socket-id": 0, "core-id": core, "thread-id": 0 });
        qmp.run("device_add", place);
    }
    qmp.run(
        "object-add",
        json!({ "qom-type": "memory-backend-ram", "id": "more", "size": 128 << 20 }),
    );
    qmp.run(
        "device_add",
        json!({ "driver": "pc-dimm", "id": "dimm", "memdev": "more" }),
    );

    let cpus = |online: bool| {
        let found = cli(&["cpus", "db1", "--json"]).json();
        let cpus = found["cpus"].as_array().unwrap().clone();
        cpus.iter().filter(|cpu| cpu["online"] == online).count()
    };
    wait_for("the CPUs", PATIENCE, || (cpus(false) == 2).then_some(()));
    let text = cli(&["cpus", "db1"]).text();
    assert!(
        text.lines().any(|line| line.starts_with("1-2   offline")),
        "{text}"
    );
    assert_eq!(
        cli(&["cpus", "db1", "--online", "all"]).text(),
        "2 now online, 1 left as they are"
    );
    assert_eq!((sh("nproc"), cpus(true)), ("3".to_owned(), 3));
    assert_eq!(
        cli(&["cpus", "db1", "--offline", "2"]).text(),
        "1 now offline"
    );
    assert_eq!(sh("nproc"), "2");
    let said = cli(&["cpus", "db1", "--offline", "0-2"]);
    assert_eq!(said.status, 1);
    assert!(
        said.stderr.contains("0: it cannot be taken offline"),
        "{said:?}"
    );
    let said = cli(&["cpus", "db1", "--online", "3"]);
    assert_eq!(said.status, 1);
    assert!(
        said.stderr.contains("CPUs 3-3: there are 0 to 2"),
        "{said:?}"
    );
    assert_eq!(
        cli(&["cpus", "db1", "--online", "0", "--offline", "1"]).status,
        2
    );

    // The block that was plugged stands apart from the others.
    let memory = || cli(&["memory", "db1", "--json"]).json();
    let plugged: Value = wait_for("the memory", PATIENCE, || {
        let found = memory();
        let runs = found["memory"].as_array().unwrap();
        let last = runs.last().unwrap();
        let first = last["first"].as_u64().unwrap();
        (first * found["memory_block"].as_u64().unwrap() >= 256 << 20).then(|| last.clone())
    });
    let block = plugged["first"].to_string();
    let total = || {
        sh("awk '/MemTotal/ { print $2 }' /proc/meminfo")
            .parse::<u64>()
            .unwrap()
    };
    let before = total();
    let said = cli(&["memory", "db1", "--online", &block]).text();
    assert_eq!(said, "1 now online");
    assert_eq!(total() - before, 128 * 1024);
    assert_eq!(
        cli(&["memory", "db1", "--offline", &block]).text(),
        "1 now offline"
    );
    assert_eq!(total(), before);
    let table = cli(&["memory", "db1"]).text();
    let last = table.lines().last().unwrap();
    assert!(last.contains("128 MiB  offline"), "{table}");
    // The kernel itself is in the first.
    let said = cli(&["memory", "db1", "--offline", "0"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(
        said.stderr.contains("the kernel has pages in it"),
        "{said:?}"
    );

    // What has been waited for is counted, and an emptied guest has not swapped.
    let report = cli(&["telemetry", "db1", "--json"]).json();
    assert_eq!(report["pressures"].as_array().unwrap().len(), 3, "{report}");
    assert_eq!(
        (&report["ballooned"], &report["paging"]["swapped_out"]),
        (&0.into(), &0.into())
    );
}

#[test]
fn what_is_installed_is_listed() {
    let own = Own::ready(&Options::default());
    let cli = |words: &[&str]| own.node.cli(words);
    let said = cli(&["packages", "db1"]);
    assert_eq!(said.status, 1);
    assert!(
        said.stderr.contains("this guest has no packages"),
        "{said:?}"
    );
    // More than one answer holds.
    own.node.sh(
        "db1",
        "mkdir -p /lib/apk/db && for n in $(seq 3000); do echo P:package-$n; echo V:1.0-r$n; echo A:x86_64; echo I:4096; echo; done > /lib/apk/db/installed",
    );
    let found = cli(&["packages", "db1", "--json"]).json();
    assert_eq!(found.as_array().unwrap().len(), 3000);
    let text = cli(&["packages", "db1", "package-29999", "ge-1234"]).text();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(
        text.ends_with("package-1234  1.0-r1234  x86_64  4.0 KiB"),
        "{text}"
    );
    assert_eq!(
        cli(&["packages", "db1", "none"]).text(),
        "no package with none"
    );
}
