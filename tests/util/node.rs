//! A daemon with its directory of VMs, the command line against it, and a client by hand.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use quantix::message::node::{self, NodeMessage, node_message};
use quantix::message::{AgentMessage, Body, message};
use serde_json::Value;

use super::relay::Relay;
use super::{Dir, PATIENCE, Process, Running, Said, agent, until, until_so};

/// A daemon.
pub struct Node {
    // Dropped in this order: the daemon first.
    pub process: Process,
    pub dir: Dir,
}

/// An agent behind a relay.
pub struct Vm {
    pub agent: Process,
    pub relay: Relay,
    name: String,
}

impl Node {
    pub fn start() -> Self {
        Self::serving(&[])
    }

    /// With these options of `serve`.
    pub fn serving(options: &[&str]) -> Self {
        let dir = Dir::new();
        std::fs::create_dir(dir.join("vms")).unwrap();
        let process = serve_with(&dir, options);
        let node = Self { process, dir };
        node.wait_control();
        node
    }

    /// Another daemon in the place of one that has ended.
    pub fn serve_again(&self, options: &[&str]) -> Process {
        let process = serve_with(&self.dir, options);
        self.wait_control();
        process
    }

    /// A daemon with one VM that is ready.
    pub fn with_vm(name: &str) -> (Self, Vm) {
        let node = Self::start();
        let vm = node.vm(name);
        node.wait_state(name, "ready");
        (node, vm)
    }

    pub fn wait_control(&self) {
        until_so("the control socket", || {
            UnixStream::connect(self.control()).is_ok()
        });
    }

    pub fn control(&self) -> PathBuf {
        self.dir.join("control")
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.dir.join("vms").join(format!("{name}.agent.sock"))
    }

    /// So many sockets that nobody serves any more, of VMs with the longest of names.
    pub fn dead(&self, count: usize) {
        let bound = self.socket("vm");
        for number in 0..count {
            drop(UnixListener::bind(&bound).unwrap());
            // It is longer than any that can be bound.
            std::fs::rename(&bound, self.socket(&format!("{number:0128}"))).unwrap();
        }
    }

    /// A VM without an agent.
    pub fn relay(&self, name: &str) -> Relay {
        Relay::new(&self.socket(name), &self.dir.join(&format!("{name}.port")))
    }

    /// An agent for a relay.
    pub fn agent(&self, name: &str, options: &[&str]) -> Process {
        agent::spawn(&self.dir, &format!("{name}.port"), options)
    }

    pub fn vm(&self, name: &str) -> Vm {
        let relay = self.relay(name);
        Vm {
            agent: self.agent(name, &[]),
            relay,
            name: name.to_owned(),
        }
    }

    /// SIGKILL to the agent, and another one that is not yet connected when this returns.
    pub fn restart_agent(&self, vm: &mut Vm) {
        vm.agent.kill();
        vm.relay.wait_guest(false);
        vm.agent = self.agent(&vm.name, &[]);
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = qx(words);
        command.env("QX_NODE_SOCK", self.control());
        command
    }

    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Said {
        self.begin(words).end()
    }

    pub fn begin(&self, words: &[&str]) -> Running {
        Running::start(&mut self.command(words), b"")
    }

    #[track_caller]
    pub fn exec(&self, vm: &str, line: &str) -> Said {
        self.run(&["exec", vm, "--", line])
    }

    /// What `vms --json` says of a VM.
    pub fn look(&self, name: &str) -> Option<Value> {
        let all = self.run(&["vms", "--json"]).json();
        let all = all.as_array().unwrap();
        all.iter().find(|vm| vm["vm"] == name).cloned()
    }

    #[track_caller]
    pub fn wait_state(&self, name: &str, state: &str) -> Value {
        let is = |vm: &Value| vm["state"] == state && (state != "ready" || !vm["agent"].is_null());
        until(&format!("{name} is {state}"), || self.look(name).filter(is))
    }

    pub fn client(&self) -> Client {
        Client::new(UnixStream::connect(self.control()).unwrap())
    }
}

/// Starts a daemon on the files in `dir`.
pub fn serve(dir: &Dir) -> Process {
    serve_with(dir, &[])
}

fn serve_with(dir: &Dir, options: &[&str]) -> Process {
    let mut command = qx(&["serve"]);
    command.args(options);
    command.arg("--vms-dir").arg(dir.join("vms"));
    command.arg("--control").arg(dir.join("control"));
    Process::start(&mut command, dir.join("node.log"))
}

pub fn qx(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qx-node"));
    command.args(words).env_remove("QX_NODE_SOCK");
    command
}

/// Runs a command that needs no daemon.
#[track_caller]
pub fn run(words: &[&str]) -> Said {
    Running::start(&mut qx(words), b"").end()
}

/// `--direct SOCKET`
pub fn direct(socket: &Path) -> String {
    format!("--direct={}", socket.display())
}

/// A client of the control socket.
pub struct Client {
    pub stream: UnixStream,
    input: Vec<u8>,
}

impl Client {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            input: Vec::new(),
        }
    }

    pub fn send(&mut self, id: u64, vm: &str, body: node_message::Body) {
        let message = NodeMessage {
            id,
            vm: vm.to_owned(),
            body: Some(body),
        };
        let mut bytes = u32::try_from(message.encoded_len())
            .unwrap()
            .to_be_bytes()
            .to_vec();
        message.encode_raw(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    pub fn send_agent(&mut self, id: u64, vm: &str, body: Body) {
        self.send(id, vm, node_message::Body::Agent(message("", body)));
    }

    pub fn ping(&mut self, id: u64, vm: &str) {
        self.send(id, vm, node_message::Body::PingVm(node::PingVm {}));
    }

    /// The next message; `None`: the daemon has hung up.
    #[track_caller]
    pub fn next(&mut self) -> Option<NodeMessage> {
        let mut buffer = [0; 64 * 1024];
        loop {
            if let Some((length, rest)) = self.input.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if let Some(body) = rest.get(..length) {
                    let message = NodeMessage::decode(body).unwrap();
                    self.input.drain(..4 + length);
                    return Some(message);
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => panic!("nothing came from the daemon: {e}"),
            }
        }
    }

    /// The next message, which is the agent's or an error.
    #[track_caller]
    pub fn next_agent(&mut self, id: u64) -> Body {
        let message = self.next().expect("the daemon has hung up");
        assert_eq!(message.id, id);
        match message.body {
            Some(node_message::Body::Agent(AgentMessage {
                body: Some(body), ..
            })) => body,
            other => panic!("{other:?}"),
        }
    }

    /// The code and line of the error that comes next.
    #[track_caller]
    pub fn refusal(&mut self, id: u64) -> (String, String) {
        match self.next_agent(id) {
            Body::Error(error) => (error.code, error.message),
            other => panic!("not refused: {other:?}"),
        }
    }
}
