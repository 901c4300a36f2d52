//! Words of others, for people: cut, and without what a terminal acts on or nobody sees. Pure.

use std::fmt::Write as _;

/// A character that is no part of a word: a terminal may act on it (Cc), or it changes how others are shown without
/// being seen itself (Cf of Unicode 15, and the separators of lines and paragraphs): text that runs the other way hides
/// what it is.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
            | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}'..='\u{e007f}')
}

/// Appends a character; a hidden one as `\x1b` or `\u{202e}`.
pub fn push_plain(text: &mut String, c: char) {
    let _ = match u32::from(c) {
        code @ ..=0xFF if is_hidden(c) => write!(text, "\\x{code:02x}"),
        code if is_hidden(c) => write!(text, "\\u{{{code:x}}}"),
        _ => text.write_char(c),
    };
}

/// Without hidden characters, so that none reaches a terminal: at most four times as many bytes.
pub fn plain(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    value.chars().for_each(|c| push_plain(&mut text, c));
    text
}

/// The beginning of a text, at most so many bytes of it.
pub fn cut(text: &str, bytes: usize) -> &str {
    let ends = (0..=bytes.min(text.len())).rev();
    let end = ends.into_iter().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_shown_and_words_stay_as_they_are() {
        let words = "caf\u{e9} \u{4e2d}\u{6587} \u{1f980} \u{645}\u{631}";
        assert_eq!(plain(words), words);
        let hidden = "a\x1b[2J\u{9b}\u{ad}\u{202e}gnp.exe\u{200b}\u{feff}\u{e0041}";
        let shown = "a\\x1b[2J\\x9b\\xad\\u{202e}gnp.exe\\u{200b}\\u{feff}\\u{e0041}";
        assert_eq!(plain(hidden), shown);
        for c in (0..=0x0010_FFFF).filter_map(char::from_u32) {
            assert!(plain(&c.to_string()).len() <= 4 * c.len_utf8(), "{c:?}");
        }
    }

    #[test]
    fn a_cut_is_no_longer_and_ends_with_a_character() {
        assert_eq!(cut("a\u{e9}b", 2), "a");
        assert_eq!(cut("a\u{e9}b", 3), "a\u{e9}");
        assert_eq!(cut("ab", 9), "ab");
    }
}
