//! Hints for errors before a target answers: in its description, its hooks, and the way to it.

use relsync_engine::transport::erl::{ConnectError, NodeName, NodeNameError};

use super::ssh::{ssh_class, ssh_option_class};
use super::{Class, Exit};
use crate::bindings::BindingsError;
use crate::config::ConfigError;
use crate::hooks::HooksError;
use crate::machine;
use crate::own_file::FileError;
use crate::target::TargetError;

pub(super) fn config_hint(error: &ConfigError) -> Option<String> {
    match error {
        ConfigError::UnknownProfile { known, .. } if known.is_empty() => {
            Some("relsync.toml in the working directory defines profiles as [profiles.NAME]".to_owned())
        }
        ConfigError::UnknownProfile { known, .. } => Some(format!("relsync.toml knows {}", known.join(", "))),
        ConfigError::Parse { key: Some(key), .. } if is_cookie(key) => {
            Some("the cookie belongs in RELSYNC_COOKIE or ~/.erlang.cookie, not in a file that is committed".to_owned())
        }
        ConfigError::Parse { known: Some(known), .. } => Some(format!(
            "the keys are the long options without the leading dashes: {known}; the keys of a profile are below [profiles.NAME]"
        )),
        ConfigError::Parse { .. } => None,
    }
}

/// What to do about a file that is not used; `option` names one in spite of its owner.
pub(super) fn file_hint(error: &FileError, option: &str) -> Option<String> {
    match error {
        FileError::Foreign { path, .. } => Some(format!(
            "look at it first: it decides what relsync does; then use it with {option} {}",
            path.display()
        )),
        FileError::Writable { path, place } => Some(format!(
            "take the right away with `chmod go-w {}`, or use the file with {option} {}",
            place.display(),
            path.display()
        )),
        FileError::Readable { path } => Some(format!("`chmod 600 {}`", path.display())),
        FileError::Read { .. }
        | FileError::Kind { .. }
        | FileError::Text { .. }
        | FileError::TooLarge { .. } => None,
    }
}

/// The hint for a file that no option names.
fn own_hint(error: &FileError) -> Option<String> {
    match error {
        FileError::Foreign { .. } => {
            Some("the file and its directory must belong to you".to_owned())
        }
        FileError::Writable { place, .. } => Some(format!("`chmod go-w {}`", place.display())),
        error => file_hint(error, "--config"),
    }
}

pub(super) fn bindings_hint(error: &BindingsError) -> Option<String> {
    match error {
        BindingsError::File(error) => own_hint(error),
        BindingsError::Parse { .. } => {
            Some("write a line \"NODE\" = \"COOKIE\" below [cookies] for each node".to_owned())
        }
        BindingsError::NoDir => Some("set HOME, or name the node with -d".to_owned()),
        BindingsError::Remember { .. } => None,
    }
}

/// Whether a key of the file, perhaps after the profile's name, is that of a cookie.
fn is_cookie(key: &str) -> bool {
    key.rsplit('.').next() == Some("cookie")
}

pub(super) fn target_class(error: &TargetError) -> Class<'static> {
    let (kind, hint) = match error {
        TargetError::NoNode => (
            "usage",
            "name it with -d NODE, RELSYNC_DESTINATION_NODE, or destination-node in relsync.toml",
        ),
        TargetError::NodeName(NodeNameError::Form { name }) if !name.contains('@') => {
            let host = machine::host_name();
            let hint = format!(
                "add the node's host: a node on this machine is most likely {name}@{host}; `node().` in its shell shows its name"
            );
            return ("bad_node_name", Exit::Usage, Some(hint));
        }
        TargetError::NodeName(_) => (
            "bad_node_name",
            "write it as the node calls itself, name@host: `node().` in its shell shows it",
        ),
        TargetError::LocalName { .. } => (
            "bad_node_name",
            "leave --sname and --name out: the target then chooses a name",
        ),
        TargetError::Cookie(_) => (
            "bad_cookie",
            "set it with RELSYNC_COOKIE, ~/.erlang.cookie or --cookie",
        ),
        TargetError::CookieFile(error) => {
            let hint = own_hint(error)
                .unwrap_or_else(|| "set the cookie with RELSYNC_COOKIE instead".to_owned());
            return ("bad_cookie", Exit::Usage, Some(hint));
        }
        TargetError::Address { .. } => (
            "usage",
            "write it as HOST or HOST:PORT; write an IPv6 address with a port as [ADDRESS]:PORT",
        ),
        TargetError::TwoPorts => (
            "usage",
            "the port of --address and that of --dist-port are both the node's own: name it once",
        ),
        TargetError::RelativePath { .. } => (
            "usage",
            "write the directory from the target's root, like /srv/erlang",
        ),
        TargetError::Untrusted { way } => {
            let hint = format!(
                "if that node is yours, run `relsync trust {way}` once, or give these options yourself; \
                 the guide on security tells why, and how a cookie is bound to its nodes"
            );
            return ("untrusted_node", Exit::Usage, Some(hint));
        }
        TargetError::Ssh(error) => return ssh_option_class(error),
    };
    (kind, Exit::Usage, Some(hint.to_owned()))
}

