use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::util::node::Node;
use crate::util::relay::Relay;
use crate::util::{Dir, PATIENCE, Process, until, until_so};

/// A daemon that serves metrics, with one VM that is ready and has reported.
pub(super) fn with_metrics(more: &[&str]) -> (Node, (Process, Relay), String) {
    let node = Node::serving(&[&["--metrics", "127.0.0.1:0"][..], more].concat());
    let relay = node.relay("web1");
    let agent = node.agent("web1", &["--telemetry-interval", "1"]);
    node.wait_state("web1", "ready");
    node.run(&["telemetry", "web1"]).fine();
    let log = node.process.log();
    let (_, rest) = log.split_once("metrics on http://").unwrap();
    let address = rest.split('/').next().unwrap().to_owned();
    (node, (agent, relay), address)
}

/// All that comes back for these bytes.
fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// A page, as HTTP/1.0 has it.
pub(super) fn page(address: &str) -> String {
    let answer = ask(address, "GET /metrics HTTP/1.0\r\n\r\n");
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    page.to_owned()
}

fn promtool(words: &[&str], input: &str) {
    let mut promtool = Command::new("promtool")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: tests/vm/install.sh installs it");
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let said = promtool.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{text}");
    // What it only recommends it says with status 0.
    assert!(!words.contains(&"metrics") || text.is_empty(), "{text}");
}

/// The value of the first line that begins so.
pub(super) fn value(page: &str, begin: &str) -> f64 {
    let mut lines = page.lines();
    let line = lines
        .find(|line| line.starts_with(begin))
        .unwrap_or_else(|| panic!("{begin}: {page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_page_is_as_prometheus_wants_it_and_says_what_is() {
    let (node, vm, address) = with_metrics(&[]);
    let text = page(&address);
    promtool(&["check", "metrics"], &text);
    assert_eq!(value(&text, "quantix_vm_up{vm=\"web1\"}"), 1.0);
    assert_eq!(value(&text, "quantix_node_vms{state=\"ready\"}"), 1.0);
    assert!(value(&text, "quantix_vm_memory_bytes{vm=\"web1\"}") > 1e6);
    assert!(value(&text, "quantix_vm_cpu_usage_ratio{vm=\"web1\"}") <= 1.0);
    assert!(value(&text, "quantix_vm_last_seen_timestamp_seconds") > 1.7e9);
    assert!(value(&text, "process_resident_memory_bytes") > 1e5);
    assert!(!text.contains("device=\"lo\""));

    // In chunks, of which the last has no length: a page that is cut is not taken for one.
    let chunked = ask(&address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        chunked.contains("Transfer-Encoding: chunked\r\n") && chunked.ends_with("\r\n0\r\n\r\n")
    );

    // A guest whose agent does not answer has no memory to be told of, nor has one that is off.
    let (agent, relay) = vm;
    drop(agent);
    until_so("its memory is told of no more", || {
        !page(&address).contains("quantix_vm_memory_bytes{")
    });
    fs::remove_file(node.socket("web1")).unwrap();
    node.wait_state("web1", "absent");
    let text = page(&address);
    assert_eq!(value(&text, "quantix_vm_up{vm=\"web1\"}"), 0.0);
    assert!(!text.contains("quantix_vm_memory_bytes{"));
    drop(relay);
}

#[test]
fn requests_that_are_slow_huge_or_nonsense_hinder_nobody() {
    let (node, _vm, address) = with_metrics(&[]);
    // More than may ask at once, each with half a request.
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            let _ = stream.write_all(b"GET /metr");
            stream
        })
        .collect();
    node.run(&["ping", "web1"]).fine();
    // Those that came first may go on; the last were turned away.
    let is_closed = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        !matches!((&mut &*stream).read(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock)
    };
    until_so("those that are too many are closed", || {
        is_closed(&slow[99])
    });
    assert!(!is_closed(&slow[0]));
    drop(slow);
    until_so("there is room again", || {
        ask(&address, "GET /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200 ")
    });
    for (request, status) in [
        ("GET / HTTP/1.0\r\n\r\n", "200 "),
        ("GET /x HTTP/1.0\r\n\r\n", "404 "),
        ("DELETE /metrics HTTP/1.0\r\n\r\n", "405 "),
        ("\u{1}\u{2}\u{3}\r\n\r\n", "400 "),
    ] {
        let answer = ask(&address, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request:?}: {answer}"
        );
    }
    let huge = format!("GET /{} HTTP/1.0\r\n", "x".repeat(100_000));
    let mut stream = TcpStream::connect(&address).unwrap();
    let _ = stream.write_all(huge.as_bytes());
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
}

