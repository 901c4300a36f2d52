//! Passwords, without chpasswd(8), which small images do not have: the hash goes into shadow(5), or into
//! passwd(5) where there is no such file. What a password is appears in no error and in no log.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;

use quantix::error::{Code, Failure};
use quantix::message::agent::{PasswordAction, SetPassword, SetPasswordResponse};
use quantix::rt::replace::Replacement;
use quantix::rt::sys::fd::try_lock_record;
use quantix::rt::users::unknown_user;
use quantix::rt::{clock, crypt};

use super::{read_all, take_lock};

/// Sets or locks a user's password.
pub fn set(request: &SetPassword) -> Result<SetPasswordResponse, Failure> {
    let change = Change::of(request)?;
    let day = clock::wall().seconds / 86_400;
    apply("/etc", &request.username, &change, day)
}

/// What is to become of a hash.
enum Change {
    To(String),
    Lock,
    Unlock,
}

impl Change {
    fn of(request: &SetPassword) -> Result<Self, Failure> {
        let invalid = |why: &str| Err(Failure::new(Code::Invalid, why));
        let is_bad = |text: &str| text.contains(|c: char| c == ':' || c.is_control());
        let name = &request.username;
        if name.is_empty() || name.len() > 256 || is_bad(name) {
            return invalid("a user's name has 1 to 256 bytes, no colon and no control characters");
        }
        let password = &request.password;
        match request.action() {
            PasswordAction::Lock => return Ok(Self::Lock),
            PasswordAction::Unlock => return Ok(Self::Unlock),
            PasswordAction::Set => {}
        }
        if password.is_empty() {
            return invalid("the password is empty");
        }
        if request.crypted {
            return match crypt::is_hash(password) {
                true => Ok(Self::To(password.clone())),
                false => invalid("that is no hash as crypt(5) has them, $6$SALT$HASH for one"),
            };
        }
        if is_bad(password) {
            return invalid("the password has a newline, another control character or a colon");
        }
        if password.len() > crypt::MAX_PASSWORD {
            return invalid("the password has more than 511 bytes, which crypt(3) does not take");
        }
        Ok(Self::To(crypt::hash(password.as_bytes())))
    }

    /// What stands for the old hash from now on; `None`: it does already.
    fn follow(&self, user: &str, old: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let bare = old.iter().position(|byte| *byte != b'!');
        let bare = old.get(bare.unwrap_or(old.len())..).unwrap_or_default();
        Ok(match self {
            Self::To(hash) => Some(hash.clone().into_bytes()),
            Self::Lock if old.starts_with(b"!") => None,
            Self::Lock => Some([b"!", old].concat()),
            // Without one anybody could log in, or still nobody.
            Self::Unlock if matches!(bare.first(), None | Some(b'*')) => {
                let why = format!("user {user} has no password that could be unlocked; set one");
                return Err(Failure::new(Code::Invalid, why));
            }
            Self::Unlock => (bare != old).then(|| bare.to_vec()),
        })
    }
}

fn apply(etc: &str, user: &str, change: &Change, day: i64) -> Result<SetPasswordResponse, Failure> {
    let _lock = lock(&[etc, "/.pwd.lock"].concat())?;
    let passwd = Table::read([etc, "/passwd"].concat())?;
    let entry = passwd.line_of(user).ok_or_else(|| unknown_user(user))?;
    let own = passwd.hash(&entry);
    let shadow = match Table::read([etc, "/shadow"].concat()) {
        Err(failure) if failure.code == Code::NotFound => None,
        read => Some(read?),
    };
    let is_shadowed = own == b"x";
    // What is in the open is moved into the shadow with the first change.
    let into = shadow.filter(|_| is_shadowed || matches!(change, Change::To(_)));
    let Some(mut table) = into else {
        let new = change.follow(user, own)?;
        return passwd.write(new.map(|hash| passwd.with(&entry, &hash, None)));
    };
    let line = table.line_or_new(user);
    let day = Some(day).filter(|_| matches!(change, Change::To(_)));
    let new = change.follow(user, table.hash(&line))?;
    let answer = table.write(new.map(|hash| table.with(&line, &hash, day)))?;
    if !is_shadowed {
        passwd.write(Some(passwd.with(&entry, b"x", None)))?;
    }
    Ok(answer)
}

