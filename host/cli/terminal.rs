//! Our own terminal, while it is the guest's.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use quantix::error::system_text;
use quantix::rt::sys::tty::{self, Mode, Size};

/// The terminal's size, if stdin is one.
pub fn size() -> Option<Size> {
    tty::size(&io::stdin()).ok()
}

/// A terminal that treats keys in another way; itself again when this is dropped.
pub struct Raw {
    terminal: File,
    before: Mode,
}

impl Raw {
    /// It passes on every key from now on.
    pub fn enter() -> Result<Self, String> {
        Self::with(tty::make_raw)
    }

    /// It shows no key from now on.
    pub fn hidden() -> Result<Self, String> {
        Self::with(tty::hide_typing)
    }

    fn with(change: fn(&File) -> io::Result<Mode>) -> Result<Self, String> {
        let trouble = |e: io::Error| format!("terminal: {}", system_text(&e));
        let terminal = io::stdin().as_fd().try_clone_to_owned();
        let terminal = File::from(terminal.map_err(trouble)?);
        let before = change(&terminal).map_err(trouble)?;
        // A panic ends this process at once, and drops nothing.
        let (again, mode) = (terminal.try_clone().map_err(trouble)?, before.clone());
        let said = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = tty::set_mode(&again, &mode);
            said(panic);
        }));
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tty::set_mode(&self.terminal, &self.before);
    }
}

/// What was typed asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// Nothing of us.
    None,
    /// `~.` at the start of a line: to leave, whatever the guest does.
    Leave,
}

/// Looks for `~.` among the keys, as ssh(1) has it. `~~` is one `~`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keys {
    /// At the start of a line.
    #[default]
    Start,
    /// Behind a `~` at the start of a line, which is held back.
    Tilde,
    /// Inside a line.
    Inside,
}

impl Keys {
    /// A `~` waits for what comes behind it.
    pub const fn holds_one(self) -> bool {
        matches!(self, Self::Tilde)
    }

    /// Takes out of `keys` what is not for the guest.
    pub fn filter(&mut self, keys: &mut Vec<u8>) -> Escape {
        let mut passed = Vec::with_capacity(keys.len() + 1);
        for &key in keys.iter() {
            match (*self, key) {
                (Self::Start, b'~') => {
                    *self = Self::Tilde;
                    continue;
                }
                (Self::Tilde, b'.') => {
                    *keys = passed;
                    return Escape::Leave;
                }
                (Self::Tilde, b'~') => {}
                (Self::Tilde, _) => passed.push(b'~'),
                _ => {}
            }
            passed.push(key);
            *self = match key {
                b'\r' | b'\n' => Self::Start,
                _ => Self::Inside,
            };
        }
        *keys = passed;
        Escape::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(parts: &[&str]) -> (String, Escape) {
        let mut keys = Keys::default();
        let mut all = String::new();
        for part in parts {
            let mut bytes = part.as_bytes().to_vec();
            let escape = keys.filter(&mut bytes);
            all += std::str::from_utf8(&bytes).unwrap();
            if escape == Escape::Leave {
                return (all, escape);
            }
        }
        (all, Escape::None)
    }

    #[test]
    fn a_tilde_and_a_dot_at_the_start_of_a_line_leave() {
        assert_eq!(typed(&["~."]), (String::new(), Escape::Leave));
        assert_eq!(typed(&["ls\r~", ".x"]), ("ls\r".into(), Escape::Leave));
    }

    #[test]
    fn all_other_tildes_are_the_guests() {
        for (parts, found) in [
            (&["cd ~.\r"][..], "cd ~.\r"),
            (&["~~.\r"], "~.\r"),
            (&["~/bin\r"], "~/bin\r"),
            (&["~", "\r~", "x"], "~\r~x"),
        ] {
            assert_eq!(typed(parts), (found.into(), Escape::None));
        }
    }
}
