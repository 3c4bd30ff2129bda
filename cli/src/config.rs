//! Options from `relsync.toml`.
//!
//! Owns the file's shape, and fills in with it what the command line leaves open. The keys are the
//! long options without the leading dashes. The keys at the top hold for every target. Those in
//! `[profiles.NAME]` hold for one profile, which `--profile` or `default-profile` chooses. Relative
//! paths are relative to the file. The command line wins over the environment (`clap` merges the
//! two), the environment over the profile, and the profile over the top.
//!
//! relsync looks for the file in the working directory only: a file further up could be anybody's,
//! and the file names hooks to run. It cannot hold the cookie, because it is made to be committed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::{
    ApplyArgs, LinkArgs, Mode, PresyncTime, Reload, ReloadArgs, RestartArgs, SourceArgs, StoreArgs,
    TargetArgs, TreeArgs, UpdateArgs,
};
use crate::units::{Rate, Size, Span};

/// The file's name.
const FILE_NAME: &str = "relsync.toml";

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Keys that a hint does not list: tables, and options that no mode of this version takes.
const NOT_LISTED: [&str; 3] = ["profiles", "port", "user"];

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is too large.
    #[error("{} is larger than 1 MiB", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not TOML, or has an unknown key or an invalid value.
    #[error("{}{place}: {problem}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line and the key, as far as they are known.
        place: String,
        /// The key of that line, if the line sets one.
        key: Option<String>,
        /// What is wrong there, and what was expected.
        problem: String,
        /// The known keys, if the key is unknown.
        known: Option<String>,
    },
    /// The file lacks the profile that was asked for.
    #[error("relsync.toml has no profile {name:?}")]
    UnknownProfile {
        /// The profile.
        name: String,
        /// The profiles that the file has.
        known: Vec<String>,
    },
}

/// The whole file.
pub(crate) type File = Options;

/// The options at the top of the file, or in a profile.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Options {
    // These two are valid at the top only. Flattening them in would lose the places of errors, and the
    // refusal of unknown keys.
    default_profile: Option<String>,
    profiles: BTreeMap<String, Options>,
    destination_node: Option<String>,
    destination_path: Option<PathBuf>,
    destination_rw_path: Option<PathBuf>,
    sname: Option<String>,
    name: Option<String>,
    mode: Option<Mode>,
    port: Option<u16>,
    user: Option<String>,
    address: Option<String>,
    dist_port: Option<u16>,
    epmd_port: Option<u16>,
    timeout: Option<Span>,
    local_path: Option<PathBuf>,
    store: Option<PathBuf>,
    exclude_system_libs: Option<bool>,
    shared_libs: Option<bool>,
    exclude: Vec<String>,
    include: Vec<String>,
    hooks: Option<String>,
    hook_timeout: Option<Span>,
    presync: Option<PresyncTime>,
    reload: Option<Reload>,
    restart_command: Option<String>,
    restart_timeout: Option<Span>,
    confirm_timeout: Option<Span>,
    keep: Option<u32>,
    keep_bytes: Option<Size>,
    checksum: Option<bool>,
    delete: Option<bool>,
    overwrite: Vec<String>,
    protect: Vec<String>,
    max_delete: Option<u64>,
    bwlimit: Option<Rate>,
    link_rate: Option<Rate>,
    retries: Option<u32>,
}

/// The options of the file that hold for one run, the strongest layer first.
#[derive(Debug, Default)]
pub(crate) struct Config {
    layers: Vec<Options>,
}

impl Config {
    /// Reads the file of the working directory, if there is one, and picks the profile.
    pub(crate) fn load(profile: Option<&str>) -> Result<Self, ConfigError> {
        Self::load_file(Path::new(FILE_NAME), profile)
    }

    fn load_file(path: &Path, profile: Option<&str>) -> Result<Self, ConfigError> {
        let read_error = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let text = match fs::metadata(path) {
            Ok(metadata) if metadata.len() > MAX_FILE_BYTES => {
                return Err(ConfigError::TooLarge {
                    path: path.to_owned(),
                });
            }
            Ok(_) => fs::read_to_string(path).map_err(read_error)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(read_error(error)),
        };
        let file = parse(&text).map_err(|error| parse_error(path, &text, &error))?;
        file.pick(profile)
    }

