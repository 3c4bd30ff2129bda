//! Finds the hooks module and makes it ready to be sent.
//!
//! | `--hooks` | what is sent |
//! |---|---|
//! | a path that ends in `.beam` | the file |
//! | a path that ends in `.erl` | the file, compiled here; its source if there is no `erlc` |
//! | a module's name | `NAME.beam` in `.`, `./ebin` or the release's `lib/*/ebin`; else `NAME.erl` in `.` or `./src` as above |
//!
//! The compiled module must export hooks; if only the target can compile, the target checks that.
//! A file that relsync finds by a module's name, or that a `relsync.toml` of the working directory
//! names, must be the user's own, as `own_file` has it. So must the directory where relsync looks. A
//! file that the user names need not be, nor one in the release that is pushed.
//!
//! Compiling happens in a temporary directory, so that no file of the developer's changes, and so that
//! the compiler loads no module that lies in the working directory. The file's name need not be the
//! module's.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use relsync_engine::hooks::{self, HooksExportsError};
use relsync_engine::target::HooksKind;
use relsync_engine::update::Hooks;

use crate::args::HooksArg;
use crate::machine;
use crate::own_file::{self, FileError, Rules};
use crate::units::Span;

/// How long a hook may run by default.
pub(crate) const DEFAULT_TIMEOUT: Span = Span(Duration::from_secs(300));

/// The largest hooks file that is read.
const MAX_HOOKS_BYTES: u64 = 1 << 20;

