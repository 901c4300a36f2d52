//! What a doctor has found, on either side: checks with their evidence, and the text and the JSON of them.

use std::fmt::Write as _;

use crate::text::{is_hidden, plain};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// It could not be made.
    Unknown,
    /// It works, and something is about to go wrong or is not as it should be.
    Warn,
    /// It does not work.
    Fail,
}

impl Status {
    /// For people and for programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }

    /// The status with this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Ok, Self::Unknown, Self::Warn, Self::Fail]
            .into_iter()
            .find(|status| status.word() == word)
    }

    /// The exit status of a doctor whose gravest finding this is.
    pub const fn exit(self) -> u8 {
        match self {
            Self::Ok | Self::Unknown => 0,
            Self::Warn => 1,
            Self::Fail => 2,
        }
    }

    /// The SGR parameter of its colour on a terminal (ECMA-48).
    const fn colour(self) -> &'static str {
        match self {
            Self::Ok => "32",
            Self::Unknown => "2",
            Self::Warn => "33",
            Self::Fail => "31",
        }
    }

    fn shown(self, colour: bool, width: usize) -> String {
        let word = self.word();
        match colour {
            true => format!("\x1b[{}m{word:<width$}\x1b[0m", self.colour()),
            false => format!("{word:<width$}"),
        }
    }
}

/// One check. Its texts may hold words of strangers: they are escaped where they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Stable: programs know it by this.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was seen.
    pub evidence: String,
    /// Why it is not ok; empty where it is.
    pub cause: String,
    /// The one command, or the one thing to do; empty where there is none.
    pub remedy: String,
}

impl Check {
    /// All is well.
    pub fn ok(name: &'static str, evidence: impl Into<String>) -> Self {
        Self::of(name, Status::Ok, evidence, "", "")
    }

    /// It could not be made: why, and what would let it be made.
    pub fn unknown(
        name: &'static str,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::of(name, Status::Unknown, evidence, "", remedy)
    }

    /// Something is not as it should be.
    pub fn of(
        name: &'static str,
        status: Status,
        evidence: impl Into<String>,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name,
            status,
            evidence: evidence.into(),
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }
}

/// The finding that explains the others: checks stand in the order in which one depends on the one
/// before, so it is the first of the gravest.
pub fn verdict(checks: &[Check]) -> Option<&Check> {
    let worst = worst(checks);
    let grave = checks.iter().find(|check| check.status == worst);
    grave.filter(|_| worst >= Status::Warn)
}

/// The gravest status. What could not be found out counts only where nothing could.
pub fn worst(checks: &[Check]) -> Status {
    let all = checks.iter().map(|check| check.status);
    let known = all.filter(|status| *status != Status::Unknown);
    known.max().unwrap_or(Status::Unknown)
}

/// The verdict, and the checks below it. `healthy` is what there is to say if nothing is wrong.
pub fn text(subject: &str, checks: &[Check], healthy: &str, colour: bool) -> String {
    let mut text = headline(subject, checks, healthy, colour);
    let name = checks.iter().map(|check| check.name.len()).max();
    let name = name.unwrap_or(0);
    for check in checks {
        let status = check.status.shown(colour, 7);
        let _ = write!(text, "  {status}  {:<name$}  ", check.name);
        text += &plain(&check.evidence);
        text.truncate(text.trim_end().len());
        text.push('\n');
        for (what, line) in [("", &check.cause), ("do: ", &check.remedy)] {
            if !line.is_empty() {
                let _ = writeln!(
                    text,
                    "{:width$}{what}{}",
                    "",
                    plain(line),
                    width = name + 13
                );
            }
        }
    }
    text
}

/// The verdict alone: one line, or with a remedy two.
pub fn headline(subject: &str, checks: &[Check], healthy: &str, colour: bool) -> String {
    let status = worst(checks).shown(colour, 0);
    let subject = plain(subject);
    match verdict(checks) {
        None => format!("{subject}: {status}, {}\n", plain(healthy)),
        Some(check) => {
            let mut text = format!("{subject}: {status}, {}\n", plain(&check.cause));
            if !check.remedy.is_empty() {
                let _ = writeln!(text, "  do: {}", plain(&check.remedy));
            }
            text
        }
    }
}

/// An array of objects: name, status, and what of evidence, cause and remedy is not empty.
pub fn json(checks: &[Check]) -> String {
    let mut text = String::from("[");
    for (at, check) in checks.iter().enumerate() {
        text += if at > 0 { ",{" } else { "{" };
        let fields = [
            ("name", check.name),
            ("status", check.status.word()),
            ("evidence", &check.evidence),
            ("cause", &check.cause),
            ("remedy", &check.remedy),
        ];
        for (at, (key, value)) in fields.into_iter().filter(|f| !f.1.is_empty()).enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = write!(text, "{comma}\"{key}\":{}", quoted(value));
        }
        text.push('}');
    }
    text.push(']');
    text
}

/// A JSON string (RFC 8259, 7).
pub fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if is_hidden(c) && u32::from(c) <= 0xFFFF => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Check> {
        vec![
            Check::ok("socket", "/run/a.sock"),
            Check::unknown("virsh", "not installed", ""),
            Check::of("client", Status::Warn, "socat", "it is old", "kill 12"),
            Check::of(
                "listener",
                Status::Fail,
                "",
                "nobody \x1b[2J listens",
                "start",
            ),
            Check::of("flow", Status::Fail, "", "nothing moves", ""),
        ]
    }

    #[test]
    fn the_first_of_the_gravest_is_the_verdict() {
        let checks = some();
        assert_eq!(verdict(&checks).unwrap().name, "listener");
        assert_eq!(worst(&checks).exit(), 2);
        assert_eq!(verdict(&checks[..3]).unwrap().name, "client");
        assert_eq!(worst(&checks[..3]).exit(), 1);
        // What could not be found out is no finding.
        assert_eq!(verdict(&checks[..2]), None);
        assert_eq!(worst(&checks[..2]), Status::Ok);
        assert_eq!(worst(&checks[1..2]), Status::Unknown);
        assert_eq!(Status::Unknown.exit(), 0);
    }

    #[test]
    fn text_has_the_verdict_first_and_is_aligned() {
        let shown = text("vm", &some(), "ready", false);
        let wanted = "\
vm: fail, nobody \\x1b[2J listens
  do: start
  ok       socket    /run/a.sock
  unknown  virsh     not installed
  warn     client    socat
                     it is old
                     do: kill 12
  fail     listener
                     nobody \\x1b[2J listens
                     do: start
  fail     flow
                     nothing moves
";
        assert_eq!(shown, wanted);
        assert_eq!(text("vm", &[], "ready", false), "vm: unknown, ready\n");
        let coloured = headline("vm", &some()[..1], "ready", true);
        assert_eq!(coloured, "vm: \x1b[32mok\x1b[0m, ready\n");
    }

    #[test]
    fn json_is_escaped_and_leaves_out_what_is_empty() {
        let shown = json(&some()[2..4]);
        let wanted = "[{\"name\":\"client\",\"status\":\"warn\",\"evidence\":\"socat\",\
            \"cause\":\"it is old\",\"remedy\":\"kill 12\"},\
            {\"name\":\"listener\",\"status\":\"fail\",\
            \"cause\":\"nobody \\u001b[2J listens\",\"remedy\":\"start\"}]";
        assert_eq!(shown, wanted);
        assert_eq!(
            quoted("a\"b\\c\u{7f}\u{9f}"),
            "\"a\\\"b\\\\c\\u007f\\u009f\""
        );
    }
}
