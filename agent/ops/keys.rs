//! ~/.ssh/authorized_keys, read and changed as its user: whatever a user has made of the home directory,
//! nothing is read or written that the user could not. No symbolic link below it is followed.

use std::ffi::CStr;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use quantix::error::{Code, Failure};
use quantix::message::agent::{AuthorizedKeys, AuthorizedKeysResponse, KeysAction};
use quantix::rt::authorized::{Key, MAX_FILE, is_clean, is_comment};
use quantix::rt::random;
use quantix::rt::sys::fd::try_lock;
use quantix::rt::sys::process;
use quantix::rt::sys::program::Identity;
use quantix::rt::sys::tree::{make_directory_at, name, name_at, open_at, remove_at, rename_at};
use quantix::rt::users::{Texts, User};

use super::{PAGE, read_all, take_lock};

/// Lists, adds or removes keys.
pub fn keys(request: &AuthorizedKeys) -> Result<AuthorizedKeysResponse, Failure> {
    let action = request.action();
    check(action, &request.keys)?;
    let texts = Texts::read();
    let user = texts.databases().known(&request.user)?;
    become_user(&texts, &user)?;

    let mut home = Home::open(&user, action)?;
    home.enter()?;
    let old = home.read()?;
    let mut answer = AuthorizedKeysResponse {
        file: home.path(FILE),
        ..Default::default()
    };
    let new = match action {
        KeysAction::List => {
            let from = usize::try_from(request.after).unwrap_or(usize::MAX);
            let rest = old.get(from..).unwrap_or_default();
            answer.more = rest.len() > PAGE;
            answer.text = rest.get(..PAGE).unwrap_or(rest).to_vec();
            None
        }
        KeysAction::Add => {
            let (new, count) = add(&old, &request.keys);
            answer.added = count;
            Some(new).filter(|_| count > 0)
        }
        KeysAction::Remove => {
            let (new, count) = remove(&old, &request.keys);
            answer.removed = count;
            Some(new).filter(|_| count > 0)
        }
    };
    if let Some(new) = new {
        home.replace(&new)?;
    }
    answer.warning = home.complaint;
    Ok(answer)
}

fn check(action: KeysAction, keys: &[Vec<u8>]) -> Result<(), Failure> {
    let invalid = |why: &str| Err(Failure::new(Code::Invalid, why));
    if action == KeysAction::List {
        return Ok(());
    }
    if keys.is_empty() {
        return invalid("there is no key in the request");
    }
    for key in keys {
        if key.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)) {
            return invalid("a key has a newline or a NUL byte in it");
        }
        if action == KeysAction::Add && !is_clean(key) {
            return invalid("a line has more than 8 KiB or control characters");
        }
        if action == KeysAction::Add && Key::parse(key).is_none() {
            return invalid("a line is no key: [options] type base64 [comment]");
        }
        if is_comment(key) {
            return invalid("a line is empty or a comment");
        }
    }
    Ok(())
}

/// From here on this process may do what the user may, and no more.
fn become_user(texts: &Texts, user: &User) -> Result<(), Failure> {
    let me = process::effective_user();
    if me == 0 {
        let mut groups = vec![user.gid];
        groups.extend(texts.databases().supplementary(&user.name));
        let (uid, gid) = (user.uid, user.gid);
        let identity = Identity { uid, gid, groups };
        let assumed = identity.assume();
        return assumed.map_err(|e| Failure::system("become user", &user.name, &e));
    }
    if me != user.uid {
        let why = format!("become user {}: the agent does not run as root", user.name);
        return Err(Failure::new(Code::Permission, why));
    }
    Ok(())
}

const FILE: &str = ".ssh/authorized_keys";
const NAME: &CStr = c"authorized_keys";

/// A user's home directory, as far as keys need it.
struct Home<'a> {
    user: &'a User,
    action: KeysAction,
    home: File,
    /// .ssh; `None`: there is none.
    directory: Option<File>,
    /// The first reason for which sshd may take no notice of keys here.
    complaint: String,
}

impl<'a> Home<'a> {
    /// The way to it is the administrator's, who may have made links of it.
    fn open(user: &'a User, action: KeysAction) -> Result<Self, Failure> {
        let path = &user.home;
        if !path.starts_with('/') {
            let why = format!("home directory {path}: not an absolute path");
            return Err(Failure::new(Code::Invalid, why));
        }
        let mut options = File::options();
        let options = options
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        let system = |e| Failure::system("open the home directory", path, &e);
        let home = options.open(path).map_err(system)?;
        let meta = home.metadata().map_err(system)?;
        let mut this = Self {
            user,
            action,
            home,
            directory: None,
            complaint: String::new(),
        };
        this.judge(&meta, user.home.clone())?;
        Ok(this)
    }

