//! Metrics for Prometheus: asked for over HTTP, or written into a file for node_exporter.
//!
//! The loop only takes connections and reads what they ask, within bounds. A page of thousands of VMs is long, and
//! who reads it may be slow, or a disk may hang: a forked child makes it, of the moment in which it was forked, and
//! sends it.

mod http;
mod page;

use std::collections::BTreeMap;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry};
use quantix::error::{system_text, write_text};
use quantix::message::node::VmState;
use quantix::rt::clock;
use quantix::rt::replace::Replacement;
use quantix::rt::sys::process::{self, Ended, Pid, Signal};
use quantix::time::{Time, earliest};

use super::report::Report;
use super::vm::Vm;
use super::{ACCEPT_AGAIN, Daemon, KEYS, METRICS, SCRAPE, token};

use http::{Asked, Chunked};
use page::{About, View};

/// Connections that have not asked yet; one more is closed.
const MAX_ASKING: usize = 32;

/// Pages that are being made and sent; who asks for one more is told to come back.
const MAX_CHILDREN: usize = 4;

/// A request is there by then, and a page is sent, or their connection is closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// From one file to the next. node_exporter is asked four times a minute where nothing else is said.
const FILE_EVERY: Duration = Duration::from_secs(15);

/// What the daemon has for Prometheus.
#[derive(Debug, Default)]
pub struct Exporter {
    listener: Option<TcpListener>,
    /// When to accept connections: there may be some.
    accept_at: Option<Time>,
    asking: BTreeMap<u64, Asking>,
    children: BTreeMap<Pid, Child>,
    file: Option<Textfile>,
}

/// A connection whose request is not whole yet.
#[derive(Debug)]
struct Asking {
    stream: TcpStream,
    head: Vec<u8>,
    until: Time,
}

#[derive(Debug)]
struct Child {
    until: Time,
    /// It writes the file.
    is_file: bool,
}

#[derive(Debug)]
struct Textfile {
    path: PathBuf,
    next: Time,
    /// Why the last could not be written.
    trouble: Option<String>,
}

impl Exporter {
    /// Serves pages on `address`, of which port 0 is any that is free: which it is then.
    ///
    /// # Errors
    /// bind(2): the address is in use, or is not this machine's.
    pub fn listen(&mut self, address: SocketAddr, registry: &Registry) -> io::Result<SocketAddr> {
        let mut listener = TcpListener::bind(address)?;
        registry.register(&mut listener, METRICS, Interest::READABLE)?;
        let address = listener.local_addr()?;
        self.listener = Some(listener);
        Ok(address)
    }

    /// Serves no pages any more.
    pub fn close(&mut self) {
        self.listener = None;
        self.accept_at = None;
        self.asking.clear();
    }

    /// Writes a page into `path` again and again, and no other.
    pub fn write_to(&mut self, path: Option<PathBuf>) {
        self.remove_file();
        self.file = path.map(|path| Textfile {
            path,
            next: Time::default(),
            trouble: None,
        });
    }

    /// What the file says would stand for ever.
    pub fn remove_file(&mut self) {
        for (pid, child) in &mut self.children {
            if std::mem::take(&mut child.is_file) {
                process::signal_group(*pid, Signal::KILL);
            }
        }
        if let Some(file) = self.file.take() {
            let _ = std::fs::remove_file(file.path);
        }
    }

    /// Somebody connects.
    pub const fn on_listener(&mut self, now: Time) {
        self.accept_at = Some(now);
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        let asking = self.asking.values().map(|asking| asking.until).min();
        let children = self.children.values().map(|child| child.until).min();
        let file = self.file.as_ref().filter(|_| !self.is_writing());
        let at = earliest(earliest(asking, children), file.map(|file| file.next));
        earliest(at, self.accept_at)
    }

    /// A child has ended. What is to be said of the file.
    pub fn on_exit(&mut self, pid: Pid, ended: Ended) -> Option<String> {
        let child = self.children.remove(&pid)?;
        let file = self.file.as_mut().filter(|_| child.is_file)?;
        let trouble = match ended {
            Ended::Exited(0) => None,
            Ended::Exited(errno) => Some(write_text(&io::Error::from_raw_os_error(errno))),
            Ended::Signalled(_) => Some("it took too long".to_owned()),
        };
        if trouble == file.trouble {
            return None;
        }
        let path = file.path.display();
        let news = match &trouble {
            Some(why) => format!("metrics not written to {path}: {why}; tried again every 15 s"),
            None => format!("metrics are written to {path} again"),
        };
        file.trouble = trouble;
        Some(news)
    }