#[test]
fn readers_that_do_not_read_are_few_and_hinder_nobody() {
    let (node, _vm, address) = with_metrics(&[]);
    // A page that no socket's buffer has room for.
    node.dead(5000);
    until_so("a long page", || page(&address).len() > 8 << 20);
    let request = "GET /metrics HTTP/1.0\r\n\r\n";
    let idle: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            // It is being answered.
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
        .collect();
    assert!(ask(&address, request).starts_with("HTTP/1.1 503 "));
    node.run(&["ping", "web1"]).fine();
    drop(idle);
    until_so("a page again", || {
        ask(&address, request).starts_with("HTTP/1.1 200 ")
    });
}

#[test]
fn a_file_for_node_exporter_is_whole_and_what_keeps_it_away_is_said_once() {
    let dir = Dir::new();
    let file = dir.join("later/quantix.prom");
    let (mut node, vm, _) = with_metrics(&["--textfile", file.to_str().unwrap()]);
    node.process.wait_log("metrics not written to");
    assert!(node.process.log().contains("No such file or directory"));
    drop((vm, node.process.signal("TERM")));
    assert!(node.process.wait().success());

    let file = dir.join("quantix.prom");
    node.process = node.serve_again(&["--textfile", file.to_str().unwrap()]);
    let text = until("the file", || fs::read_to_string(&file).ok());
    promtool(&["check", "metrics"], &text);
    assert_eq!(value(&text, "quantix_node_vms{state=\"stalled\"}"), 0.0);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o644
    );
    assert_eq!(dir.list("."), ["quantix.prom"]);
    // What nobody writes any more is not there to be read.
    node.process.signal("TERM");
    assert!(node.process.wait().success());
    assert!(!file.exists());
}

#[test]
fn what_cannot_be_served_is_said_at_the_start() {
    let (node, _vm, address) = with_metrics(&[]);
    let dir = Dir::new();
    for (words, status, why) in [
        (
            ["--metrics", "9912"],
            2,
            "--metrics takes an address and a port",
        ),
        (["--metrics", &address], 1, "Address already in use"),
    ] {
        let (vms, control) = (dir.text("vms"), dir.text("control"));
        let words = [
            &["serve", "--vms-dir", &vms, "--control", &control][..],
            &words,
        ]
        .concat();
        let said = node.run(&words);
        assert_eq!(said.status, status, "{said:?}");
        assert!(said.stderr.contains(why), "{said:?}");
        assert!(!Path::new(&control).exists());
    }
}

/// The answer of Prometheus to a query.
fn query(address: &str, query: &str) -> Option<Value> {
    let query = query.replace('"', "%22").replace(' ', "%20");
    let request = format!("GET /api/v1/query?query={query} HTTP/1.0\r\nHost: x\r\n\r\n");
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let answer: Value = serde_json::from_str(body).ok()?;
    answer["data"]["result"].get(0).cloned()
}

#[test]
fn prometheus_scrapes_it() {
    let (_node, _vm, address) = with_metrics(&[]);
    let dir = Dir::new();
    let config =
        "global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: quantix\n  static_configs:\n";
    let config = dir.file(
        "prometheus.yml",
        format!("{config}  - targets: ['{address}']\n"),
    );
    // A port that is free now.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut prometheus = Command::new("prometheus");
    prometheus.arg(format!("--config.file={config}"));
    prometheus.arg(format!("--storage.tsdb.path={}", dir.text("data")));
    prometheus.arg(format!("--web.listen-address={free}"));
    let prometheus = Process::start(&mut prometheus, dir.join("prometheus.log"));
    let free = free.to_string();
    let of = until("a scrape", || query(&free, "quantix_vm_info{vm=\"web1\"}"));
    assert_eq!(of["metric"]["job"], "quantix");
    assert_eq!(of["metric"]["agent_version"], quantix::VERSION);
    let up = until("it is up", || query(&free, "up{job=\"quantix\"}"));
    assert_eq!(up["value"][1], "1");
    drop(prometheus);
}

#[test]
fn the_rules_and_the_dashboard_use_what_is_there() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring");
    let path = |name: &str| docs.join(name).to_str().unwrap().to_owned();
    promtool(&["check", "rules", &path("alerts.yml")], "");
    promtool(&["test", "rules", &path("alerts-test.yml")], "");
    promtool(&["check", "config", &path("prometheus.yml")], "");
    let (_node, _vm, address) = with_metrics(&[]);
    let text = page(&address);
    let families: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let dashboard = fs::read_to_string(path("grafana.json")).unwrap();
    serde_json::from_str::<Value>(&dashboard).unwrap();
    let all = dashboard
        + &fs::read_to_string(path("alerts.yml")).unwrap()
        + &fs::read_to_string(path("README.md")).unwrap();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = all
        .split(|c| !is_name(c))
        .filter(|word| word.starts_with("quantix_"));
    let mut seen = 0;
    for name in names.filter(|name| !name.ends_with('_')) {
        seen += 1;
        assert!(families.contains(&name), "{name} is none of ours");
    }
    assert!(seen > 30, "{seen}");
}
