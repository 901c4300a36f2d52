//! Annotated hex: reads it, and writes it with the names that `proto/agent.proto` gives.
//!
//! `#` begins a comment, `FF x 3` is a byte three times, `host>` and `guest>` name who sends what
//! follows. The writer is no protobuf library: it walks the wire by the encoding's own rules, so
//! that what the generated code wrote is described by something that the generated code is not.

use std::collections::BTreeMap;
use std::fmt::Write;

use quantix::limits::{FLUSH, HEADER, IDLE};

/// Bytes that one side sends before the other speaks.
#[derive(Debug, PartialEq)]
pub struct Turn {
    /// `host` or `guest`; empty in a file that knows no sides.
    pub from: String,
    /// What it sends.
    pub bytes: Vec<u8>,
}

/// The turns in a file.
pub fn parse(text: &str) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    let mut from = String::new();
    for line in text.lines() {
        let code = line.split('#').next().unwrap_or_default();
        let mut words = code.split_whitespace();
        while let Some(word) = words.next() {
            if let Some(side) = word.strip_suffix('>') {
                from = side.to_owned();
                continue;
            }
            if turns.last().is_none_or(|turn| turn.from != from) {
                turns.push(Turn {
                    from: from.clone(),
                    bytes: Vec::new(),
                });
            }
            let bytes = &mut turns.last_mut().unwrap().bytes;
            if word == "x" {
                let times: usize = words.next().unwrap().parse().unwrap();
                let byte = *bytes.last().unwrap();
                bytes.extend(std::iter::repeat_n(byte, times - 1));
            } else {
                assert_eq!(word.len(), 2, "not a byte: {word} in {line:?}");
                bytes.push(u8::from_str_radix(word, 16).unwrap());
            }
        }
    }
    turns
}

/// Writes frames, flushes and idle bytes, field by field.
pub struct Annotator {
    /// Message to field number to type and name.
    schema: BTreeMap<String, BTreeMap<u64, (String, String)>>,
    out: String,
}

impl Annotator {
    /// A file with this head comment.
    pub fn new(about: &str) -> Self {
        let mut schema: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
        let mut message = String::new();
        for line in include_str!("../../proto/agent.proto").lines() {
            let code = line.split("//").next().unwrap_or_default().trim();
            if let Some(name) = code.strip_prefix("message ") {
                message = name.trim_end_matches(" {").to_owned();
            } else if let Some((left, number)) = code.trim_end_matches(';').split_once(" = ")
                && let (Some((kind, name)), Ok(number)) = (left.rsplit_once(' '), number.parse())
            {
                let kind = kind.trim_start_matches("repeated ").to_owned();
                let fields = schema.entry(message.clone()).or_default();
                fields.insert(number, (kind, name.to_owned()));
            }
        }
        let entry = [(1, "key"), (2, "value")].map(|(n, s)| (n, ("string".into(), s.into())));
        schema.insert("map<string, string>".into(), BTreeMap::from(entry));
        let mut out = String::new();
        for line in about.lines() {
            let _ = writeln!(out, "# {line}");
        }
        Self { schema, out }
    }

    /// The file's text.
    pub fn finish(self) -> String {
        self.out
    }

    /// A marker: what follows is sent by this side.
    pub fn side(&mut self, side: &str) {
        let _ = writeln!(self.out, "\n{side}>");
    }

    /// Bytes with a comment of one's own.
    pub fn raw(&mut self, bytes: &[u8], comment: &str) {
        self.line(0, bytes, comment);
    }

    /// Whole frames, and idle bytes between them.
    pub fn stream(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            if first == IDLE {
                let idle = bytes.iter().take_while(|b| **b == IDLE).count();
                let what = if idle == FLUSH { "a flush" } else { "idle" };
                let _ = writeln!(self.out, "{:<48}  # {what}", format!("FF x {idle}"));
                bytes = &bytes[idle..];
                continue;
            }
            let (header, rest) = bytes.split_first_chunk::<HEADER>().unwrap();
            let length = u32::from_be_bytes(*header) as usize;
            self.line(0, header, &format!("length {length}"));
            self.fields(&rest[..length], "AgentMessage", 0);
            bytes = &rest[length..];
        }
    }

    fn fields(&mut self, mut rest: &[u8], message: &str, depth: usize) {
        while !rest.is_empty() {
            let whole = rest;
            let tag = varint(&mut rest);
            let (kind, name) = self.schema[message][&(tag >> 3)].clone();
            let label = format!("{name} ({})", tag >> 3);
            match tag & 7 {
                0 => {
                    let value = varint(&mut rest);
                    let head = &whole[..whole.len() - rest.len()];
                    self.line(depth, head, &format!("{label} = {value}"));
                }
                1 => {
                    let (value, behind) = rest.split_first_chunk::<8>().unwrap();
                    rest = behind;
                    let head = &whole[..whole.len() - rest.len()];
                    let comment = if kind == "double" {
                        format!("{label} = {}", f64::from_le_bytes(*value))
                    } else {
                        format!("{label} = {:#x}", u64::from_le_bytes(*value))
                    };
                    self.line(depth, head, &comment);
                }
                2 => {
                    let length = usize::try_from(varint(&mut rest)).unwrap();
                    let head = &whole[..whole.len() - rest.len()];
                    let (value, behind) = rest.split_at(length);
                    rest = behind;
                    if self.schema.contains_key(&kind) {
                        self.line(depth, head, &format!("{label}: {kind}, {length} bytes"));
                        self.fields(value, &kind, depth + 1);
                    } else {
                        self.line(depth, head, &format!("{label}: {kind}, {length} bytes"));
                        for part in value.chunks(16) {
                            let text = part.escape_ascii().to_string();
                            let shown = if kind == "string" {
                                text
                            } else {
                                String::new()
                            };
                            self.line(depth + 1, part, &shown);
                        }
                    }
                }
                wire => panic!("wire type {wire} in {message}"),
            }
        }
    }

    fn line(&mut self, depth: usize, bytes: &[u8], comment: &str) {
        let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02X}")).collect();
        let code = format!("{:width$}{}", "", hex.join(" "), width = depth * 2);
        let line = format!("{code:<48}  # {comment}");
        let line = line.trim_end_matches("  # ").trim_end();
        let _ = writeln!(self.out, "{line}");
    }
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, behind) = rest.split_first().unwrap();
        *rest = behind;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}
