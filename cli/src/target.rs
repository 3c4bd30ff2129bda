//! Which target is meant and how it is reached.
//!
//! Turns arguments into an [`ErlTarget`] and a [`Greeting`]. Everything is checked before anything is looked up or connected to.

use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use relsync_engine::boot::Greeting;
use relsync_engine::session::SILENCE;
use relsync_engine::transport::RateLimiter;
use relsync_engine::transport::erl::{
    Cookie, CookieError, ErlTarget, LocalName, NodeName, NodeNameError,
};

use crate::args::{Mode, TargetArgs};
use crate::machine;
use crate::units::Rate;

/// The release's root on the target.
const DEFAULT_DESTINATION: &str = "/srv/erlang";

/// The cookie of those who set none.
const DEFAULT_COOKIE: &str = "cookie";

/// How long each step of connecting may take.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a target cannot be meant.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// No node was named.
    #[error("no node to connect to")]
    NoNode,
    /// The node's name is none.
    #[error(transparent)]
    NodeName(NodeNameError),
    /// The name for this host is none.
    #[error("this host cannot have the name {text:?}: {source}")]
    LocalName {
        /// The text.
        text: String,
        /// What is wrong with it.
        source: NodeNameError,
    },
    /// The cookie is none.
    #[error(transparent)]
    Cookie(#[from] CookieError),
    /// A directory on the target is not absolute.
    #[error("{option} must be an absolute path, {} is not", path.display())]
    RelativePath {
        /// The option.
        option: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The transport is not built in.
    #[error("the mode ssh is not in this version")]
    NoSsh,
}

/// One target, and how to talk to it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// How to connect.
    pub(crate) erl: ErlTarget,
    /// What to say first.
    pub(crate) greeting: Greeting,
}

impl Target {
    /// Reads the arguments; `checksum` tells whether drift is looked for by hash.
    pub(crate) fn resolve(
        args: &TargetArgs,
        checksum: bool,
        bwlimit: Option<Rate>,
    ) -> Result<Self, TargetError> {
        if args.mode == Some(Mode::Ssh) {
            return Err(TargetError::NoSsh);
        }
        let node = args
            .destination_node
            .as_deref()
            .ok_or(TargetError::NoNode)?;
        let node = NodeName::parse(node).map_err(TargetError::NodeName)?;
        let destination = args
            .destination_path
            .as_deref()
            .unwrap_or(Path::new(DEFAULT_DESTINATION));
        let writable = args.destination_rw_path.as_deref();
        let greeting = Greeting {
            host: machine::caller(),
            destination: absolute("--destination-path", destination)?,
            writable: writable
                .map(|path| absolute("--destination-rw-path", path))
                .transpose()?,
            checksum,
            prepare: false,
            silence: SILENCE,
        };
        let mut erl = ErlTarget::new(node, cookie(args)?);
        if let Some(local) = local_name(args)? {
            erl.local = local;
        }
        if let Some(port) = args.epmd_port {
            erl.epmd_port = port;
        }
        erl.dist_port = args.dist_port;
        erl.connect_timeout = args.timeout.map_or(DEFAULT_TIMEOUT, |span| span.0);
        erl.limiter = bwlimit
            .and_then(|rate| NonZeroU64::new(rate.0))
            .map(RateLimiter::new);
        Ok(Self { erl, greeting })
    }

    /// What this target is known by, as long as it keeps its node name and its destination.
    pub(crate) fn identity(&self) -> String {
        let destination = String::from_utf8_lossy(&self.greeting.destination);
        format!("{} {destination}", self.node())
    }

    /// The node's name.
    pub(crate) fn node(&self) -> &NodeName {
        &self.erl.node
    }
}

fn cookie(args: &TargetArgs) -> Result<Cookie, TargetError> {
    let text = match &args.cookie {
        Some(secret) => secret.0.clone(),
        None => machine::cookie_file().unwrap_or_else(|| DEFAULT_COOKIE.to_owned()),
    };
    Ok(Cookie::new(&text)?)
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
    use crate::args::Secret;

    fn args() -> TargetArgs {
        TargetArgs {
            destination_node: Some("app@board".to_owned()),
            cookie: Some(Secret("secret".to_owned())),
            ..TargetArgs::default()
        }
    }

    #[test]
    fn defaults_are_those_of_the_original() {
        let target = Target::resolve(&args(), false, None).expect("a target");
        assert_eq!(target.node().as_str(), "app@board");
        assert_eq!(target.greeting.destination, b"/srv/erlang");
        assert_eq!(target.greeting.writable, None);
        assert_eq!(target.erl.epmd_port, 4369);
        assert!(target.erl.limiter.is_none());
        assert!(matches!(target.erl.local, LocalName::Dynamic { .. }));
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
        let target = Target::resolve(&args, true, Some(Rate(1000))).expect("a target");
        assert_eq!(target.greeting.destination, b"/opt/app");
        assert_eq!(target.identity(), "app@board /opt/app");
        assert_eq!(target.greeting.writable.as_deref(), Some(&b"/"[..]));
        assert!(target.greeting.checksum);
        assert_eq!(
            (target.erl.dist_port, target.erl.epmd_port),
            (Some(9100), 4370)
        );
        assert!(target.erl.limiter.is_some());
        let name = NodeName::parse("me@here").expect("a name");
        assert_eq!(target.erl.local, LocalName::Fixed(name));
    }

    #[test]
    fn what_cannot_be_a_target_is_refused() {
        type Change = fn(&mut TargetArgs);
        let table: &[(Change, &str)] = &[
            (|args| args.destination_node = None, "no node"),
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
            (|args| args.sname = Some("a b".to_owned()), "this host"),
            (|args| args.mode = Some(Mode::Ssh), "ssh"),
        ];
        for (change, expected) in table {
            let mut args = args();
            change(&mut args);
            let error = Target::resolve(&args, false, None)
                .expect_err(expected)
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
