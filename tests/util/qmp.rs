//! A VM's monitor without a VM: answers what the daemon asks, and tells the events that a test wants.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use serde_json::{Value, json};

/// One monitor. Its thread ends with the daemon's connection, or with this value.
pub struct Monitor(Arc<Mutex<State>>);

struct State {
    running: bool,
    open: bool,
    client: Option<UnixStream>,
    asked: u32,
}

impl Monitor {
    /// Serves `path`; its VM's agent socket is `agent`.
    pub fn new(path: &Path, agent: &Path, running: bool, open: bool) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let state = Arc::new(Mutex::new(State {
            running,
            open,
            client: None,
            asked: 0,
        }));
        let filename = format!("unix:{},server=on", agent.display());
        let shared = Arc::downgrade(&state);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let Some(state) = shared.upgrade() else {
                    return;
                };
                lock(&state).client = Some(stream.try_clone().unwrap());
                let _ = serve(stream, &state, &filename);
            }
        });
        Self(state)
    }

    /// What is so from now on, and the event that says so.
    pub fn set(&self, running: bool, open: bool, event: &str) {
        let mut state = lock(&self.0);
        (state.running, state.open) = (running, open);
        let line = json!({ "event": event, "data": {}, "timestamp": {} });
        let client = state.client.as_mut().unwrap();
        client.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    /// Questions that were answered.
    pub fn asked(&self) -> u32 {
        lock(&self.0).asked
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if let Some(client) = &lock(&self.0).client {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|e| e.into_inner())
}

fn serve(stream: UnixStream, state: &Mutex<State>, filename: &str) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let greeting = json!({ "QMP": { "version": {}, "capabilities": ["oob"] } });
    write(&stream, &greeting)?;
    loop {
        let line = lines.next()?.ok()?;
        let asked: Value = serde_json::from_str(&line).ok()?;
        let mut state = lock(state);
        state.asked += 1;
        let answer = match asked["execute"].as_str()? {
            "query-status" => json!({ "running": state.running, "status": "x" }),
            "query-chardev" => json!([
                { "frontend-open": true, "filename": "vc", "label": "serial" },
                { "frontend-open": state.open, "filename": filename, "label": "agent" },
            ]),
            _ => json!({}),
        };
        write(&stream, &json!({ "return": answer }))?;
    }
}

fn write(mut stream: &UnixStream, line: &Value) -> Option<()> {
    stream.write_all(format!("{line}\r\n").as_bytes()).ok()
}