/// As lckpwdf(3), which those who change users call.
fn lock(path: &str) -> Result<File, Failure> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|e| Failure::system("lock", path, &e))?;
    take_lock(path, &|| try_lock_record(&file))?;
    Ok(file)
}

/// One of the two files: a line a user, fields with colons between them.
struct Table {
    path: String,
    text: Vec<u8>,
}

/// More than any guest's.
const MAX_TABLE: usize = 16 * 1024 * 1024;

impl Table {
    fn read(path: String) -> Result<Self, Failure> {
        let text = File::open(&path).and_then(|file| read_all(file, MAX_TABLE));
        match text {
            Ok(text) => Ok(Self { path, text }),
            Err(e) => Err(Failure::system("read", &path, &e)),
        }
    }

    /// Where the user's line is: the first one, as getpwnam(3) has it.
    fn line_of(&self, user: &str) -> Option<Range<usize>> {
        let mut begin = 0;
        for line in self.text.split(|byte| *byte == b'\n') {
            let end = begin + line.len();
            let name = line.split(|byte| *byte == b':').next();
            if name == Some(user.as_bytes()) {
                return Some(begin..end);
            }
            begin = end + 1;
        }
        None
    }

    fn fields(&self, line: &Range<usize>) -> impl Iterator<Item = &[u8]> {
        let line = self.text.get(line.clone()).unwrap_or_default();
        line.split(|byte| *byte == b':')
    }

    fn hash(&self, line: &Range<usize>) -> &[u8] {
        self.fields(line).nth(1).unwrap_or_default()
    }

    /// The text with another hash in this line, and, in the shadow, the day on which it was changed.
    fn with(&self, line: &Range<usize>, hash: &[u8], changed: Option<i64>) -> Vec<u8> {
        let day = changed.map(day_field);
        let mut text = self.text.get(..line.start).unwrap_or_default().to_vec();
        let mut fields = self.fields(line);
        let least = if day.is_some() { SHADOW_FIELDS } else { 0 };
        for at in 0.. {
            let field = match (fields.next(), at, &day) {
                (Some(_), 1, _) => hash,
                (_, 2, Some(day)) => day.as_bytes(),
                (Some(field), _, _) => field,
                (None, _, _) if at < least => b"",
                (None, _, _) => break,
            };
            if at > 0 {
                text.push(b':');
            }
            text.extend_from_slice(field);
        }
        text.extend_from_slice(self.text.get(line.end..).unwrap_or_default());
        text
    }

    /// As [`line_of`](Self::line_of), in the shadow; one who has none gets one that lets nobody in.
    fn line_or_new(&mut self, user: &str) -> Range<usize> {
        self.line_of(user).unwrap_or_else(|| {
            if !matches!(self.text.last(), None | Some(b'\n')) {
                self.text.push(b'\n');
            }
            let begin = self.text.len();
            self.text.extend_from_slice(user.as_bytes());
            self.text.extend_from_slice(b":*::0:99999:7:::");
            let end = self.text.len();
            self.text.push(b'\n');
            begin..end
        })
    }

    /// Puts the new text into its place, if there is one.
    fn write(&self, text: Option<Vec<u8>>) -> Result<SetPasswordResponse, Failure> {
        if let Some(text) = &text {
            self.replace(text)
                .map_err(|e| Failure::system("write", &self.path, &e))?;
        }
        Ok(SetPasswordResponse {
            success: true,
            changed: text.is_some(),
            file: self.path.clone(),
        })
    }

