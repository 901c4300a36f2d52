//! Keys, as terminals send them. Pure. Our own, as what termion has for it panics at sequences it does not know.

use std::time::Duration;

/// A key that means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Control(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Backspace,
    Escape,
}

/// The bytes of one key come within this time of each other, over slow lines too.
pub const SEQUENCE: Duration = Duration::from_millis(50);

const ESC: u8 = 0x1B;

/// The last key may have more bytes than have come.
pub fn may_go_on(typed: &[u8]) -> bool {
    let mut rest = typed;
    while !rest.is_empty() {
        match first(rest) {
            Some((_, length)) => rest = &rest[length..],
            None => return true,
        }
    }
    false
}

/// What was typed; what means nothing here is passed over.
pub fn parse(mut typed: &[u8]) -> Vec<Key> {
    let mut found = Vec::new();
    while !typed.is_empty() {
        let (key, length) = first(typed).unwrap_or(match typed {
            // Nothing follows: it was pressed itself.
            [ESC] => (Some(Key::Escape), 1),
            all => (None, all.len()),
        });
        found.extend(key);
        typed = &typed[length..];
    }
    found
}

/// The first key, if it is one of these, and how many bytes it has. `None`: not all of them are there.
fn first(typed: &[u8]) -> Option<(Option<Key>, usize)> {
    let key = match *typed {
        [ESC] | [ESC, b'O'] => return None,
        [ESC, b'O', last, ..] => return Some((function(&[], last), 3)),
        [ESC, b'[', ref rest @ ..] => {
            // Parameters, up to the final byte (ECMA-48, 5.4).
            let end = rest.iter().position(|byte| (0x40..0x7F).contains(byte))?;
            return Some((function(&rest[..end], rest[end]), end + 3));
        }
        // And what was pressed behind it: nothing here has a meaning with Alt.
        [ESC, ..] => Key::Escape,
        [b'\r' | b'\n', ..] => Key::Enter,
        [0x7F | 0x08, ..] => Key::Backspace,
        [byte @ 1..=26, ..] => Key::Control(char::from(byte + b'a' - 1)),
        _ => return text(typed),
    };
    Some((Some(key), 1))
}

/// As xterm, the Linux console, rxvt and tmux have them.
fn function(parameters: &[u8], last: u8) -> Option<Key> {
    match (parameters, last) {
        (b"", b'A') => Some(Key::Up),
        (b"", b'B') => Some(Key::Down),
        (b"", b'H') | (b"1" | b"7", b'~') => Some(Key::Home),
        (b"", b'F') | (b"4" | b"8", b'~') => Some(Key::End),
        (b"5", b'~') => Some(Key::PageUp),
        (b"6", b'~') => Some(Key::PageDown),
        (b"", b'M') => Some(Key::Enter),
        _ => None,
    }
}

fn text(typed: &[u8]) -> Option<(Option<Key>, usize)> {
    let chunk = typed.utf8_chunks().next()?;
    if let Some(char) = chunk.valid().chars().next() {
        let key = Some(Key::Char(char)).filter(|_| !char.is_control());
        return Some((key, char.len_utf8()));
    }
    let length = chunk.invalid().len();
    // The begin of a character, of which the rest may come.
    let is_cut = length == typed.len() && length < 4 && (0xC2..=0xF4).contains(&typed[0]);
    (!is_cut).then_some((None, length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_what_terminals_send_for_them() {
        let typed = b"q\x1b[A\x1b[6~\x1b\x1bOH\xc3\xa4\r\x7f\x03\x1b[1;5A\x1b/\x1b";
        let keys = [
            Key::Char('q'),
            Key::Up,
            Key::PageDown,
            Key::Escape,
            Key::Home,
            Key::Char('\u{e4}'),
            Key::Enter,
            Key::Backspace,
            Key::Control('c'),
            Key::Escape,
            Key::Char('/'),
            Key::Escape,
        ];
        assert_eq!(parse(typed), keys);
        assert_eq!(parse(b"\xff\x1b[999999;;A\0j"), [Key::Char('j')]);
    }

    #[test]
    fn a_key_that_comes_in_parts_is_waited_for() {
        for part in [
            &b"\x1b"[..],
            b"x\x1b[",
            b"\x1b[6",
            b"\x1bO",
            b"\xc3",
            b"\xe2\x82",
        ] {
            assert!(may_go_on(part), "{part:?}");
        }
        for whole in [
            &b""[..],
            b"q",
            b"\x1b[A",
            b"\x1b[6~",
            b"\x1bOA",
            b"\x1b[Ax",
            b"\xc3\xa4",
            b"\xff",
        ] {
            assert!(!may_go_on(whole), "{whole:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_taken(typed: Vec<u8>) {
            parse(&typed);
            may_go_on(&typed);
        }
    }
}
