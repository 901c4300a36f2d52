//! Commands whose streams are alive: output as it comes, input to its end, credit, signals, a terminal,
//! and that nothing of a command is left when nobody waits for it any more.

use std::fs;
use std::process::Command;

use quantix::message::{Body, Stream, agent};

use super::exec::argv;
use crate::util::agent::{Agent, Talk, shell};
use crate::util::{
    Dir, Process, holders, is_alive, is_root, noise, pid_in, signal, until_so, workers,
};

/// More than any test has to say.
const PLENTY: u64 = 1 << 40;

/// A command that streams, as its host sees it.
struct Live<'a> {
    talk: &'a mut Talk,
    id: &'static str,
    out: Vec<u8>,
    err: Vec<u8>,
    /// Bytes of stdin that were sent, and that may be.
    sent: u64,
    allowed: u64,
}

impl<'a> Live<'a> {
    /// Starts it; nothing of its output may come yet.
    fn start(talk: &'a mut Talk, id: &'static str, request: agent::Execute) -> Self {
        talk.send(id, Body::Execute(request));
        Self {
            talk,
            id,
            out: Vec::new(),
            err: Vec::new(),
            sent: 0,
            allowed: 0,
        }
    }

    /// Starts it, and takes all that it writes.
    fn open(talk: &'a mut Talk, id: &'static str, request: agent::Execute) -> Self {
        let mut live = Self::start(talk, id, request);
        live.allow(Stream::Stdout, PLENTY);
        live.allow(Stream::Stderr, PLENTY);
        live
    }

    fn tell(&mut self, body: Body) {
        self.talk.send(self.id, body);
    }

    fn allow(&mut self, stream: Stream, bytes: u64) {
        let stream = stream.into();
        self.tell(Body::Credit(agent::Credit { stream, bytes }));
    }

    fn signal(&mut self, number: u32) {
        self.tell(Body::Signal(agent::Signal { number }));
    }

    /// A chunk of stdin, whether it may be sent or not.
    fn send(&mut self, offset: u64, data: &[u8], eof: bool) {
        self.tell(Body::StreamChunk(agent::StreamChunk {
            stream: Stream::Stdin.into(),
            offset,
            data: data.to_vec(),
            eof,
            ..Default::default()
        }));
    }

    /// Takes the next message; the final answer, if it is that.
    #[track_caller]
    fn step(&mut self) -> Option<Body> {
        match self.talk.answer(self.id) {
            Body::StreamChunk(chunk) => {
                let to = match chunk.stream() {
                    Stream::Stdout => &mut self.out,
                    Stream::Stderr => &mut self.err,
                    other => panic!("a chunk of {other:?}"),
                };
                assert_eq!(chunk.offset, to.len() as u64);
                to.extend(chunk.data);
                None
            }
            Body::Credit(credit) => {
                assert_eq!(credit.stream(), Stream::Stdin);
                self.allowed = credit.bytes;
                None
            }
            last => Some(last),
        }
    }

    /// Goes on until it is so.
    #[track_caller]
    fn until(&mut self, so: impl Fn(&Self) -> bool) {
        while !so(self) {
            if let Some(last) = self.step() {
                let out = String::from_utf8_lossy(&self.out);
                panic!("it has ended: {last:?}, and wrote {out:?}");
            }
        }
    }

    /// Goes on until it has written this to stdout.
    #[track_caller]
    fn until_out(&mut self, words: &str) {
        self.until(|live| String::from_utf8_lossy(&live.out).contains(words));
    }

    #[track_caller]
    fn until_err(&mut self, words: &str) {
        self.until(|live| String::from_utf8_lossy(&live.err).contains(words));
    }

    /// Sends stdin as credit allows.
    #[track_caller]
    fn input(&mut self, data: &[u8], eof: bool) {
        let mut chunks = data.chunks(30_000).peekable();
        if data.is_empty() {
            self.send(self.sent, b"", eof);
        }
        while let Some(chunk) = chunks.next() {
            let end = self.sent + chunk.len() as u64;
            self.until(|live| live.allowed >= end);
            self.send(self.sent, chunk, eof && chunks.peek().is_none());
            self.sent = end;
        }
    }

