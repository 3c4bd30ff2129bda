//! The files that say how a release boots: `releases/start_erl.data` and boot scripts (`*.boot`).
//!
//! This module is pure, and bounded for any bytes. It takes the bytes of these files, and tells
//! which directories and modules a start needs. It does not know where the files are. Its twin on
//! the target is `erlang/apps/relsync_lib/src/code/relsync_lib_release.erl`.

use std::sync::Arc;

use thiserror::Error;

use crate::bytes::{ReadError, Reader};
use crate::limits;

/// The file that names the version of the release to start.
pub(crate) const START_ERL_DATA: &str = "releases/start_erl.data";

/// The maximum size of `releases/start_erl.data`.
pub const START_ERL_BYTES: usize = 4096;

/// The versions that `releases/start_erl.data` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartErl {
    /// The version of the runtime system.
    pub erts: String,
    /// The release's version. Its files are in `releases/<version>`.
    pub version: String,
}

impl StartErl {
    /// Reads the file's content.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > START_ERL_BYTES {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let mut words = text.split_ascii_whitespace();
        let (erts, version) = (words.next()?, words.next()?);
        let sound = |name: &str| !name.contains(['/', '\0']) && !matches!(name, "." | "..");
        (words.next().is_none() && sound(erts) && sound(version)).then(|| Self {
            erts: erts.to_owned(),
            version: version.to_owned(),
        })
    }
}

/// A boot script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootScript {
    /// The release's name.
    pub name: String,
    /// The release's version.
    pub version: String,
    /// The code path after the start, as written. A directory may begin with a variable, as in
    /// `$ROOT/lib/kernel-9.0/ebin`.
    pub path: Arc<[String]>,
    /// The modules to load, in order.
    pub loads: Vec<Load>,
}

/// One command of a boot script that loads modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Whether the modules are loaded in embedded mode only. Those of the kernel are loaded in any
    /// mode.
    pub embedded_only: bool,
    /// The directories to search, as written.
    pub path: Arc<[String]>,
    /// The modules' names.
    pub modules: Vec<String>,
}

/// The reasons why bytes are not a boot script.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BootScriptError {
    /// There are more bytes than in any boot script.
    #[error("has more than {} bytes", limits::BOOT_SCRIPT_BYTES)]
    TooLarge,
    /// The bytes are not a term, or not the term of a boot script.
    #[error("is not a boot script")]
    Malformed,
}

impl From<ReadError> for BootScriptError {
    fn from(_: ReadError) -> Self {
        Self::Malformed
    }
}

type Result<T> = std::result::Result<T, BootScriptError>;

mod tag {
    pub(super) const VERSION: u8 = 131;
    pub(super) const NEW_FLOAT: u8 = 70;
    pub(super) const BIT_BINARY: u8 = 77;
    pub(super) const SMALL_INTEGER: u8 = 97;
    pub(super) const INTEGER: u8 = 98;
    pub(super) const ATOM_LATIN1: u8 = 100;
    pub(super) const SMALL_TUPLE: u8 = 104;
    pub(super) const LARGE_TUPLE: u8 = 105;
    pub(super) const NIL: u8 = 106;
    pub(super) const STRING: u8 = 107;
    pub(super) const LIST: u8 = 108;
    pub(super) const BINARY: u8 = 109;
    pub(super) const SMALL_BIG: u8 = 110;
    pub(super) const NEW_FUN: u8 = 112;
    pub(super) const EXPORT: u8 = 113;
    pub(super) const SMALL_ATOM_LATIN1: u8 = 115;
    pub(super) const MAP: u8 = 116;
    pub(super) const ATOM_UTF8: u8 = 118;
    pub(super) const SMALL_ATOM_UTF8: u8 = 119;
}

