//! Who may do what to which VM by the control socket: the keys `view`, `operate` and `admin` of node.conf. Pure.
//!
//! Each has entries with blanks between them: a user, or a group behind an `@`, by name or number; with `:PATTERN`
//! behind it for the VMs whose names match. root, and who runs the daemon, may do all. Whoever is not named may
//! nothing.

use quantix::action::{MAX_USER, Role};
use quantix::error::{Code, Failure};
use quantix::message::agent;
use quantix::rt::users::Databases;
use quantix::text::cut;

/// One at the other end of the control socket, as it was when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub pid: i32,
    /// Its name, or the number if it has none here.
    pub user: String,
    /// Its groups: names and numbers.
    groups: Vec<String>,
    /// root, or who runs the daemon.
    is_owner: bool,
}

impl Caller {
    /// Who may do all.
    pub fn owner(uid: u32, pid: i32, user: String) -> Self {
        Self {
            uid,
            pid,
            user,
            groups: Vec::new(),
            is_owner: true,
        }
    }

    /// As the guest is told of it.
    pub fn to_wire(&self) -> agent::Caller {
        agent::Caller {
            uid: self.uid,
            user: cut(&self.user, MAX_USER).to_owned(),
        }
    }

    /// Somebody with these groups. `listed`: /etc/group says which, where the kernel does not.
    pub fn other(uid: u32, pid: i32, mut gids: Vec<u32>, listed: bool, known: &Databases) -> Self {
        let user = known.name(uid).unwrap_or_else(|| uid.to_string());
        if listed {
            gids.extend(known.supplementary(&user));
        }
        let names = gids.iter().filter_map(|gid| known.group_name(*gid));
        let numbers = gids.iter().map(u32::to_string);
        Self {
            uid,
            pid,
            groups: names.chain(numbers).collect(),
            user,
            is_owner: false,
        }
    }

    pub const fn is_owner(&self) -> bool {
        self.is_owner
    }

    fn is(&self, who: &str) -> bool {
        match who.strip_prefix('@') {
            Some(group) => self.groups.iter().any(|name| name == group),
            None => self.user == who || who.parse() == Ok(self.uid),
        }
    }
}

/// Who has which role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// By [`Role`].
    entries: [Vec<Entry>; 3],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Behind an `@`: a group.
    who: String,
    /// None: all VMs.
    vms: Option<String>,
}

impl Default for Access {
    fn default() -> Self {
        let quantix = Entry {
            who: "@quantix".to_owned(),
            vms: None,
        };
        Self {
            entries: [Vec::new(), vec![quantix], Vec::new()],
        }
    }
}

impl Access {
    /// Gives a role to those that the text names. Where it makes no sense nobody has the role.
    pub fn set(&mut self, role: Role, text: &str) -> Result<(), String> {
        let entries: Result<Vec<_>, _> = text.split_whitespace().map(Entry::parse).collect();
        let entries_of_role = &mut self.entries[role as usize];
        match entries {
            Ok(entries) => {
                *entries_of_role = entries;
                Ok(())
            }
            Err(why) => {
                entries_of_role.clear();
                Err(why)
            }
        }
    }

    /// As [`set`](Self::set) takes it.
    pub fn text(&self, role: Role) -> String {
        let entries = self.entries[role as usize].iter().map(Entry::text);
        entries.collect::<Vec<_>>().join(" ")
    }

    /// Those whom this machine does not know: mistyped, or from a directory service, and then to be given by number.
    pub fn unknown(&self, known: &Databases) -> Vec<String> {
        let is_unknown = |entry: &&Entry| match entry.who.strip_prefix('@') {
            Some(group) => known.group(group).is_err(),
            None => known.user(&entry.who).is_err(),
        };
        let default = Self::default();
        let given = self.entries.iter().zip(&default.entries);
        let given = given.filter(|(entries, default)| entries != default);
        given
            .flat_map(|(entries, _)| entries)
            .filter(is_unknown)
            .map(|entry| entry.who.clone())
            .collect()
    }

    /// Nobody but the owner has a role.
    pub fn is_closed(&self) -> bool {
        self.entries.iter().all(Vec::is_empty)
    }

    /// The caller has a role somewhere.
    pub fn knows(&self, caller: &Caller) -> bool {
        let mut all = self.entries.iter().flatten();
        caller.is_owner || all.any(|entry| caller.is(&entry.who))
    }

    /// What the caller may do to this VM.
    pub fn role(&self, caller: &Caller, vm: &str) -> Option<Role> {
        if caller.is_owner {
            return Some(Role::Admin);
        }
        Role::ALL.into_iter().rev().find(|role| {
            let mut entries = self.entries[*role as usize].iter();
            entries.any(|entry| entry.is_for(vm) && caller.is(&entry.who))
        })
    }

