//! Names of services, which become arguments of other programs: systemctl(1), rc-service(8), journalctl(1).

/// Longer ones are none: systemd's bound on a unit's name (UNIT_NAME_MAX).
const LONGEST: usize = 256;

/// What a name has to be, for people.
pub const RULE: &str =
    "a service's name has 1 to 256 letters, digits and any of :-_.@\\+, and no - in front";

/// No option, no path, no pattern (systemctl takes `*`, `?` and `[`), and nothing for a shell.
pub fn is_name(name: &str) -> bool {
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || b":-_.@\\+".contains(&b);
    (1..=LONGEST).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(is_fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_more_than_a_name_is_none() {
        let long = "a".repeat(256);
        for good in [
            "sshd",
            "getty@tty1.service",
            "systemd-fsck@dev-disk-by\\x2duuid-1.service",
            "net.eth0",
            &long,
        ] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(257);
        for bad in [
            "",
            "-H",
            "--root=/tmp",
            "../x",
            "/etc/passwd",
            "a b",
            "a;b",
            "a*",
            "a?",
            "[a]",
            "a\n",
            "$(x)",
            "`x`",
            "a'",
            "\u{e4}",
            "a\0",
            &long,
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