    /// Reads what has come; the request and its connection, once it is whole.
    fn read(&mut self, key: u64) -> Option<(Asked, TcpStream)> {
        let asking = self.asking.get_mut(&key)?;
        let mut buffer = [0; 2048];
        let asked = loop {
            match asking.stream.read(&mut buffer) {
                Ok(0) => break None,
                Ok(n) => {
                    asking.head.extend_from_slice(&buffer[..n]);
                    if let Some(asked) = http::judge(&asking.head) {
                        break Some(asked);
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(_) => break None,
            }
        };
        let asking = self.asking.remove(&key)?;
        Some((asked?, asking.stream))
    }

    /// A child writes the file.
    fn is_writing(&self) -> bool {
        self.children.values().any(|child| child.is_file)
    }

    fn is_busy(&self) -> bool {
        self.children
            .values()
            .filter(|child| !child.is_file)
            .count()
            >= MAX_CHILDREN
    }
}

impl Daemon {
    /// Something has come on a connection that asks for metrics.
    pub(super) fn on_scrape_ready(&mut self, now: Time, key: u64) {
        let Some((asked, mut stream)) = self.exporter.read(key) else {
            return;
        };
        let chunked = match asked {
            Asked::Metrics { chunked } if !self.exporter.is_busy() => chunked,
            Asked::Metrics { .. } => {
                // As short an answer as this fits into any socket's buffer.
                let _ = stream.write_all(http::BUSY.as_bytes());
                return;
            }
            Asked::Other(answer) => {
                let _ = stream.write_all(answer.as_bytes());
                return;
            }
        };
        let stream = std::net::TcpStream::from(stream);
        let sent = self.begin_page(now, false, &[stream.as_fd()], |views, about| {
            stream.set_nonblocking(false)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            (&stream).write_all(http::head(chunked).as_bytes())?;
            let mut out = BufWriter::with_capacity(64 * 1024, Chunked::new(&stream, chunked));
            page::write(&mut out, views, about)?;
            out.into_inner()
                .map_err(io::IntoInnerError::into_error)?
                .end()
        });
        if let Err(e) = sent {
            self.log
                .warning(format_args!("metrics not sent: {}", system_text(&e)));
        }
    }

    /// Accepts, writes the file, gives up what has taken too long.
    pub(super) fn look_at_exporter(&mut self, now: Time) {
        while self.exporter.accept_at.is_some_and(|at| at <= now) {
            self.accept_scrape(now);
        }
        self.exporter.asking.retain(|_, asking| asking.until > now);
        for (pid, child) in &mut self.exporter.children {
            if child.until <= now {
                process::signal_group(*pid, Signal::KILL);
                child.until = now + PATIENCE;
            }
        }
        let is_writing = self.exporter.is_writing();
        let file = self.exporter.file.as_mut();
        if let Some(file) = file.filter(|file| !is_writing && file.next <= now) {
            file.next = now + FILE_EVERY;
            let path = file.path.clone();
            let begun = self.begin_page(now, true, &[], |views, about| {
                write_file(&path, views, about)
            });
            if let Err(e) = begun {
                let why = system_text(&e);
                self.log.warning(format_args!("metrics not written: {why}"));
            }
        }
    }

    fn accept_scrape(&mut self, now: Time) {
        self.exporter.accept_at = None;
        let Some(listener) = &self.exporter.listener else {
            return;
        };
        match listener.accept() {
            Ok((mut stream, _)) => {
                self.exporter.accept_at = Some(now);
                if self.exporter.asking.len() >= MAX_ASKING {
                    return;
                }
                let key = self.make_key() + SCRAPE;
                let at = token(key);
                let registry = self.poll.registry();
                if registry
                    .register(&mut stream, at, Interest::READABLE)
                    .is_ok()
                {
                    let asking = Asking {
                        stream,
                        head: Vec::new(),
                        until: now + PATIENCE,
                    };
                    self.exporter.asking.insert(key, asking);
                    self.on_scrape_ready(now, key);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            // That connection's, or a lack of descriptors, which clients and VMs are told of.
            Err(_) => self.exporter.accept_at = Some(now + ACCEPT_AGAIN),
        }
    }

    /// Forks the child that makes a page and brings it where it belongs.
    fn begin_page(
        &mut self,
        now: Time,
        is_file: bool,
        keep: &[std::os::fd::BorrowedFd],
        send: impl FnOnce(&[View], &About) -> io::Result<()>,
    ) -> io::Result<()> {
        let daemon = &*self;
        let parent = std::process::id();
        let pid = process::spawn(keep, || {
            let views = daemon.views(now);
            let about = About::new(parent, daemon.clients.len(), daemon.broker.len());
            match send(&views, &about) {
                Ok(()) => 0,
                Err(e) => e.raw_os_error().unwrap_or(libc::EIO),
            }
        })?;
        let until = now + 2 * PATIENCE;
        self.exporter.children.insert(pid, Child { until, is_file });
        Ok(())
    }

    fn views(&self, now: Time) -> Vec<View> {
        let wall = clock::wall();
        let vms = self.names.values().filter_map(|key| self.vms.get(key));
        let view = |vm: &Vm| View {
            vm: vm.describe(now),
            // A guest that is not there has no CPU to be told of: what it said last would stand for ever.
            report: vm
                .telemetry
                .as_ref()
                .filter(|_| vm.state().wire() == VmState::Ready)
                .map(Report::telemetry),
            seen: vm
                .host
                .last_valid()
                .map(|at| wall.seconds as f64 - now.since(at).as_secs_f64()),
        };
        vms.map(|vm| view(vm)).collect()
    }
}

/// For node_exporter, which may be anybody.
fn write_file(path: &Path, views: &[View], about: &About) -> io::Result<()> {
    let mut replacement = Replacement::new(path)?;
    let mut out = BufWriter::with_capacity(64 * 1024, replacement.file());
    page::write(&mut out, views, about)?;
    out.flush()?;
    drop(out);
    replacement.place(None, 0o644)
}

const _: () = assert!(SCRAPE < KEYS);
