//! QEMU's monitor, as far as the tests need it: a line of JSON each way.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A connection to the monitor.
pub struct Qmp {
    lines: BufReader<UnixStream>,
    /// Events that came while something else was waited for.
    events: Vec<Value>,
}

impl Qmp {
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path)
            .unwrap_or_else(|e| panic!("no monitor {}: {e}", path.display()));
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut qmp = Self {
            lines: BufReader::new(stream),
            events: Vec::new(),
        };
        assert!(qmp.read().get("QMP").is_some(), "no greeting");
        qmp.run("qmp_capabilities", json!({}));
        qmp
    }

    /// Runs a command; it must succeed.
    #[track_caller]
    pub fn run(&mut self, command: &str, arguments: Value) -> Value {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.lines.get_mut().write_all(line.as_bytes()).unwrap();
        loop {
            let mut answer = self.read();
            if let Some(result) = answer.get_mut("return") {
                return result.take();
            }
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            self.events.push(answer);
        }
    }

    /// Runs a line for people's monitor; one that says nothing has succeeded.
    #[track_caller]
    pub fn human(&mut self, line: &str) {
        let said = self.run("human-monitor-command", json!({ "command-line": line }));
        assert_eq!(said, "", "{line}");
    }

    /// Runs a block job to its end.
    #[track_caller]
    pub fn job(&mut self, command: &str, mut arguments: Value) {
        arguments["job-id"] = json!("job");
        self.run(command, arguments);
        loop {
            let event = self.wait_event("JOB_STATUS_CHANGE");
            if event["data"]["status"] == "concluded" {
                break;
            }
        }
        let jobs = self.run("query-jobs", json!({}));
        assert!(jobs[0].get("error").is_none(), "{command}: {jobs}");
        self.run("job-dismiss", json!({ "id": "job" }));
    }

    /// Gives QEMU a disk for snapshots, which the guest does not see. What makes disks is QEMU itself: not
    /// every machine has qemu-img.
    #[track_caller]
    pub fn add_snapshot_disk(&mut self, path: &Path) {
        let file = json!({ "driver": "file", "filename": path, "size": 0 });
        self.job("blockdev-create", json!({ "options": file }));
        let file = json!({ "driver": "file", "filename": path, "node-name": "file" });
        self.run("blockdev-add", file);
        let disk = json!({ "driver": "qcow2", "file": "file", "size": 1 << 20 });
        self.job("blockdev-create", json!({ "options": disk }));
        let disk = json!({ "driver": "qcow2", "file": "file", "node-name": "disk" });
        self.run("blockdev-add", disk);
    }

    /// Waits for an event, which may have come already.
    #[track_caller]
    pub fn wait_event(&mut self, name: &str) -> Value {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
                return self.events.remove(at);
            }
            assert!(Instant::now() < until, "no event {name}");
            let event = self.read();
            self.events.push(event);
        }
    }

    #[track_caller]
    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("QEMU answers");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"))
    }
}
