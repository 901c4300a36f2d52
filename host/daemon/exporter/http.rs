//! As much of HTTP/1.1 (RFC 9112) as a scrape needs: one request, one answer, and the connection ends. Pure, but
//! for what is written.

use std::io::{self, Write};

/// A request line and headers are no longer than this. Prometheus sends 300 bytes.
const MAX_HEAD: usize = 8 * 1024;

/// Headers of a request.
const MAX_HEADERS: usize = 64;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// A page of metrics; to whom has HTTP/1.1 in chunks, so that half a page is known to be one.
    Metrics { chunked: bool },
    /// Something else: the answer.
    Other(&'static str),
}

macro_rules! answer {
    ($status:literal, $text:literal) => {
        concat!(
            "HTTP/1.1 ",
            $status,
            "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n",
            $text,
            "\n"
        )
    };
}

/// As many are being sent as may be.
pub const BUSY: &str = answer!(
    "503 Service Unavailable",
    "other scrapes are under way; come back later"
);
const HERE: &str = answer!("200 OK", "qx-node: the metrics are at /metrics");
const HEAD_OF_METRICS: &str = concat!(
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n",
    "Connection: close\r\n\r\n"
);
const NOT_HERE: &str = answer!("404 Not Found", "the metrics are at /metrics");
const NOT_SO: &str = answer!("405 Method Not Allowed\r\nAllow: GET, HEAD", "GET or HEAD");
const WRONG: &str = answer!("400 Bad Request", "this is no HTTP");
const TOO_LONG: &str = answer!(
    "431 Request Header Fields Too Large",
    "the request is too long"
);

/// What these bytes ask for; `None`: they are not all of it yet.
pub fn judge(head: &[u8]) -> Option<Asked> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) if head.len() < MAX_HEAD => return None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Some(Asked::Other(TOO_LONG));
        }
        Err(_) => return Some(Asked::Other(WRONG)),
        Ok(httparse::Status::Complete(_)) => {}
    }
    let path = request.path.unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    Some(match (request.method.unwrap_or_default(), path) {
        ("GET", "/metrics") => Asked::Metrics {
            chunked: request.version == Some(1),
        },
        ("HEAD", "/metrics") => Asked::Other(HEAD_OF_METRICS),
        ("GET" | "HEAD", "/") => Asked::Other(HERE),
        ("GET" | "HEAD", _) => Asked::Other(NOT_HERE),
        _ => Asked::Other(NOT_SO),
    })
}

/// What is in front of a page.
pub fn head(chunked: bool) -> String {
    let mut head = HEAD_OF_METRICS.to_owned();
    if chunked {
        head.truncate(head.len() - 2);
        head += "Transfer-Encoding: chunked\r\n\r\n";
    }
    head
}

/// Writes each piece as a chunk (RFC 9112, 7.1), or as it is.
#[derive(Debug)]
pub struct Chunked<W> {
    to: W,
    is_on: bool,
}

impl<W: Write> Chunked<W> {
    /// Into `to`.
    pub const fn new(to: W, is_on: bool) -> Self {
        Self { to, is_on }
    }

    /// There is no more.
    pub fn end(mut self) -> io::Result<()> {
        if self.is_on {
            self.to.write_all(b"0\r\n\r\n")?;
        }
        self.to.flush()
    }
}

impl<W: Write> Write for Chunked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_on {
            return self.to.write(bytes);
        }
        // An empty one would be the end.
        if !bytes.is_empty() {
            write!(self.to, "{:x}\r\n", bytes.len())?;
            self.to.write_all(bytes)?;
            self.to.write_all(b"\r\n")?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_its_answer_and_no_part_of_one_has() {
        let get = b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
        for end in 0..get.len() {
            assert_eq!(judge(&get[..end]), None, "{end}");
        }
        assert_eq!(judge(get), Some(Asked::Metrics { chunked: true }));
        let old = b"GET /metrics HTTP/1.0\r\n\r\n";
        assert_eq!(judge(old), Some(Asked::Metrics { chunked: false }));
        for (request, status) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "200 OK"),
            (b"HEAD /metrics HTTP/1.1\r\n\r\n", "200 OK"),
            (b"GET /etc/passwd HTTP/1.1\r\n\r\n", "404 "),
            (b"GET /metrics/ HTTP/1.1\r\n\r\n", "404 "),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405 "),
            (b"\x16\x03\x01\x02\x00\x01\x00", "400 "),
            (b"GET /metrics HTTP/9.9\r\n\r\n", "400 "),
            (b"GET /met\0rics HTTP/1.1\r\n\r\n", "400 "),
        ] {
            let Some(Asked::Other(answer)) = judge(request) else {
                panic!("{}", request.escape_ascii());
            };
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{answer}"
            );
            assert!(answer.contains("\r\nConnection: close\r\n\r\n") || status.starts_with("405"));
        }
    }

    #[test]
    fn what_is_too_long_is_refused_when_it_is() {
        let long = [b"GET /", "x".repeat(MAX_HEAD).as_bytes()].concat();
        assert_eq!(judge(&long[..MAX_HEAD - 1]), None);
        assert_eq!(judge(&long), Some(Asked::Other(TOO_LONG)));
        let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
        let many = format!("GET / HTTP/1.1\r\n{many}\r\n");
        assert_eq!(judge(many.as_bytes()), Some(Asked::Other(TOO_LONG)));
    }

    #[test]
    fn chunks_have_their_length_and_an_end() {
        let mut out = Vec::new();
        let mut chunked = Chunked::new(&mut out, true);
        chunked.write_all(b"0123456789abcdef").unwrap();
        chunked.write_all(b"").unwrap();
        chunked.write_all(b"x").unwrap();
        chunked.end().unwrap();
        assert_eq!(out, b"10\r\n0123456789abcdef\r\n1\r\nx\r\n0\r\n\r\n");
        let mut out = Vec::new();
        let mut plain = Chunked::new(&mut out, false);
        plain.write_all(b"x").unwrap();
        plain.end().unwrap();
        assert_eq!(out, b"x");
    }
}