    fn first<T>(&self, pick: impl Fn(&Options) -> Option<T>) -> Option<T> {
        self.layers.iter().find_map(pick)
    }

    fn all(&self, pick: impl Fn(&Options) -> &Vec<String>) -> Vec<String> {
        self.layers
            .iter()
            .flat_map(|options| pick(options).clone())
            .collect()
    }
}

/// Reads a file's text.
pub(crate) fn parse(text: &str) -> Result<File, toml::de::Error> {
    let file: File = toml::from_str(text)?;
    for (name, profile) in &file.profiles {
        if profile.default_profile.is_some() || !profile.profiles.is_empty() {
            let problem = format!("the profile {name:?} must not contain profiles");
            return Err(serde::de::Error::custom(problem));
        }
    }
    Ok(file)
}

/// Says where a file is wrong, and what belongs there. It never shows the line itself, which may
/// hold a secret.
fn parse_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|before| before.matches('\n').count());
    let key = line.and_then(|line| text.lines().nth(line).and_then(key_of_line));
    let place = line.map_or_else(String::new, |line| {
        let unnamed = key.filter(|key| !error.message().contains(&format!("`{key}`")));
        let named = unnamed.map_or_else(String::new, |key| format!(", `{key}`"));
        format!(", line {}{named}", line + 1)
    });
    let message = error.message();
    let (problem, known) = match message.split_once(", expected one of ") {
        Some((problem, known)) if problem.starts_with("unknown field") => {
            let keys = known.split(", ").map(|key| key.trim_matches('`'));
            let keys: Vec<&str> = keys.filter(|key| !NOT_LISTED.contains(key)).collect();
            (problem, Some(keys.join(", ")))
        }
        _ => (message, None),
    };
    let mut problem = problem.replace("wanted string or table", "expected a string");
    for number in ["u16", "u32", "u64"] {
        problem = problem.replace(&format!("expected {number}"), "expected a whole number");
    }
    ConfigError::Parse {
        path: path.to_owned(),
        place,
        key: key.map(str::to_owned),
        problem,
        known,
    }
}

/// The key that a line of the file sets, if it sets one.
fn key_of_line(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let is_key = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (!key.is_empty() && key.bytes().all(is_key)).then_some(key)
}

impl File {
    /// Picks the options of the profile, or of the default one, and those of the top.
    pub(crate) fn pick(mut self, profile: Option<&str>) -> Result<Config, ConfigError> {
        let mut layers = Vec::new();
        if let Some(name) = profile.or(self.default_profile.as_deref()) {
            match self.profiles.remove(name) {
                Some(options) => layers.push(options),
                None => {
                    return Err(ConfigError::UnknownProfile {
                        name: name.to_owned(),
                        known: self.profiles.into_keys().collect(),
                    });
                }
            }
        }
        layers.push(self);
        Ok(Config { layers })
    }
}

/// Gives the file's value to each field that the command line left open.
macro_rules! fill {
    ($config:expr, $args:expr, $($field:ident),+ $(,)?) => {
        $(if $args.$field.is_none() {
            $args.$field = $config.first(|options| options.$field.clone());
        })+
    };
}

/// Turns on each of the switches that the file turns on.
macro_rules! switch_on {
    ($config:expr, $args:expr, $($field:ident),+ $(,)?) => {
        $($args.$field |= $config.first(|options| options.$field).unwrap_or(false);)+
    };
}

impl Config {
    /// Fills in the arguments of a push from the file.
    pub(crate) fn fill_update(&self, args: &mut UpdateArgs) {
        self.fill_target(&mut args.target);
        self.fill_source(&mut args.source);
        self.fill_tree(&mut args.tree);
        self.fill_apply(&mut args.apply);
        self.fill_link(&mut args.link);
    }

