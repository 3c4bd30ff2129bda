//! The Erlang terms of configuration files, read well enough to compare two of them.
//!
//! Pure. Understands tuples and lists. Everything else (atoms, numbers, strings, binaries, maps) is
//! kept as its text without spaces and comments. If a file cannot be read, the caller only says less.

/// How deep terms may nest; configuration is shallow.
const MAX_DEPTH: usize = 64;

/// A term, or the text of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Term {
    /// `{…}`
    Tuple(Vec<Term>),
    /// `[…]`
    List(Vec<Term>),
    /// Anything else, as it is written.
    Text(String),
}

impl Term {
    /// Reads the first term of a file, up to its full stop.
    pub(crate) fn parse(source: &str) -> Option<Self> {
        let tokens = tokens(source)?;
        let mut parser = Parser {
            tokens: &tokens,
            at: 0,
        };
        let term = parser.term(0)?;
        (parser.next()? == ".").then_some(term)
    }

    /// The elements of a tuple of `N`.
    pub(crate) fn tuple<const N: usize>(&self) -> Option<&[Self; N]> {
        match self {
            Self::Tuple(elements) => elements.as_slice().try_into().ok(),
            _ => None,
        }
    }

    /// The elements of a list; none for another term.
    pub(crate) fn elements(&self) -> &[Self] {
        match self {
            Self::List(elements) => elements,
            _ => &[],
        }
    }

    /// The text of what is neither tuple nor list.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

struct Parser<'a> {
    tokens: &'a [&'a str],
    at: usize,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let token = self.tokens.get(self.at)?;
        self.at += 1;
        Some(token)
    }

    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).copied()
    }

    fn term(&mut self, depth: usize) -> Option<Term> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.peek()? {
            "{" => self.sequence("}", depth).map(Term::Tuple),
            "[" => self.sequence("]", depth).map(Term::List),
            _ => self.text().map(Term::Text),
        }
    }

    fn sequence(&mut self, end: &str, depth: usize) -> Option<Vec<Term>> {
        self.next()?;
        let mut elements = Vec::new();
        if self.peek()? == end {
            self.next()?;
            return Some(elements);
        }
        loop {
            elements.push(self.term(depth + 1)?);
            match self.next()? {
                "," => {}
                token if token == end => return Some(elements),
                _ => return None,
            }
        }
    }

    /// Takes tokens up to what ends an element; brackets of binaries and maps are taken with what they hold.
    fn text(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut open = 0_usize;
        loop {
            match (self.peek()?, open) {
                ("," | "}" | "]" | ".", 0) => return (!text.is_empty()).then_some(text),
                ("<<" | "#" | "{" | "[" | "(", _) => {
                    // The `#` of a map or a based number stands before something that counts for itself.
                    let token = self.next()?;
                    open += usize::from(token != "#");
                    text.push_str(token);
                }
                (">>" | "}" | "]" | ")", _) => {
                    open = open.checked_sub(1)?;
                    text.push_str(self.next()?);
                }
                (token, _) => {
                    self.next()?;
                    text.push_str(token);
                }
            }
        }
    }
}

fn tokens(source: &str) -> Option<Vec<&str>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if first.is_whitespace() => {
                rest = &rest[first.len_utf8()..];
                continue;
            }
            '%' => {
                rest = rest.find('\n').map_or("", |end| &rest[end..]);
                continue;
            }
            '"' | '\'' => quoted_length(rest, first)?,
            '$' => char_length(rest)?,
            '<' if rest.starts_with("<<") => 2,
            '>' if rest.starts_with(">>") => 2,
            _ if is_word(first) => word_length(rest),
            _ => first.len_utf8(),
        };
        tokens.push(&rest[..length]);
        rest = &rest[length..];
    }
    Some(tokens)
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || "_@".contains(character)
}

/// A word or number; a point belongs to it if a digit or letter follows.
fn word_length(text: &str) -> usize {
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let goes_on = character == '.' && characters.peek().is_some_and(|(_, next)| is_word(*next));
        if !is_word(character) && !goes_on {
            return at;
        }
    }
    text.len()
}

fn quoted_length(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// `$c` or `$\c`.
fn char_length(text: &str) -> Option<usize> {
    let mut characters = text.char_indices().skip(1);
    let (at, character) = characters.next()?;
    let (at, character) = if character == '\\' {
        characters.next()?
    } else {
        (at, character)
    };
    Some(at + character.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Term {
        Term::Text(text.to_owned())
    }

    #[test]
    fn configuration_is_read() {
        let source = r#"%% The configuration.
            [{kernel, [{logger_level, info}, {x, "a, \"b\"} %"}]}, % more
             {app, [{'odd key', <<"a]">>}, {n, -1.5}, {m, #{a => [1]}}, {c, $}}, {h, 16#ff}, {e, []}]}].
        "#;
        let term = Term::parse(source).expect("terms");
        let apps = term.elements();
        assert_eq!(apps.len(), 2);
        let [name, env] = apps[1].tuple().expect("a pair");
        assert_eq!(name.text(), Some("app"));
        let pairs: Vec<&[Term; 2]> = env.elements().iter().filter_map(Term::tuple).collect();
        assert_eq!(pairs[0], &[text("'odd key'"), text("<<\"a]\">>")]);
        assert_eq!(pairs[1], &[text("n"), text("-1.5")]);
        assert_eq!(pairs[2], &[text("m"), text("#{a=>[1]}")]);
        assert_eq!(pairs[3], &[text("c"), text("$}")]);
        assert_eq!(pairs[4], &[text("h"), text("16#ff")]);
        assert_eq!(pairs[5], &[text("e"), Term::List(Vec::new())]);
    }

    #[test]
    fn spaces_and_comments_make_no_difference() {
        let a = Term::parse("[ {a , 1 } ]. ");
        assert!(a.is_some());
        assert_eq!(a, Term::parse("[{a,%\n1}]."));
    }

    #[test]
    fn what_is_no_term_is_none() {
        let deep = "[".repeat(100_000);
        let table = [
            "",
            ".",
            "[",
            "[a",
            "[a]",
            "{a,}.",
            "[a b}.",
            "\"open",
            "$",
            "<<",
            "<<.",
            deep.as_str(),
            "[>>].",
        ];
        for source in table {
            let shown: String = source.chars().take(20).collect();
            assert_eq!(Term::parse(source), None, "{shown}");
        }
    }
}