impl BootScript {
    /// Reads a boot file's content: `{script, {Name, Version}, Commands}` in Erlang's external term
    /// format.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > limits::BOOT_SCRIPT_BYTES {
            return Err(BootScriptError::TooLarge);
        }
        let mut terms = Terms(Reader::new(bytes));
        terms.exactly(tag::VERSION)?;
        terms.tuple(3)?;
        if terms.atom()?.as_deref() != Some("script") {
            return Err(BootScriptError::Malformed);
        }
        terms.tuple(2)?;
        let mut script = Self {
            name: terms.string()?.ok_or(BootScriptError::Malformed)?,
            version: terms.string()?.ok_or(BootScriptError::Malformed)?,
            ..Self::default()
        };
        let mut embedded_only = false;
        let commands = terms.list_length()?.ok_or(BootScriptError::Malformed)?;
        for _ in 0..commands {
            match terms.command()?.as_deref() {
                Some("path") => {
                    let path = terms.items(Terms::text)?;
                    few(path.len())?;
                    script.path = path.into();
                }
                Some("primLoad") => {
                    few(script.loads.len() + 1)?;
                    let modules = terms.items(Terms::atom)?;
                    script.loads.push(Load {
                        embedded_only,
                        path: Arc::clone(&script.path),
                        modules,
                    });
                }
                Some("kernel_load_completed") => embedded_only = true,
                _ => {}
            }
        }
        if commands > 0 {
            terms.exactly(tag::NIL)?;
        }
        terms.0.finish()?;
        Ok(script)
    }

    /// Returns every directory that the script names, as written, without duplicates.
    #[must_use]
    pub(crate) fn directories(&self) -> Vec<&str> {
        let mut paths: Vec<&Arc<[String]>> = self.loads.iter().map(|load| &load.path).collect();
        // Consecutive loads share their path.
        paths.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let loads = paths.into_iter().flat_map(|path| path.iter());
        let mut directories: Vec<&str> =
            self.path.iter().chain(loads).map(String::as_str).collect();
        directories.sort_unstable();
        directories.dedup();
        directories
    }
}

fn few(items: usize) -> Result<()> {
    if items > limits::BOOT_SCRIPT_ITEMS {
        return Err(BootScriptError::Malformed);
    }
    Ok(())
}

/// A reader that takes terms off the front. It skips unwanted terms without recursion.
struct Terms<'a>(Reader<'a>);

