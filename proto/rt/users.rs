//! Users and groups of this machine, from /etc/passwd and /etc/group (passwd(5), group(5)).
//!
//! Read by hand: both programs are linked statically, and the C library's own look-ups would load shared
//! objects. Users that come from elsewhere (LDAP, systemd-homed) can be given by number.

use std::fs;

use crate::error::{Code, Failure};

/// A user, as far as a command needs one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Of its first group.
    pub gid: u32,
    /// Its directory.
    pub home: String,
    /// What it logs in to.
    pub shell: String,
}

/// What both databases say now.
#[derive(Debug)]
pub struct Texts {
    passwd: String,
    group: String,
}

impl Texts {
    /// One that cannot be read has nobody in it.
    pub fn read() -> Self {
        let read = |path: &str| {
            let text = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        Self {
            passwd: read("/etc/passwd"),
            group: read("/etc/group"),
        }
    }

    /// To look things up.
    pub const fn databases(&self) -> Databases<'_> {
        Databases {
            passwd: self.passwd.as_str(),
            group: self.group.as_str(),
        }
    }
}

/// The databases' text, as read.
#[derive(Clone, Copy, Debug)]
pub struct Databases<'a> {
    /// passwd(5)
    pub passwd: &'a str,
    /// group(5)
    pub group: &'a str,
}

impl Databases<'_> {
    /// The user with this name, or this number; a number that nobody has is a user without a name.
    pub fn user(&self, wanted: &str) -> Result<User, Failure> {
        self.known(wanted).or_else(|failure| {
            let uid = wanted.parse().map_err(|_| failure)?;
            Ok(User {
                name: wanted.to_owned(),
                uid,
                gid: uid,
                home: "/".to_owned(),
                shell: "/bin/sh".to_owned(),
            })
        })
    }

    /// As [`user`](Self::user), of those that are there.
    pub fn known(&self, wanted: &str) -> Result<User, Failure> {
        let uid = wanted.parse().ok();
        let mut found = None;
        for line in self.passwd.lines() {
            let Some(user) = parse_user(line) else {
                continue;
            };
            if user.name == wanted {
                return Ok(user);
            }
            if found.is_none() && Some(user.uid) == uid {
                found = Some(user);
            }
        }
        found.ok_or_else(|| unknown_user(wanted))
    }

    /// What the user with this number is called.
    pub fn name(&self, uid: u32) -> Option<String> {
        let mut users = self.passwd.lines().filter_map(parse_user);
        users.find(|user| user.uid == uid).map(|user| user.name)
    }

    /// The number of the group with this name or number.
    pub fn group(&self, wanted: &str) -> Result<u32, Failure> {
        let mut groups = self.group.lines().filter_map(parse_group);
        if let Some((_, gid, _)) = groups.find(|(name, _, _)| *name == wanted) {
            return Ok(gid);
        }
        wanted.parse().map_err(|_| {
            let why = format!("group {wanted}: not in the guest's /etc/group");
            Failure::new(Code::NotFound, why)
        })
    }

    /// What the group with this number is called.
    pub fn group_name(&self, gid: u32) -> Option<String> {
        let mut groups = self.group.lines().filter_map(parse_group);
        let found = groups.find(|(_, number, _)| *number == gid);
        found.map(|(name, ..)| name.to_owned())
    }

    /// The numbers of all groups that list this user.
    pub fn supplementary(&self, user: &str) -> Vec<u32> {
        self.group
            .lines()
            .filter_map(parse_group)
            .filter(|(_, _, members)| members.split(',').any(|member| member == user))
            .map(|(_, gid, _)| gid)
            .collect()
    }
}

/// Nobody has this name, or number.
pub fn unknown_user(wanted: &str) -> Failure {
    let why = format!("user {wanted}: not in the guest's /etc/passwd");
    Failure::new(Code::NotFound, why)
}

/// `name:password:uid:gid:comment:home:shell`
fn parse_user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?;
    let shell = fields.next().unwrap_or_default();
    let or = |text: &str, default: &str| if text.is_empty() { default } else { text }.to_owned();
    Some(User {
        name: name.to_owned(),
        uid,
        gid,
        home: or(home, "/"),
        shell: or(shell, "/bin/sh"),
    })
}

/// `name:password:gid:member,member`
fn parse_group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let gid = fields.nth(1)?.parse().ok()?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: Databases = Databases {
        passwd: "root:x:0:0:root:/root:/bin/bash\n# odd line\nbroken:x:zero:0\n\
            alice:x:1000:1000:Alice,,,:/home/alice:\n",
        group: "root:x:0:\nwheel:x:10:root,alice\ndisk:x:6:alice\nalice:x:1000:\n",
    };

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let alice = FILES.user("alice").unwrap();
        assert_eq!((alice.uid, alice.gid), (1000, 1000));
        assert_eq!((&*alice.home, &*alice.shell), ("/home/alice", "/bin/sh"));
        assert_eq!(FILES.user("1000").unwrap(), alice);
        assert_eq!(FILES.user("4242").unwrap().uid, 4242);
        assert_eq!(FILES.name(1000).as_deref(), Some("alice"));
        assert_eq!(FILES.name(4242), None);
        assert_eq!(FILES.user("bob").unwrap_err().code, Code::NotFound);
        assert_eq!(FILES.known("1000").unwrap(), alice);
        assert_eq!(FILES.known("4242").unwrap_err().code, Code::NotFound);
        assert_eq!(FILES.user("-1").unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn groups_are_found_and_members_know_theirs() {
        assert_eq!(FILES.group("wheel"), Ok(10));
        assert_eq!(FILES.group("77"), Ok(77));
        assert!(FILES.group("nobody-knows").is_err());
        assert_eq!(FILES.group_name(6).as_deref(), Some("disk"));
        assert_eq!(FILES.group_name(7), None);
        assert_eq!(FILES.supplementary("alice"), [10, 6]);
        assert_eq!(FILES.supplementary("al"), []);
    }
}
