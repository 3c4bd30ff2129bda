//! The target of `--mode ssh` that the options name.
//!
//! What the command line, the environment and `relsync.toml` leave open comes from the configuration
//! of `ssh` (`ssh_config`). A server that only `relsync.toml` names gets no password that the user
//! prepared for another one: whoever wrote the file could collect it. Keys need no such rule, since a
//! login does not disclose them, and since the server's own key must be known to the user.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use relsync_engine::transport::RateLimiter;
use relsync_engine::transport::ssh::{Credentials, Identity, Kept, KnownHosts, Secret, SshTarget};

use crate::args::TargetArgs;
use crate::machine;
use crate::own_file::{self, FileError, Rules};
use crate::ssh_config::{self, Asked, SSH_PORT, SshConfigError, SshOptions};
use crate::target;

/// The usual port of relsyncd.
const RELSYNCD_PORT: u16 = 2228;

/// The largest file with a password.
const MAX_PASSWORD_BYTES: u64 = 4096;

/// The most jump hosts on a way.
const MAX_JUMPS: usize = 8;

/// Why the options name no valid target over SSH.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SshOptionError {
    /// The target is no host.
    #[error("{text:?} does not name a host")]
    Name {
        /// The text.
        text: String,
    },
    /// The target's text and an option name different users or ports.
    #[error("the target {text:?} and {option} differ")]
    Twice {
        /// The target's text.
        text: String,
        /// The option.
        option: &'static str,
    },
    /// The configuration of `ssh` cannot be used.
    #[error(transparent)]
    Config(#[from] SshConfigError),
    /// `ssh` would run a program that makes the connection.
    #[error("the configuration of ssh has a ProxyCommand for {host}, which relsync does not run")]
    ProxyCommand {
        /// The host.
        host: String,
    },
    /// The jump hosts lead to each other, or are too many.
    #[error("there are more than {MAX_JUMPS} jump hosts on the way to {host}")]
    Jumps {
        /// The host.
        host: String,
    },
    /// The password's file cannot be used.
    #[error(transparent)]
    PasswordFile(#[from] FileError),
    /// There is a password, but only a file names the server that would get it.
    #[error("relsync does not send your password to {name}, which only relsync.toml names")]
    Password {
        /// The target.
        name: String,
    },
}

/// Resolves the target that the arguments name. `is_of_file` tells that only a file names it.
pub(crate) fn resolve(
    args: &TargetArgs,
    text: &str,
    timeout: Duration,
    limiter: Option<RateLimiter>,
    is_of_file: bool,
) -> Result<SshTarget, SshOptionError> {
    let named = Named::parse(text)?;
    let twice = |option| SshOptionError::Twice {
        text: text.to_owned(),
        option,
    };
    if named.user.is_some() && args.user.is_some() && named.user != args.user {
        return Err(twice("--user"));
    }
    if named.port.is_some() && args.port.is_some() && named.port != args.port {
        return Err(twice("--port"));
    }
    let named = Named {
        user: named.user.or_else(|| args.user.clone()),
        port: named.port.or(args.port),
        ..named
    };
    let mut target = server(args, &named, timeout, is_of_file)?;
    if named.port.is_none() && target.port == SSH_PORT {
        target.port = RELSYNCD_PORT;
    }
    target.limiter = limiter;
    Ok(target)
}

/// Resolves the server of `--tunnel`. `is_of_file` tells that only a file names it.
pub(crate) fn resolve_tunnel(
    args: &TargetArgs,
    text: &str,
    timeout: Duration,
    is_of_file: bool,
) -> Result<SshTarget, SshOptionError> {
    server(args, &Named::parse(text)?, timeout, is_of_file)
}

/// A server with all that the user prepared for it.
fn server(
    args: &TargetArgs,
    named: &Named,
    timeout: Duration,
    is_of_file: bool,
) -> Result<SshTarget, SshOptionError> {
    let way = Way {
        args,
        timeout,
        kept: Arc::default(),
    };
    let mut target = way.server(named, 0)?;
    target.credentials.password = password(args)?;
    if is_of_file && target.credentials.password.is_some() {
        let name = target.to_string();
        return Err(SshOptionError::Password { name });
    }
    // Only the user decides that a new key is accepted, and for which host.
    if args.accept_new_host_key {
        let files = &target.known_hosts.files;
        target.known_hosts.accept_new = files.first().cloned();
    } else if is_of_file {
        target.known_hosts.accept_new = None;
    }
    Ok(target)
}

/// The password that the user prepared.
fn password(args: &TargetArgs) -> Result<Option<Secret>, SshOptionError> {
    let Some(path) = &args.password_file else {
        return Ok(machine::password().map(Secret::new));
    };
    let content = own_file::read(path, Rules::Secret, MAX_PASSWORD_BYTES)?;
    let text = String::from_utf8(content).map_err(|_| FileError::Text { path: path.clone() })?;
    let line = text.lines().next().unwrap_or_default();
    Ok(Some(Secret::new(line.to_owned())))
}

/// A server as a text names it: `[USER@]HOST[:PORT]`.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    user: Option<String>,
    host: String,
    port: Option<u16>,
}

