//! What the user's own configuration says of nodes and cookies.
//!
//! | file, in the user's configuration directory | what it holds |
//! |---|---|
//! | `config.toml` | `cookies`: the cookie of each node, by the node's name or a pattern of it |
//! | `trusted-nodes` | the nodes that a `relsync.toml` may name, one a line, as options of `relsync trust` |
//!
//! A node that answers relsync can pass the proof of a cookie on to another node with that cookie, and
//! take that node over. So relsync proves a cookie to a node that a `relsync.toml` names only if this
//! configuration binds the two, or if the user trusts the node. A working directory's file never
//! decides that.
//!
//! relsync replaces `trusted-nodes` as a whole: a crash leaves the earlier or the later list. Of two
//! nodes that are added at the same moment, one may be forgotten, and the user is asked again.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use relsync_engine::transport::erl::{NodeName, NodeNameError};
use serde::Deserialize;

use crate::args::TargetArgs;
use crate::own_file::{self, FileError, Rules};

/// The user's options.
const CONFIG: &str = "config.toml";

/// The list of trusted nodes.
const TRUSTED: &str = "trusted-nodes";

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why the user's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindingsError {
    /// A file cannot be read, or is somebody else's.
    #[error(transparent)]
    File(#[from] FileError),
    /// The options are not TOML, or hold something unknown. The text never shows them.
    #[error("{}, line {line}: this is not a table `cookies` of texts", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A node cannot be added to the list.
    #[error("cannot add the node to {}", path.display())]
    Remember {
        /// The list.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The user has no configuration directory.
    #[error("this user has no configuration directory, so relsync cannot remember the node")]
    NoDir,
}

/// A node and the parts of the way to it, as a `relsync.toml` names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    /// The node.
    pub(crate) node: NodeName,
    /// The host that stands for the one in the node's name.
    pub(crate) address: Option<String>,
    /// The node's own port.
    pub(crate) dist_port: Option<u16>,
    /// The port of the node's EPMD.
    pub(crate) epmd_port: Option<u16>,
    /// The SSH server through which the node is reached.
    pub(crate) tunnel: Option<String>,
}

/// Shows the way as options of `relsync trust`, which is also its line in the list.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.node)?;
        if let Some(address) = &self.address {
            write!(f, " --address {address}")?;
        }
        if let Some(port) = self.dist_port {
            write!(f, " --dist-port {port}")?;
        }
        if let Some(port) = self.epmd_port {
            write!(f, " --epmd-port {port}")?;
        }
        if let Some(server) = &self.tunnel {
            write!(f, " --tunnel {server}")?;
        }
        Ok(())
    }
}

impl Way {
    /// Returns the way as far as a file decides it; `None` if the user named the node and all of it.
    ///
    /// An address or a port leads elsewhere, so it counts although the user named the node.
    pub(crate) fn of_file(args: &TargetArgs) -> Result<Option<Self>, NodeNameError> {
        let of = args.from_file;
        let Some(node) = &args.destination_node else {
            return Ok(None);
        };
        if !(of.node || of.address || of.dist_port || of.epmd_port || of.tunnel) {
            return Ok(None);
        }
        Ok(Some(Self {
            node: NodeName::parse(node)?,
            address: args.address.clone().filter(|_| of.address),
            dist_port: args.dist_port.filter(|_| of.dist_port),
            epmd_port: args.epmd_port.filter(|_| of.epmd_port),
            tunnel: args.tunnel.clone().filter(|_| of.tunnel),
        }))
    }

    /// Whether the node's name alone decides where relsync connects.
    fn is_direct(&self) -> bool {
        self.address.is_none()
            && self.dist_port.is_none()
            && self.epmd_port.is_none()
            && self.tunnel.is_none()
    }
}

/// The user's own options.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Options {
    cookies: BTreeMap<String, String>,
}

/// The user's configuration.
#[derive(Default)]
pub(crate) struct Bindings {
    dir: Option<PathBuf>,
    options: Options,
    trusted: Vec<String>,
}

