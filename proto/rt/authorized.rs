//! Lines of authorized_keys, as sshd(8) reads them: `[options] type base64 [comment]`.

/// The longest line that is added, and the longest file that is read.
pub const MAX_LINE: usize = 8 * 1024;
/// See [`MAX_LINE`].
pub const MAX_FILE: usize = 1024 * 1024;

/// A line that is a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key<'a> {
    /// What it may be used for; empty: everything.
    pub options: &'a [u8],
    /// As `ssh-ed25519`.
    pub kind: &'a [u8],
    /// The key itself.
    pub blob: Vec<u8>,
    /// Of its owner.
    pub comment: &'a [u8],
}

impl<'a> Key<'a> {
    /// The key of a line, however long and with whatever in its comment: sshd takes it too. Any kind is known whose data begin with its own name, as all do (RFC 4253), and end
    /// where their parts say.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.trim_ascii();
        if is_comment(line) {
            return None;
        }
        Self::plain(line).or_else(|| {
            let (options, rest) = split_options(line);
            let key = Self::plain(rest)?;
            Some(Self { options, ..key })
        })
    }

    /// Without options.
    fn plain(line: &'a [u8]) -> Option<Self> {
        let (kind, rest) = word(line);
        let (text, comment) = word(rest);
        let blob = decode(text)?;
        is_of_kind(&blob, kind).then_some(Self {
            options: &[],
            kind,
            blob,
            comment,
        })
    }
}

/// A line that may be added: none that a terminal or an editor would stumble over.
pub fn is_clean(line: &[u8]) -> bool {
    let is_odd = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    line.len() <= MAX_LINE && !line.iter().any(is_odd)
}

/// The line has nothing in it that sshd looks at.
pub fn is_comment(line: &[u8]) -> bool {
    matches!(line.trim_ascii().first(), None | Some(b'#'))
}

/// The first word, and what stands behind it.
fn word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t'));
    let (word, rest) = line.split_at(end.unwrap_or(line.len()));
    (word, rest.trim_ascii_start())
}

/// As [`word`], where blanks between quotation marks do not count.
fn split_options(line: &[u8]) -> (&[u8], &[u8]) {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let end = line.iter().position(|byte| {
        let was_escaped = std::mem::replace(&mut is_escaped, *byte == b'\\');
        match byte {
            b'"' if !was_escaped => is_quoted = !is_quoted,
            b' ' | b'\t' => return !is_quoted,
            _ => {}
        }
        false
    });
    let (options, rest) = line.split_at(end.unwrap_or(line.len()));
    (options, rest.trim_ascii_start())
}

/// The key's data are parts, each with its length in front. The first is the kind.
fn is_of_kind(blob: &[u8], kind: &[u8]) -> bool {
    let Some((first, mut rest)) = part(blob) else {
        return false;
    };
    if first != kind || first.is_empty() || rest.is_empty() {
        return false;
    }
    // A certificate has numbers between its parts.
    if kind.ends_with(b"-cert-v01@openssh.com") {
        return true;
    }
    while let Some((_, behind)) = part(rest) {
        rest = behind;
    }
    rest.is_empty()
}

fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// The bytes of base64 (RFC 4648).
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if text.is_empty() || !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in &text[..text.len() - padding] {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xFF) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqb7a7ED5lJq0oHvXUdc0e6sQ0C1Xq0eC3sY8m6mI5d";

    #[test]
    fn keys_have_options_and_comments() {
        let key = |line: &str| {
            let found = Key::parse(line.as_bytes())?;
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            Some((
                text(found.options),
                text(found.kind),
                found.blob.len(),
                text(found.comment),
            ))
        };
        let found = |options: &str, comment: &str| {
            Some((options.into(), "ssh-ed25519".into(), 51, comment.into()))
        };
        assert_eq!(key(ED25519), found("", ""));
        assert_eq!(key(&format!("  {ED25519}\t a b ")), found("", "a b"));
        let options = r#"from="10.0.0.1",command="echo \" ssh-rsa \"",no-pty"#;
        assert_eq!(key(&format!("{options} {ED25519} x")), found(options, "x"));
        // One that ends nowhere swallows the key, for sshd too.
        assert_eq!(key(&format!("command=\"x {ED25519}")), None);
    }

    #[test]
    fn what_is_no_key_is_told_from_one() {
        let cut = &ED25519[..ED25519.len() - 4];
        let comment = format!("# {ED25519}");
        let other = ED25519.replace("ssh-ed25519", "ssh-rsa");
        for odd in ["a\0b", "a\x1b", "a\rb", &"x".repeat(MAX_LINE)] {
            let line = format!("{ED25519} {odd}");
            assert!(Key::parse(line.as_bytes()).is_some(), "{line}");
            assert!(!is_clean(line.as_bytes()), "{line}");
        }
        assert!(is_clean(ED25519.as_bytes()));
        for line in [
            "",
            "# comment",
            "ssh-ed25519",
            "ssh-ed25519 ",
            "ssh-ed25519 AAAA",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
            "root:$6$abc$def:19000:0:99999:7:::",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            cut,
            &comment,
            &other,
        ] {
            assert_eq!(Key::parse(line.as_bytes()), None, "{line}");
        }
        assert!(is_comment(b"  # x") && is_comment(b" \r\n") && !is_comment(b"x"));
    }

    #[test]
    fn base64_is_read_to_its_last_bit() {
        let decoded = |text: &str| decode(text.as_bytes());
        assert_eq!(decoded("Zm9vYmFy").unwrap(), b"foobar");
        assert_eq!(decoded("Zm9vYmE=").unwrap(), b"fooba");
        assert_eq!(decoded("Zm9vYg==").unwrap(), b"foob");
        for bad in ["", "Zm9vYg", "Zm9v=g==", "Z===", "Zm9-"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