    fn path(&self, name: &str) -> String {
        [self.user.home.trim_end_matches('/'), "/", name].concat()
    }

    /// sshd(8) takes no keys where others could put some (StrictModes). Nor are any put there; what is there
    /// can be looked at and removed.
    fn judge(&mut self, meta: &Metadata, path: String) -> Result<(), Failure> {
        let is_foreign = meta.uid() != self.user.uid && meta.uid() != 0;
        let why = if is_foreign {
            " belongs to another user"
        } else if meta.mode() & 0o002 > 0 {
            " can be written by everyone"
        } else if meta.mode() & 0o020 > 0 {
            " can be written by its group"
        } else {
            return Ok(());
        };
        let why = [&path, why, ": sshd takes no keys from there (StrictModes)"].concat();
        let is_open = is_foreign || meta.mode() & 0o002 > 0;
        if is_open && self.action == KeysAction::Add {
            return Err(Failure::new(Code::Permission, why));
        }
        if self.complaint.is_empty() {
            self.complaint = why;
        }
        Ok(())
    }

    /// Opens .ssh, which a first key makes, and has nobody else of us change anything there meanwhile.
    fn enter(&mut self) -> Result<(), Failure> {
        let path = self.path(".ssh");
        let flags = libc::O_DIRECTORY | libc::O_NONBLOCK;
        let mut opened = open_at(&self.home, c".ssh", flags);
        if self.action == KeysAction::Add && is_missing(&opened) {
            match make_directory_at(&self.home, c".ssh") {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                    return Err(Failure::system("make", &path, &e));
                }
                _ => opened = open_at(&self.home, c".ssh", flags),
            }
        }
        if is_missing(&opened) {
            return Ok(());
        }
        let directory = opened.map_err(|e| refusal(&self.home, c".ssh", &path, &e))?;
        let meta = directory.metadata();
        self.judge(
            &meta.map_err(|e| Failure::system("open", &path, &e))?,
            path.clone(),
        )?;
        if self.action != KeysAction::List {
            take_lock(&path, &|| try_lock(&directory))?;
        }
        self.directory = Some(directory);
        Ok(())
    }

    /// What the file says; nothing if there is none.
    fn read(&mut self) -> Result<Vec<u8>, Failure> {
        let Some(directory) = &self.directory else {
            return Ok(Vec::new());
        };
        let path = self.path(FILE);
        // What is no file, as a FIFO, does not have us wait.
        let opened = open_at(directory, NAME, libc::O_NONBLOCK | libc::O_NOCTTY);
        if is_missing(&opened) {
            return Ok(Vec::new());
        }
        let file = opened.map_err(|e| refusal(directory, NAME, &path, &e))?;
        let system = |e| Failure::system("read", &path, &e);
        let meta = file.metadata().map_err(system)?;
        if !meta.is_file() {
            let why = [&path, " is not a regular file"].concat();
            return Err(Failure::new(Code::Permission, why));
        }
        let text = read_all(file, MAX_FILE).map_err(system)?;
        self.judge(&meta, path)?;
        Ok(text)
    }

    /// Puts the new text in the file's place.
    fn replace(&self, text: &[u8]) -> Result<(), Failure> {
        let path = self.path(FILE);
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let written = match text.len() {
            ..=MAX_FILE => write(directory, text),
            _ => Err(io::Error::from_raw_os_error(libc::EFBIG)),
        };
        written.map_err(|e| Failure::system("write", &path, &e))
    }
}

fn is_missing(opened: &io::Result<File>) -> bool {
    matches!(opened, Err(e) if e.kind() == ErrorKind::NotFound)
}

/// Why an entry was not opened. A link is told from what else is in the way.
fn refusal(directory: &File, name: &CStr, path: &str, error: &io::Error) -> Failure {
    let found = open_at(directory, name, libc::O_PATH).and_then(|found| found.metadata());
    if found.is_ok_and(|meta| meta.is_symlink()) {
        let why = [path, " is a symbolic link, which is not followed"].concat();
        return Failure::new(Code::Permission, why);
    }
    Failure::system("open", path, error)
}

/// A file without a name until it is whole and on its disk, where the file system has such.
fn write(directory: &File, text: &[u8]) -> io::Result<()> {
    let mut temporary = b".qx-".to_vec();
    // 16 letters, of which no two files have the same.
    temporary.extend(random::bytes::<16>().map(|byte| b'a' + (byte & 15)));
    let temporary = name(&temporary)?;
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
    let (mut file, is_named) = match open_at(directory, c".", libc::O_TMPFILE | libc::O_WRONLY) {
        Ok(file) => (file, false),
        Err(_) => (open_at(directory, &temporary, flags)?, true),
    };
    let placed = file
        .write_all(text)
        .and_then(|()| file.sync_all())
        .and_then(|()| match is_named {
            true => Ok(()),
            false => name_at(&file, directory, &temporary),
        })
        .and_then(|()| rename_at(directory, &temporary, NAME));
    if placed.is_err() {
        let _ = remove_at(directory, &temporary);
        return placed;
    }
    directory.sync_all()
}