impl Named {
    fn parse(text: &str) -> Result<Self, SshOptionError> {
        let invalid = || SshOptionError::Name {
            text: text.to_owned(),
        };
        let (user, place) = match text.rsplit_once('@') {
            Some((user, place)) => (Some(user.to_owned()), place),
            None => (None, text),
        };
        let is_user = |user: &String| {
            !user.is_empty() && !user.starts_with('-') && !user.contains(char::is_whitespace)
        };
        let (host, port) = target::check_address(place).map_err(|_| invalid())?;
        if !user.iter().all(is_user) || host.starts_with('-') {
            return Err(invalid());
        }
        Ok(Self { user, host, port })
    }
}

/// The settings that all servers on the way share.
struct Way<'a> {
    args: &'a TargetArgs,
    timeout: Duration,
    kept: Arc<Kept>,
}

impl Way<'_> {
    /// A server, and the way to it. `jumps` counts the servers that lie behind it.
    fn server(&self, named: &Named, jumps: usize) -> Result<SshTarget, SshOptionError> {
        if jumps > MAX_JUMPS {
            let host = named.host.clone();
            return Err(SshOptionError::Jumps { host });
        }
        let options = ssh_config::of_host(Asked {
            host: &named.host,
            user: named.user.as_deref(),
            port: named.port,
            file: self.args.ssh_config.as_deref(),
        })?;
        if options.has_proxy_command && options.jump.is_none() {
            let host = named.host.clone();
            return Err(SshOptionError::ProxyCommand { host });
        }
        let mut target = SshTarget::new(&options.user, &options.host);
        target.port = options.port;
        target.connect_timeout = self.timeout;
        target.credentials = self.credentials(&options);
        target.jump = match &options.jump {
            Some(list) => Some(Box::new(self.jump(list, jumps + 1)?)),
            None => None,
        };
        target.known_hosts = KnownHosts {
            accept_new: (options.known_hosts.first().cloned()).filter(|_| options.accepts_new),
            files: options.known_hosts,
            alias: options.alias,
        };
        Ok(target)
    }

    /// The last server of a list of jump hosts, which is reached through those before it.
    fn jump(&self, list: &str, jumps: usize) -> Result<SshTarget, SshOptionError> {
        let (before, last) = match list.rsplit_once(',') {
            Some((before, last)) => (Some(before), last),
            None => (None, list),
        };
        let last = last.strip_prefix("ssh://").unwrap_or(last);
        let mut target = self.server(&Named::parse(last)?, jumps)?;
        if let Some(before) = before {
            target.jump = Some(Box::new(self.jump(before, jumps + 1)?));
        }
        Ok(target)
    }

    fn credentials(&self, options: &SshOptions) -> Credentials {
        let files = |files: &[PathBuf], is_named| -> Vec<Identity> {
            let identity = |file: &PathBuf| Identity {
                file: machine::in_home(file),
                is_named,
            };
            files.iter().map(identity).collect()
        };
        let mut identities = files(&self.args.identity, true);
        identities.extend(files(&options.identities, false));
        let agent = match options.agent.as_deref() {
            Some("none") => None,
            None | Some("SSH_AUTH_SOCK") => machine::ssh_agent(),
            Some(path) => Some(machine::in_home(path.as_ref())),
        };
        Credentials {
            agent,
            identities,
            identities_only: options.identities_only,
            kept: Arc::clone(&self.kept),
            ..Credentials::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::args::FromFile;

    /// Arguments that read this text as the configuration of `ssh`.
    fn args(config: &str) -> (tempfile::TempDir, TargetArgs) {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("config");
        fs::write(&file, config).expect("a file");
        let args = TargetArgs {
            ssh_config: Some(file),
            ..TargetArgs::default()
        };
        (dir, args)
    }

    fn resolved(args: &TargetArgs, text: &str) -> Result<SshTarget, SshOptionError> {
        let is_of_file = args.from_file.node;
        resolve(args, text, Duration::from_secs(10), None, is_of_file)
    }

    #[test]
    fn a_target_is_a_user_a_host_and_a_port() {
        let (_dir, args) = args("");
        let me = machine::user();
        let table = [
            ("board", Some(format!("{me}@board:2228"))),
            ("pi@board", Some("pi@board:2228".to_owned())),
            ("pi@board:22", Some("pi@board:22".to_owned())),
            ("a@b@board", Some("a@b@board:2228".to_owned())),
            ("[::1]", Some(format!("{me}@[::1]:2228"))),
            ("pi@[::1]:99", Some("pi@[::1]:99".to_owned())),
            ("::1", Some(format!("{me}@[::1]:2228"))),
            ("", None),
            ("@board", None),
            ("-oProxyCommand=x", None),
            ("pi@-oProxyCommand=x", None),
            ("-l@board", None),
            ("a b", None),
            ("board:0", None),
        ];
        for (text, expected) in table {
            let name = resolved(&args, text).map(|target| target.to_string());
            assert_eq!(name.ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn the_command_line_wins_over_the_configuration_of_ssh() {
        let config = "Host board\nHostName 10.0.0.7\nUser pi\nPort 2200\nIdentityFile /k/one\n\
                      IdentitiesOnly yes\nUserKnownHostsFile /k/known\nHostKeyAlias dev\n";
        let (_dir, mut args) = args(config);
        let target = resolved(&args, "board").expect("a target");
        assert_eq!(target.to_string(), "pi@10.0.0.7:2200");
        assert_eq!(target.known_hosts.alias.as_deref(), Some("dev"));
        assert_eq!(target.known_hosts.files[0], Path::new("/k/known"));
        assert_eq!(target.known_hosts.accept_new, None);
        assert!(target.credentials.identities_only);
        args.user = Some("root".to_owned());
        args.port = Some(22);
        args.identity = vec!["/k/two".into()];
        args.accept_new_host_key = true;
        let target = resolved(&args, "board").expect("a target");
        assert_eq!(target.to_string(), "root@10.0.0.7:22");
        assert_eq!(target.known_hosts.accept_new, Some("/k/known".into()));
        let files = target.credentials.identities.iter();
        let files: Vec<_> = files.map(|it| (it.file.to_str(), it.is_named)).collect();
        assert_eq!(files, [(Some("/k/two"), true), (Some("/k/one"), false)]);
        for text in ["pi@board", "board:2200"] {
            let error = resolved(&args, text).expect_err("two of one");
            assert!(matches!(error, SshOptionError::Twice { .. }), "{error:?}");
        }
    }

    #[test]
    fn jump_hosts_are_passed_in_their_order() {
        let config = "Host board\nProxyJump first,me@second:2200\nHost first\nUser one\nPort 2222\n\
                      Host circle\nProxyJump other\nHost other\nProxyJump circle\nHost program\nProxyCommand nc %h %p\n";
        let (_dir, args) = args(config);
        let target = resolved(&args, "board").expect("a target");
        let second = target.jump.expect("a jump host");
        assert_eq!(second.to_string(), "me@second:2200");
        let first = second.jump.expect("a jump host");
        assert_eq!(first.to_string(), "one@first:2222");
        assert!(first.jump.is_none());
        let error = resolved(&args, "circle").expect_err("a circle");
        assert!(matches!(error, SshOptionError::Jumps { .. }), "{error:?}");
        let error = resolved(&args, "program").expect_err("a program");
        assert!(
            matches!(error, SshOptionError::ProxyCommand { .. }),
            "{error:?}"
        );
    }

    #[test]
    fn a_file_alone_gets_no_password_and_accepts_no_key() {
        use std::os::unix::fs::PermissionsExt;

        let (dir, mut args) = args("StrictHostKeyChecking accept-new\n");
        let accepts = |args: &TargetArgs| {
            let target = resolved(args, "board").expect("a target");
            target.known_hosts.accept_new.is_some()
        };
        assert!(accepts(&args));
        args.from_file = FromFile {
            node: true,
            ..FromFile::default()
        };
        assert!(!accepts(&args));
        let file = dir.path().join("password");
        fs::write(&file, "s3cret\n").expect("a file");
        args.password_file = Some(file.clone());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("a mode");
        let error = resolved(&args, "board").expect_err("open to others");
        assert!(
            matches!(error, SshOptionError::PasswordFile(_)),
            "{error:?}"
        );
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
        let error = resolved(&args, "board").expect_err("a file's host");
        assert!(
            matches!(error, SshOptionError::Password { .. }),
            "{error:?}"
        );
        args.from_file = FromFile::default();
        let target = resolved(&args, "board").expect("a target");
        assert!(target.credentials.password.is_some());
        assert!(!format!("{target:?}").contains("s3cret"));
    }

    #[test]
    fn a_configuration_that_ssh_refuses_is_told() {
        let (_dir, args) = args("NoSuchOption yes\n");
        let error = resolved(&args, "board").expect_err("a refusal").to_string();
        assert!(error.to_lowercase().contains("nosuchoption"), "{error}");
    }
}
