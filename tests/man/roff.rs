//! What manual pages are written in: roff(7) with the macros of man(7). A page is made of words as they are; all that
//! roff would take for its own is escaped here, and nowhere else.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A page as it grows.
pub struct Page {
    text: String,
}

impl Page {
    /// A page with its name, section and one line about it.
    pub fn new(name: &str, section: u8, about: &str) -> Self {
        let title = escape(&name.to_uppercase());
        let (version, name) = (env!("CARGO_PKG_VERSION"), escape(name));
        let mut text = String::from(
            ".\\\" Made from the program's own tables: QX_BLESS=1 cargo test --bins man:: writes it anew.\n",
        );
        // No date: the version says how old it is.
        let _ = writeln!(
            text,
            ".TH \"{title}\" {section} \"\" \"Quantix {version}\" \"Quantix guest channel for KVM\""
        );
        let _ = writeln!(text, ".SH NAME\n{name} \\- {}", escape(about));
        Self { text }
    }

    pub fn section(&mut self, title: &str) {
        let _ = writeln!(self.text, ".SH {}", quoted(title));
    }

    pub fn subsection(&mut self, title: &str) {
        let _ = writeln!(self.text, ".SS {}", quoted(title));
    }

    /// A paragraph; what is in backquotes is bold.
    pub fn paragraph(&mut self, words: &str) {
        self.begin();
        self.words(words);
    }

    /// A paragraph begins; behind a heading it does so by itself.
    fn begin(&mut self) {
        let last = self.text.lines().last().unwrap_or_default();
        if !last.starts_with(".S") {
            self.text += ".PP\n";
        }
    }

    /// What is said of something, below it. `tag` is ready to be written: see [`bold`], [`usage`], [`words`].
    pub fn item(&mut self, tag: &str, about: &str) {
        let _ = writeln!(self.text, ".TP\n{}", guarded(tag));
        self.words(about);
    }

    /// A further paragraph of the item before.
    pub fn more(&mut self, about: &str) {
        self.text += ".IP\n";
        self.words(about);
    }

    /// A line of its own, as it is typed.
    pub fn example(&mut self, about: &str, lines: &str) {
        self.paragraph(about);
        self.text += ".PP\n.RS 4\n.EX\n";
        for line in lines.lines() {
            let _ = writeln!(self.text, "{}", guarded(&escape(line)));
        }
        self.text += ".EE\n.RE\n";
    }

    /// One of the ways in which a program is called.
    pub fn synopsis(&mut self, line: &str) {
        let is_first = self.text.ends_with(".SH SYNOPSIS\n");
        let before = if is_first { "" } else { ".br\n" };
        let _ = writeln!(self.text, "{before}{}", guarded(line));
    }

    /// What follows stands further in, up to [`out`](Self::out).
    pub fn inward(&mut self) {
        self.text += ".RS\n";
    }

    pub fn out(&mut self) {
        self.text += ".RE\n";
    }

    /// Each sentence begins a line, as roff wants it: it knows how far sentences are apart.
    fn words(&mut self, text: &str) {
        for sentence in sentences(text) {
            for line in folded(&words(sentence)) {
                let _ = writeln!(self.text, "{}", guarded(&line));
            }
        }
    }

    /// Compares it with the page in `docs/man`, which is written anew first where that is asked for.
    pub fn assert_stored(&self, file: &str) {
        self.assert_sound();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man");
        let path: PathBuf = path.join(file);
        if std::env::var_os("QX_BLESS").is_some() {
            std::fs::write(&path, &self.text).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        let mut lines = stored.lines().zip(self.text.lines());
        let at = lines.position(|(a, b)| a != b).map(|at| at + 1);
        assert!(
            stored == self.text,
            "{} is not what the tables say, first at line {at:?}; QX_BLESS=1 writes it anew",
            path.display()
        );
    }

    /// mandoc(1) has nothing to say of it.
    fn assert_sound(&self) {
        let mut mandoc = Command::new("mandoc");
        mandoc
            .args(["-T", "lint"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut mandoc = mandoc.spawn().unwrap();
        mandoc
            .stdin
            .take()
            .unwrap()
            .write_all(self.text.as_bytes())
            .unwrap();
        let said = mandoc.wait_with_output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        // There is none: see `new`. That it is said shows that the page was read.
        let (date, faults): (Vec<&str>, Vec<&str>) =
            said.lines().partition(|line| line.contains("missing date"));
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        assert_eq!(date.len(), 1);
    }
}

/// Keys of a file of `key = value` whose comments say what they are, as both of ours are.
pub struct Key {
    pub name: String,
    pub default: String,
    pub about: String,
}

/// What stands at the top of such a file, and its keys, each of which is commented out behind its comment.
pub fn keys(text: &str) -> (String, Vec<Key>) {
    let mut head = String::new();
    let mut keys = Vec::new();
    for (at, block) in text.trim_end().split("\n\n").enumerate() {
        let mut about = Vec::new();
        for line in block.lines() {
            match (line.strip_prefix("# "), line.strip_prefix('#')) {
                (Some(comment), _) => about.push(comment),
                (None, Some(set)) => {
                    let (name, default) = set.split_once('=').unwrap();
                    keys.push(Key {
                        name: name.trim().to_owned(),
                        default: default.trim().to_owned(),
                        about: about.join(" "),
                    });
                }
                (None, None) => panic!("neither a comment nor a key: {line}"),
            }
        }
        if at == 0 {
            head = about.join(" ");
        }
    }
    (head, keys)
}

/// The page of such a file.
pub fn conf_page(name: &str, about: &str, path: &str, text: &str, see_also: &str) -> Page {
    let (head, keys) = keys(text);
    let mut page = Page::new(name, 5, about);
    page.section("SYNOPSIS");
    page.synopsis(&italic(path));
    page.section("DESCRIPTION");
    let here = "what is commented out below is the default";
    assert!(head.contains(here), "{head}");
    page.paragraph(&head.replace(here, "each key has a default"));
    page.paragraph(
        "Each line is of the form `key = value`. `#` begins a comment, which reaches to the end of its line.",
    );
    page.section("KEYS");
    for key in keys {
        let default = match &*key.default {
            "" => "Default: none.".to_owned(),
            default => format!("Default: `{default}`."),
        };
        page.item(&bold(&key.name), &format!("{} {default}", key.about));
    }
    page.section("FILES");
    page.item(&italic(path), "This file.");
    page.section("SEE ALSO");
    page.paragraph(see_also);
    page
}

/// Words that mean what they say: what roff would take for its own is escaped.
pub fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped += "\\e",
            '-' => escaped += "\\-",
            '\'' => escaped += "\\(aq",
            '`' => escaped += "\\(ga",
            '^' => escaped += "\\(ha",
            '~' => escaped += "\\(ti",
            '"' => escaped += "\\(dq",
            c if c.is_ascii() => escaped.push(c),
            c => {
                let _ = write!(escaped, "\\[u{:04X}]", u32::from(c));
            }
        }
    }
    escaped
}

