//! Files of `key = value`, where `#` begins a comment: the form of agent.conf and node.conf. Pure.

/// A line that sets something.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The first one has 1.
    pub number: usize,
    /// In front of the `=`.
    pub key: &'a str,
    /// Behind it.
    pub value: &'a str,
}

/// Has `set` set the key of each line of the text; What is wrong, a line each:
/// where it stands, what it is, and why.
pub fn parse(text: &str, mut set: impl FnMut(Line) -> Result<(), String>) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let set = match line.split_once('=') {
            Some((key, value)) => set(Line {
                number: number + 1,
                key: key.trim(),
                value: value.trim(),
            }),
            None => Err("is not of the form key = value".to_owned()),
        };
        if let Err(why) = set {
            faults.push(format!("line {}: {line}: {why}", number + 1));
        }
    }
    faults
}
