//! Rendering of exit reasons as Erlang would print them, shortened for people.

use eetf::Map;

use super::term::Term;

/// The maximum size of a rendered reason in bytes.
const MAX_TEXT: usize = 800;

/// The number of bytes shown of a binary that is not text.
const MAX_NUMBERS: usize = 16;

/// Renders a term like `~0tp`, cut at [`MAX_TEXT`].
pub(super) fn render(term: &Term) -> String {
    let mut text = Text { out: String::new() };
    if !text.term(term) {
        text.out.push('\u{2026}');
    }
    text.out
}

/// The text written so far. Every method returns whether there is room for more.
struct Text {
    out: String,
}

impl Text {
    fn push(&mut self, text: &str) -> bool {
        let room = MAX_TEXT.saturating_sub(self.out.len());
        if text.len() <= room {
            self.out.push_str(text);
            return true;
        }
        let cut = (0..=room)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        self.out.push_str(&text[..cut]);
        false
    }

    fn term(&mut self, term: &Term) -> bool {
        match term {
            Term::FixInteger(number) => self.push(&number.value.to_string()),
            Term::BigInteger(number) => match i64::try_from(&number.value) {
                Ok(value) => self.push(&value.to_string()),
                Err(_) => self.push("#Bignum"),
            },
            Term::Float(number) => self.push(&format!("{:?}", number.value)),
            Term::Atom(atom) => self.atom(&atom.name),
            Term::Binary(binary) => self.binary(&binary.bytes),
            Term::ByteList(string) => self.string(&string.bytes),
            Term::List(list) => self.push("[") && self.items(&list.elements) && self.push("]"),
            Term::ImproperList(list) => {
                self.push("[")
                    && self.items(&list.elements)
                    && self.push("|")
                    && self.term(&list.last)
                    && self.push("]")
            }
            Term::Tuple(tuple) => self.push("{") && self.items(&tuple.elements) && self.push("}"),
            Term::Map(map) => self.push("#{") && self.pairs(map) && self.push("}"),
            Term::Pid(pid) => {
                self.push("<")
                    && self.escaped(&pid.node.name)
                    && self.push(&format!(".{}.{}>", pid.id, pid.serial))
            }
            Term::Reference(reference) => {
                self.push("#Ref<") && self.escaped(&reference.node.name) && self.push(">")
            }
            Term::Port(_) => self.push("#port"),
            Term::BitBinary(_) => self.push("#bitstring"),
            Term::ExternalFun(_) | Term::InternalFun(_) => self.push("#fun"),
        }
    }

    fn items(&mut self, items: &[Term]) -> bool {
        items
            .iter()
            .enumerate()
            .all(|(index, item)| (index == 0 || self.push(",")) && self.term(item))
    }

    /// Writes the pairs in the order of the keys' texts, because `eetf` keeps no order.
    fn pairs(&mut self, map: &Map) -> bool {
        let mut pairs: Vec<(String, &Term)> = map
            .map
            .iter()
            .map(|(key, value)| (render(key), value))
            .collect();
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pairs.iter().enumerate().all(|(index, (key, value))| {
            (index == 0 || self.push(","))
                && self.push(key)
                && self.push(" => ")
                && self.term(value)
        })
    }

