//! Options from `relsync.toml`.
//!
//! Owns the file's shape, and fills in with it what the command line leaves open; `config_file` finds
//! and reads the file. The keys are the long options without the leading dashes. The keys at the top
//! hold for every target. Those in `[profiles.NAME]` hold for one profile, which `--profile` or
//! `default-profile` chooses. Relative paths are relative to the file. The command line wins over the
//! environment (`clap` merges the two), the environment over the profile, and the profile over the
//! top.
//!
//! The file cannot hold the cookie, because it is made to be committed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::value::Error as Unread;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};

use crate::args::{
    ApplyArgs, FromFile, HooksArg, LinkArgs, Mode, PresyncTime, Reload, ReloadArgs, RestartArgs,
    SourceArgs, StoreArgs, TargetArgs, TreeArgs, UpdateArgs,
};
use crate::units::{Rate, Size, Span};

/// Keys that a hint does not list: tables.
const NOT_LISTED: [&str; 1] = ["profiles"];

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
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
    #[error("{} has no profile {name:?}", path.display())]
    UnknownProfile {
        /// The file.
        path: PathBuf,
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
    identity: Vec<String>,
    address: Option<String>,
    dist_port: Option<u16>,
    epmd_port: Option<u16>,
    tunnel: Option<String>,
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

/// The place of a file, and who chose it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    /// The file.
    pub(crate) path: PathBuf,
    /// Whether the user named it.
    pub(crate) by_user: bool,
    /// Whether it is a link, so that errors say nothing of its content.
    pub(crate) is_link: bool,
}

/// The options of the file that hold for one run, the strongest layer first.
#[derive(Debug, Default)]
pub(crate) struct Config {
    layers: Vec<Options>,
    origin: Origin,
    /// The profile that was picked.
    pub(crate) profile: Option<String>,
}

impl Config {
    /// Reads the text of a file, and picks the profile.
    pub(crate) fn read(
        text: &str,
        origin: Origin,
        profile: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let file = parse(text).map_err(|error| parse_error(&origin, text, &error))?;
        file.pick(origin, profile)
    }

    /// The directory that the file's relative paths begin at.
    fn dir(&self) -> PathBuf {
        let dir = self.origin.path.parent();
        dir.map(Path::to_owned).unwrap_or_default()
    }

    fn first<T>(&self, pick: impl Fn(&Options) -> Option<T>) -> Option<T> {
        self.layers.iter().find_map(pick)
    }

    /// A path on this host, which the file writes relative to itself.
    fn local_file(&self, pick: impl Fn(&Options) -> Option<PathBuf>) -> Option<PathBuf> {
        Some(self.dir().join(self.first(pick)?))
    }

