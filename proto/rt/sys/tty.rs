//! Terminals: a pair for a command (pty(7)), and the one that this program was started in.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::check;

/// A terminal's size in characters; 0 where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// A new terminal: the end that a program like this one holds, and the end that a command takes for
/// its terminal. Both are closed on exec, and opening them makes neither the controlling terminal.
///
/// # Errors
/// ENOENT, ENOSPC: the system has no terminals, or no more (/proc/sys/kernel/pty/max).
pub fn open_pair() -> io::Result<(File, File)> {
    let mut both = File::options();
    let both = both.read(true).write(true).custom_flags(libc::O_NOCTTY);
    let master = both.open("/dev/ptmx")?;
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which lives for the length of the call.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER (kernel 4.13) takes its flags by value and touches no memory of ours.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if slave >= 0 {
        // SAFETY: the call succeeded, so this descriptor is open and nobody else owns it.
        let slave = unsafe { OwnedFd::from_raw_fd(slave) };
        return Ok((master, slave.into()));
    }
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int, which lives for the length of the call.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) })?;
    let slave = both.open(format!("/dev/pts/{number}"))?;
    Ok((master, slave))
}

/// The process group in the foreground of the terminal whose other end this is.
pub fn foreground(master: &File) -> Option<i32> {
    let mut group: libc::pid_t = 0;
    // SAFETY: TIOCGPGRP writes one pid_t, which lives for the length of the call.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPGRP, &raw mut group) };
    (done == 0 && group > 1).then_some(group)
}

/// Gives a terminal another size; its foreground gets SIGWINCH if it is another.
///
/// # Errors
/// ENOTTY.
pub fn set_size(terminal: &impl AsFd, size: Size) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCSWINSZ reads one winsize, which lives for the length of the call.
    check(unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

/// A terminal's size.
///
/// # Errors
/// ENOTTY.
pub fn size(terminal: &impl AsFd) -> io::Result<Size> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCGWINSZ fills one winsize, which lives for the length of the call.
    check(unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, size.as_mut_ptr()) })?;
    // SAFETY: a winsize is four integers, for which zero is a value, and was zeroed before.
    let size = unsafe { size.assume_init() };
    Ok(Size {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// How a terminal treats what is typed, to be put back later.
#[derive(Clone)]
pub struct Mode(libc::termios);

/// Passes on every key as it is typed and shows none (cfmakeraw(3)). Returns what was before.
///
/// # Errors
/// ENOTTY; EIO where this process is in the background of an orphaned group.
pub fn make_raw(terminal: &impl AsFd) -> io::Result<Mode> {
    change(terminal, |mode| {
        // SAFETY: changes one termios, which lives for the length of the call.
        unsafe { libc::cfmakeraw(mode) };
    })
}

/// Shows no key but the one that ends a line. Returns what was before.
///
/// # Errors
/// As [`make_raw`].
pub fn hide_typing(terminal: &impl AsFd) -> io::Result<Mode> {
    change(terminal, |mode| {
        mode.c_lflag &= !libc::ECHO;
        mode.c_lflag |= libc::ECHONL | libc::ICANON;
    })
}

fn change(terminal: &impl AsFd, change: impl Fn(&mut libc::termios)) -> io::Result<Mode> {
    let fd = terminal.as_fd().as_raw_fd();
    let mut mode = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: tcgetattr fills one termios, which lives for the length of the call.
    check(unsafe { libc::tcgetattr(fd, mode.as_mut_ptr()) })?;
    // SAFETY: a termios is integers only, and was filled by a call that succeeded.
    let before = unsafe { mode.assume_init() };
    let mut after = before;
    change(&mut after);
    set_mode(terminal, &Mode(after))?;
    Ok(Mode(before))
}

/// Puts a mode back, once all that was written has been shown.
///
/// # Errors
/// As [`make_raw`].
pub fn set_mode(terminal: &impl AsFd, mode: &Mode) -> io::Result<()> {
    let fd = terminal.as_fd().as_raw_fd();
    loop {
        // SAFETY: tcsetattr reads one termios, which lives for the length of the call.
        match check(unsafe { libc::tcsetattr(fd, libc::TCSADRAIN, &raw const mode.0) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done.map(|_| ()),
        }
    }
}