    /// Fills in how to reach a target.
    pub(crate) fn fill_target(&self, args: &mut TargetArgs) {
        // A name of either kind on the command line overrides a name of either kind in the file.
        let named = args.sname.is_some() || args.name.is_some();
        if !named {
            fill!(self, args, sname, name);
        }
        fill!(
            self,
            args,
            destination_node,
            destination_path,
            destination_rw_path,
            mode,
            port,
            user,
            address,
            dist_port,
            epmd_port,
            timeout,
        );
    }

    /// Fills in where snapshots are kept.
    pub(crate) fn fill_store(&self, args: &mut StoreArgs) {
        fill!(self, args, store);
    }

    /// Fills in which entries belong to a snapshot.
    pub(crate) fn fill_tree(&self, args: &mut TreeArgs) {
        fill!(self, args, exclude_system_libs);
        switch_on!(self, args, shared_libs);
        args.exclude.extend(self.all(|options| &options.exclude));
        args.include.extend(self.all(|options| &options.include));
    }

    /// Fills in which hooks run, and for how long.
    pub(crate) fn fill_hooks(&self, hooks: &mut Option<String>, timeout: &mut Option<Span>) {
        if hooks.is_none() {
            *hooks = self.first(|options| options.hooks.clone());
        }
        *timeout = timeout.or_else(|| self.first(|options| options.hook_timeout));
    }

    /// Fills in how running code is replaced.
    pub(crate) fn fill_reload(&self, reload: &mut Option<Reload>) {
        *reload = reload.or_else(|| self.first(|options| options.reload));
    }

    /// Fills in how a VM comes back after a restart.
    pub(crate) fn fill_restart(&self, args: &mut RestartArgs) {
        fill!(self, args, restart_command, restart_timeout);
    }

    /// Fills in how running code is replaced, and with which hooks.
    pub(crate) fn fill_reloading(&self, args: &mut ReloadArgs) {
        self.fill_target(&mut args.target);
        self.fill_reload(&mut args.reload);
        fill!(self, args, hooks, hook_timeout);
    }

    fn fill_source(&self, args: &mut SourceArgs) {
        if args.snapshot.is_none() {
            fill!(self, args, local_path);
        }
        self.fill_store(&mut args.store);
    }

    fn fill_apply(&self, args: &mut ApplyArgs) {
        self.fill_reload(&mut args.reload);
        self.fill_restart(&mut args.restart);
        self.fill_hooks(&mut args.hooks, &mut args.hook_timeout);
        fill!(
            self,
            args,
            presync,
            confirm_timeout,
            keep,
            keep_bytes,
            max_delete
        );
        switch_on!(self, args, checksum, delete);
        args.overwrite
            .extend(self.all(|options| &options.overwrite));
        args.protect.extend(self.all(|options| &options.protect));
    }