    fn replace(&self, text: &[u8]) -> io::Result<()> {
        let target = fs::canonicalize(&self.path)?;
        let before = fs::metadata(&target)?;
        if !before.is_file() {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut new = Replacement::new(&target)?;
        new.file().write_all(text)?;
        // With another one nobody could log in.
        new.keep_label()?;
        new.place(Some(&before), 0o600)
    }
}

const SHADOW_FIELDS: usize = 9;

/// Zero would mean that it has to be changed at once: nothing, where the clock does not know.
fn day_field(day: i64) -> String {
    match day {
        ..=0 => String::new(),
        day => day.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use quantix::rt::random;

    use super::*;

    const HASH: &str = "$6$abcdefgh$aaaaaaaaaaaaaaaaaaaaaaaa";
    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nal:x:9:9::/:\n\
        alice:x:1000:1000:\u{c5}:/home/alice:/bin/sh\nopen:$1$a$b:7:7::/:/bin/sh\n";
    const SHADOW: &str = "root:*:19000:0:99999:7:::\nalice:!$6$old$hash:19000:1:90:7:14:20000:keep\n\
        alice:second:1::::::\nshort:!";

    struct Etc(PathBuf);

    impl Etc {
        fn new(files: &[(&str, &str)]) -> Self {
            let path = std::env::temp_dir().join(format!("qx-etc-{:x}", random::number()));
            fs::create_dir(&path).unwrap();
            for (name, text) in files {
                fs::write(path.join(name), text).unwrap();
            }
            Self(path)
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap()
        }

        fn apply(&self, user: &str, change: &Change) -> Result<SetPasswordResponse, Failure> {
            apply(self.0.to_str().unwrap(), user, change, 20_000)
        }
    }

    impl Drop for Etc {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn to() -> Change {
        Change::To(HASH.to_owned())
    }

    #[test]
    fn a_hash_goes_into_the_shadow_and_nothing_else_changes() {
        let etc = Etc::new(&[("passwd", PASSWD), ("shadow", SHADOW)]);
        let shadow = etc.0.join("shadow");
        fs::set_permissions(&shadow, fs::Permissions::from_mode(0o640)).unwrap();
        let answer = etc.apply("alice", &to()).unwrap();
        assert!(answer.changed && answer.file.ends_with("/shadow"));
        let new = SHADOW.replace("!$6$old$hash:19000", &format!("{HASH}:20000"));
        assert_eq!(etc.read("shadow"), new);
        assert_eq!(etc.read("passwd"), PASSWD);
        assert_eq!(
            shadow.metadata().unwrap().permissions().mode() & 0o7777,
            0o640
        );
        // One who had no line gets one, and behind a line without an end.
        etc.apply("al", &to()).unwrap();
        assert_eq!(
            etc.read("shadow"),
            format!("{new}\nal:{HASH}:20000:0:99999:7:::\n")
        );
        let mut names: Vec<_> = fs::read_dir(&etc.0)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, [".pwd.lock", "passwd", "shadow"]);
    }

    #[test]
    fn a_hash_in_the_open_is_moved_into_the_shadow() {
        let etc = Etc::new(&[("passwd", PASSWD), ("shadow", SHADOW)]);
        etc.apply("open", &to()).unwrap();
        assert_eq!(etc.read("passwd"), PASSWD.replace("$1$a$b", "x"));
        assert!(
            etc.read("shadow")
                .ends_with(&format!("\nopen:{HASH}:20000:0:99999:7:::\n"))
        );
    }

    #[test]
    fn without_a_shadow_it_goes_into_passwd() {
        let etc = Etc::new(&[("passwd", PASSWD)]);
        assert!(etc.apply("alice", &to()).unwrap().file.ends_with("/passwd"));
        assert_eq!(
            etc.read("passwd"),
            PASSWD.replace("alice:x", &format!("alice:{HASH}"))
        );
        etc.apply("alice", &Change::Lock).unwrap();
        assert!(etc.read("passwd").contains(&format!("alice:!{HASH}:1000")));
    }

    #[test]
    fn users_that_are_not_there_get_no_password() {
        let etc = Etc::new(&[("passwd", PASSWD), ("shadow", SHADOW)]);
        // In the shadow alone, a begin of a name, and a number.
        for user in ["short", "ali", "alice:x", "1000", "nobody"] {
            assert_eq!(
                etc.apply(user, &to()).unwrap_err().code,
                Code::NotFound,
                "{user}"
            );
        }
        assert_eq!(etc.read("shadow"), SHADOW);
    }

    #[test]
    fn a_lock_can_be_taken_off_again_if_there_is_a_password_behind_it() {
        let etc = Etc::new(&[("passwd", PASSWD), ("shadow", SHADOW)]);
        let field = |user: &str| {
            let text = etc.read("shadow");
            let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
            let line = lines.find(|line| line[0] == user).unwrap();
            (line[1].to_owned(), line[2].to_owned())
        };
        let is = |hash: &str| (hash.to_owned(), "19000".to_owned());
        assert!(!etc.apply("alice", &Change::Lock).unwrap().changed);
        assert_eq!(field("alice"), is("!$6$old$hash"));
        assert!(etc.apply("alice", &Change::Unlock).unwrap().changed);
        assert_eq!(field("alice"), is("$6$old$hash"));
        assert!(!etc.apply("alice", &Change::Unlock).unwrap().changed);
        assert!(etc.apply("alice", &Change::Lock).unwrap().changed);
        assert_eq!(field("alice"), is("!$6$old$hash"));
        // Nobody, and then anybody, could log in.
        for hash in ["*", "!", "!!", "!*", ""] {
            let shadow = SHADOW.replace("root:*", &format!("root:{hash}"));
            fs::write(etc.0.join("shadow"), shadow).unwrap();
            let failure = etc.apply("root", &Change::Unlock).unwrap_err();
            assert_eq!(failure.code, Code::Invalid, "{hash}");
            assert_eq!(field("root").0, hash);
        }
    }

    #[test]
    fn a_file_elsewhere_is_changed_there() {
        let etc = Etc::new(&[("passwd", PASSWD), ("real", SHADOW)]);
        symlink("real", etc.0.join("shadow")).unwrap();
        etc.apply("alice", &to()).unwrap();
        assert!(etc.read("real").contains(HASH));
        assert!(
            fs::symlink_metadata(etc.0.join("shadow"))
                .unwrap()
                .is_symlink()
        );
    }

    #[test]
    fn what_cannot_be_a_password_is_refused_without_being_repeated() {
        let refused = |username: &str, password: &str, crypted| {
            let request = SetPassword {
                username: username.into(),
                password: password.into(),
                crypted,
                ..Default::default()
            };
            let Err(failure) = Change::of(&request) else {
                panic!("{username:?} {password:?}");
            };
            assert_eq!(failure.code, Code::Invalid);
            assert!(!failure.message.contains("hunter"), "{}", failure.message);
        };
        for password in [
            "",
            "hunter\n2",
            "hunter:2",
            "hunter\0",
            "hunter2\r",
            "hunter\x1b",
        ] {
            refused("alice", password, false);
            refused("alice", password, true);
        }
        refused("alice", "hunter2", true);
        refused("alice", &"hunter2".repeat(100), false);
        for name in ["", "a:b", "a\nb", "a\0", &"a".repeat(257)] {
            refused(name, "hunter2", false);
        }
    }

    #[test]
    fn a_plain_password_is_hashed() {
        let request = SetPassword {
            username: "alice".into(),
            password: "hunter2".into(),
            ..Default::default()
        };
        let Ok(Change::To(hash)) = Change::of(&request) else {
            panic!("refused");
        };
        assert!(hash.starts_with("$6$") && crypt::is_hash(&hash));
    }
}
