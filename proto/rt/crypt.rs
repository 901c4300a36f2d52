//! Hashes of passwords as crypt(5) has them: SHA-512-crypt, `$6$`, which every system of these years
//! knows (Ulrich Drepper, "Unix crypt using SHA-256 and SHA-512").

use super::random;
use super::sha2::sha512;

/// The longest password that crypt(3) takes.
pub const MAX_PASSWORD: usize = 511;

/// The longest hash that crypt(3) knows (CRYPT_OUTPUT_SIZE).
const MAX_HASH: usize = 383;

/// What its numbers are written in, six bits a letter, the lowest first.
const LETTERS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

const ROUNDS: usize = 5000;

/// The hash of a password, with a salt that nobody had before.
pub fn hash(password: &[u8]) -> String {
    let salt = random::bytes::<16>().map(|byte| LETTERS[usize::from(byte & 63)]);
    hash_with(password, &salt)
}

fn hash_with(password: &[u8], salt: &[u8]) -> String {
    let length = password.len();
    let other = digest(&[password, salt, password]);
    let other_long = stretch(&other, length);
    let mut parts = vec![password, salt, &other_long[..]];
    let mut bits = length;
    while bits > 0 {
        parts.push(if bits & 1 == 1 { &other } else { password });
        bits >>= 1;
    }
    let mut now = digest(&parts);
    let p = stretch(&digest(&vec![password; length]), length);
    let times = 16 + usize::from(now[0]);
    let s = stretch(&digest(&vec![salt; times]), salt.len());
    for at in 0..ROUNDS {
        let is_odd = at % 2 == 1;
        let before = now;
        now = digest(&[
            if is_odd { &p } else { &before },
            if at % 3 > 0 { &s } else { b"" },
            if at % 7 > 0 { &p } else { b"" },
            if is_odd { &before } else { &p },
        ]);
    }

    let mut text = b"$6$".to_vec();
    text.extend_from_slice(salt);
    text.push(b'$');
    let mut at = [0, 21, 42];
    for turn in 0..22 {
        // The last byte stands alone.
        let (bytes, letters) = match turn {
            21 => ([0, 0, now[63]], 2),
            _ => (at.map(|at| now[at]), 4),
        };
        let [high, middle, low] = bytes.map(u32::from);
        let mut bits = high << 16 | middle << 8 | low;
        for _ in 0..letters {
            text.push(LETTERS[(bits & 63) as usize]);
            bits >>= 6;
        }
        at = [at[1] + 1, at[2] + 1, at[0] + 1];
    }
    String::from_utf8(text).unwrap_or_default()
}

fn digest(parts: &[&[u8]]) -> [u8; 64] {
    sha512(&parts.concat())
}

/// So many bytes of these, again and again.
fn stretch(bytes: &[u8; 64], length: usize) -> Vec<u8> {
    (0..length).map(|at| bytes[at % 64]).collect()
}