    /// A private key's file: relative to the file, or to the home directory.
    fn key_file(&self, text: &str) -> PathBuf {
        match text.strip_prefix("~/") {
            Some(_) => text.into(),
            None => self.dir().join(text),
        }
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
/// hold a secret. Of a link it says the line only: it may lead to any file of the user.
fn parse_error(origin: &Origin, text: &str, error: &toml::de::Error) -> ConfigError {
    let path = &origin.path;
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|before| before.matches('\n').count());
    if origin.is_link {
        return ConfigError::Parse {
            path: path.clone(),
            place: line.map_or_else(String::new, |line| format!(", line {}", line + 1)),
            key: None,
            problem: "this is not what a relsync.toml holds".to_owned(),
            known: None,
        };
    }
    let key = line.and_then(|line| text.lines().nth(line).and_then(key_of_line));
    let place = line.map_or_else(String::new, |line| {
        let unnamed = key.filter(|key| !error.message().contains(&format!("`{key}`")));
        let named = unnamed.map_or_else(String::new, |key| format!(", `{key}`"));
        format!(", line {}{named}", line + 1)
    });
    let unknown = error.span().and_then(|span| unknown_key(text, span));
    let (problem, known) = match unknown {
        Some(key) => {
            let keys = known_keys().iter().copied();
            let keys: Vec<&str> = keys.filter(|key| !NOT_LISTED.contains(key)).collect();
            (format!("unknown field `{key}`"), Some(keys.join(", ")))
        }
        None => (error.message().to_owned(), None),
    };
    let mut problem = problem.replace("wanted string or table", "expected a string");
    for number in ["u16", "u32", "u64"] {
        problem = problem.replace(&format!("expected {number}"), "expected a whole number");
    }
    ConfigError::Parse {
        path: path.clone(),
        place,
        key: key.map(str::to_owned),
        problem,
        known,
    }
}

/// The place of an error, if it is a key that the file does not know.
fn unknown_key(text: &str, span: Range<usize>) -> Option<&str> {
    let key = text.get(span.clone())?;
    let before = text[..span.start].rsplit('\n').next().unwrap_or_default();
    let after = text[span.end..].trim_start_matches(' ');
    let is_key =
        before.trim_start_matches(['[', ' ']).is_empty() && after.starts_with(['=', ']', '.']);
    (is_key && !known_keys().contains(&key)).then_some(key)
}

/// The keys of the file, as serde knows them.
fn known_keys() -> &'static [&'static str] {
    struct Fields<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Fields<'_> {
        type Error = Unread;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Unread> {
            *self.0 = fields;
            Err(Unread::custom("only the fields count"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Unread> {
            Err(Unread::custom("options are a struct"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut fields: &[&str] = &[];
    let _ = Options::deserialize(Fields(&mut fields));
    fields
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
    fn pick(mut self, origin: Origin, profile: Option<&str>) -> Result<Config, ConfigError> {
        let mut layers = Vec::new();
        let profile = profile.map(str::to_owned).or(self.default_profile.clone());
        if let Some(name) = &profile {
            match self.profiles.remove(name) {
                Some(options) => layers.push(options),
                None => {
                    return Err(ConfigError::UnknownProfile {
                        path: origin.path,
                        name: name.clone(),
                        known: self.profiles.into_keys().collect(),
                    });
                }
            }
        }
        layers.push(self);
        Ok(Config {
            layers,
            origin,
            profile,
        })
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
        let open = FromFile {
            node: args.destination_node.is_none(),
            port: args.port.is_none(),
            address: args.address.is_none(),
            dist_port: args.dist_port.is_none(),
            epmd_port: args.epmd_port.is_none(),
            tunnel: args.tunnel.is_none(),
        };
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
            tunnel,
            timeout,
        );
        if args.identity.is_empty() {
            let files = self.all(|options| &options.identity);
            args.identity = files.iter().map(|file| self.key_file(file)).collect();
        }
        args.from_file = FromFile {
            node: open.node && args.destination_node.is_some(),
            port: open.port && args.port.is_some(),
            address: open.address && args.address.is_some(),
            dist_port: open.dist_port && args.dist_port.is_some(),
            epmd_port: open.epmd_port && args.epmd_port.is_some(),
            tunnel: open.tunnel && args.tunnel.is_some(),
        };
    }

    /// Fills in where snapshots are kept.
    pub(crate) fn fill_store(&self, args: &mut StoreArgs) {
        if args.store.is_none() {
            args.store = self.local_file(|options| options.store.clone());
        }
    }

    /// Fills in which entries belong to a snapshot.
    pub(crate) fn fill_tree(&self, args: &mut TreeArgs) {
        fill!(self, args, exclude_system_libs);
        switch_on!(self, args, shared_libs);
        args.exclude.extend(self.all(|options| &options.exclude));
        args.include.extend(self.all(|options| &options.include));
    }

    /// Fills in which hooks run, and for how long.
    pub(crate) fn fill_hooks(&self, hooks: &mut Option<HooksArg>, timeout: &mut Option<Span>) {
        if hooks.is_none() {
            let name = self.first(|options| options.hooks.clone());
            *hooks = name.map(|name| HooksArg {
                name,
                dir: self.dir(),
                by_user: self.origin.by_user,
            });
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
        self.fill_hooks(&mut args.hooks, &mut args.hook_timeout);
    }

    fn fill_source(&self, args: &mut SourceArgs) {
        if args.snapshot.is_none() && args.local_path.is_none() {
            args.local_path = self.local_file(|options| options.local_path.clone());
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

    const FILE_NAME: &str = "relsync.toml";

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

    /// What a file of the working directory says.
    fn read(text: &str, profile: Option<&str>) -> Result<Config, ConfigError> {
        let origin = Origin {
            path: FILE_NAME.into(),
            ..Origin::default()
        };
        Config::read(text, origin, profile)
    }

    fn config(profile: Option<&str>) -> Config {
        read(FILE, profile).expect("a sound file")
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
        let config = read("local-path = \"_rel\"", None).expect("sound");
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
            let origin = Origin {
                path: FILE_NAME.into(),
                ..Origin::default()
            };
            let said = parse_error(&origin, text, &error).to_string();
            assert!(!said.contains("secret"), "{said}");
            let link = Origin {
                is_link: true,
                ..origin
            };
            let said = parse_error(&link, text, &error);
            let line = if text.starts_with('[') { 2 } else { 1 };
            let expected =
                format!("{FILE_NAME}, line {line}: this is not what a relsync.toml holds");
            assert_eq!(said.to_string(), expected);
        }
        let nested = parse("[profiles.a.profiles.b]\nkeep = 1").expect_err("nested");
        assert!(nested.to_string().contains("\"a\""), "{nested}");
        let unknown = read(FILE, Some("moon"));
        assert!(
            matches!(unknown, Err(ConfigError::UnknownProfile { known, .. }) if known == ["desk", "field"])
        );
    }

    #[test]
    fn the_place_of_an_error_is_named_and_what_belongs_there() {
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
            let error = read(text, None).expect_err(text);
            let said = error.to_string();
            assert_eq!(said, format!("{FILE_NAME}, {expected}"));
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
    fn what_the_file_decides_of_the_way_to_a_target_is_marked() {
        let text = "destination-node = \"a@b\"\ndist-port = 9100\n";
        let config = read(text, None).expect("a sound file");
        let mut args = TargetArgs::default();
        config.fill_target(&mut args);
        let expected = FromFile {
            node: true,
            dist_port: true,
            ..FromFile::default()
        };
        assert_eq!(args.from_file, expected);
        let mut args = TargetArgs {
            destination_node: Some("a@b".to_owned()),
            dist_port: Some(9100),
            ..TargetArgs::default()
        };
        config.fill_target(&mut args);
        assert_eq!(args.from_file, FromFile::default());
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let text = "local-path = \"_rel\"\nstore = \"/s\"\nhooks = \"h\"\n";
        for (path, dir, by_user) in [("relsync.toml", "", false), ("../a/b.toml", "../a", true)] {
            let origin = Origin {
                path: path.into(),
                by_user,
                is_link: false,
            };
            let config = Config::read(text, origin, None).expect("a sound file");
            let mut args = UpdateArgs::default();
            config.fill_update(&mut args);
            assert_eq!(args.source.local_path, Some(Path::new(dir).join("_rel")));
            assert_eq!(args.source.store.store, Some("/s".into()));
            let hooks = HooksArg {
                name: "h".to_owned(),
                dir: dir.into(),
                by_user,
            };
            assert_eq!(args.apply.hooks, Some(hooks));
        }
    }
}
