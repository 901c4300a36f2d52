//! What the golden frames mean: one message a file, as the generated types have it.

#[path = "guest.rs"]
mod guest;
#[path = "operations.rs"]
mod operations;

use std::collections::BTreeMap;

use quantix::error::{Code, Failure};
use quantix::frame::Seal;
use quantix::ids::{Nonce, SessionId};
use quantix::limits::MAX_FRAME;
use quantix::message::{AgentMessage, Body, Stream, agent, message};

/// One file of `tests/wire/`.
pub struct Golden {
    /// Its name without `.hex`.
    pub file: &'static str,
    /// Its head comment.
    pub about: &'static str,
    /// `None`: the frame is one of the two that need none.
    pub seal: Option<Seal>,
    /// What it says.
    pub message: AgentMessage,
}

/// The request that most of the frames are about.
pub const REQUEST: &str = "5f0c2a9be41d7733-1";

/// The nonce of every session in these files.
pub const NONCE: Nonce = Nonce::new([
    0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF,
]);

const SESSION: u64 = 0x1122_3344_5566_7788;

/// A point in the time of the guest's wall clock.
pub const WALL: agent::Timestamp = agent::Timestamp {
    seconds: 1_700_000_000,
    nanos: 250_000_000,
};

/// A Ping of these files' nonce.
pub fn ping(sequence: u64) -> AgentMessage {
    message(
        "",
        Body::Ping(agent::Ping {
            sequence,
            nonce: NONCE.bytes().to_vec(),
        }),
    )
}

fn process_list() -> agent::ProcessList {
    agent::ProcessList {
        processes: vec![agent::Process {
            pid: 812,
            parent: 1,
            name: b"nginx".to_vec(),
            command: b"nginx: master process".to_vec(),
            uid: 33,
            user: "www-data".into(),
            state: "S".into(),
            cpu_percent: 5.0,
            rss_bytes: 8_192_000,
            threads: 1,
            started_ms: 4_567_890,
            ..Default::default()
        }],
        more: true,
        uptime_seconds: 86_400,
        now: Some(WALL),
        last: 4000,
    }
}

fn service_report() -> agent::ServiceReport {
    agent::ServiceReport {
        manager: "systemd".into(),
        service: Some(agent::Service {
            name: "nginx.service".into(),
            state: agent::ServiceState::Started.into(),
            detail: "active (running)".into(),
            enabled: "enabled".into(),
            description: "A web server".into(),
        }),
        pid: 812,
        memory_bytes: 8_192_000,
        state_ms: 1500,
        ..Default::default()
    }
}

/// What a guest says of itself.
pub fn agent_ready() -> agent::AgentReady {
    agent::AgentReady {
        version: "0.1.0".into(),
        os_name: "debian".into(),
        os_version: "12".into(),
        kernel_version: "6.1.0-18-amd64".into(),
        architecture: "x86_64".into(),
        hostname: "db1".into(),
        ip_addresses: vec!["192.0.2.10".into(), "2001:db8::10".into()],
        capabilities: vec!["execute".into(), "write_file".into(), "read_file".into()],
        ..Default::default()
    }
}

/// A shell line whose end is waited for.
pub fn execute() -> AgentMessage {
    message(
        REQUEST,
        Body::Execute(agent::Execute {
            command: "uname -s; echo oops >&2; exit 3".into(),
            timeout_seconds: 30,
            wait_for_exit: true,
            ..Default::default()
        }),
    )
}

/// The answer to [`execute`].
pub fn execute_response() -> agent::ExecuteResponse {
    agent::ExecuteResponse {
        exit_code: 3,
        stdout: b"Linux\n".to_vec(),
        stderr: b"oops\n".to_vec(),
        duration_ms: 150,
        ..Default::default()
    }
}

fn job() -> agent::Job {
    agent::Job {
        job: 3,
        command: "make world".into(),
        user: "build".into(),
        pid: 4711,
        keeper: 4710,
        started: Some(WALL),
        state: agent::JobState::Ended.into(),
        exit_code: 143,
        signal: 15,
        duration_ms: 61_250,
        stdout_bytes: 1_234_567,
        stderr_bytes: 89,
        ..Default::default()
    }
}

/// All files with one message.
pub fn all() -> Vec<Golden> {
    let mut all = session();
    all.extend(commands());
    all.extend(files());
    all.extend(trees());
    all.extend(streams());
    all.extend(operations::all());
    all.extend(guest::all());
    all
}