impl Terms<'_> {
    fn exactly(&mut self, tag: u8) -> Result<()> {
        if self.0.u8()? == tag {
            Ok(())
        } else {
            Err(BootScriptError::Malformed)
        }
    }

    fn tuple(&mut self, arity: u8) -> Result<()> {
        self.exactly(tag::SMALL_TUPLE)?;
        self.exactly(arity)
    }

    fn word(&mut self) -> Result<usize> {
        usize::try_from(self.0.u32()?).map_err(|_| BootScriptError::Malformed)
    }

    /// Reads a command up to its argument, if it is a wanted one. Otherwise skips it.
    fn command(&mut self) -> Result<Option<String>> {
        let before = self.0.clone();
        let arity = match self.0.u8()? {
            tag::SMALL_TUPLE => self.0.u8()?,
            _ => 0,
        };
        if matches!(arity, 1 | 2) {
            let name = self.atom()?;
            let wanted = match name.as_deref() {
                Some("path" | "primLoad") => arity == 2,
                Some("kernel_load_completed") => arity == 1,
                _ => false,
            };
            if wanted {
                return Ok(name);
            }
        }
        self.0 = before;
        self.skip(1)?;
        Ok(None)
    }

    /// Reads a list of terms that `read` accepts. Other elements are dropped.
    fn items<T>(&mut self, read: fn(&mut Self) -> Result<Option<T>>) -> Result<Vec<T>> {
        let Some(length) = self.list_length()? else {
            return Ok(Vec::new());
        };
        let mut items = Vec::new();
        for _ in 0..length {
            items.extend(read(self)?);
        }
        if length > 0 {
            self.exactly(tag::NIL)?;
        }
        Ok(items)
    }

    /// Reads the head of a list. Skips any other term.
    fn list_length(&mut self) -> Result<Option<usize>> {
        let before = self.0.clone();
        match self.0.u8()? {
            tag::NIL => Ok(Some(0)),
            tag::LIST => match self.word()? {
                0 => Err(BootScriptError::Malformed),
                length => Ok(Some(length)),
            },
            _ => {
                self.0 = before;
                self.skip(1)?;
                Ok(None)
            }
        }
    }

    /// Reads an atom. Skips any other term.
    fn atom(&mut self) -> Result<Option<String>> {
        let before = self.0.clone();
        let tag = self.0.u8()?;
        let length = match tag {
            tag::ATOM_UTF8 | tag::ATOM_LATIN1 => self.0.u16()?.into(),
            tag::SMALL_ATOM_UTF8 | tag::SMALL_ATOM_LATIN1 => self.0.u8()?.into(),
            _ => {
                self.0 = before;
                self.skip(1)?;
                return Ok(None);
            }
        };
        let name = self.0.bytes(length)?;
        match tag {
            tag::ATOM_UTF8 | tag::SMALL_ATOM_UTF8 => String::from_utf8(name.to_vec())
                .map(Some)
                .map_err(|_| BootScriptError::Malformed),
            _ => Ok(Some(latin1(name))),
        }
    }

    /// Reads a string, which Erlang writes as bytes or as a list of code points. Skips any other
    /// term.
    fn string(&mut self) -> Result<Option<String>> {
        let before = self.0.clone();
        match self.0.u8()? {
            tag::STRING => {
                let length = self.0.u16()?.into();
                Ok(Some(latin1(self.0.bytes(length)?)))
            }
            tag::NIL => Ok(Some(String::new())),
            tag::LIST => {
                let chars = self.chars()?;
                if chars.is_none() {
                    self.0 = before;
                    self.skip(1)?;
                }
                Ok(chars)
            }
            _ => {
                self.0 = before;
                self.skip(1)?;
                Ok(None)
            }
        }
    }

    /// Reads a directory, which may be a string or an atom.
    fn text(&mut self) -> Result<Option<String>> {
        let before = self.0.clone();
        match self.atom()? {
            Some(text) => Ok(Some(text)),
            None => {
                self.0 = before;
                self.string()
            }
        }
    }

    fn chars(&mut self) -> Result<Option<String>> {
        let mut text = String::new();
        for _ in 0..self.word()? {
            let code = match self.0.u8()? {
                tag::SMALL_INTEGER => self.0.u8()?.into(),
                tag::INTEGER => self.0.u32()?,
                _ => return Ok(None),
            };
            match char::from_u32(code) {
                Some(char) => text.push(char),
                None => return Ok(None),
            }
        }
        Ok((self.0.u8()? == tag::NIL).then_some(text))
    }

    fn skip(&mut self, terms: u64) -> Result<()> {
        let mut left = terms;
        while left > 0 {
            left -= 1;
            // Each term has at least one byte, so a false count runs out of bytes.
            left += match self.0.u8()? {
                tag::SMALL_INTEGER => self.pass(1)?,
                tag::INTEGER => self.pass(4)?,
                tag::NEW_FLOAT => self.pass(8)?,
                tag::NIL => 0,
                tag::SMALL_TUPLE => self.0.u8()?.into(),
                tag::LARGE_TUPLE => self.0.u32()?.into(),
                tag::LIST => u64::from(self.0.u32()?) + 1,
                tag::MAP => u64::from(self.0.u32()?) * 2,
                tag::EXPORT => 3,
                tag::STRING | tag::ATOM_UTF8 | tag::ATOM_LATIN1 => {
                    let length = self.0.u16()?.into();
                    self.pass(length)?
                }
                tag::SMALL_ATOM_UTF8 | tag::SMALL_ATOM_LATIN1 => {
                    let length = self.0.u8()?.into();
                    self.pass(length)?
                }
                tag::SMALL_BIG => {
                    let length: usize = self.0.u8()?.into();
                    self.pass(length + 1)?
                }
                tag::BINARY => {
                    let length = self.word()?;
                    self.pass(length)?
                }
                tag::BIT_BINARY => {
                    let length = self.word()?;
                    self.pass(length.saturating_add(1))?
                }
                tag::NEW_FUN => {
                    // The size includes its own four bytes.
                    let length = self.word()?;
                    self.pass(length.checked_sub(4).ok_or(BootScriptError::Malformed)?)?
                }
                _ => return Err(BootScriptError::Malformed),
            };
        }
        Ok(())
    }

    fn pass(&mut self, length: usize) -> Result<u64> {
        self.0.bytes(length)?;
        Ok(0)
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that `term_to_binary/1` writes for a small script with each kind of command.
    fn sample() -> Vec<u8> {
        let mut bytes = vec![131, 104, 3];
        atom("script", &mut bytes);
        bytes.extend([104, 2]);
        string("sample", &mut bytes);
        string("1.0", &mut bytes);
        bytes.extend([108, 0, 0, 0, 7]);
        command("path", &mut bytes);
        bytes.extend([108, 0, 0, 0, 2]);
        string("$ROOT/lib/kernel-9/ebin", &mut bytes);
        // A directory beyond Latin-1.
        bytes.extend([108, 0, 0, 0, 2, 97, b'/', 98, 0, 0, 1, 65, 106]);
        bytes.push(106);
        command("primLoad", &mut bytes);
        bytes.extend([108, 0, 0, 0, 1]);
        atom("code", &mut bytes);
        bytes.push(106);
        bytes.extend([104, 1]);
        atom("kernel_load_completed", &mut bytes);
        command("apply", &mut bytes);
        // A map, a float, a big number, an external fun.
        bytes.extend([116, 0, 0, 0, 1, 97, 1, 70, 0, 0, 0, 0, 0, 0, 0, 0]);
        command("path", &mut bytes);
        bytes.extend([108, 0, 0, 0, 1]);
        string("$ROOT/lib/a-1/ebin", &mut bytes);
        bytes.push(106);
        command("primLoad", &mut bytes);
        bytes.extend([108, 0, 0, 0, 2]);
        atom("a", &mut bytes);
        bytes.extend([110, 1, 0, 5]);
        bytes.push(106);
        command("progress", &mut bytes);
        atom("started", &mut bytes);
        bytes.push(106);
        bytes
    }

    fn command(name: &str, bytes: &mut Vec<u8>) {
        bytes.extend([104, 2]);
        atom(name, bytes);
    }

    fn atom(name: &str, bytes: &mut Vec<u8>) {
        bytes.extend([119, u8::try_from(name.len()).expect("short")]);
        bytes.extend(name.as_bytes());
    }

    fn string(text: &str, bytes: &mut Vec<u8>) {
        bytes.extend([107, 0, u8::try_from(text.len()).expect("short")]);
        bytes.extend(text.as_bytes());
    }

    #[test]
    fn a_script_is_read() {
        let script = BootScript::parse(&sample()).expect("a script");
        assert_eq!((&*script.name, &*script.version), ("sample", "1.0"));
        assert_eq!(*script.path, ["$ROOT/lib/a-1/ebin"]);
        let kernel: Arc<[String]> =
            ["$ROOT/lib/kernel-9/ebin".to_owned(), "/\u{141}".to_owned()].into();
        let loads = [
            Load {
                embedded_only: false,
                path: kernel,
                modules: vec!["code".to_owned()],
            },
            Load {
                embedded_only: true,
                path: Arc::clone(&script.path),
                modules: vec!["a".to_owned()],
            },
        ];
        assert_eq!(script.loads, loads);
        assert_eq!(
            script.directories(),
            ["$ROOT/lib/a-1/ebin", "$ROOT/lib/kernel-9/ebin", "/\u{141}"]
        );
    }

    /// A script with this many directories and loads.
    fn many(directories: usize, loads: usize) -> Vec<u8> {
        let length = |count: usize| u32::try_from(count).expect("few").to_be_bytes();
        let mut bytes = vec![131, 104, 3];
        atom("script", &mut bytes);
        bytes.extend([104, 2, 106, 106, 108]);
        bytes.extend(length(1 + loads));
        command("path", &mut bytes);
        bytes.push(108);
        bytes.extend(length(directories));
        for _ in 0..directories {
            string("a", &mut bytes);
        }
        bytes.push(106);
        for _ in 0..loads {
            command("primLoad", &mut bytes);
            bytes.push(106);
        }
        bytes.push(106);
        bytes
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let sample = sample();
        for length in 0..sample.len() {
            assert!(BootScript::parse(&sample[..length]).is_err(), "{length}");
        }
        for at in 0..sample.len() {
            for value in [0, 1, 104, 107, 108, 255] {
                let mut bytes = sample.clone();
                bytes[at] = value;
                let _ = BootScript::parse(&bytes);
            }
        }
        let deep = [&[131][..], &[104, 1].repeat(100_000)].concat();
        let long = [
            &[131, 104, 3, 119, 6][..],
            b"script",
            &[104, 2, 106, 106, 108, 255, 255, 255, 255],
        ]
        .concat();
        for hostile in [deep, long, sample.repeat(2)] {
            assert_eq!(BootScript::parse(&hostile), Err(BootScriptError::Malformed));
        }
        // Each of many loads would have each of many directories.
        let most = limits::BOOT_SCRIPT_ITEMS;
        assert!(BootScript::parse(&many(most, most)).is_ok_and(|it| it.directories().len() == 1));
        for hostile in [many(most + 1, 1), many(1, most + 1)] {
            assert_eq!(BootScript::parse(&hostile), Err(BootScriptError::Malformed));
        }
        let huge = vec![131; limits::BOOT_SCRIPT_BYTES + 1];
        assert_eq!(BootScript::parse(&huge), Err(BootScriptError::TooLarge));
    }

    #[test]
    fn the_agent_reads_as_much() {
        let read = |name: &str| {
            let path = format!(
                "{}/../erlang/apps/relsync_lib/src/code/relsync_lib_{name}.erl",
                env!("CARGO_MANIFEST_DIR")
            );
            std::fs::read_to_string(path).expect("a source")
        };
        let table = [
            ("plain_term", "MAX_BYTES", limits::BOOT_SCRIPT_BYTES),
            ("release", "MAX_START_ERL_BYTES", START_ERL_BYTES),
            ("release", "MAX_ITEMS", limits::BOOT_SCRIPT_ITEMS),
        ];
        for (module, name, value) in table {
            let defined = format!("-define({name}, {value}).");
            assert!(read(module).contains(&defined), "{module}: {defined}");
        }
    }

    #[test]
    fn start_erl_data() {
        let named = |text: &str| StartErl::parse(text.as_bytes()).map(|it| (it.erts, it.version));
        let some = |erts: &str, version: &str| Some((erts.to_owned(), version.to_owned()));
        let table = [
            ("13.1.5 1.0.0", some("13.1.5", "1.0.0")),
            ("14\t2\r\n", some("14", "2")),
            ("14", None),
            ("14 1 2", None),
            ("14 ..", None),
            ("14 a/b", None),
        ];
        for (text, expected) in table {
            assert_eq!(named(text), expected, "{text}");
        }
        assert_eq!(StartErl::parse(&[0xff, b' ', b'1']), None);
        assert_eq!(StartErl::parse(&[b' '; START_ERL_BYTES + 1]), None);
    }
}
