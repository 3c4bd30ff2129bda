//! The check that the exports of a hooks module are hooks.
//!
//! This module owns the names of the hooks on the host. A misspelt hook would never be called, and
//! an update that relies on it would seem to succeed. So a module without any hook is refused. So
//! is a module with a function that differs from a hook only in arity, case or underscores. Other
//! functions may be exported beside hooks.
//!
//! This module is pure. Its twin on the target is `relsync_lib_hooks_exports`, with the same rules
//! and texts. The twin checks hooks whose exports only the target knows.

use std::collections::BTreeSet;
use std::fmt;

use crate::delta;

const POINTS: [&str; 4] = ["presync", "postsync", "health", "rollback"];
/// The maximum number of arguments of a hook.
const MAX_HOOK_ARITY: u32 = 1;
/// The maximum number of exports that an error names.
const MAX_NAMED: usize = 10;

/// The words that are atoms only if they are quoted.
#[rustfmt::skip]
const RESERVED: &[&str] = &[
    "after", "and", "andalso", "band", "begin", "bnot", "bor", "bsl", "bsr", "bxor", "case", "catch", "cond", "div", "else", "end", "fun",
    "if", "let", "maybe", "not", "of", "or", "orelse", "receive", "rem", "try", "when", "xor",
];

/// An exported function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Export {
    /// The function's name.
    pub name: String,
    /// The number of its arguments.
    pub arity: u32,
}

impl fmt::Display for Export {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut letters = self.name.chars();
        let plain = letters
            .next()
            .is_some_and(|first| first.is_ascii_lowercase())
            && letters.all(|letter| letter.is_ascii_alphanumeric() || "_@".contains(letter))
            && !RESERVED.contains(&self.name.as_str());
        if plain {
            write!(formatter, "{}/{}", self.name, self.arity)
        } else {
            let quoted = self.name.replace('\\', "\\\\").replace('\'', "\\'");
            write!(formatter, "'{quoted}'/{}", self.arity)
        }
    }
}

/// The reasons why the exports of a module are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HooksExportsError {
    /// No export is a hook.
    #[error(
        "the hooks module exports {}; hooks are presync, postsync, health and rollback, each with no argument or one",
        named(.exports)
    )]
    NoHooks {
        /// The functions that are exported instead.
        exports: Vec<Export>,
    },
    /// A function has a hook's name, but an arity that no hook has.
    #[error("the hooks module exports {export}, which is never called: {} takes no argument or one", .export.name)]
    Arity {
        /// The function.
        export: Export,
    },
    /// A function's name resembles that of a hook that is missing.
    #[error(
        "the hooks module exports {export}, which is never called: was {meant}/0 or {meant}/1 meant?"
    )]
    Misspelt {
        /// The function.
        export: Export,
        /// The hook.
        meant: &'static str,
    },
}

/// Checks the exports of a compiled module. A module that cannot be read here passes, because the
/// target checks it too.
pub fn check_module(beam: &[u8]) -> Result<(), HooksExportsError> {
    match delta::module_exports(beam) {
        Some(exports) => check(
            exports
                .into_iter()
                .map(|(name, arity)| Export { name, arity }),
        ),
        None => Ok(()),
    }
}

fn check(all: impl IntoIterator<Item = Export>) -> Result<(), HooksExportsError> {
    let exports: BTreeSet<Export> = all
        .into_iter()
        .filter(|export| export.name != "module_info")
        .collect();
    let hooks: Vec<&str> = exports
        .iter()
        .filter(|export| export.arity <= MAX_HOOK_ARITY)
        .map(|export| export.name.as_str())
        .filter(|name| POINTS.contains(name))
        .collect();
    // If the hook is exported too, a function with a similar name is something else.
    let missing = POINTS.into_iter().filter(|point| !hooks.contains(point));
    let missing: Vec<&str> = missing.collect();
    for export in &exports {
        let Some(meant) = missing.iter().find(|point| resembles(&export.name, point)) else {
            continue;
        };
        let export = export.clone();
        return Err(if export.name == *meant {
            HooksExportsError::Arity { export }
        } else {
            HooksExportsError::Misspelt { export, meant }
        });
    }
    if hooks.is_empty() {
        let exports = exports.into_iter().collect();
        return Err(HooksExportsError::NoHooks { exports });
    }
    Ok(())
}

