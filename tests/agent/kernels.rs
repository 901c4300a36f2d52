//! Old kernels: the agent behind a filter that fails every system call which 3.10, RHEL 7's, does not have. All tests of
//! the agent run so with `QX_TEST_KERNEL=3.10`, which `make check-deep` does.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;

use quantix::message::{Body, Stream, agent};
use quantix::rt::sys::entropy;

use crate::util::agent::{Agent, old_kernel, read_file, shell, spawn_by, write_file};
use crate::util::{Dir, children, noise, until_so};

#[test]
fn on_a_kernel_3_10_all_is_served() {
    let dir = Dir::new();
    let listener = UnixListener::bind(dir.join("port")).unwrap();
    let process = spawn_by(Command::new(old_kernel()), &dir, "port", &[]);
    let agent = Agent {
        process,
        listener,
        dir,
    };
    let mut talk = agent.accept();
    talk.open(b"nonce-of-16-byte");
    let status = fs::read_to_string(format!("/proc/{}/status", agent.process.pid())).unwrap();
    assert!(status.contains("Seccomp:\t2"), "{status}");

    // A keeper has what it was given and no more: without close_range(2) by /proc.
    let answer = talk.exec("1", shell("echo out; ls /proc/$PPID/fd | wc -l; exit 7"));
    assert_eq!(answer.exit_code, 7);
    let said = String::from_utf8(answer.stdout).unwrap();
    let (first, count) = said.trim_end().split_once('\n').unwrap();
    assert_eq!(first, "out");
    let keeper = children(agent.process.pid())[0];
    let open = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(count.parse::<usize>().unwrap() < 16, "{said}");
    assert!(open(keeper) < 16, "{}", open(keeper));

    // A terminal, without TIOCGPTPEER.
    let said = agent.dir.text("said");
    let terminal = agent::Execute {
        terminal: Some(agent::Terminal {
            rows: 33,
            columns: 101,
            r#type: "vt100".to_owned(),
        }),
        stream_input: true,
        stream_output: true,
        ..shell(&format!("{{ stty size; tty; }} >{said}"))
    };
    talk.send("2", Body::Execute(terminal));
    for stream in [Stream::Stdout, Stream::Stderr] {
        let stream = stream.into();
        let bytes = 1 << 20;
        talk.send("2", Body::Credit(agent::Credit { stream, bytes }));
    }
    loop {
        match talk.answer("2") {
            Body::ExecuteResponse(answer) => break assert_eq!(answer.exit_code, 0),
            Body::Credit(_) | Body::StreamChunk(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let said = fs::read_to_string(&said).unwrap();
    assert!(said.starts_with("33 101\n/dev/pts/"), "{said}");

    // Files, without O_TMPFILE: whole, and nothing of another name beside them.
    let bytes = noise(3_000_000);
    let path = agent.dir.text("file");
    match talk.write("3", write_file(&path), &bytes) {
        Body::WriteFileResponse(answer) => assert!(answer.success),
        other => panic!("{other:?}"),
    }
    assert!(fs::read(&path).unwrap() == bytes);
    let names = fs::read_dir(agent.dir.path()).unwrap();
    let names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
    let is_left = |name: &OsString| name.to_str().unwrap().contains(".qx-");
    assert!(!names.iter().any(is_left), "{names:?}");
    let (found, _) = talk.read("4", read_file(&path));
    assert!(found == bytes);

    // A signal to a process, without a descriptor that holds it.
    let mut sleep = Command::new("sleep").arg("1000").spawn().unwrap();
    let request = agent::KillProcess {
        pid: sleep.id(),
        signal: 9,
        ..Default::default()
    };
    match talk.ask("5", Body::KillProcess(request)) {
        Body::Error(error) => panic!("{error:?}"),
        _ => until_so("its end", || sleep.try_wait().unwrap().is_some()),
    }
    talk.assert_alive();
}

/// It goes through the kernel of whoever runs it: here, and then behind the filter.
#[test]
fn a_gift_of_random_bytes_counts_on_a_kernel_that_cannot_be_told_to_reseed() {
    const MARK: &str = "QX_TEST_BEHIND_FILTER";
    let is_old = std::env::var_os(MARK).is_some();
    match entropy::reseed(&noise(64)) {
        // It takes CAP_SYS_ADMIN.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => return,
        told => assert_eq!(told.unwrap(), !is_old),
    }
    if !is_old {
        let name = thread::current().name().unwrap().to_owned();
        let mut again = Command::new(old_kernel());
        again.arg(std::env::current_exe().unwrap()).env(MARK, "yes");
        let out = again.args(["--exact", &name]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(said.contains("1 passed"), "{said}");
    }
}
