//! Text that cannot drive a terminal.
//!
//! Much of what relsync prints was written by others: by a target, in a store, as a file's name, by a
//! compiler. [`Output`](crate::output::Output) is the only way to the terminal, and it spells out
//! here what a terminal would obey instead of show:
//!
//! - control characters, so that nothing moves the cursor or sets the window's title;
//! - line feeds, so that nothing looks like another line of relsync;
//! - characters that change the order of what is shown, or that are shown as nothing.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns one line of text, with everything that a terminal would obey spelled out. A tab stays.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(drives) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        let code = u32::from(character);
        let _infallible = match character {
            '\n' => shown.write_str("\\n"),
            _ if !drives(character) => shown.write_char(character),
            _ if code < 0x100 => write!(shown, "\\x{code:02x}"),
            _ => write!(shown, "\\u{{{code:x}}}"),
        };
    }
    Cow::Owned(shown)
}

/// Returns one JSON text, with the characters of [`printable`] as escapes of JSON. A program that
/// parses it gets them as they were.
pub(crate) fn printable_json(json: String) -> String {
    // Control characters below U+0020 are escaped already, and none stands between values.
    if !json.chars().any(drives) {
        return json;
    }
    let mut shown = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if drives(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _infallible = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Whether a terminal would obey a character, or show it as nothing.
fn drives(character: char) -> bool {
    match character {
        '\t' => false,
        // Marks and embeddings of bidirectional text, and its isolates.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            true
        }
        // Separators of lines and paragraphs.
        '\u{2028}' | '\u{2029}' => true,
        // Invisible operators, the byte order mark, annotations and tags.
        '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => true,
        _ => character.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_drives_a_terminal_is_spelled_out() {
        #[rustfmt::skip]
        let table = [
            ("plain ä 名 😀", "plain ä 名 😀"),
            ("a\tb", "a\tb"),
            ("a\x1b[0m\u{9b}b\x7f", "a\\x1b[0m\\x9bb\\x7f"),
            ("ok\nerror: forged\r", "ok\\nerror: forged\\x0d"),
            ("\u{202e}gpj.exe\u{2069}", "\\u{202e}gpj.exe\\u{2069}"),
            ("\u{61c}\u{200e}\u{200f}\u{feff}", "\\u{61c}\\u{200e}\\u{200f}\\u{feff}"),
            ("\u{2028}\u{e0041}", "\\u{2028}\\u{e0041}"),
        ];
        for (text, shown) in table {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn json_keeps_its_values() {
        let value = json!({"text": "\x1b\u{9b}\x7f\u{202e}\u{2066}\u{e0041}\tä\n"});
        let shown = printable_json(value.to_string());
        assert!(!shown.chars().any(drives), "{shown}");
        let parsed: Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(parsed, value);
    }
}
