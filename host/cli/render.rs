//! Text for people: aligned tables, readable units, nothing that a guest could hide in a name.

use quantix::rt::civil::Civil;
/// Text of a guest: control characters are shown as `\x1b`, so that none reaches the terminal.
pub use quantix::text::plain;

/// Columns as wide as their widest cell, two spaces apart, no trailing space.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:<width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Names and values, one pair a line.
pub fn pairs(rows: &[(&str, String)]) -> String {
    let rows = rows.iter().filter(|(_, value)| !value.is_empty());
    let rows: Vec<Vec<String>> = rows
        .map(|(name, value)| vec![format!("{name}:"), value.clone()])
        .collect();
    table(&rows)
}

/// As [`plain`], for a column where nothing is a dash.
pub fn or_dash(text: &str) -> String {
    match text {
        "" => "-".to_owned(),
        text => plain(text),
    }
}

/// A text for programs: null where there is none.
pub fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// As [`plain`], of a name, which may be any bytes.
pub fn plain_bytes(name: &[u8]) -> String {
    let mut out = String::new();
    for chunk in name.utf8_chunks() {
        out += &plain(chunk.valid());
        for byte in chunk.invalid() {
            out += &format!("\\x{byte:02x}");
        }
    }
    out
}

/// Lines of a guest's text in pieces, as [`plain_bytes`] but for line ends and tabs.
#[derive(Debug, Default)]
pub struct Escaper {
    /// The begin of a character whose rest has not come.
    held: Vec<u8>,
}

impl Escaper {
    /// The next piece, at most four times as long as what has come.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        let goes_on = |byte: &&u8| (0x80..0xC0).contains(*byte);
        let behind = self.held.iter().rev().take_while(goes_on).count();
        let begun = self.held.len().checked_sub(behind + 1).filter(|from| {
            let needs = match self.held.get(*from) {
                Some(0xC2..=0xDF) => 2,
                Some(0xE0..=0xEF) => 3,
                Some(0xF0..=0xF4) => 4,
                _ => 0,
            };
            behind + 1 < needs
        });
        let rest = self.held.split_off(begun.unwrap_or(self.held.len()));
        let whole = std::mem::replace(&mut self.held, rest);
        lines(&whole)
    }

    /// Nothing more comes.
    pub fn end(&mut self) -> Vec<u8> {
        lines(&std::mem::take(&mut self.held))
    }
}

fn lines(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\t')) {
        let (text, end) = match part {
            [text @ .., end @ (b'\n' | b'\t')] => (text, Some(*end)),
            text => (text, None),
        };
        out.extend_from_slice(plain_bytes(text).as_bytes());
        out.extend(end);
    }
    out
}

/// `1.5 GiB`: three digits and a unit.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut scale = 1u64;
    while count / scale >= 1024 && unit + 1 < UNITS.len() {
        scale <<= 10;
        unit += 1;
    }
    let whole = count / scale;
    let tenth = u128::from(count % scale) * 10 / u128::from(scale);
    let name = UNITS.get(unit).copied().unwrap_or_default();
    match (unit, whole) {
        (0, _) => format!("{whole} {name}"),
        (_, 0..=99) => format!("{whole}.{tenth} {name}"),
        _ => format!("{whole} {name}"),
    }
}

/// `3d 4h`, `4h 5m`, `5m 6s`, `6s`: the two largest units.
pub fn span(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A point in time, in seconds since 1970, as `2026-11-22T21:20:05Z`. What a guest says need not be one.
pub fn iso_time(seconds: i64) -> String {
    format!("{:#}", Civil::of(seconds))
}

/// A round trip in milliseconds.
pub fn millis(micros: u64) -> String {
    format!("{:.2} ms", micros as f64 / 1000.0)
}

/// Text inside an XML attribute in single quotes.
pub fn escape_xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '\'' => out += "&apos;",
            '"' => out += "&quot;",
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_end_without_spaces() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect();
        let text = table(&[row(&["VM", "STATE", ""]), row(&["webserver", "ready", ""])]);
        assert_eq!(text, "VM         STATE\nwebserver  ready\n");
    }

    #[test]
    fn units_are_readable() {
        let of = [0, 1023, 1024, 1536, 123 << 20, 1 << 40, u64::MAX];
        let shown = [
            "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "123 MiB", "1.0 TiB", "15.9 EiB",
        ];
        assert_eq!(of.map(bytes), shown);
        let of = [0, 59, 61, 3600, 90_061];
        assert_eq!(of.map(span), ["0s", "59s", "1m 1s", "1h 0m", "1d 1h"]);
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        let of = [0, 951_782_400, 1_709_251_199, 4_107_542_400, 1_795_382_405];
        let shown = [
            "1970-01-01T00:00:00Z",
            "2000-02-29T00:00:00Z",
            "2024-02-29T23:59:59Z",
            "2100-03-01T00:00:00Z",
            "2026-11-22T21:20:05Z",
        ];
        assert_eq!(of.map(iso_time), shown);
    }

    #[test]
    fn pieces_of_lines_are_escaped_wherever_they_are_cut() {
        let text = "a\tb\r\n\x1b[2J\u{e4}\u{20ac}\u{1f600}\u{9b}x\n".as_bytes();
        let text = [text, b"\xff\x9b\xc3(\xf0\x9f", b"\n\xe2\x82"].concat();
        let wanted = "a\tb\\x0d\n\\x1b[2J\u{e4}\u{20ac}\u{1f600}\\x9bx\n\\xff\\x9b\\xc3(\\xf0\\x9f\n\\xe2\\x82";
        for size in 1..=text.len() {
            let mut escaper = Escaper::default();
            let mut out = Vec::new();
            for piece in text.chunks(size) {
                out.extend(escaper.push(piece));
            }
            out.extend(escaper.end());
            assert_eq!(
                String::from_utf8(out).unwrap(),
                wanted,
                "in pieces of {size}"
            );
        }
    }

    #[test]
    fn a_guests_text_cannot_reach_the_terminal() {
        assert_eq!(plain("a\x1b]0;evil\x07\n"), "a\\x1b]0;evil\\x07\\x0a");
        assert_eq!(plain_bytes(b"a\x1b\xFFb\xC3\xB8"), "a\\x1b\\xffb\u{f8}");
        assert_eq!(escape_xml("/a'b&c"), "/a&apos;b&amp;c");
    }
}