fn session() -> Vec<Golden> {
    vec![
        unsealed(
            "ping_opening",
            "Host to guest, without a seal: opens a session.",
            ping(1),
        ),
        unsealed(
            "pong_opening",
            "Guest to host, without a seal: names the session that all seals bear from now on.",
            pong(1),
        ),
        sealed(
            "pong_keep_alive",
            "Guest to host: the answer to a later Ping with the session's nonce.",
            3,
            pong(2),
        ),
        sealed(
            "agent_ready",
            "Guest to host: the first message of a session, so its number is 1.",
            1,
            message("", Body::AgentReady(agent_ready())),
        ),
        sealed(
            "telemetry",
            "Guest to host: a report.",
            2,
            message("", Body::Telemetry(telemetry())),
        ),
        sealed(
            "session_ended",
            "Guest to host: the last frame of a session that the guest ends.",
            9,
            message(
                "",
                Body::SessionEnded(agent::SessionEnded {
                    reason: "frames were lost, repeated or joined".into(),
                }),
            ),
        ),
    ]
}

fn commands() -> Vec<Golden> {
    vec![
        sealed(
            "execute_line",
            "Host to guest: a line for /bin/sh -c.",
            2,
            execute(),
        ),
        sealed(
            "execute_args",
            "Host to guest: a program with arguments, environment and user, and no shell. The\n\
             envelope has a timestamp, which nothing depends on, and on whose behalf it is asked.",
            3,
            AgentMessage {
                timestamp: Some(WALL),
                caller: Some(agent::Caller {
                    uid: 1000,
                    user: "alice".into(),
                }),
                ..message(
                    "5f0c2a9be41d7733-2",
                    Body::Execute(agent::Execute {
                        command: "pg_dump".into(),
                        args: vec!["--schema-only".into(), "app db".into()],
                        working_directory: "/var/lib/postgresql".into(),
                        environment: BTreeMap::from([
                            ("LANG".into(), "C.UTF-8".into()),
                            ("PGPORT".into(), "5433".into()),
                        ]),
                        timeout_seconds: 600,
                        wait_for_exit: true,
                        run_as_user: "postgres".into(),
                        max_output_bytes: 65536,
                        run_as_group: "postgres".into(),
                        include_supplementary_groups: true,
                        ..Default::default()
                    }),
                )
            },
        ),
        sealed(
            "execute_live",
            "Host to guest: a command whose stdin and output are streams.",
            2,
            message(
                REQUEST,
                Body::Execute(agent::Execute {
                    command: "tar".into(),
                    args: vec!["x".into(), "-C".into(), "/srv".into()],
                    wait_for_exit: true,
                    stream_output: true,
                    stream_input: true,
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "execute_terminal",
            "Host to guest: a login shell on a terminal.",
            2,
            message(
                REQUEST,
                Body::Execute(agent::Execute {
                    wait_for_exit: true,
                    run_as_user: "alice".into(),
                    stream_output: true,
                    stream_input: true,
                    terminal: Some(agent::Terminal {
                        rows: 50,
                        columns: 132,
                        r#type: "xterm-256color".into(),
                    }),
                    login_shell: true,
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "execute_kept",
            "Host to guest: a command that outlives the session.",
            2,
            message(
                REQUEST,
                Body::Execute(agent::Execute {
                    command: "make world".into(),
                    timeout_seconds: 3600,
                    wait_for_exit: true,
                    keep: true,
                    token: "0123456789abcdef".into(),
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "execute_kept_response",
            "Guest to host: it has started.",
            2,
            message(
                REQUEST,
                Body::ExecuteResponse(agent::ExecuteResponse {
                    pid: 4711,
                    job: 3,
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "list_jobs",
            "Host to guest: which commands are kept? The body is empty.",
            2,
            message(REQUEST, Body::ListJobs(agent::ListJobs {})),
        ),
        sealed(
            "job_list",
            "Guest to host: one command, which signal 15 has ended.",
            2,
            message(REQUEST, Body::JobList(agent::JobList { jobs: vec![job()] })),
        ),
        sealed(
            "attach_job",
            "Host to guest: the rest of what a kept command writes.",
            2,
            message(
                REQUEST,
                Body::AttachJob(agent::AttachJob {
                    job: 3,
                    stdout_from: 100_000,
                    stderr_from: 12,
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "stream_chunk_skipped",
            "Guest to host: 4096 bytes in front of these were overwritten before they were read.",
            6,
            message(
                REQUEST,
                Body::StreamChunk(agent::StreamChunk {
                    stream: Stream::Stdout.into(),
                    offset: 77,
                    data: b"the end\n".to_vec(),
                    skipped: 4096,
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "kill_job",
            "Host to guest: SIGHUP for a kept command.",
            2,
            message(REQUEST, Body::KillJob(agent::KillJob { job: 3, signal: 1 })),
        ),
        sealed(
            "kill_job_response",
            "Guest to host: what became of it.",
            2,
            message(
                REQUEST,
                Body::KillJobResponse(agent::KillJobResponse { job: Some(job()) }),
            ),
        ),
        sealed(
            "list_processes",
            "Host to guest: which processes are there behind number 811?",
            2,
            message(
                REQUEST,
                Body::ListProcesses(agent::ListProcesses { after: 811 }),
            ),
        ),
        sealed(
            "process_list",
            "Guest to host: one, and there are more.",
            2,
            message(REQUEST, Body::ProcessList(process_list())),
        ),
        sealed(
            "kill_process",
            "Host to guest: SIGHUP, if it is the process that began then.",
            2,
            message(
                REQUEST,
                Body::KillProcess(agent::KillProcess {
                    pid: 812,
                    signal: 1,
                    started: 4_567_890,
                }),
            ),
        ),
        sealed(
            "service_control",
            "Host to guest: start a service, within two minutes.",
            2,
            message(
                REQUEST,
                Body::ServiceControl(agent::ServiceControl {
                    name: "nginx".into(),
                    action: agent::ServiceAction::Start.into(),
                    timeout_seconds: 120,
                }),
            ),
        ),
        sealed(
            "service_control_response",
            "Guest to host: it runs.",
            2,
            message(REQUEST, Body::ServiceControlResponse(service_report())),
        ),
        sealed(
            "signal",
            "Host to guest: Ctrl-C for the command of this id.",
            5,
            message(REQUEST, Body::Signal(agent::Signal { number: 2 })),
        ),
        sealed(
            "resize",
            "Host to guest: the terminal of the command of this id has 24 lines of 80 characters now.",
            5,
            message(
                REQUEST,
                Body::Resize(agent::Resize {
                    rows: 24,
                    columns: 80,
                }),
            ),
        ),
        sealed(
            "execute_response",
            "Guest to host: the answer to execute_line.hex.",
            2,
            message(REQUEST, Body::ExecuteResponse(execute_response())),
        ),
        sealed(
            "error",
            "Guest to host: the final answer to a request that failed.",
            4,
            message(
                REQUEST,
                Body::Error(
                    Failure::new(
                        Code::NotFound,
                        "open /etc/nothing: No such file or directory",
                    )
                    .to_wire(),
                ),
            ),
        ),
        sealed(
            "cancel",
            "Host to guest: ends the request of this id. The body is empty.",
            5,
            message(REQUEST, Body::Cancel(agent::Cancel {})),
        ),
    ]
}

fn files() -> Vec<Golden> {
    vec![
        sealed(
            "write_file",
            "Host to guest: opens a write whose bytes follow as chunks.",
            2,
            message(
                REQUEST,
                Body::WriteFile(agent::WriteFile {
                    path: "/etc/app/app.conf".into(),
                    mode: 0o640,
                    create_parents: true,
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "write_file_response",
            "Guest to host: the file is in place and on disk.",
            3,
            message(
                REQUEST,
                Body::WriteFileResponse(agent::WriteFileResponse {
                    success: true,
                    bytes_written: 300_000,
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "read_file",
            "Host to guest: 4096 bytes of a file from byte 1000000 on.",
            2,
            message(
                REQUEST,
                Body::ReadFile(agent::ReadFile {
                    path: "/var/log/syslog".into(),
                    offset: 1_000_000,
                    length: 4096,
                    chunk_size: 1024,
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "read_file_response",
            "Guest to host: all chunks went ahead.",
            7,
            message(
                REQUEST,
                Body::ReadFileResponse(agent::ReadFileResponse {
                    success: true,
                    eof: true,
                    total_size: 1_002_500,
                    offset: 1_002_500,
                    mode: 0o640,
                    modified_at: Some(WALL),
                    ..Default::default()
                }),
            ),
        ),
    ]
}

fn trees() -> Vec<Golden> {
    let path = "/var/lib/data".into();
    vec![
        sealed(
            "read_tree",
            "Host to guest: a directory with all that is in it.",
            10,
            message(
                REQUEST,
                Body::ReadTree(agent::Tree {
                    path,
                    recursive: true,
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "read_tree_response",
            "Guest to host: the archive went ahead.",
            11,
            message(
                REQUEST,
                Body::ReadTreeResponse(agent::TreeResponse {
                    entries: 100_001,
                    bytes: 1_000_000,
                    problems: 1,
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "write_tree",
            "Host to guest: an archive follows, for this directory.",
            11,
            message(
                REQUEST,
                Body::WriteTree(agent::Tree {
                    path: "/srv".into(),
                    into: true,
                    preserve: true,
                    create_parents: true,
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "write_tree_chunk",
            "Host to guest: a whole archive, of a file, a problem and the end.",
            12,
            message(
                REQUEST,
                Body::StreamChunk(agent::StreamChunk {
                    stream: Stream::Data.into(),
                    data: archive(),
                    eof: true,
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "write_tree_response",
            "Guest to host: all of it is on the disk, but for one entry.",
            12,
            message(
                REQUEST,
                Body::WriteTreeResponse(agent::TreeResponse {
                    entries: 1,
                    bytes: 6,
                    problems: 1,
                    lines: vec!["write /srv/b: Is a directory".into()],
                }),
            ),
        ),
    ]
}

/// Of two sources, of which one cannot be read.
fn archive() -> Vec<u8> {
    let file = agent::TreeRecord {
        kind: agent::TreeKind::File.into(),
        path: b"a".to_vec(),
        mode: 0o644,
        modified_at: Some(WALL),
        uid: 1000,
        gid: 1000,
        size: 6,
        data: b"hello\n".to_vec(),
        last: true,
        ..Default::default()
    };
    let problem = agent::TreeRecord {
        kind: agent::TreeKind::Problem.into(),
        path: b"c".to_vec(),
        ..Default::default()
    };
    let mut bytes = Vec::new();
    for record in [file, problem, quantix::archive::end()] {
        assert!(quantix::archive::encode(&record, &mut bytes));
    }
    bytes
}

fn streams() -> Vec<Golden> {
    vec![
        sealed(
            "stream_chunk",
            "Either way: the last bytes of a file, the 1024 before them having been sent. Data that\n\
             looks like idle bytes and like a header is just data.",
            6,
            message(
                REQUEST,
                Body::StreamChunk(agent::StreamChunk {
                    stream: Stream::Data.into(),
                    offset: 1024,
                    data: b"\xFF\xFF\xFF\xFF\0\0\0\x10the end\n".to_vec(),
                    eof: true,
                    ..Default::default()
                }),
            ),
        ),
        sealed(
            "credit_stream",
            "From a stream's receiver: its sender may have sent 262144 bytes in all.",
            2,
            credit(REQUEST, Stream::Data, 256 * 1024),
        ),
        sealed(
            "credit_connection",
            "Either way: all bytes up to the 24800th of the session have been read.",
            4,
            credit("", Stream::Unspecified, 24_800),
        ),
        sealed(
            "credit_first",
            "Host to guest, the first frame of a session: nothing behind the Pong has been read, but\n\
             the flush in front of it has left the pipe. A total of 0 is an empty Credit.",
            1,
            credit("", Stream::Unspecified, 0),
        ),
    ]
}

fn pong(sequence: u64) -> AgentMessage {
    message(
        "",
        Body::Pong(agent::Pong {
            sequence,
            version: "0.1.0".into(),
            uptime_seconds: 86_400,
            nonce: NONCE.bytes().to_vec(),
            session: SESSION,
            boot_id: "0f3c2a51-7d0e-4b7e-9a53-5a1d7c3e9b10".into(),
            time: Some(WALL),
            max_frame: u32::try_from(MAX_FRAME).unwrap(),
            features: Vec::new(),
            ..Default::default()
        }),
    )
}

fn telemetry() -> agent::Telemetry {
    agent::Telemetry {
        cpu_usage_percent: 12.5,
        load_avg_1m: 0.25,
        load_avg_5m: 0.5,
        load_avg_15m: 1.0,
        process_count: 143,
        uptime_seconds: 86_400,
        hostname: "db1".into(),
        coalesced: 2,
        stuck_mounts: vec!["/mnt/nfs".into()],
        memory_total: 4_294_967_296,
        memory_used: 1_073_741_824,
        memory_available: 3_221_225_472,
        swap_total: 1_073_741_824,
        swap_used: 0,
        disks: vec![agent::Disk {
            mount_point: "/".into(),
            filesystem: "ext4".into(),
            device: "/dev/vda1".into(),
            total: 21_474_836_480,
            used: 5_368_709_120,
            available: 16_106_127_360,
            usage_percent: 25.0,
            ..Default::default()
        }],
        interfaces: vec![agent::Interface {
            name: "eth0".into(),
            mac: "52:54:00:12:34:56".into(),
            ipv4: vec!["192.0.2.10/24".into()],
            ipv6: vec!["2001:db8::10/64".into()],
            state: agent::LinkState::Up.into(),
            mtu: 1500,
            rx_bytes: 1_000_000,
            tx_bytes: 250_000,
            rx_packets: 1_200,
            tx_packets: 900,
        }],
        ..Default::default()
    }
}

fn credit(id: &str, stream: Stream, bytes: u64) -> AgentMessage {
    message(
        id,
        Body::Credit(agent::Credit {
            stream: stream.into(),
            bytes,
        }),
    )
}

fn unsealed(file: &'static str, about: &'static str, message: AgentMessage) -> Golden {
    Golden {
        file,
        about,
        seal: None,
        message,
    }
}

fn sealed(file: &'static str, about: &'static str, number: u64, message: AgentMessage) -> Golden {
    Golden {
        file,
        about,
        seal: Some(Seal {
            session: SessionId::parse(SESSION).unwrap(),
            number,
        }),
        message,
    }
}
