//! What the sources must keep to, read from the sources: sizes, where what may be used, and what
//! must never be in them.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file without its tests. Past this it is two files.
const CEILING: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A source file: its path below the root, and its text without its tests.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn code(&self) -> &str {
        match self.text.find("#[cfg(test)]\nmod tests") {
            Some(at) => &self.text[..at],
            None => &self.text,
        }
    }

    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with('.') && name != ".cargo" && name != ".ci";
        let path = entry.path();
        if hidden || name == "target" || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn below_root(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["proto", "agent", "host", "tests"] {
        walk(&root().join(folder), &mut found);
    }
    found.push(root().join("build.rs"));
    found.retain(|path| path.extension().is_some_and(|e| e == "rs"));
    assert!(found.len() > 40, "the sources are not here");
    let read = |path: PathBuf| Source {
        path: below_root(&path),
        text: fs::read_to_string(&path).unwrap(),
    };
    found.into_iter().map(read).collect()
}

/// Lines with a number, without comments: what the compiler sees, nearly.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = |line: &str| !line.trim_start().starts_with("//");
    (1..).zip(text.lines()).filter(move |(_, line)| code(line))
}

fn assert_none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n{}", faults.join("\n"));
}

#[test]
fn no_file_is_longer_than_its_ceiling() {
    let mut faults = Vec::new();
    for source in sources() {
        let count = source.code().lines().count();
        if count > CEILING && !source.is_in("tests/") {
            faults.push(format!("{}: {count} lines without tests", source.path));
        }
    }
    assert_none("past this a file is two files", &faults);
}

#[test]
fn the_core_knows_no_operating_system() {
    let banned = [
        "std::fs",
        "std::net",
        "std::os",
        "std::process",
        "std::thread",
        "std::env",
        "Instant",
        "SystemTime",
        "mio::",
        "libc::",
        "signal_hook",
        "syslog",
        "getrandom",
        "println!",
        "eprintln!",
        "dbg!",
    ];
    let mut faults = Vec::new();
    for source in sources() {
        if !source.is_in("proto/") || source.is_in("proto/rt/") {
            continue;
        }
        for (number, line) in lines(source.code()) {
            let found = banned.iter().find(|word| line.contains(**word));
            // What cargo sets for the build is no environment of the program.
            if let Some(word) = found.filter(|_| !line.contains("env!(")) {
                faults.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    assert_none("only proto/rt/ may", &faults);
}

#[test]
fn unsafe_is_in_one_folder_and_each_says_why_it_is_sound() {
    let mut faults = Vec::new();
    for source in sources() {
        let text: Vec<&str> = source.text.lines().collect();
        for (number, line) in lines(&source.text) {
            let word = |w: &&str| *w == "unsafe";
            let cut = line.split("//").next().unwrap_or_default();
            if cut.contains('"')
                || !cut
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .any(|w| word(&w))
            {
                continue;
            }
            if !source.is_in("proto/rt/sys/") {
                faults.push(format!("{}:{number}: not in proto/rt/sys/", source.path));
            }
            // The note stands above the statement, which may have begun some lines before.
            let above = &text[number.saturating_sub(8)..number - 1];
            let note = |line: &str| {
                let line = line.trim_start();
                line.starts_with("// SAFETY: ") || line == "/// # Safety"
            };
            if !above.iter().any(|line| note(line)) {
                faults.push(format!("{}:{number}: no SAFETY note", source.path));
            }
        }
    }
    assert_none("unsafe", &faults);
    for main in ["agent/main.rs", "host/main.rs"] {
        let text = fs::read_to_string(root().join(main)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{main}");
    }
}

#[test]
fn programs_never_panic_on_purpose() {
    let mut faults = Vec::new();
    for source in sources() {
        let is_test = source.is_in("tests/") || source.path.ends_with("/tests.rs");
        if is_test || source.path == "build.rs" {
            continue;
        }
        for (number, line) in lines(source.code()) {
            let words = [
                ".unwrap()",
                ".expect(",
                "panic!(",
                "todo!(",
                "unimplemented!(",
                "unreachable!(",
            ];
            // A kernel without random numbers cannot be served safely.
            let argued = source.path == "proto/rt/random.rs" && line.contains("panic!(");
            if let Some(word) = words.iter().find(|word| !argued && line.contains(**word)) {
                faults.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    assert_none("a guest or a client could end the program", &faults);
}

#[test]
fn every_file_says_what_it_is() {
    let tests = |path: &str| path.starts_with("tests/") && path.matches('/').count() > 1;
    let faults: Vec<String> = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! ") && !tests(&source.path))
        .map(|source| source.path)
        .collect();
    assert_none("no //! at the top", &faults);
}

/// All text files of the repository that git would take.
fn texts() -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(root(), &mut found);
    let text = |path: PathBuf| Some((below_root(&path), fs::read_to_string(&path).ok()?));
    found.into_iter().filter_map(text).collect()
}

#[test]
fn no_file_names_the_machine_that_it_was_written_on() {
    // In two halves, so that this file does not name them either.
    let banned = [
        concat!("/wo", "rk/"),
        concat!("../sha", "red"),
        concat!("/home/", "user"),
        concat!("/Us", "ers/"),
    ];
    let mut faults = Vec::new();
    for (path, text) in texts() {
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(word) = banned.iter().find(|word| line.contains(**word)) {
                faults.push(format!("{path}:{number}: {word}"));
            }
        }
    }
    assert_none("a path of one machine", &faults);
}

/// A promise that nothing holds is none.
#[test]
fn what_is_promised_is_held_by_a_test_that_is_there() {
    let promises = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let rows = promises.lines().filter(|line| line.starts_with('|'));
    let is_name = |word: &&str| {
        word.contains('_')
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c))
    };
    let named: Vec<&str> = rows
        .flat_map(|row| row.split('`'))
        .filter(is_name)
        .collect();
    assert!(named.len() > 20, "{named:?}");
    let all: String = sources().into_iter().map(|source| source.text).collect();
    let missing: Vec<String> = named
        .into_iter()
        .filter(|name| !all.contains(&format!("fn {name}() {{")))
        .map(str::to_owned)
        .collect();
    assert_none("tests that are not there", &missing);
}

#[test]
fn an_ignored_test_names_its_issue() {
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in lines(&source.text) {
            if line.trim_start().starts_with("#[ignore") && !line.contains("= \"issue ") {
                faults.push(format!("{}:{number}: {line}", source.path));
            }
        }
    }
    assert_none("ignored without a reason", &faults);
}