impl Bindings {
    /// Reads the configuration in that directory. What is missing is empty.
    pub(crate) fn load(dir: Option<PathBuf>) -> Result<Self, BindingsError> {
        let Some(dir) = dir else {
            return Ok(Self::default());
        };
        let path = dir.join(CONFIG);
        let options = match text(&path, Rules::Secret)? {
            Some(text) => parse(&path, &text)?,
            None => Options::default(),
        };
        let trusted = text(&dir.join(TRUSTED), Rules::Found)?.unwrap_or_default();
        Ok(Self {
            dir: Some(dir),
            options,
            trusted: trusted.lines().map(str::to_owned).collect(),
        })
    }

    /// Returns the cookie that is bound to a node. Of several patterns the longest counts.
    pub(crate) fn cookie(&self, node: &NodeName) -> Option<&str> {
        let matching = self
            .options
            .cookies
            .iter()
            .filter(|(pattern, _)| matches(pattern, node.as_str()));
        let (_, cookie) = matching.max_by_key(|(pattern, _)| pattern.len())?;
        Some(cookie)
    }

    /// Whether a cookie may be proved to a node that a file names.
    pub(crate) fn allow(&self, way: &Way, cookie: &str) -> bool {
        let is_bound = way.is_direct() && self.cookie(&way.node) == Some(cookie);
        let line = way.to_string();
        is_bound || self.trusted.contains(&line)
    }

    /// Adds a node to the list of those that the user trusts, and returns the list's path.
    pub(crate) fn remember(&self, way: &Way) -> Result<PathBuf, BindingsError> {
        let dir = self.dir.as_ref().ok_or(BindingsError::NoDir)?;
        let path = dir.join(TRUSTED);
        let line = way.to_string();
        if !self.trusted.contains(&line) {
            let lines = self.trusted.iter().chain([&line]);
            let list: String = lines.map(|line| format!("{line}\n")).collect();
            replace(dir, &path, &list).map_err(|source| BindingsError::Remember {
                path: path.clone(),
                source,
            })?;
        }
        Ok(path)
    }
}

