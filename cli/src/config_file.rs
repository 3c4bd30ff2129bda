//! Finds `relsync.toml`, reads it, and says that it is used.
//!
//! relsync looks for the file in the working directory only: a file further up could be anybody's,
//! and the file names hooks to run. The file of the working directory must be the user's own, as
//! `own_file` has it. One that `--config` or `RELSYNC_CONFIG` names need not be.

use std::path::Path;

use crate::args::{LocalArgs, TargetArgs};
use crate::config::{Config, Origin};
use crate::error::CliError;
use crate::hooks::HooksFile;
use crate::output::Output;
use crate::own_file::{self, FileError, Rules};

/// The file's name.
const FILE_NAME: &str = "relsync.toml";

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The options of the file, and what is to be said of them.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    /// The options.
    pub(crate) config: Config,
    used: Vec<String>,
}

/// Reads the named file, or that of the working directory if there is one, and picks the profile.
pub(crate) fn read(named: Option<&Path>, profile: Option<&str>) -> Result<ConfigFile, CliError> {
    read_at(named, Path::new(FILE_NAME), profile)
}

fn read_at(
    named: Option<&Path>,
    default: &Path,
    profile: Option<&str>,
) -> Result<ConfigFile, CliError> {
    let rules = named.map_or(Rules::Found, |_| Rules::Named);
    let path = named.unwrap_or(default);
    let (content, exists) = match own_file::read(path, rules, MAX_FILE_BYTES) {
        Ok(content) => (content, true),
        Err(error) if error.is_missing() && named.is_none() => (Vec::new(), false),
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8(content).map_err(|_| FileError::Text {
        path: path.to_owned(),
    })?;
    let origin = Origin {
        path: path.to_owned(),
        by_user: named.is_some(),
        is_link: own_file::is_link(path),
    };
    let config = Config::read(&text, origin, profile)?;
    let mut used = Vec::new();
    if exists {
        used.push(path.display().to_string());
        used.extend(config.profile.iter().map(|name| format!("profile {name}")));
    }
    Ok(ConfigFile { config, used })
}

/// Fills in from the file how to reach a target, and says that the file is used.
pub(crate) fn fill_target(args: &mut TargetArgs, output: &Output) -> Result<(), CliError> {
    let file = read(args.config.as_deref(), args.profile.as_deref())?;
    file.config.fill_target(args);
    file.say(None, output);
    Ok(())
}

/// Fills in from the file where the store is, says that the file is used, and returns its options.
pub(crate) fn read_for_store(args: &mut LocalArgs, output: &Output) -> Result<Config, CliError> {
    let file = read(args.config.as_deref(), None)?;
    file.config.fill_store(&mut args.store);
    file.say(None, output);
    Ok(file.config)
}

impl ConfigFile {
    /// Says once which file and which profile the options come from, and which hooks relsync found.
    pub(crate) fn say(&self, hooks: Option<&HooksFile>, output: &Output) {
        let mut used = self.used.clone();
        if let Some(hooks) = hooks.filter(|hooks| !hooks.by_user) {
            used.push(format!("hooks {}", hooks.path.display()));
        }
        if !used.is_empty() {
            output.aside(&format!("using {}", used.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::args::UpdateArgs;

    #[test]
    fn no_file_is_an_empty_one_unless_it_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        let read = |named, profile| read_at(named, &path, profile);
        let file = read(None, None).expect("an empty one");
        assert!(file.used.is_empty());
        let mut args = UpdateArgs::default();
        file.config.fill_update(&mut args);
        assert_eq!(args.target.destination_node, None);
        assert!(matches!(read(None, Some("desk")), Err(CliError::Config(_))));
        assert!(matches!(read(Some(&path), None), Err(CliError::File(_))));
        fs::write(&path, "[profiles.desk]\nkeep = 1\n").expect("a file");
        let file = read(None, Some("desk")).expect("a sound file");
        let expected = [path.display().to_string(), "profile desk".to_owned()];
        assert_eq!(file.used, expected);
        fs::write(&path, b"\xff").expect("a file");
        assert!(matches!(read(None, None), Err(CliError::File(_))));
    }
}