    fn fill_link(&self, args: &mut LinkArgs) {
        fill!(self, args, bwlimit, link_rate, retries);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::CliError;

    const FILE: &str = r#"
        default-profile = "desk"
        destination-path = "/opt/app"
        retries = 7
        exclude = ["*.log"]
        bwlimit = "11k"

        [profiles.desk]
        destination-node = "app@desk"
        timeout = "2s"

        [profiles.field]
        destination-node = "app@field.example.org"
        destination-path = "/data/app"
        exclude = ["doc/"]
        checksum = true
        reload = "hard"
        name = "me@here.example.org"
    "#;

    fn config(profile: Option<&str>) -> Config {
        parse(FILE)
            .expect("a sound file")
            .pick(profile)
            .expect("a known profile")
    }

    #[test]
    fn flags_win_over_the_profile_and_the_profile_over_the_top() {
        let mut args = UpdateArgs::default();
        config(None).fill_update(&mut args);
        assert_eq!(args.target.destination_node.as_deref(), Some("app@desk"));
        assert_eq!(args.target.destination_path, Some("/opt/app".into()));
        assert_eq!(args.target.timeout, Some(Span(Duration::from_secs(2))));
        assert_eq!(args.link.retries, Some(7));
        assert_eq!(args.link.bwlimit, Some(Rate(11 * 1024)));
        assert_eq!(args.tree.exclude, ["*.log"]);
        assert!(!args.apply.checksum);

        let mut args = UpdateArgs::default();
        args.target.destination_node = Some("other@desk".to_owned());
        args.target.sname = Some("short".to_owned());
        args.tree.exclude = vec!["*.tmp".to_owned()];
        args.link.retries = Some(0);
        config(Some("field")).fill_update(&mut args);
        assert_eq!(args.target.destination_node.as_deref(), Some("other@desk"));
        assert_eq!(args.target.destination_path, Some("/data/app".into()));
        assert_eq!(args.link.retries, Some(0));
        assert_eq!(args.tree.exclude, ["*.tmp", "doc/", "*.log"]);
        assert_eq!(args.apply.reload, Some(Reload::Hard));
        assert!(args.apply.checksum);
        assert_eq!(args.target.name, None, "a short name was asked for");
    }

    #[test]
    fn a_snapshot_sets_aside_the_local_path_of_the_file() {
        let config = parse("local-path = \"_rel\"")
            .expect("sound")
            .pick(None)
            .expect("no profile");
        let mut args = UpdateArgs::default();
        args.source.snapshot = Some("latest".to_owned());
        config.fill_update(&mut args);
        assert_eq!(args.source.local_path, None);
    }

    #[test]
    fn wrong_files_are_refused() {
        let table = [
            ("cookie = \"secret\"", "unknown field"),
            ("destination-nod = \"a@b\"", "unknown field"),
            ("[profiles.x]\nnope = 1", "unknown field"),
            ("bwlimit = \"fast\"", "not a rate"),
            ("mode = \"ftp\"", "unknown variant"),
            ("= 1", ""),
            ("retries = -1", ""),
        ];
        for (text, expected) in table {
            let error = parse(text).expect_err(text);
            assert!(error.message().contains(expected), "{text}: {error}");
            let error = parse_error(Path::new(FILE_NAME), text, &error).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let nested = parse("[profiles.a.profiles.b]\nkeep = 1").expect_err("nested");
        assert!(nested.to_string().contains("\"a\""), "{nested}");
        let unknown = parse(FILE).expect("sound").pick(Some("moon"));
        assert!(
            matches!(unknown, Err(ConfigError::UnknownProfile { known, .. }) if known == ["desk", "field"])
        );
    }

    #[test]
    fn the_place_of_an_error_is_named_and_what_belongs_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        let table = [
            (
                "retries = 1\nkeep = \"two\"",
                "line 2, `keep`: invalid type: string \"two\", expected a whole number",
            ),
            (
                "\n[profiles.a]\ntimeout = \"soon\"",
                "line 3, `timeout`: \"soon\" is not a duration: write a number and ms, s, m or h, like 60s or 2m",
            ),
            ("[profile.a]\nkeep = 1", "line 1: unknown field `profile`"),
            ("cookie = \"secret\"", "line 1: unknown field `cookie`"),
        ];
        for (text, expected) in table {
            fs::write(&path, text).expect("a file");
            let error = Config::load_file(&path, None).expect_err(text);
            let said = error.to_string();
            assert_eq!(said, format!("{}, {expected}", path.display()));
            let hints_at_keys = matches!(&error, ConfigError::Parse { known: Some(known), .. } if known.contains("keep, "));
            assert_eq!(
                hints_at_keys,
                text.contains("[profile.") || text.contains("cookie"),
                "{error:?}"
            );
            let hint = CliError::from(error).explain().hint.unwrap_or_default();
            let warns = hint.contains("RELSYNC_COOKIE");
            assert_eq!(warns, text.contains("cookie"), "{hint}");
        }
    }

    #[test]
    fn no_file_is_an_empty_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config::load_file(&dir.path().join(FILE_NAME), None).expect("an empty one");
        let mut args = UpdateArgs::default();
        config.fill_update(&mut args);
        assert_eq!(args.target.destination_node, None);
        let wanted = Config::load_file(&dir.path().join(FILE_NAME), Some("desk"));
        assert!(matches!(wanted, Err(ConfigError::UnknownProfile { .. })));
    }
}