/// Returns whether a name equals that of a hook, apart from case and underscores.
fn resembles(name: &str, point: &str) -> bool {
    name.to_lowercase().replace('_', "") == point
}

fn named(exports: &[Export]) -> String {
    if exports.is_empty() {
        return "nothing".to_owned();
    }
    let first: Vec<String> = exports
        .iter()
        .take(MAX_NAMED)
        .map(ToString::to_string)
        .collect();
    let more = if exports.len() > MAX_NAMED {
        " and others"
    } else {
        ""
    };
    format!("no hook, only {}{more}", first.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exports(list: &[(&str, u32)]) -> Vec<Export> {
        let export = |(name, arity): &(&str, u32)| Export {
            name: (*name).to_owned(),
            arity: *arity,
        };
        list.iter().map(export).collect()
    }

    /// The table of `relsync_lib_hooks_exports_tests`.
    #[test]
    fn hooks_are_told_from_what_is_meant_to_be_one() {
        let long = "p".repeat(255);
        let table: [(&[(&str, u32)], &str); 17] = [
            (&[("presync", 0)], ""),
            (
                &[("rollback", 1), ("module_info", 0), ("module_info", 1)],
                "",
            ),
            (&[("health", 1), ("helper", 3), ("double", 1)], ""),
            (&[("presync", 0), ("resync", 1), ("presync", 2)], ""),
            (&[("presync", 0), ("presync", 1)], ""),
            (&[(&long, 0), ("", 0), ("health", 0)], ""),
            (&[], "exports nothing; hooks are presync, postsync,"),
            (
                &[("module_info", 0), ("start", 0)],
                "no hook, only start/0; hooks are presync,",
            ),
            (&[("presync", 0), ("pstsync", 0)], ""),
            (
                &[("pre_sync", 0)],
                "pre_sync/0, which is never called: was presync/0",
            ),
            (
                &[("PostSync", 1)],
                "'PostSync'/1, which is never called: was postsync/0",
            ),
            (&[("rollbak", 1)], "no hook, only rollbak/1;"),
            (
                &[("roll_back", 1), ("presync", 0)],
                "was rollback/0 or rollback/1 meant?",
            ),
            (
                &[("presync", 2)],
                "exports presync/2, which is never called: presync takes no argument or one",
            ),
            (&[("presync", 0), ("health", 3)], "health takes no argument"),
            (&[("end", 0), ("it's", 1)], "only 'end'/0, 'it\\'s'/1;"),
            (&[("f", 2), ("f", 10), ("f", 2)], "only f/2, f/10;"),
        ];
        for (list, part) in table {
            match check(exports(list)) {
                Ok(()) => assert_eq!(part, "", "{list:?}"),
                Err(error) => {
                    let said = error.to_string();
                    assert!(!part.is_empty() && said.contains(part), "{list:?}: {said}");
                }
            }
        }
    }

    #[test]
    fn not_all_of_many_exports_are_named() {
        let many: Vec<Export> = (0..20)
            .map(|arity| Export {
                name: "f".to_owned(),
                arity,
            })
            .collect();
        let said = check(many).expect_err("no hooks").to_string();
        assert!(said.contains("f/8, f/9 and others; hooks are"), "{said}");
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_target() {
        for content in [&b""[..], b"garbage", b"FOR1\0\0\0\x04BEAM", b"\x1f\x8b"] {
            assert_eq!(check_module(content), Ok(()));
        }
    }
}