    /// Whether the caller may do to this VM what takes this role.
    ///
    /// # Errors
    /// It may not, and the same whether there is such a VM or not.
    pub fn check(
        &self,
        caller: &Caller,
        vm: &str,
        needed: Role,
        action: &str,
    ) -> Result<(), Failure> {
        let has = self.role(caller, vm);
        if has.is_some_and(|has| has >= needed) {
            return Ok(());
        }
        let (user, needed) = (&caller.user, needed.word());
        let has = has.map_or("no role", Role::word);
        let why = format!(
            "{user} has {has} for {vm:?}, and {action} takes {needed}: see node.conf on the host"
        );
        Err(Failure::new(Code::Permission, why))
    }
}

impl Entry {
    fn parse(text: &str) -> Result<Self, String> {
        let (who, vms) = match text.split_once(':') {
            Some((who, pattern)) => (who, Some(pattern)),
            None => (text, None),
        };
        if ["", "@"].contains(&who) || vms == Some("") {
            return Err(format!(
                "{text} is neither USER nor @GROUP, nor one with :PATTERN behind it; nobody has this role"
            ));
        }
        Ok(Self {
            who: who.to_owned(),
            vms: vms.map(str::to_owned),
        })
    }

    fn text(&self) -> String {
        match &self.vms {
            Some(pattern) => format!("{}:{pattern}", self.who),
            None => self.who.clone(),
        }
    }

    fn is_for(&self, vm: &str) -> bool {
        let pattern = self.vms.as_deref();
        pattern.is_none_or(|pattern| fast_glob::glob_match(pattern, vm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Databases = Databases {
        passwd: "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n",
        group: "ops:x:50:bob\nquantix:x:60:\nalice:x:1000:\n",
    };

    fn access(view: &str, operate: &str, admin: &str) -> Access {
        let mut access = Access::default();
        for (role, text) in Role::ALL.into_iter().zip([view, operate, admin]) {
            access.set(role, text).unwrap();
        }
        access
    }

    fn alice() -> Caller {
        Caller::other(1000, 1, vec![1000, 60], false, &KNOWN)
    }

    #[test]
    fn users_and_groups_count_by_name_and_by_number() {
        for (entry, counts) in [
            ("alice", true),
            ("1000", true),
            ("@quantix", true),
            ("@60", true),
            ("bob", false),
            ("@ops", false),
            ("@1001", false),
            // A group is no user, nor the other way round.
            ("quantix", false),
            ("60", false),
            ("@alice", true),
        ] {
            let role = access("", entry, "").role(&alice(), "web1");
            assert_eq!(role, counts.then_some(Role::Operate), "{entry}");
        }
        let bob = |listed| Caller::other(1001, 1, vec![1001], listed, &KNOWN);
        let ops = access("@ops", "", "");
        assert_eq!(ops.role(&bob(true), "a"), Some(Role::View));
        assert_eq!(ops.role(&bob(false), "a"), None);
    }

    #[test]
    fn the_highest_role_counts_and_only_for_its_vms() {
        let access = access("alice:db?", "alice:web*", "@quantix:web1 bob");
        let role = |vm| access.role(&alice(), vm);
        assert_eq!(role("web1"), Some(Role::Admin));
        assert_eq!(role("web2"), Some(Role::Operate));
        assert_eq!(role("db1"), Some(Role::View));
        assert_eq!(role("db10"), None);
        let check = |vm, needed| access.check(&alice(), vm, needed, "exec");
        assert_eq!(check("web2", Role::View), Ok(()));
        let why = check("web2", Role::Admin).unwrap_err().message;
        assert!(why.starts_with("alice has operate for \"web2\", and exec takes admin"));
        let why = check("db10", Role::View).unwrap_err().message;
        assert!(why.starts_with("alice has no role for \"db10\""));
    }

    #[test]
    fn whoever_is_not_named_may_nothing_and_the_owner_all() {
        let access = Access::default();
        let bob = Caller::other(1001, 1, vec![1001], true, &KNOWN);
        assert!(!access.knows(&bob) && access.knows(&alice()));
        assert_eq!(access.role(&bob, "web1"), None);
        let root = Caller::owner(0, 1, "root".to_owned());
        assert_eq!(access.role(&root, "web1"), Some(Role::Admin));
        assert!(!access.is_closed());
    }

    #[test]
    fn what_makes_no_sense_gives_nobody_anything() {
        let mut access = Access::default();
        for text in ["alice @", ":web*", "alice:", "bob @:x"] {
            assert!(access.set(Role::Operate, text).is_err(), "{text}");
            assert!(access.is_closed(), "{text}");
        }
        access.set(Role::View, " carol  @ops:a 1234 @99").unwrap();
        assert_eq!(access.text(Role::View), "carol @ops:a 1234 @99");
        assert_eq!(access.unknown(&KNOWN), ["carol"]);
        let nobody = Databases {
            passwd: "",
            group: "",
        };
        assert_eq!(Access::default().unknown(&nobody), Vec::<String>::new());
    }
}
