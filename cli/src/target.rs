//! The target that the options name, and the way to it.
//!
//! Turns arguments into a [`Target`]. All arguments are checked before the host looks up or connects
//! to anything.

use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use relsync_engine::target::{Address, Greeting, Patience, SshAddress, Target};
use relsync_engine::transport::RateLimiter;
use relsync_engine::transport::erl::{
    Cookie, CookieError, ErlTarget, LocalName, NodeName, NodeNameError,
};

use crate::args::{Mode, TargetArgs};
use crate::bindings::{Bindings, Way};
use crate::machine;
use crate::own_file::FileError;
use crate::ssh::{self, SshOptionError};
use crate::units::Rate;

/// The release's root on the target.
const DEFAULT_DESTINATION: &str = "/srv/erlang";

/// The default cookie.
const DEFAULT_COOKIE: &str = "cookie";

/// How long each step of connecting may take.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the options name no valid target.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// No node was named.
    #[error("no target node is named")]
    NoNode,
    /// The node's name is invalid.
    #[error(transparent)]
    NodeName(NodeNameError),
    /// The node name for this host is invalid.
    #[error("the host cannot use the node name {text:?}: {source}")]
    LocalName {
        /// The text.
        text: String,
        /// What is wrong with it.
        source: NodeNameError,
    },
    /// The cookie is invalid.
    #[error(transparent)]
    Cookie(#[from] CookieError),
    /// The file with the user's cookie is not used.
    #[error(transparent)]
    CookieFile(#[from] FileError),
    /// A directory on the target is not absolute.
    #[error("{option} must be an absolute path, but {} is not", path.display())]
    RelativePath {
        /// The option.
        option: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The address is invalid.
    #[error("{text:?} is not an address")]
    Address {
        /// The text.
        text: String,
    },
    /// Two options name different ports of the node.
    #[error("--address and --dist-port name different ports")]
    TwoPorts,
    /// Only a file names the node or the way to it, and nothing says that it may have the cookie.
    #[error("relsync does not prove your cookie to {}, which only relsync.toml names", way.node)]
    Untrusted {
        /// The node and the way to it.
        way: Way,
    },
    /// The options name no valid target over SSH.
    #[error(transparent)]
    Ssh(#[from] SshOptionError),
}

/// Reads the arguments; `checksum` tells whether the target finds changed files by hash. `bindings`
/// tell which cookie is whose, and to which nodes of a file one may be proved.
pub(crate) fn resolve(
    args: &TargetArgs,
    checksum: bool,
    bwlimit: Option<Rate>,
    bindings: &Bindings,
) -> Result<Target, TargetError> {
    let name = args
        .destination_node
        .as_deref()
        .ok_or(TargetError::NoNode)?;
    let greeting = greeting(args, checksum)?;
    let limiter = bwlimit
        .and_then(|rate| NonZeroU64::new(rate.0))
        .map(RateLimiter::new);
    let timeout = args.timeout.map_or(DEFAULT_TIMEOUT, |span| span.0);
    let address = match args.mode {
        Some(Mode::Ssh) => Address::Ssh(behind(args, name, timeout, limiter)?),
        Some(Mode::Erl) | None => Address::Erl(erl(args, name, timeout, limiter, bindings)?),
    };
    Ok(Target::new(address, greeting, Patience::default()))
}

/// The host's first message.
fn greeting(args: &TargetArgs, checksum: bool) -> Result<Greeting, TargetError> {
    let destination = args
        .destination_path
        .as_deref()
        .unwrap_or(Path::new(DEFAULT_DESTINATION));
    let writable = args.destination_rw_path.as_deref();
    let destination = absolute("--destination-path", destination)?;
    let mut greeting = Greeting::new(&machine::caller(), destination);
    greeting.writable = writable
        .map(|path| absolute("--destination-rw-path", path))
        .transpose()?;
    greeting.checksum = checksum;
    Ok(greeting)
}

/// A VM behind an SSH server.
fn behind(
    args: &TargetArgs,
    name: &str,
    timeout: Duration,
    limiter: Option<RateLimiter>,
) -> Result<SshAddress, TargetError> {
    let is_of_file = args.from_file.node || args.from_file.port;
    let mut address = SshAddress::new(ssh::resolve(args, name, timeout, limiter, is_of_file)?);
    // A server that only a file names could pass the proof of the cookie on to another node.
    if let Some(secret) = args.cookie.as_ref().filter(|_| !is_of_file) {
        address.cookie = Some(Cookie::new(&secret.0)?);
    }
    Ok(address)
}

/// A node, over Erlang's distribution.
fn erl(
    args: &TargetArgs,
    name: &str,
    timeout: Duration,
    limiter: Option<RateLimiter>,
    bindings: &Bindings,
) -> Result<ErlTarget, TargetError> {
    let node = NodeName::parse(name).map_err(TargetError::NodeName)?;
    let secret = cookie(args, bindings.cookie(&node))?;
    let mut erl = ErlTarget::new(node, Cookie::new(&secret)?);
    if let Some(local) = local_name(args)? {
        erl.local = local;
    }
    if let Some(port) = args.epmd_port {
        erl.epmd_port = port;
    }
    erl.dist_port = args.dist_port;
    if let Some(text) = &args.address {
        let (host, port) = check_address(text)?;
        erl.host = Some(host);
        if port.is_some() && args.dist_port.is_some() && port != args.dist_port {
            return Err(TargetError::TwoPorts);
        }
        erl.dist_port = port.or(args.dist_port);
    }
    erl.connect_timeout = timeout;
    erl.limiter = limiter;
    if let Some(text) = &args.tunnel {
        let is_of_file = args.from_file.tunnel;
        let mut server = ssh::resolve_tunnel(args, text, timeout, is_of_file)?;
        server.limiter = erl.limiter.take();
        erl.tunnel = Some(server);
    }
    if let Some(way) = Way::of_file(args).map_err(TargetError::NodeName)?
        && !bindings.allow(&way, &secret)
    {
        return Err(TargetError::Untrusted { way });
    }
    Ok(erl)
}

/// Reads an address, or says that it is none.
pub(crate) fn check_address(text: &str) -> Result<(String, Option<u16>), TargetError> {
    address(text).ok_or_else(|| TargetError::Address {
        text: text.to_owned(),
    })
}

/// Reads `HOST`, `HOST:PORT`, `[ADDRESS]` and `[ADDRESS]:PORT`; an IPv6 address without a port needs no brackets.
fn address(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']')?;
            match behind {
                "" => (host, None),
                _ => (host, Some(behind.strip_prefix(':')?)),
            }
        }
        None if text.matches(':').count() > 1 => (text, None),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_host = !host.is_empty()
        && host
            .chars()
            .all(|c| c.is_alphanumeric() || "-_.:%".contains(c));
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0)?),
        None => None,
    };
    is_host.then(|| (host.to_owned(), port))
}

