//! Files of `key = value`, where `#` begins a comment: the form of agent.conf and node.conf. Pure.

/// Has `set` set each key of the text. What is wrong, a line each: where it stands, what it is, and why.
pub fn parse(text: &str, mut set: impl FnMut(&str, &str) -> Result<(), String>) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let set = match line.split_once('=') {
            Some((key, value)) => set(key.trim(), value.trim()),
            None => Err("is not of the form key = value".to_owned()),
        };
        if let Err(why) = set {
            faults.push(format!("line {}: {line}: {why}", number + 1));
        }
    }
    faults
}