    #[track_caller]
    fn last(&mut self) -> Body {
        loop {
            if let Some(last) = self.step() {
                return last;
            }
        }
    }

    #[track_caller]
    fn end(&mut self) -> agent::ExecuteResponse {
        match self.last() {
            Body::ExecuteResponse(answer) => {
                assert!(answer.stdout.is_empty() && answer.stderr.is_empty());
                answer
            }
            other => panic!("{other:?}"),
        }
    }

    /// It ends with this status, and wrote this to stdout.
    #[track_caller]
    fn ends(&mut self, status: i32, out: &str) {
        let answer = self.end();
        assert_eq!(String::from_utf8_lossy(&self.out), out, "{answer:?}");
        assert_eq!(answer.exit_code, status);
    }

    #[track_caller]
    fn refused(&mut self) -> (String, String) {
        match self.last() {
            Body::Error(error) => (error.code, error.message),
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Another command runs, and nothing more of this one had been sent before its answer.
    #[track_caller]
    fn others_are_served(&mut self) {
        self.talk.assert_alive();
    }

    #[track_caller]
    fn cancel(&mut self) {
        self.tell(Body::Cancel(agent::Cancel {}));
        assert_eq!(self.refused().0, "CANCELLED");
    }
}

fn output(command: &str) -> agent::Execute {
    agent::Execute {
        stream_output: true,
        ..shell(command)
    }
}

fn both(command: &str) -> agent::Execute {
    agent::Execute {
        stream_input: true,
        ..output(command)
    }
}

fn terminal(command: &str) -> agent::Execute {
    agent::Execute {
        terminal: Some(agent::Terminal {
            rows: 33,
            columns: 101,
            r#type: "xterm-256color".to_owned(),
        }),
        ..both(command)
    }
}

/// With a mark that all the command starts inherits.
fn marked(dir: &Dir, request: agent::Execute) -> agent::Execute {
    agent::Execute {
        environment: [("QX_MARK".to_owned(), dir.text(""))].into(),
        ..request
    }
}

/// What of it lives.
fn tree(dir: &Dir) -> Vec<u32> {
    holders(&dir.text(""))
}

fn assert_nothing_left(agent: &Agent) {
    until_so("no child of the agent", || {
        workers(agent.process.pid()).is_empty()
    });
}

#[test]
fn output_comes_while_the_command_runs() {
    let (_agent, mut talk) = Agent::ready();
    let request = both("echo first; read x; echo second $x; echo third >&2");
    let mut live = Live::open(&mut talk, "1", request);
    live.until_out("first\n");
    live.input(b"go\n", false);
    live.ends(0, "first\nsecond go\n");
    assert_eq!(live.err, b"third\n");
}

#[test]
fn every_byte_passes_both_ways() {
    let (agent, mut talk) = Agent::ready();
    let bytes = noise(1_500_000);
    let mut live = Live::open(&mut talk, "1", both("exec tee /dev/stderr"));
    live.input(&bytes, true);
    assert_eq!(live.end().exit_code, 0);
    assert!(live.out == bytes && live.err == bytes);
    // What is not taken while it comes is not lost.
    let file = agent.dir.file("bytes", &bytes);
    let mut live = Live::start(&mut talk, "2", output(&format!("exec cat {file}")));
    for n in 1.. {
        live.allow(Stream::Stdout, n * 100_003);
        let enough = bytes.len().min(usize::try_from(n).unwrap() * 100_003);
        live.until(|live| live.out.len() == enough);
        if enough == bytes.len() {
            break;
        }
    }
    live.end();
    assert!(live.out == bytes);
}

#[test]
fn stdin_ends_where_the_host_says() {
    let (_agent, mut talk) = Agent::ready();
    for (bytes, with_the_last) in [
        (0, true),
        (1, true),
        (1, false),
        (700_000, true),
        (700_000, false),
    ] {
        let mut live = Live::open(&mut talk, "1", both("exec wc -c"));
        live.input(&vec![b'x'; bytes], with_the_last);
        if !with_the_last {
            live.input(b"", true);
        }
        live.ends(0, &format!("{bytes}\n"));
    }
    // Without one it is at its end.
    Live::open(&mut talk, "1", output("exec wc -c")).ends(0, "0\n");
}

#[test]
fn a_command_that_closes_its_input_goes_on() {
    let (_agent, mut talk) = Agent::ready();
    let mut live = Live::open(
        &mut talk,
        "1",
        both("exec <&-; echo closed; exec sleep 1000"),
    );
    live.until_out("closed\n");
    live.until(|live| live.allowed > 0);
    live.send(0, &[b'x'; 1000], false);
    live.send(1000, &[b'x'; 1000], true);
    live.others_are_served();
    live.cancel();
}

#[test]
fn a_chunk_against_the_rules_ends_the_request_and_nothing_else() {
    let (agent, mut talk) = Agent::ready();
    let chunk = |stream: Stream, offset, bytes: usize| agent::StreamChunk {
        stream: stream.into(),
        offset,
        data: vec![b'x'; bytes],
        ..Default::default()
    };
    let unread = || both("exec sleep 1000");
    let cases = [
        ("a gap", unread(), vec![chunk(Stream::Stdin, 1, 10)]),
        (
            "the same again",
            unread(),
            vec![chunk(Stream::Stdin, 0, 10), chunk(Stream::Stdin, 0, 10)],
        ),
        (
            "more than the credit",
            unread(),
            // The pipe takes a part of it, which makes for more credit.
            (0..8)
                .map(|n| chunk(Stream::Stdin, n * 100_000, 100_000))
                .collect(),
        ),
        (
            "an end of numbers",
            unread(),
            vec![chunk(Stream::Stdin, u64::MAX, 10)],
        ),
        (
            "stdin of a command that has none",
            output("exec sleep 1000"),
            vec![chunk(Stream::Stdin, 0, 10)],
        ),
    ];
    for (what, request, chunks) in cases {
        let takes_input = request.stream_input;
        let mut live = Live::open(&mut talk, "1", request);
        if takes_input {
            live.until(|live| live.allowed > 0);
        }
        for chunk in chunks {
            live.tell(Body::StreamChunk(chunk));
        }
        let (code, why) = live.refused();
        assert_eq!(code, "INVALID", "{what}: {why}");
        assert!(why.contains("chunk"), "{what}: {why}");
        talk.assert_alive();
    }
    assert_nothing_left(&agent);
}

#[test]
fn output_without_credit_stands_still_and_holds_up_nothing_else() {
    let (_agent, mut talk) = Agent::ready();
    let request = both("echo held; while read x; do echo $x >&2; done; echo end");
    let mut live = Live::start(&mut talk, "1", request);
    live.allow(Stream::Stderr, PLENTY);
    for n in 0..5 {
        live.input(format!("{n}\n").as_bytes(), false);
        live.until_err(&format!("{n}\n"));
        live.others_are_served();
    }
    assert_eq!(live.out, b"");
    live.allow(Stream::Stdout, PLENTY);
    live.until_out("held\n");
    live.input(b"", true);
    live.ends(0, "held\nend\n");
}

#[test]
fn no_byte_more_comes_than_the_credit() {
    let (_agent, mut talk) = Agent::ready();
    let mut live = Live::start(&mut talk, "1", output("exec cat /dev/zero"));
    for total in [1, 2, 1000, 32_512, 100_000, 1_000_000] {
        live.allow(Stream::Stdout, total);
        // Less than before means nothing.
        live.allow(Stream::Stdout, 1);
        live.allow(Stream::Data, PLENTY);
        live.until(|live| live.out.len() as u64 >= total);
        assert_eq!(live.out.len() as u64, total);
        // Whatever had been sent would come before this.
        live.others_are_served();
    }
    live.cancel();
}

#[test]
fn output_without_end_costs_the_agent_no_memory() {
    let (agent, mut talk) = Agent::ready();
    // To a host that takes nothing, and to one that takes all and is slow to read it.
    for credit in [0, PLENTY] {
        let mut live = Live::start(&mut talk, "1", output("yes >&2 & exec cat /dev/zero"));
        live.allow(Stream::Stdout, credit);
        live.allow(Stream::Stderr, credit);
        let wanted = if credit == 0 { 0 } else { 30_000_000 };
        live.until(|live| live.out.len() >= wanted);
        live.cancel();
        talk.assert_alive();
    }
    let highest = memory_peak_kib(&agent.process);
    assert!(highest < 12 * 1024, "{highest} KiB");
    assert_nothing_left(&agent);
}

fn memory_peak_kib(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_command_that_closes_its_output_goes_on() {
    let (_agent, mut talk) = Agent::ready();
    let request = both("echo out; exec >&-; read x; echo still >&2; exit 4");
    let mut live = Live::open(&mut talk, "1", request);
    live.until_out("out\n");
    live.input(b"go\n", false);
    live.ends(4, "out\n");
    assert_eq!(live.err, b"still\n");
    // Both, with a reader of stdin left.
    let file = Dir::new();
    let done = file.text("done");
    let request = both(&format!("exec >&- 2>&-; cat > {done}; exit 6"));
    let mut live = Live::open(&mut talk, "2", request);
    live.input(b"kept", true);
    live.ends(6, "");
    assert_eq!(fs::read(done).unwrap(), b"kept");
}

#[test]
fn a_daemon_that_goes_on_writing_delays_no_answer_and_takes_none_of_the_output() {
    let (agent, mut talk) = Agent::ready();
    let pid = agent.dir.text("pid");
    let daemon = format!(
        "setsid sh -c 'trap \"\" PIPE; echo $$ > {pid}; while :; do echo tick; sleep 0.01; done'"
    );
    let wait = format!("until [ -s {pid} ]; do sleep 0.01; done");
    let request = output(&format!(
        "{daemon} & {wait}; printf %030000d 0; echo last; exit 5"
    ));
    let mut live = Live::start(&mut talk, "1", request);
    // Its leader has ended, its daemon writes on, and nothing was taken yet. (Once the answer is given
    // nobody reads any more, which it takes no notice of.)
    let daemon = pid_in(pid.as_ref());
    assert_nothing_left(&agent);
    live.allow(Stream::Stdout, PLENTY);
    assert_eq!(live.end().exit_code, 5);
    let text = String::from_utf8_lossy(&live.out).replace("tick\n", "");
    assert_eq!(text, format!("{}last\n", "0".repeat(30_000)));
    assert!(is_alive(daemon), "it was killed");
    signal(daemon, "KILL");
}

#[test]
fn a_daemon_that_writes_without_end_delays_no_answer() {
    let (agent, mut talk) = Agent::ready();
    let dir = Dir::new();
    let request = marked(&dir, output("setsid yes & echo first; exit 5"));
    let mut live = Live::start(&mut talk, "1", request);
    until_so("the daemon", || !tree(&dir).is_empty());
    assert_nothing_left(&agent);
    // Its leader has ended. What the pipe held then is all; what goes in for what is taken out is not.
    let last = 'answer: loop {
        let enough = live.out.len() + 10_000;
        assert!(enough < 100_000, "it is waited for");
        live.others_are_served();
        live.allow(Stream::Stdout, enough as u64);
        while live.out.len() < enough {
            if let Some(last) = live.step() {
                break 'answer last;
            }
        }
    };
    assert!(matches!(last, Body::ExecuteResponse(answer) if answer.exit_code == 5));
    // Nobody reads any more, which ends it.
    until_so("end of the daemon", || tree(&dir).is_empty());
}

/// Shell lines that start three processes each of which gets away from most that would end it; and
/// wait. A line on stdout tells that they run.
const HARD_TO_END: &str = "
    setsid sh -c 'trap \"\" TERM HUP INT; sleep 1000 & echo > $QX_MARK/a; wait' &
    (setsid sh -c '(setsid sleep 1000 & echo > $QX_MARK/b) &' &)
    sh -c 'echo > $QX_MARK/c; kill -STOP $$; sleep 1000' &
    until [ -e $QX_MARK/a -a -e $QX_MARK/b -a -e $QX_MARK/c ]; do sleep 0.01; done
    echo all run
";

#[test]
fn nothing_of_a_command_outlives_its_cancellation_its_time_or_its_session() {
    let kept_in_vain = ["", "trap '' TERM HUP;", "kill -STOP $$;"];
    for leader in kept_in_vain {
        for how in ["cancel", "timeout", "session"] {
            let (agent, mut talk) = Agent::ready();
            let line = format!("{HARD_TO_END} {leader} while :; do sleep 1000; done");
            let mut request = marked(&agent.dir, output(&line));
            request.timeout_seconds = u32::from(how == "timeout") * 3;
            let mut live = Live::open(&mut talk, "1", request);
            live.until_out("all run\n");
            assert!(tree(&agent.dir).len() >= 5, "{:?}", tree(&agent.dir));
            match how {
                "cancel" => live.cancel(),
                "timeout" => assert!(live.end().timed_out),
                _ => talk.hang_up(),
            }
            if how == "cancel" || how == "timeout" {
                // Not one is left when the answer comes.
                assert_eq!(tree(&agent.dir), [0; 0], "{how} {leader:?}");
            }
            until_so(&format!("end of all after {how} {leader:?}"), || {
                tree(&agent.dir).is_empty()
            });
            assert_nothing_left(&agent);
        }
    }
}

#[test]
fn nothing_on_a_terminal_outlives_an_agent_that_was_killed() {
    let (mut agent, mut talk) = Agent::ready();
    let mut request = marked(&agent.dir, output(&format!("{HARD_TO_END} wait")));
    request.terminal = Some(agent::Terminal::default());
    Live::open(&mut talk, "1", request).until_out("all run\r\n");
    agent.process.kill();
    until_so("end of all", || tree(&agent.dir).is_empty());
}

#[test]
fn a_signal_reaches_all_of_the_command() {
    let (_agent, mut talk) = Agent::ready();
    let spin = "while :; do sleep 0.02; done";
    let line = format!(
        "trap 'echo leader' USR1
        sh -c 'trap \"echo member; exit\" USR1; echo ready; {spin}' & wait; wait; exit 3"
    );
    let mut live = Live::open(&mut talk, "1", output(&line));
    live.until_out("ready\n");
    live.signal(10);
    assert_eq!(live.end().exit_code, 3);
    let text = String::from_utf8_lossy(&live.out).into_owned();
    assert!(
        text.contains("leader\n") && text.contains("member\n"),
        "{text}"
    );
    // Numbers that are no signals mean nothing.
    let mut live = Live::open(&mut talk, "2", both("echo ready; cat"));
    live.until_out("ready\n");
    for number in [0, 32, 64, u32::MAX] {
        live.signal(number);
    }
    live.input(b"well", true);
    live.ends(0, "ready\nwell");
    for (number, status) in [(1, 129), (2, 130), (9, 137), (15, 143)] {
        let mut live = Live::open(&mut talk, "3", output("echo ready; exec sleep 1000"));
        live.until_out("ready\n");
        live.signal(number);
        let answer = live.end();
        assert_eq!((answer.exit_code, answer.signal), (status, number));
        assert!(!answer.timed_out);
    }
}

#[test]
fn a_signal_reaches_what_is_in_front_of_a_terminal() {
    let (_agent, mut talk) = Agent::ready();
    let line = "set -m; trap 'echo not me' USR1
        sh -c 'trap \"echo front; exit 7\" USR1; echo ready; while :; do sleep 0.02; done'
        echo status $?";
    let mut live = Live::open(&mut talk, "1", terminal(line));
    live.until_out("ready\r\n");
    live.signal(10);
    assert_eq!(live.end().exit_code, 0);
    let text = String::from_utf8_lossy(&live.out).into_owned();
    assert!(text.ends_with("front\r\nstatus 7\r\n"), "{text}");
    assert!(!text.contains("not me"), "{text}");
}

#[test]
fn a_terminal_is_what_was_asked_for() {
    let (_agent, mut talk) = Agent::ready();
    let line = "stty size; tty; echo $TERM; stat -c '%u %g %a' $(tty); \
        [ -t 0 -a -t 1 -a -t 2 ] && ps -o stat= -p $$ | grep -c s+; echo err >&2; exit 9";
    let mut live = Live::open(&mut talk, "1", terminal(line));
    assert_eq!(live.end().exit_code, 9);
    let text = String::from_utf8_lossy(&live.out).into_owned();
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines[0], "33 101");
    assert!(lines[1].starts_with("/dev/pts/"), "{text}");
    assert_eq!(lines[2], "xterm-256color");
    if is_root() {
        let group = fs::read_to_string("/etc/group").unwrap();
        let mut groups = group.lines().filter_map(|line| line.strip_prefix("tty:x:"));
        let tty = groups
            .next()
            .map_or("0", |rest| rest.split(':').next().unwrap());
        assert_eq!(lines[3], format!("0 {tty} 620"));
        let mut request = terminal("stat -c '%U' $(tty); echo < $(tty) > $(tty) && echo mine");
        request.run_as_user = "daemon".to_owned();
        let mut live = Live::open(&mut talk, "2", request);
        live.until_out("daemon\r\n");
        live.input(b"\n", false);
        live.until_out("mine\r\n");
        live.end();
    }
    assert_eq!(lines[4..], ["1", "err", ""], "{text}");
    let mut request = terminal("echo $TERM");
    request.terminal = Some(agent::Terminal::default());
    Live::open(&mut talk, "3", request).ends(0, "dumb\r\n");
    // Only as a stream.
    let mut request = terminal("true");
    request.stream_output = false;
    assert_eq!(talk.refused("4", Body::Execute(request)).0, "INVALID");
}

#[test]
fn a_terminal_takes_another_size() {
    let (_agent, mut talk) = Agent::ready();
    let line = "trap 'stty size; exit 2' WINCH; echo ready; while :; do sleep 0.02; done";
    let mut live = Live::open(&mut talk, "1", terminal(line));
    live.until_out("ready");
    let (rows, columns) = (50, 200);
    live.tell(Body::Resize(agent::Resize { rows, columns }));
    live.ends(2, "ready\r\n50 200\r\n");
    // To a command without one it means nothing.
    let mut live = Live::open(&mut talk, "2", both("cat"));
    live.tell(Body::Resize(agent::Resize { rows, columns }));
    live.input(b"well", true);
    live.ends(0, "well");
}

#[test]
fn keys_do_what_they_do_on_a_terminal() {
    let (_agent, mut talk) = Agent::ready();
    let mut live = Live::open(&mut talk, "1", terminal("echo ready; exec sleep 1000"));
    live.until_out("ready\r\n");
    live.input(&[3], false);
    let answer = live.end();
    assert_eq!((answer.exit_code, answer.signal), (130, 2));
    assert_eq!(live.out, b"ready\r\n^C");
    let mut live = Live::open(
        &mut talk,
        "2",
        terminal("stty -echo; echo ready; exec wc -l"),
    );
    live.until_out("ready\r\n");
    live.input(b"a\rb\rno line", false);
    live.input(&[0x15, 4], false);
    live.ends(0, "ready\r\n2\r\n");
}

#[test]
fn much_output_passes_through_a_terminal() {
    let (_agent, mut talk) = Agent::ready();
    let line = "stty -opost; head -c 3000000 /dev/zero | tr '\\0' x; echo last; exit 1";
    let mut live = Live::open(&mut talk, "1", terminal(line));
    assert_eq!(live.end().exit_code, 1);
    let (last, rest) = live
        .out
        .split_last_chunk::<5>()
        .map(|(rest, last)| (last, rest))
        .unwrap();
    assert_eq!(last, b"last\n");
    assert!(rest.len() == 3_000_000 && rest.iter().all(|byte| *byte == b'x'));
}

#[test]
fn the_end_of_a_terminals_command_is_not_that_of_its_background() {
    let (agent, mut talk) = Agent::ready();
    let pid = agent.dir.text("pid");
    let line = format!(
        "setsid sh -c 'trap \"\" HUP; echo $$ > {pid}; exec sleep 1000' & \
        until [ -s {pid} ]; do sleep 0.01; done; echo last; exit 5"
    );
    let mut live = Live::open(&mut talk, "1", terminal(&line));
    live.ends(5, "last\r\n");
    let daemon = pid_in(pid.as_ref());
    assert!(is_alive(daemon));
    signal(daemon, "KILL");
}

/// An agent that was itself started badly.
fn ill_started() -> Agent {
    let dir = Dir::new();
    let listener = std::os::unix::net::UnixListener::bind(dir.join("port")).unwrap();
    let config = dir.file("agent.conf", "telemetry_interval = 0\n");
    let line = "trap '' HUP INT QUIT USR1 TSTP; umask 077; ulimit -S -n 2048
        echo 300 > /proc/self/oom_score_adj; exec 7</dev/null; exec nice -n 7 \"$@\"";
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", line, "sh", env!("CARGO_BIN_EXE_quantix-kvm-agent")])
        .args(["--log", "stderr", "--config", &config, "--port"])
        .arg(dir.join("port"));
    let process = Process::start(&mut command, dir.join("port.log"));
    Agent {
        process,
        listener,
        dir,
    }
}

#[test]
fn a_command_starts_as_if_nothing_had_come_before() {
    let agent = ill_started();
    let mut talk = agent.accept();
    talk.open(b"nonce-of-16-byte");
    let line = "cat /proc/self/oom_score_adj; nice; umask; ulimit -S -n; ls /proc/self/fd | tr '\\n' ' '; \
        echo; grep -E '^Sig(Blk|Ign)' /proc/self/status; echo $PATH; echo $HOME $USER; \
        umask 077; echo over";
    let limit = fs::read_to_string("/proc/1/limits").unwrap_or_default();
    let soft = limit
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = soft.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    let soft = soft.unwrap_or(1024).min(1024);
    for request in [shell(line), output(line), both(line), terminal(line)] {
        let wants_input = request.stream_input;
        let streams = request.stream_output;
        let text = if streams {
            let mut live = Live::open(&mut talk, "1", request);
            if wants_input {
                live.input(b"", true);
            }
            live.end();
            String::from_utf8_lossy(&live.out).replace('\r', "")
        } else {
            String::from_utf8(talk.exec("1", request).stdout).unwrap()
        };
        let lines: Vec<&str> = text.lines().collect();
        // Below 0 is for root alone.
        if is_root() {
            assert_eq!(lines[..2], ["0", "0"], "{text}");
        }
        assert_eq!(lines[2], "0022", "{text}");
        assert_eq!(lines[3], soft.to_string(), "{text}");
        // 3 is the directory that ls reads.
        assert_eq!(lines[4], "0 1 2 3 ", "{text}");
        assert_eq!(lines[5], "SigBlk:\t0000000000000000", "{text}");
        // Those from 32 on are the C library's, which may leave them so when it starts something.
        let ignored = lines[6].strip_prefix("SigIgn:\t").unwrap();
        let ignored = u64::from_str_radix(ignored, 16).unwrap();
        assert_eq!(ignored & 0x7FFF_FFFF, 0, "{text}");
        assert!(lines[7].contains("/usr/bin:"), "{text}");
        let (home, user) = lines[8].split_once(' ').unwrap();
        assert!(home.starts_with('/') && !user.is_empty(), "{text}");
    }
}

#[test]
fn what_cannot_be_run_says_why_with_streams_and_with_a_terminal() {
    let (agent, mut talk) = Agent::ready();
    for edit in [output as fn(&str) -> agent::Execute, both, terminal] {
        let request = agent::Execute {
            args: vec!["x".to_owned()],
            ..edit("/no/such/program")
        };
        let (code, why) = Live::open(&mut talk, "1", request).refused();
        assert_eq!(code, "NOT_FOUND");
        assert!(why.contains("/no/such/program: No such file"), "{why}");
        let mut request = edit("true");
        request.run_as_user = "no-such-user".to_owned();
        assert_eq!(Live::open(&mut talk, "2", request).refused().0, "NOT_FOUND");
    }
    assert_nothing_left(&agent);
}

#[test]
fn so_many_commands_run_at_once_and_no_more() {
    let (agent, mut talk) = Agent::ready();
    let ids: Vec<String> = (0..32).map(|n| format!("job {n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        let mut request = match n % 3 {
            0 => output("exec sleep 1000"),
            1 => terminal("exec sleep 1000"),
            _ => shell("exec sleep 1000"),
        };
        request.stream_input = false;
        talk.send(id, Body::Execute(request));
    }
    let (code, why) = talk.refused("one more", Body::Execute(output("true")));
    assert_eq!(code, "BUSY", "{why}");
    // A look at the network is soon over.
    until_so("as many workers as commands", || {
        workers(agent.process.pid()).len() == 32
    });
    for id in &ids {
        talk.send(id, Body::Cancel(agent::Cancel {}));
    }
    for _ in &ids {
        assert!(matches!(talk.next().body, Some(Body::Error(_))));
    }
    assert_nothing_left(&agent);
    talk.assert_alive();
}

#[test]
fn a_keeper_that_was_killed_leaves_one_clear_answer() {
    let (agent, mut talk) = Agent::ready();
    for request in [
        output("echo ready; exec sleep 1000"),
        terminal("echo ready; exec sleep 1000"),
    ] {
        let request = marked(&agent.dir, request);
        let mut live = Live::open(&mut talk, "1", request);
        live.until_out("ready");
        let keepers = workers(agent.process.pid());
        assert_eq!(keepers.len(), 1);
        let name = fs::read_to_string(format!("/proc/{}/comm", keepers[0])).unwrap();
        assert_eq!(name, "quantix-keeper\n");
        signal(keepers[0], "KILL");
        let (code, why) = live.refused();
        assert_eq!(code, "INTERNAL");
        assert!(why.contains("keeper"), "{why}");
        until_so("end of the command", || tree(&agent.dir).is_empty());
        assert_nothing_left(&agent);
        talk.assert_alive();
    }
}

#[test]
fn a_login_shell_is_the_users_and_knows_that_it_is_one() {
    let (_agent, mut talk) = Agent::ready();
    let mut request = both("");
    request.login_shell = true;
    let mut live = Live::open(&mut talk, "1", request.clone());
    live.input(b"echo $0 $SHELL; exit 6\n", false);
    assert_eq!(live.end().exit_code, 6);
    let text = String::from_utf8_lossy(&live.out).into_owned();
    // What its profile says comes before.
    let (zero, shell) = text.lines().last().unwrap().split_once(' ').unwrap();
    assert_eq!(
        zero,
        format!("-{}", shell.rsplit('/').next().unwrap()),
        "{text}"
    );
    request.command = "echo $0; exit 8".to_owned();
    let mut live = Live::open(&mut talk, "2", request);
    assert_eq!(live.end().exit_code, 8);
    assert!(live.out.starts_with(b"-"));
}

#[test]
fn a_program_in_words_streams_too() {
    let (_agent, mut talk) = Agent::ready();
    let request = agent::Execute {
        stream_output: true,
        stream_input: true,
        ..argv(&["tr", "a-z", "A-Z"])
    };
    let mut live = Live::open(&mut talk, "1", request);
    live.input(b"words", true);
    live.ends(0, "WORDS");
}
