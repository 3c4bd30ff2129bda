//! Hints for errors on the way to a target over SSH.

use relsync_engine::target::EnterError;
use relsync_engine::transport::ssh::{FileLine, SshError};

use super::reach::{connect_class, file_hint};
use super::{Class, Exit};
use crate::ssh::SshOptionError;

/// Returns the class of an error behind the SSH server.
pub(super) fn enter_class(error: &EnterError) -> Class<'static> {
    let (kind, hint) = match error {
        EnterError::Ssh(error) => return ssh_class(error),
        EnterError::Node { source, .. } => return connect_class(source),
        EnterError::NoWay { .. } => (
            "no_way",
            "put the application relsyncd into the release, or the subsystem relsync into this daemon, or let the user run commands",
        ),
        EnterError::UnknownAnswer { .. } => (
            "no_way",
            "commands there must go to a POSIX shell, or to Erlang or Elixir",
        ),
        EnterError::NoAnswer { .. } => (
            "timeout",
            "the target may be overloaded: try again, with a longer --timeout",
        ),
        EnterError::OldOtp { .. } => ("old_otp", "update the target's OTP first, to 23 or newer"),
        EnterError::NotTakenOver { .. } => (
            "no_way",
            "put the subsystem relsync into this daemon (see the guide to SSH)",
        ),
        EnterError::NoNode { .. } => (
            "no_node",
            "start the VM with a name (-name or -sname), or put relsyncd into the release; or stop the VM, then relsync updates its files",
        ),
        EnterError::SeveralVms { .. } => (
            "no_node",
            "name the node: relsync --mode erl --tunnel HOST -d NODE",
        ),
        EnterError::InvalidNode { .. } => (
            "no_node",
            "name the node, and its cookie with -c: relsync --mode erl --tunnel HOST -d NODE",
        ),
        EnterError::NotRunning => (
            "not_running",
            "look at the log of the release's start script on the target",
        ),
        EnterError::NoErlang => (
            "no_erlang",
            "check --destination-path: is there a release with its ERTS? Otherwise install Erlang on the target",
        ),
        EnterError::NotStarted { .. } => (
            "no_erlang",
            "check on the target that the ERTS of the release runs: erts-*/bin/erl",
        ),
    };
    (kind, Exit::Unreachable, Some(hint.to_owned()))
}

pub(super) fn ssh_class(error: &SshError) -> Class<'static> {
    let (kind, hint) = reach_class(error)
        .or_else(|| host_key_class(error))
        .unwrap_or_else(|| login_class(error));
    (kind, Exit::Unreachable, Some(hint))
}

/// The hint for options that name no valid target.
pub(super) fn ssh_option_class(error: &SshOptionError) -> Class<'static> {
    let (kind, hint) = match error {
        SshOptionError::Name { .. } => (
            "usage",
            "write it as [USER@]HOST; write an IPv6 address with a port as [ADDRESS]:PORT",
        ),
        SshOptionError::Twice { .. } => ("usage", "say it once"),
        SshOptionError::Config(_) => (
            "ssh_config",
            "`ssh -G HOST` shows the same; --ssh-config names another file, and --ssh-config none uses no file",
        ),
        SshOptionError::ProxyCommand { .. } => (
            "ssh_config",
            "use ProxyJump there, or --ssh-config with a file that does",
        ),
        SshOptionError::Jumps { .. } => ("ssh_config", "check ProxyJump: it may lead in a circle"),
        SshOptionError::PasswordFile(error) => {
            let hint = file_hint(error, "--password-file");
            return ("config", Exit::Usage, hint);
        }
        SshOptionError::Password { .. } => (
            "untrusted_node",
            "name the target with -d, and the port with -P; or leave the password out: relsync then asks for it, or uses your keys",
        ),
    };
    (kind, Exit::Usage, Some(hint.to_owned()))
}