fn replace(dir: &Path, path: &Path, list: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // A list that the user keeps elsewhere, behind a link, stays there.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(dir))?;
    file.write_all(list.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// The text of a file, if there is one.
fn text(path: &Path, rules: Rules) -> Result<Option<String>, BindingsError> {
    match own_file::read(path, rules, MAX_FILE_BYTES) {
        Ok(content) => {
            let text = String::from_utf8(content).map_err(|_| FileError::Text {
                path: path.to_owned(),
            })?;
            Ok(Some(text))
        }
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn parse(path: &Path, text: &str) -> Result<Options, BindingsError> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        BindingsError::Parse {
            path: path.to_owned(),
            line: before.unwrap_or_default().matches('\n').count() + 1,
        }
    })
}

/// Whether a pattern is the name's. A `*` stands for any characters but `.` and `@`, so that
/// `*@10.0.0.*` is not the name of a node in another domain.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(rest) = name.strip_prefix(before) else {
        return false;
    };
    let ends = rest
        .char_indices()
        .take_while(|(_, c)| !matches!(c, '.' | '@'))
        .map(|(at, c)| at + c.len_utf8());
    std::iter::once(0)
        .chain(ends)
        .any(|end| matches(after, &rest[end..]))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::args::FromFile;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).expect("a name")
    }

    fn direct(name: &str) -> Way {
        Way {
            node: node(name),
            address: None,
            dist_port: None,
            epmd_port: None,
            tunnel: None,
        }
    }

    fn with_config(text: &str) -> (tempfile::TempDir, Result<Bindings, BindingsError>) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(CONFIG);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
        let bindings = Bindings::load(Some(dir.path().to_owned()));
        (dir, bindings)
    }

    #[test]
    fn a_pattern_stays_within_its_labels() {
        let table = [
            ("app@board", "app@board", true),
            ("app@board", "app@board2", false),
            ("app@*", "app@board", true),
            ("app@*", "app@board.evil.org", false),
            ("*@10.0.0.*", "app@10.0.0.7", true),
            ("*@10.0.0.*", "app@10.0.0.7.evil.org", false),
            ("*@*.example.org", "a@b.example.org", true),
            ("*@*.example.org", "a@b.c.example.org", false),
            ("*", "app@board", false),
            ("app*@board", "app@board", true),
            ("", "app@board", false),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_cookie_is_proved_only_to_the_node_that_it_is_bound_to() {
        let text = "[cookies]\n\"app@board\" = \"one\"\n\"*@board\" = \"two\"\n";
        let (_dir, bindings) = with_config(text);
        let bindings = bindings.expect("a sound file");
        assert_eq!(bindings.cookie(&node("app@board")), Some("one"));
        assert_eq!(bindings.cookie(&node("web@board")), Some("two"));
        assert_eq!(bindings.cookie(&node("app@desk")), None);
        assert!(bindings.allow(&direct("app@board"), "one"));
        // Another cookie, another node, another way to it.
        assert!(!bindings.allow(&direct("app@board"), "two"));
        assert!(!bindings.allow(&direct("app@desk"), "one"));
        let elsewhere = Way {
            dist_port: Some(9100),
            ..direct("app@board")
        };
        assert!(!bindings.allow(&elsewhere, "one"));
    }

    #[test]
    fn a_trusted_node_is_remembered_with_the_way_to_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = Some(dir.path().join("relsync"));
        let load = || Bindings::load(dir.clone()).expect("sound files");
        let way = Way {
            address: Some("10.0.0.7".to_owned()),
            dist_port: Some(9100),
            ..direct("app@board")
        };
        assert!(!load().allow(&way, "any"));
        let list = load().remember(&way).expect("remembered");
        assert!(load().allow(&way, "any"));
        assert!(!load().allow(&direct("app@board"), "any"));
        let before = fs::read(&list).expect("the list");
        load().remember(&way).expect("known");
        assert_eq!(fs::read(&list).expect("the list"), before);
        load().remember(&direct("app@desk")).expect("remembered");
        assert!(load().allow(&direct("app@desk"), "any"));
        assert!(load().allow(&way, "any"));
        // What others can write says nothing.
        fs::set_permissions(&list, Permissions::from_mode(0o602)).expect("a mode");
        assert!(Bindings::load(dir.clone()).is_err());
    }

    #[test]
    fn errors_of_the_options_show_none_of_them() {
        for text in [
            "[cookies]\n\"app@board\" = s3cret",
            "s3cret = 1",
            "cookies = \"s3cret\"",
            "[cookies]\n\"app@board\" = [\"s3cret\"]",
        ] {
            let error = with_config(text).1.err().expect("a refusal").to_string();
            assert!(
                error.contains(CONFIG) && !error.contains("s3cret"),
                "{error}"
            );
        }
        let (dir, _) = with_config("");
        let path = dir.path().join(CONFIG);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("a mode");
        let open = Bindings::load(Some(dir.path().to_owned()));
        assert!(matches!(
            open,
            Err(BindingsError::File(FileError::Readable { .. }))
        ));
    }

    #[test]
    fn only_what_a_file_names_needs_trust() {
        let args = |from_file| TargetArgs {
            destination_node: Some("app@board".to_owned()),
            address: Some("10.0.0.7".to_owned()),
            dist_port: Some(9100),
            epmd_port: Some(4370),
            tunnel: Some("pi@gate".to_owned()),
            from_file,
            ..TargetArgs::default()
        };
        let way = |from_file| {
            let way = Way::of_file(&args(from_file)).expect("a name");
            way.map(|way| way.to_string())
        };
        assert_eq!(way(FromFile::default()), None);
        let node = FromFile {
            node: true,
            ..FromFile::default()
        };
        assert_eq!(way(node).as_deref(), Some("app@board"));
        let all = FromFile {
            node: true,
            port: false,
            tunnel: true,
            address: true,
            dist_port: true,
            epmd_port: true,
        };
        let line =
            "app@board --address 10.0.0.7 --dist-port 9100 --epmd-port 4370 --tunnel pi@gate";
        assert_eq!(way(all).as_deref(), Some(line));
        let port = FromFile {
            dist_port: true,
            ..FromFile::default()
        };
        assert_eq!(way(port).as_deref(), Some("app@board --dist-port 9100"));
    }
}