/// Whether this can be a hash. What is none would shut its user out, or be the password itself, for
/// everyone to read.
pub fn is_hash(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b":;*!\\".contains(&byte);
    if text.len() > MAX_HASH || !text.bytes().all(allowed) {
        return false;
    }
    let is_letters = |text: &str| text.bytes().all(|byte| LETTERS.contains(&byte));
    match text.strip_prefix('$') {
        // The kind, its numbers and its salt, and the hash, in as many parts as its kind has.
        Some(rest) => {
            let mut parts = rest.split('$');
            let has_kind = parts.next().is_some_and(|kind| !kind.is_empty());
            let hash = parts.next_back().unwrap_or_default();
            has_kind && parts.next().is_some() && hash.len() >= 16
        }
        // Those of old: bsdicrypt and descrypt.
        None => match text.strip_prefix('_') {
            Some(rest) => rest.len() == 19 && is_letters(rest),
            None => text.len() == 13 && is_letters(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_others() {
        // As `openssl passwd -6 -salt SALT PASSWORD` has them, and crypt(3).
        let known = [
            (
                "hunter2",
                "saltsalt",
                "8iYtNHxjWRl.NF6oNZ5tF.iKFlQREaXBLlSmZKP6dy9l5z3vsooWNW0/GZ6Nej73/TFug6pIPSqbJoCT6dfnj.",
            ),
            (
                "",
                "abc",
                "mJP3a6FyA8uCnzRtlnNypPwjnvpi5TP9qOrInzrfDmwxUQG38PkpCPdqfTb8JQfAngapMxeim4AZ..hSdRRzD.",
            ),
            (
                "a",
                "./09AZaz./09AZaz",
                "15KFnQSuYEnJbNe3sRjqc1Wu/YOmWlYhj3Utrtihs/DZ.YmDnBGybKbjB3N2TyjZeFFnJS/A8O1Jfy4Rb7b6E0",
            ),
            (
                "correct horse battery staple",
                "x",
                "JPZkRLGV6I4cNJqQuyxNeRiBAU88jeD8GIN3csjnRhyurQuY3p7Dp4zLbthPUYbpWXg0BxtkLWgI7.m8O3PXl.",
            ),
            (
                "paßwort é中",
                "0123456789abcdef",
                "j0iRkAFkbsRSkCmrYTrPNKx7wbanRXd91fS3Rbo5YFxV5zLQySjU8kEf6v4xWV6hHi/46rHgX06otqbm.7o1Y/",
            ),
            (
                "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
                "abcdefgh",
                "u9VN2BU6B65wsTsUo8IP9GExoKpkNgTKtr/PidgRqol5m5b.DocyEeTP/f1/frYLFKmnznAkFcn/oc59a8U89.",
            ),
        ];
        for (password, salt, hash) in known {
            assert_eq!(
                hash_with(password.as_bytes(), salt.as_bytes()),
                format!("$6${salt}${hash}")
            );
        }
        // Of more than a block, and of the most that is allowed.
        for (length, hash) in [
            (
                65,
                "$6$abcdefgh$Hhds84ML4R7Iwy7bg2DTX5Z29yvwYSx.yiKmntczOu6zBrgeT9u4jhAOJpOVjTBamnEs5DpdjE8ozKWPuelsm0",
            ),
            (
                200,
                "$6$abcdefgh$tpP3/LI4wMLKhgKp8bTwVQweEEM46u1QVpxJ4s7//kd/n92pnKvxNc51RM.csWa9OlZn10Z4pRopwomQmhBXx1",
            ),
            (
                511,
                "$6$abcdefgh$DqQZnrHJnd1RbXtYVSOYoxD0oq2WszT9.eJms/MKvy9FpSTkzCZ76oIy2T1qtVLydP7hjGpZ6a0FeZ3qGmMON/",
            ),
        ] {
            let password = vec![b'x'; length];
            assert_eq!(hash_with(&password, b"abcdefgh"), hash, "{length}");
        }
    }

    #[test]
    fn no_two_are_the_same() {
        let (one, two) = (hash(b"same"), hash(b"same"));
        assert_ne!(one, two);
        assert_eq!((one.len(), two.len()), (106, 106));
        assert!(is_hash(&one));
    }

    #[test]
    fn what_is_no_hash_is_told_from_one() {
        for hash in [
            "$1$abcdefgh$irWbblnpmw.5z7wgBnprh0",
            "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc8",
            "$2b$05$abcdefghijklmnopqrstuuo5Ad6R3bDXTBtn5Xp5yV6vVXbNv5tUe",
            "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7",
            "$3$$8846f7eaee8fb117ad06bdd830b7586c",
            "_J9..K0AyUubRjaEHQZc",
            "rbSrUTxU7pLBM",
        ] {
            assert!(is_hash(hash), "{hash}");
        }
        for text in [
            "",
            "hunter2",
            "a secret of many words",
            "$6$salt",
            "$6$salt$",
            "$6$salt$short",
            "$$$aaaaaaaaaaaaaaaaaaaaaaaa",
            "!$6$abcdefgh$aaaaaaaaaaaaaaaaaaaaaaaa",
            "$6$abc:efgh$aaaaaaaaaaaaaaaaaaaaaaaa",
            "$6$abcdefgh$aaaaaaaaaaaa\naaaaaaaaaaaa",
            "$6$abcdefgh$aaaaaaaaaaaa\0aaaaaaaaaaaa",
            "rbSrUTxU7pLB!",
        ] {
            assert!(!is_hash(text), "{text}");
        }
        assert!(!is_hash(&format!("$6$a${}", "a".repeat(MAX_HASH))));
    }
}