/// Why there are no hooks to send.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HooksError {
    /// There is no such module or file.
    #[error("cannot find the hooks module {name:?}")]
    NotFound {
        /// The requested module or file.
        name: String,
        /// The paths where relsync looked.
        searched: Vec<PathBuf>,
    },
    /// A file cannot be read, or is somebody else's.
    #[error(transparent)]
    File(#[from] FileError),
    /// The source has no `-module` line to take the name from.
    #[error("{} has no -module(…) line", path.display())]
    NoModule {
        /// The file.
        path: PathBuf,
    },
    /// The compiler refused.
    #[error("{} does not compile", path.display())]
    Compile {
        /// The file.
        path: PathBuf,
        /// The compiler's output.
        messages: String,
    },
    /// The module exports no hooks, or a function that only looks like one.
    #[error(transparent)]
    Exports(#[from] HooksExportsError),
    /// The compiler could not be run.
    #[error("cannot compile {}", path.display())]
    RunCompiler {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Hooks that are ready to be sent, and their source if it is known: a target with an older OTP may
/// not load what was compiled here.
#[derive(Debug)]
pub(crate) struct LoadedHooks {
    /// The hooks that are sent.
    pub(crate) hooks: Hooks,
    /// The same as source.
    pub(crate) as_source: Option<Hooks>,
}

/// The file that holds the hooks.
#[derive(Debug)]
pub(crate) struct HooksFile {
    /// The file.
    pub(crate) path: PathBuf,
    /// Whether the user named this very file.
    pub(crate) by_user: bool,
    rules: Rules,
}

/// Compiles the hooks, if need be.
pub(crate) fn load(file: &HooksFile, timeout: Span) -> Result<LoadedHooks, HooksError> {
    let path = &file.path;
    let read = |path| own_file::read(path, file.rules, MAX_HOOKS_BYTES);
    if path.extension() == Some(OsStr::new("beam")) {
        let content = read(path)?;
        hooks::check_module(&content)?;
        let hooks = Hooks {
            kind: HooksKind::Beam,
            name: stem(path),
            content,
            timeout_ms: timeout.limit_ms(),
        };
        return Ok(LoadedHooks {
            hooks,
            as_source: None,
        });
    }
    let text = read(path)?;
    let module = module_name(&text).ok_or_else(|| HooksError::NoModule { path: path.clone() })?;
    let source = Hooks {
        kind: HooksKind::Source,
        name: stem(path),
        content: text.clone(),
        timeout_ms: timeout.limit_ms(),
    };
    let Some(beam) = compile(path, &text, &module)? else {
        return Ok(LoadedHooks {
            hooks: source,
            as_source: None,
        });
    };
    hooks::check_module(&beam)?;
    Ok(LoadedHooks {
        hooks: Hooks {
            kind: HooksKind::Beam,
            name: module,
            content: beam,
            timeout_ms: timeout.limit_ms(),
        },
        as_source: Some(source),
    })
}

/// Finds the file of the hooks that were asked for.
pub(crate) fn find(wanted: &HooksArg, release: Option<&Path>) -> Result<HooksFile, HooksError> {
    let HooksArg { name, dir, by_user } = wanted;
    let is_file_name = matches!(
        Path::new(name).extension().and_then(OsStr::to_str),
        Some("beam" | "erl")
    );
    let candidates: Vec<(PathBuf, Rules)> = if is_file_name {
        let rules = if *by_user { Rules::Named } else { Rules::Found };
        vec![(dir.join(name), rules)]
    } else {
        let beam = format!("{name}.beam");
        let source = format!("{name}.erl");
        let own = |path: PathBuf| (path, Rules::Found);
        let of_release = release.into_iter().flat_map(ebin_dirs);
        [dir.join(&beam), dir.join("ebin").join(&beam)]
            .map(own)
            .into_iter()
            .chain(of_release.map(|ebin| (ebin.join(&beam), Rules::Named)))
            .chain([dir.join(&source), dir.join("src").join(&source)].map(own))
            .collect()
    };
    // A FIFO or a broken link is not passed over.
    let found = candidates
        .iter()
        .find(|(path, _)| path.symlink_metadata().is_ok_and(|found| !found.is_dir()));
    let Some((path, rules)) = found else {
        return Err(HooksError::NotFound {
            name: name.clone(),
            searched: candidates.into_iter().map(|(path, _)| path).collect(),
        });
    };
    Ok(HooksFile {
        path: path.clone(),
        by_user: *by_user && is_file_name,
        rules: *rules,
    })
}

/// The `lib/*/ebin` directories of a release, by name.
fn ebin_dirs(release: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(release.join("lib")) else {
        return Vec::new();
    };
    let mut dirs: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path().join("ebin"))
        .collect();
    dirs.sort();
    dirs
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The name in the `-module(…)` attribute of a source.
fn module_name(source: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(source);
    let attribute = text.lines().find_map(|line| {
        line.trim_start()
            .strip_prefix('-')?
            .trim_start()
            .strip_prefix("module")
    })?;
    let name = attribute
        .trim_start()
        .strip_prefix('(')?
        .split(')')
        .next()?
        .trim();
    let name = name
        .strip_prefix('\'')
        .and_then(|quoted| quoted.strip_suffix('\''))
        .unwrap_or(name);
    // The name becomes a file's name.
    let is_plain = |c: char| c.is_alphanumeric() || "_@.-".contains(c);
    let sound = !name.is_empty() && !name.starts_with(['.', '-']) && name.chars().all(is_plain);
    sound.then(|| name.to_owned())
}

/// Compiles a source with the `erlc` of the path; `None` if there is no `erlc`.
fn compile(path: &Path, text: &[u8], module: &str) -> Result<Option<Vec<u8>>, HooksError> {
    let run_error = |source| HooksError::RunCompiler {
        path: path.to_owned(),
        source,
    };
    let dir = tempfile::tempdir().map_err(run_error)?;
    let copy = dir.path().join(format!("{module}.erl"));
    // The compiler names the developer's file, though it reads a copy under the module's name.
    let mut named = format!("-file({:?}, 0).\n", path.display().to_string()).into_bytes();
    named.extend_from_slice(text);
    fs::write(&copy, named).map_err(run_error)?;
    // The path is absolute, so that `erlc` takes no directory's name for an option.
    let include = std::path::absolute(path).map_err(run_error)?;
    let include = include.parent().unwrap_or(Path::new("/"));
    let mut compiler = Command::new("erlc");
    if let Some(libs) = machine::erl_libs() {
        compiler.env("ERL_LIBS", libs);
    }
    let output = compiler
        .args(["+deterministic", "+no_spawn_compiler_process", "-I"])
        .arg(include)
        .arg("-o")
        .arg(dir.path())
        .arg(&copy)
        // Erlang looks for modules in its working directory first, and this one may be anybody's.
        .current_dir(dir.path())
        .env_remove("RELSYNC_COOKIE")
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(run_error(error)),
    };
    if !output.status.success() {
        let mut messages = String::from_utf8_lossy(&output.stdout).into_owned();
        messages.push_str(&String::from_utf8_lossy(&output.stderr));
        return Err(HooksError::Compile {
            path: path.to_owned(),
            messages,
        });
    }
    let beam = dir.path().join(format!("{module}.beam"));
    Ok(Some(own_file::read(&beam, Rules::Named, MAX_HOOKS_BYTES)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIMEOUT: Span = Span(Duration::ZERO);

    fn load(name: &str, release: Option<&Path>, timeout: Span) -> Result<LoadedHooks, HooksError> {
        super::load(&find(&HooksArg::from(name.to_owned()), release)?, timeout)
    }

    fn write(dir: &Path, name: &str, text: &str) -> String {
        let path = dir.join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("a path of text").to_owned()
    }

    #[test]
    fn the_module_is_named_by_its_attribute() {
        let table = [
            ("-module(a).\n", Some("a")),
            ("%% -module(x).\n - module ( b_1 ) .\n", Some("b_1")),
            ("-module('My.Hooks').", Some("My.Hooks")),
            ("-export([a/0]).", None),
            ("-module(../x).", None),
            ("-module('/etc/x').", None),
            ("-module().", None),
        ];
        for (text, expected) in table {
            assert_eq!(module_name(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_source_is_compiled_whatever_its_file_is_called() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = "-module(hooks_of_mine).\n-export([presync/0]).\npresync() -> ok.\n";
        let path = write(dir.path(), "other_name.erl", text);
        let loaded = load(&path, None, Span(Duration::from_secs(3))).expect("hooks");
        assert_eq!(loaded.hooks.kind, HooksKind::Beam);
        assert_eq!(loaded.hooks.name, "hooks_of_mine");
        assert!(loaded.hooks.content.starts_with(b"FOR1"));
        assert_eq!(loaded.hooks.timeout_ms, Some(3000));
        let source = loaded.as_source.expect("its source");
        assert_eq!(
            (source.kind, source.content.as_slice()),
            (HooksKind::Source, text.as_bytes())
        );
        let left: Vec<_> = fs::read_dir(dir.path()).expect("a directory").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn messages_of_the_compiler_name_file_and_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = write(
            dir.path(),
            "broken.erl",
            "-module(broken).\n-export([presync/0]).\npresync() -> .\n",
        );
        match load(&path, None, NO_TIMEOUT) {
            Err(HooksError::Compile { messages, .. }) => {
                assert!(messages.contains("broken.erl:3:"), "{messages}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_module_is_found_in_the_release() {
        let dir = tempfile::tempdir().expect("a directory");
        let ebin = dir.path().join("lib/app-1.0/ebin");
        fs::create_dir_all(&ebin).expect("a directory");
        write(&ebin, "hooks_in_release.beam", "FOR1....");
        let loaded = load("hooks_in_release", Some(dir.path()), NO_TIMEOUT).expect("hooks");
        assert_eq!(loaded.hooks.content, b"FOR1....");
        assert_eq!(loaded.hooks.timeout_ms, None);
        let missing = load("no_such_hooks_module", Some(dir.path()), NO_TIMEOUT);
        assert!(
            matches!(missing, Err(HooksError::NotFound { searched, .. }) if searched.len() == 5)
        );
    }
}