fn blob(line: &[u8]) -> Option<Vec<u8>> {
    Key::parse(line).map(|key| key.blob)
}

/// One of the lines has this key.
fn has(text: &[u8], key: &[u8]) -> bool {
    let mut lines = text.split(|byte| *byte == b'\n');
    lines.any(|line| blob(line).is_some_and(|blob| blob == key))
}

fn add(old: &[u8], keys: &[Vec<u8>]) -> (Vec<u8>, u32) {
    let mut new = old.to_vec();
    let mut added = 0;
    for line in keys {
        if blob(line).is_none_or(|key| has(&new, &key)) {
            continue;
        }
        let end = match new.last() {
            None | Some(b'\n') => &b""[..],
            Some(_) => b"\n",
        };
        new = [&new, end, line.trim_ascii(), b"\n"].concat();
        added += 1;
    }
    (new, added)
}

fn remove(old: &[u8], keys: &[Vec<u8>]) -> (Vec<u8>, u32) {
    let mut new = Vec::new();
    let mut removed = 0;
    for line in old.split_inclusive(|byte| *byte == b'\n') {
        let own = blob(line);
        let is_meant = keys.iter().any(|key| {
            key.trim_ascii() == line.trim_ascii() || (own.is_some() && own == blob(key))
        });
        match is_meant {
            true => removed += 1,
            false => new.extend_from_slice(line),
        }
    }
    (new, removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqb7a7ED5lJq0oHvXUdc0e6sQ0C1Xq0eC3sY8m6mI5d";
    const TWO: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAb7a7ED5lJq0oHvXUdc0e6sQ0C1Xq0eC3sY8m6mI5d";

    fn words(lines: &[&str]) -> Vec<Vec<u8>> {
        lines.iter().map(|line| line.as_bytes().to_vec()).collect()
    }

    fn text((text, count): (Vec<u8>, u32)) -> (String, u32) {
        (String::from_utf8(text).unwrap(), count)
    }

    #[test]
    fn a_key_that_is_there_is_not_added_again() {
        let old = format!("# mine\nno-pty {ONE} a\nodd line");
        let keys = words(&[&format!(" {ONE} b"), &format!("{TWO} c\t"), TWO]);
        let (new, added) = text(add(old.as_bytes(), &keys));
        assert_eq!((new, added), (format!("{old}\n{TWO} c\n"), 1));
        assert_eq!(text(add(b"", &words(&[ONE]))), (format!("{ONE}\n"), 1));
    }

    #[test]
    fn keys_are_removed_by_themselves_and_other_lines_as_they_stand() {
        let old = format!("# {ONE}\nno-pty {ONE} a\n\nodd line\r\n{TWO}\n{ONE}");
        let (new, removed) = text(remove(old.as_bytes(), &words(&[ONE])));
        assert_eq!(
            (new, removed),
            (format!("# {ONE}\n\nodd line\r\n{TWO}\n"), 2)
        );
        let (new, removed) = text(remove(old.as_bytes(), &words(&["odd line", "odd"])));
        assert_eq!((new, removed), (old.replace("odd line\r\n", ""), 1));
        let (new, removed) = text(remove(old.as_bytes(), &words(&["ssh-ed25519 AAAA"])));
        assert_eq!((new, removed), (old, 0));
    }

    #[test]
    fn what_is_no_line_with_a_key_is_refused() {
        let refused = |action, line: &str| check(action, &words(&[line])).is_err();
        let two = format!("{ONE}\n{TWO}");
        let nul = format!("{ONE} \0");
        for line in [
            "",
            "#",
            &two,
            &nul,
            &format!("{ONE} \x1b"),
            &format!("{ONE} {}", "x".repeat(9000)),
        ] {
            assert!(refused(KeysAction::Add, line), "{line}");
        }
        for line in ["", "#", &two, &nul] {
            assert!(refused(KeysAction::Remove, line), "{line}");
        }
        assert!(refused(KeysAction::Add, "odd line"));
        assert!(!refused(KeysAction::Remove, "odd line"));
        assert!(!refused(KeysAction::Add, &format!("no-pty {ONE}")));
        assert!(check(KeysAction::Add, &[]).is_err());
    }
}