pub(super) fn hooks_hint(error: &HooksError) -> Option<String> {
    match error {
        HooksError::NotFound { searched, .. } => {
            let searched: Vec<String> = searched
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            Some(format!("looked for {}", searched.join(", ")))
        }
        HooksError::File(error) => file_hint(error, "-H"),
        HooksError::NoModule { .. } => Some("a hooks file begins with -module(name).".to_owned()),
        _ => None,
    }
}

pub(super) fn connect_class(error: &ConnectError) -> Class<'static> {
    let (kind, hint) = match error {
        ConnectError::Tunnel(error) => return ssh_class(error),
        ConnectError::HostUnknown { node, host, .. } if host != node.host() => {
            ("unknown_host", format!("check --address: this machine cannot resolve {host}"))
        }
        ConnectError::HostUnknown { host, .. } => (
            "unknown_host",
            format!(
                "check that this machine can resolve {host}, the part of the node's name after the @; or say with --address where to connect"
            ),
        ),
        ConnectError::HostTimeout { .. } => ("unknown_host", "check this machine's name service".to_owned()),
        ConnectError::EpmdRefused { .. } => (
            "no_epmd",
            "no Erlang node with a name runs there, or its EPMD listens elsewhere: name its port with --epmd-port, or the node's own port with --dist-port"
                .to_owned(),
        ),
        ConnectError::EpmdUnreachable { .. } | ConnectError::EpmdTimeout { .. } => (
            "unreachable",
            "check the network, and that a firewall lets EPMD's port through".to_owned(),
        ),
        ConnectError::NotEpmd { .. } => ("no_epmd", "check --epmd-port".to_owned()),
        ConnectError::NotRegistered { registered, .. } if registered.is_empty() => (
            "unknown_node",
            "no node is registered there: is the release running, and with a name (-sname or -name)?".to_owned(),
        ),
        ConnectError::NotRegistered { registered, .. } => {
            let names = registered.join(", ");
            ("unknown_node", format!("the nodes there are called {names}"))
        }
        ConnectError::TooOld { .. } => ("old_otp", "relsync needs OTP 23 or newer on the target".to_owned()),
        ConnectError::NodeRefused { .. } => (
            "unreachable",
            "the node may just have stopped; with --dist-port, check the port".to_owned(),
        ),
        ConnectError::NodeUnreachable { .. } | ConnectError::NodeTimeout { .. } => (
            "unreachable",
            "check that a firewall lets the node's own port through; inet_dist_listen_min and inet_dist_listen_max choose that port".to_owned(),
        ),
        ConnectError::HandshakeTimeout { .. } | ConnectError::HandshakeClosed { .. } => (
            "handshake",
            "the node may be overloaded or stopping; try again, perhaps with a longer --timeout".to_owned(),
        ),
        ConnectError::NotErlang { .. } => ("not_erlang", "check --dist-port".to_owned()),
        ConnectError::TlsExpected { .. } => (
            "tls",
            "the node uses TLS distribution, which this version does not speak".to_owned(),
        ),
        ConnectError::WrongCookie { .. } => (
            "wrong_cookie",
            "`erlang:get_cookie().` on the target shows its cookie; set it with RELSYNC_COOKIE, ~/.erlang.cookie or --cookie"
                .to_owned(),
        ),
        ConnectError::Unproven { .. } => (
            "wrong_cookie",
            "another node may answer in its place: check the host and the port".to_owned(),
        ),
        ConnectError::NameInUse { .. } => (
            "name_in_use",
            "choose another --sname or --name, or leave it out: the target then chooses a name".to_owned(),
        ),
        ConnectError::NotAllowed { .. } => (
            "not_allowed",
            "the node only allows certain hosts (net_kernel:allow/1): choose an allowed --sname or --name".to_owned(),
        ),
        ConnectError::NameStyle { actual, dialled, .. } => ("name_style", format!("use {}", called(actual, dialled))),
        ConnectError::OtherNode { actual, dialled, .. } => (
            "other_node",
            format!(
                "use {} if that is the node you mean; else check --address and --dist-port",
                called(actual, dialled)
            ),
        ),
        ConnectError::Randomness => return ("randomness", Exit::Failed, None),
    };
    (kind, Exit::Unreachable, Some(hint))
}

/// The options that reach a node under its real name at the same address.
fn called(actual: &NodeName, dialled: &str) -> String {
    if actual.host() == dialled {
        format!("-d {actual}")
    } else {
        format!("-d {actual} --address {dialled}")
    }
}
