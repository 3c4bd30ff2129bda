//! Fuzzing targets of what the command reads: values of options, `relsync.toml`, Erlang's configuration files.
//!
//! Compiled for tests and for fuzzing only; the programs in `fuzz/fuzz_targets` include this file and what it exercises.

use std::time::Duration;

use crate::args::UpdateArgs;
use crate::config::{Config, Origin};
use crate::terms::Term;
use crate::units::{Bytes, Elapsed, Rate, Span, Utc};

/// A rate or duration as a user writes it, and numbers as they are shown.
pub(crate) fn cli_units(input: &[u8]) {
    if let Some(number) = input.first_chunk() {
        let number = u64::from_be_bytes(*number);
        assert!(Bytes(number).to_string().len() <= 10);
        assert!(Utc(number).to_string().ends_with(" UTC"));
        let _ = Elapsed(Duration::from_millis(number)).to_string();
    }
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(Rate(rate)) = text.parse() {
        // Written in bytes it is the same.
        assert_eq!(format!("{rate}b").parse(), Ok(Rate(rate)));
    }
    if let Ok(Span(span)) = text.parse() {
        assert_eq!(format!("{}ms", span.as_millis()).parse(), Ok(Span(span)));
    }
}

/// A `relsync.toml`; the first line names the profile.
pub(crate) fn cli_config(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (profile, text) = text.split_once('\n').unwrap_or(("", &text));
    let profile = Some(profile).filter(|name| !name.is_empty());
    if let Ok(config) = Config::read(text, Origin::default(), profile) {
        config.fill_update(&mut UpdateArgs::default());
    }
}

/// The terms of a configuration file; what is read reads the same from its own text.
pub(crate) fn cli_terms(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Some(term) = Term::parse(&text) {
        let _ = term.tuple::<2>().is_some();
        assert!(term.elements().len() <= input.len());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    type Target = fn(&[u8]);

    #[test]
    fn the_corpora_are_replayed() {
        let table: [(&str, Target); 3] = [
            ("cli_config", cli_config),
            ("cli_terms", cli_terms),
            ("cli_units", cli_units),
        ];
        for (name, target) in table {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../fuzz/corpus")
                .join(name);
            let mut replayed = 0;
            for entry in std::fs::read_dir(&dir).expect("a corpus of each target") {
                target(&std::fs::read(entry.expect("an entry").path()).expect("an input"));
                replayed += 1;
            }
            assert!((1..=20).contains(&replayed), "{name} has {replayed} inputs");
        }
    }
}