/// The cookie: of the command line or environment, bound to the node, of Erlang, or the default.
fn cookie(args: &TargetArgs, bound: Option<&str>) -> Result<String, FileError> {
    let file = || Ok(machine::cookie_file()?.unwrap_or_else(|| DEFAULT_COOKIE.to_owned()));
    match (&args.cookie, bound) {
        (Some(secret), _) => Ok(secret.0.clone()),
        (None, Some(bound)) => Ok(bound.to_owned()),
        (None, None) => file(),
    }
}

fn local_name(args: &TargetArgs) -> Result<Option<LocalName>, TargetError> {
    let (text, name) = match (&args.sname, &args.name) {
        (Some(text), _) => (text, LocalName::short(text, &machine::host_name())),
        (None, Some(text)) if text.contains('@') => (text, LocalName::long(text, "")),
        (None, Some(text)) => (text, LocalName::long(text, &machine::full_host_name())),
        (None, None) => return Ok(None),
    };
    let name = name.map_err(|source| TargetError::LocalName {
        text: text.clone(),
        source,
    })?;
    Ok(Some(name))
}

/// A target's directory without the slashes at its end.
fn absolute(option: &'static str, path: &Path) -> Result<Vec<u8>, TargetError> {
    let bytes = path.as_os_str().as_bytes();
    if !path.is_absolute() || bytes.contains(&0) {
        return Err(TargetError::RelativePath {
            option,
            path: path.to_owned(),
        });
    }
    let end = bytes
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(1, |last| last + 1);
    Ok(bytes[..end].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{FromFile, Secret};

    /// As the function of this name, for a user without a configuration.
    fn resolve(
        args: &TargetArgs,
        checksum: bool,
        bwlimit: Option<Rate>,
    ) -> Result<Target, TargetError> {
        super::resolve(args, checksum, bwlimit, &Bindings::default())
    }

    fn args() -> TargetArgs {
        TargetArgs {
            destination_node: Some("app@board".to_owned()),
            cookie: Some(Secret("secret".to_owned())),
            ..TargetArgs::default()
        }
    }

    fn erl(target: &Target) -> &ErlTarget {
        match &target.address {
            Address::Erl(erl) => erl,
            Address::Ssh(_) => panic!("a target over SSH"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_original() {
        let target = resolve(&args(), false, None).expect("a target");
        assert_eq!(target.address.name(), "app@board");
        assert_eq!(target.greeting.destination, b"/srv/erlang");
        assert_eq!(target.greeting.writable, None);
        assert_eq!(erl(&target).epmd_port, 4369);
        assert!(erl(&target).limiter.is_none());
        assert!(matches!(erl(&target).local, LocalName::Dynamic { .. }));
        assert!(!format!("{target:?}").contains("secret"));
    }

    #[test]
    fn arguments_are_taken_over() {
        let args = TargetArgs {
            destination_path: Some("/opt/app//".into()),
            destination_rw_path: Some("/".into()),
            sname: Some("me@here".to_owned()),
            dist_port: Some(9100),
            epmd_port: Some(4370),
            ..args()
        };
        let target = resolve(&args, true, Some(Rate(1000))).expect("a target");
        assert_eq!(target.greeting.destination, b"/opt/app");
        assert_eq!(target.greeting.writable.as_deref(), Some(&b"/"[..]));
        assert!(target.greeting.checksum);
        assert_eq!(
            (erl(&target).dist_port, erl(&target).epmd_port),
            (Some(9100), 4370)
        );
        assert!(erl(&target).limiter.is_some());
        let name = NodeName::parse("me@here").expect("a name");
        assert_eq!(erl(&target).local, LocalName::Fixed(name));
    }

    #[test]
    fn an_address_is_a_host_and_perhaps_a_port() {
        let table = [
            ("board", Some(("board", None))),
            ("board.lan:9100", Some(("board.lan", Some(9100)))),
            ("10.0.0.7:9100", Some(("10.0.0.7", Some(9100)))),
            ("::1", Some(("::1", None))),
            ("[::1]", Some(("::1", None))),
            ("[fe80::1%eth0]:9100", Some(("fe80::1%eth0", Some(9100)))),
            ("", None),
            (":9100", None),
            ("board:", None),
            ("board:0", None),
            ("board:70000", None),
            ("[::1]9100", None),
            ("[::1", None),
            ("a b", None),
            ("app@board", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(address(text), expected, "{text:?}");
        }
    }

    #[test]
    fn an_address_stands_beside_the_name() {
        let args = TargetArgs {
            address: Some("[::1]:9100".to_owned()),
            ..args()
        };
        let target = resolve(&args, false, None).expect("a target");
        assert_eq!(target.address.name(), "app@board");
        assert_eq!(erl(&target).host.as_deref(), Some("::1"));
        assert_eq!(erl(&target).dist_port, Some(9100));
    }

    #[test]
    fn what_cannot_be_a_target_is_refused() {
        type Change = fn(&mut TargetArgs);
        let table: &[(Change, &str)] = &[
            (|args| args.destination_node = None, "no target node"),
            (
                |args| args.destination_node = Some("app".to_owned()),
                "name@host",
            ),
            (
                |args| args.destination_path = Some("srv".into()),
                "--destination-path",
            ),
            (
                |args| args.destination_rw_path = Some("rw".into()),
                "--destination-rw-path",
            ),
            (
                |args| args.cookie = Some(Secret(String::new())),
                "cookie is empty",
            ),
            (|args| args.sname = Some("a b".to_owned()), "the host"),
            (
                |args| args.address = Some("a b".to_owned()),
                "not an address",
            ),
            (
                |args| {
                    args.address = Some("here:1".to_owned());
                    args.dist_port = Some(2);
                },
                "--dist-port",
            ),
            (
                |args| {
                    args.from_file = FromFile {
                        node: true,
                        ..FromFile::default()
                    }
                },
                "does not prove your cookie to app@board",
            ),
        ];
        for (change, expected) in table {
            let mut args = args();
            change(&mut args);
            let error = resolve(&args, false, None).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