type Hinted = (&'static str, String);

fn reach_class(error: &SshError) -> Option<Hinted> {
    let (kind, hint) = match error {
        SshError::HostUnknown { .. } => (
            "unknown_host",
            "check the name that follows -d: this machine cannot resolve it",
        ),
        SshError::HostTimeout { .. } => ("unknown_host", "check this machine's name service"),
        SshError::Refused { .. } => (
            "no_ssh",
            "check the port (-P): relsyncd listens on 2228, another SSH server mostly on 22; is the release running?",
        ),
        SshError::Unreachable { .. } | SshError::Timeout { .. } => (
            "unreachable",
            "check the network, and that a firewall lets the port through",
        ),
        SshError::Stalled { .. } | SshError::HungUp { .. } => (
            "handshake",
            "the server may be overloaded, or may not take connections from this host; try again, perhaps with a longer --timeout",
        ),
        SshError::NotSsh { .. } => ("not_ssh", "check the host and the port (-P)"),
        SshError::NoCommonAlgorithm { .. } => (
            "no_algorithm",
            "the server is too old, or its configuration too strict: allow one of its usual algorithms there, for example curve25519-sha256 and ssh-ed25519",
        ),
        SshError::Protocol { .. } => (
            "handshake",
            "check that the port belongs to an SSH server of version 2, and that nothing between changes the traffic",
        ),
        SshError::Jump { source, .. } => return Some(hinted(ssh_class(source))),
        _ => return None,
    };
    Some((kind, hint.to_owned()))
}

fn hinted((kind, _, hint): Class<'static>) -> Hinted {
    (kind, hint.unwrap_or_default())
}

fn host_key_class(error: &SshError) -> Option<Hinted> {
    let (kind, hint) = match error {
        SshError::HostKeyUnknown { others, .. } if others.is_empty() => (
            "host_key_unknown",
            "compare the fingerprint with the server's own (`ssh-keygen -lf KEYFILE.pub` there); if they are equal, add the key with --accept-new-host-key, once"
                .to_owned(),
        ),
        SshError::HostKeyUnknown { others, .. } => (
            "host_key_unknown",
            format!(
                "keys of other types are known for it: {}; if the server has a new key, compare its fingerprint, and remove those lines",
                lines(others)
            ),
        ),
        SshError::HostKeyChanged { at, .. } => (
            "host_key_changed",
            format!(
                "somebody may be between you and the target, or the target was installed anew: \
                 ask who runs it; only if the new fingerprint is right, remove line {} of {}",
                at.line,
                at.file.display()
            ),
        ),
        SshError::HostKeyRevoked { .. } => (
            "host_key_revoked",
            "do not use this server: whoever revoked its key knows why".to_owned(),
        ),
        SshError::HostCertificate { .. } => (
            "host_certificate",
            "`ssh-keygen -Lf CERTIFICATE` on the server shows its names and its time; check this machine's clock too".to_owned(),
        ),
        SshError::KnownHosts { file, .. } => (
            "known_hosts",
            format!("check who may read and write {}", file.display()),
        ),
        _ => return None,
    };
    Some((kind, hint))
}

fn login_class(error: &SshError) -> Hinted {
    let (kind, hint) = match error {
        SshError::NotAuthenticated { offered, .. } => ("login", login_hint(offered)),
        SshError::AuthenticationCut { tried, .. } if tried.len() > 1 => (
            "login",
            "the server may allow fewer keys: name the right one with --identity".to_owned(),
        ),
        SshError::AuthenticationCut { .. } | SshError::AuthenticationTimeout { .. } => (
            "login",
            "the server may be overloaded; try again, perhaps with a longer --timeout".to_owned(),
        ),
        SshError::KeyLocked { file } => (
            "key",
            format!("load it into an agent with `ssh-add {}`, or run relsync in a terminal", file.display()),
        ),
        SshError::WrongPassphrase { .. } => ("key", "try again".to_owned()),
        SshError::KeyUnreadable { .. } => ("key", "check --identity".to_owned()),
        SshError::KeyOpenToOthers { file, .. } => ("key", format!("`chmod 600 {}`", file.display())),
        SshError::KeyInvalid { .. } => (
            "key",
            "name the file of a private key, not of a public one; `ssh-keygen -p -f FILE` writes it in today's format".to_owned(),
        ),
        SshError::ForwardProhibited { .. } => (
            "forward",
            "the server needs AllowTcpForwarding yes, and permitopen for that port if authorized_keys restricts the key".to_owned(),
        ),
        SshError::ForwardFailed { .. } => (
            "forward",
            "check that the port is open there, seen from the server itself".to_owned(),
        ),
        SshError::ChannelRefused { .. } => (
            "channel",
            "the server may have too many sessions, or allow none to this user".to_owned(),
        ),
        _ => ("lost", "try again".to_owned()),
    };
    (kind, hint)
}

fn login_hint(offered: &[String]) -> String {
    let takes = |method: &str| offered.iter().any(|offered| offered == method);
    if takes("publickey") {
        "check the user (-u), and that the public key is in the server's authorized keys; --identity names the private key"
            .to_owned()
    } else if takes("password") || takes("keyboard-interactive") {
        "the server takes a password: run relsync in a terminal, or set RELSYNC_PASSWORD".to_owned()
    } else {
        "check the user (-u), and how the server lets users in".to_owned()
    }
}

fn lines(all: &[FileLine]) -> String {
    let all: Vec<String> = all.iter().map(FileLine::to_string).collect();
    all.join(", ")
}