    fn atom(&mut self, name: &str) -> bool {
        let plain = name.starts_with(|c: char| c.is_lowercase())
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || c == '_' || c == '@');
        if plain {
            self.push(name)
        } else {
            self.quoted('\'', name)
        }
    }

    fn binary(&mut self, bytes: &[u8]) -> bool {
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.chars().any(is_unprintable) => {
                self.push("<<") && self.quoted('"', text) && self.push(">>")
            }
            _ => self.push("<<") && self.numbers(bytes) && self.push(">>"),
        }
    }

    fn string(&mut self, bytes: &[u8]) -> bool {
        if bytes.iter().any(|byte| is_unprintable(char::from(*byte))) {
            return self.push("[") && self.numbers(bytes) && self.push("]");
        }
        let shown: String = bytes
            .iter()
            .take(MAX_TEXT + 1)
            .map(|byte| char::from(*byte))
            .collect();
        self.quoted('"', &shown)
    }

    /// Writes the first bytes as numbers. Bytes that are not text tell people little.
    fn numbers(&mut self, bytes: &[u8]) -> bool {
        let shown = &bytes[..bytes.len().min(MAX_NUMBERS)];
        shown
            .iter()
            .enumerate()
            .all(|(index, byte)| (index == 0 || self.push(",")) && self.push(&byte.to_string()))
            && (shown.len() == bytes.len() || self.push(",\u{2026}"))
    }

    fn quoted(&mut self, quote: char, text: &str) -> bool {
        let mut buffer = [0; 4];
        let quote_text = &*quote.encode_utf8(&mut buffer);
        self.push(quote_text)
            && text.chars().all(|c| match c {
                c if c == quote || c == '\\' => {
                    self.push("\\") && self.push(c.encode_utf8(&mut [0; 4]))
                }
                c => self.character(c),
            })
            && self.push(quote_text)
    }

    fn escaped(&mut self, text: &str) -> bool {
        text.chars().all(|c| self.character(c))
    }

    /// Writes control characters as escapes, because the text ends up on a terminal.
    fn character(&mut self, c: char) -> bool {
        match c {
            '\n' => self.push("\\n"),
            '\t' => self.push("\\t"),
            c if c.is_control() => self.push(&format!("\\x{{{:X}}}", u32::from(c))),
            c => self.push(c.encode_utf8(&mut [0; 4])),
        }
    }
}

fn is_unprintable(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
}

#[cfg(test)]
mod tests {
    use super::super::term::{Pid, Reference, atom, binary, integer, list, tuple};
    use super::*;
    use eetf::{ByteList, Float, ImproperList};

    #[test]
    fn nodes_of_pids_and_references_cannot_drive_a_terminal() {
        let node = "a@\u{1b}[2J\n".to_owned();
        let reference = Term::from(Reference {
            node: node.as_str().into(),
            creation: 3,
            id: vec![1],
        });
        let pid = Term::from(Pid::new(node, 1, 2, 3));
        assert_eq!(render(&pid), "<a@\\x{1B}[2J\\n.1.2>");
        assert_eq!(render(&reference), "#Ref<a@\\x{1B}[2J\\n>");
    }

    #[test]
    fn reasons_read_like_erlang() {
        let string = |text: &str| Term::from(ByteList::from(text));
        let frame = tuple(vec![atom("m"), atom("f"), integer(2), list(vec![])]);
        let table = [
            (atom("normal"), "normal"),
            (atom("Hello world"), "'Hello world'"),
            (atom(""), "''"),
            (
                tuple(vec![atom("undef"), list(vec![frame])]),
                "{undef,[{m,f,2,[]}]}",
            ),
            (binary(b"text"), "<<\"text\">>"),
            (binary(&[0, 255]), "<<0,255>>"),
            (
                binary(&[255; 1000]),
                "<<255,255,255,255,255,255,255,255,255,255,255,255,255,255,255,255,\u{2026}>>",
            ),
            (string("a\"b\n"), "\"a\\\"b\\n\""),
            (string("\u{1b}[31m"), "[27,91,51,49,109]"),
            (atom("\u{1b}[31m"), "'\\x{1B}[31m'"),
            (
                Map::from([
                    (atom("k"), Float { value: 1.0 }.into()),
                    (atom("a"), integer(1)),
                ])
                .into(),
                "#{a => 1,k => 1.0}",
            ),
            (
                ImproperList::from((vec![integer(1)], integer(2))).into(),
                "[1|2]",
            ),
        ];
        for (term, text) in table {
            assert_eq!(render(&term), text);
        }
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        for text in ["x".repeat(100_000), "\u{20ac}".repeat(100_000)] {
            let rendered = render(&tuple(vec![binary(text.as_bytes()), integer(1)]));
            assert!(rendered.len() <= MAX_TEXT + 3, "{}", rendered.len());
            assert!(rendered.ends_with('\u{2026}'));
        }
    }
}