/// A line that roff does not take for a request.
fn guarded(line: &str) -> String {
    match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    }
}

fn quoted(text: &str) -> String {
    match text.contains(' ') {
        true => format!("\"{}\"", escape(text)),
        false => escape(text),
    }
}

/// In lines that are no longer than people like to read.
fn folded(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

const WIDTH: usize = 78;

pub fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escape(text))
}

pub fn italic(text: &str) -> String {
    format!("\\fI{}\\fR", escape(text))
}

/// Prose: bold where it is in backquotes, as what is typed is, and placeholders in there are italic. So are pages that
/// are referred to, but for their section.
pub fn words(text: &str) -> String {
    let mut out = String::new();
    for (at, part) in text.split('`').enumerate() {
        match at % 2 {
            0 => {
                let mut first = true;
                for word in part.split(' ') {
                    if !std::mem::take(&mut first) {
                        out.push(' ');
                    }
                    out += &reference(word);
                }
            }
            _ => out += &usage(part),
        }
    }
    out
}

/// `name(8)`, bold but for the section.
fn reference(word: &str) -> String {
    let found = word.split_once('(').filter(|(name, behind)| {
        let mut behind = behind.chars();
        let has_section =
            behind.next().is_some_and(|c| c.is_ascii_digit()) && behind.next() == Some(')');
        has_section && !name.is_empty()
    });
    match found {
        Some((name, behind)) => format!("{}({}", bold(name), escape(behind)),
        None => escape(word),
    }
}

/// What is typed: placeholders, which are in capitals, are italic, words bold, brackets and the like neither.
pub fn usage(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars() {
        if c.is_whitespace() || "[]|".contains(c) {
            out += &styled(&std::mem::take(&mut word));
            out += &escape(&c.to_string());
        } else {
            word.push(c);
        }
    }
    out + &styled(&word)
}

fn styled(word: &str) -> String {
    let (word, dots) = match word.strip_suffix("...") {
        Some(word) => (word, "..."),
        None => (word, ""),
    };
    // `--option=VALUE`, `NAME:/path`
    let at = word.find(['=', ':']).map_or(word.len(), |at| at + 1);
    let (left, right) = word.split_at(at);
    let one = |part: &str| match part {
        "" => String::new(),
        part if is_placeholder(part) => italic(part),
        part => bold(part),
    };
    one(left) + &one(right) + dots
}

fn is_placeholder(word: &str) -> bool {
    let is_one = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "_:=,.".contains(c);
    word.starts_with(|c: char| c.is_ascii_uppercase()) && word.chars().all(is_one)
}

/// A sentence ends with a full stop in front of a capital or a backquote.
fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    let mut from = 0;
    while let Some(at) = rest[from..].find(". ").map(|at| from + at + 1) {
        let next = rest[at + 1..].chars().next();
        match next.is_some_and(|c| c.is_uppercase() || c == '`') {
            true => {
                found.push(&rest[..at]);
                rest = &rest[at + 1..];
                from = 0;
            }
            false => from = at,
        }
    }
    found.push(rest);
    found
}

#[test]
fn what_roff_would_take_for_its_own_is_escaped() {
    assert_eq!(
        escape(r#"a-b \ "c" 'd' ~^`é"#),
        r#"a\-b \e \(dqc\(dq \(aqd\(aq \(ti\(ha\(ga\[u00E9]"#
    );
    assert_eq!(guarded(".TH"), "\\&.TH");
    let mut page = Page::new("a-b", 8, "c-d");
    page.paragraph(".so x. 'tis y. And `-z`");
    assert!(
        page.text
            .ends_with(".PP\n\\&.so x. \\(aqtis y.\nAnd \\fB\\-z\\fR\n"),
        "{}",
        page.text
    );
    assert!(page.text.contains("\n.SH NAME\na\\-b \\- c\\-d\n"));
}

#[test]
fn placeholders_are_italic_and_words_bold() {
    assert_eq!(
        usage("VM [set IFACE | x]"),
        "\\fIVM\\fR [\\fBset\\fR \\fIIFACE\\fR | \\fBx\\fR]"
    );
    assert_eq!(
        usage("SOURCE... --all:/PATH"),
        "\\fISOURCE\\fR... \\fB\\-\\-all:\\fR\\fB/PATH\\fR"
    );
    assert_eq!(
        words("see crypt(5), `VM` (or not)."),
        "see \\fBcrypt\\fR(5), \\fIVM\\fR (or not)."
    );
}
