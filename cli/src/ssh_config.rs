//! The options of `ssh` for a host, as the user's `ssh` itself reads them.
//!
//! `ssh -G HOST` prints what `ssh` would do: the user's and the system's files, with `Include` and
//! `Match`. As with `ssh`, `Match exec` runs commands. Without an `ssh` on this machine, the usual
//! places of keys and known hosts count.

use std::io;
use std::path::{Path, PathBuf};

use crate::machine;

/// The port of an SSH server that no option names.
pub(crate) const SSH_PORT: u16 = 22;

/// The usual private keys, in the order in which they are tried.
const USUAL_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// The types of usual keys that relsync cannot use from files.
const OTHER_KEYS: [&str; 4] = ["_sk", "id_xmss", "id_dsa", "id_mldsa"];

/// Why the options of `ssh` cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SshConfigError {
    /// `ssh` refuses its configuration, or the host.
    #[error("ssh does not accept its configuration for {host}: {problem}")]
    Refused {
        /// The host.
        host: String,
        /// The error output of `ssh`.
        problem: String,
    },
    /// `ssh` cannot be run.
    #[error("cannot run ssh, to read its configuration")]
    Run(#[source] io::Error),
}

/// The question to `ssh`: what holds for this host?
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The host, as the user names it.
    pub(crate) host: &'a str,
    /// The user's name there, if the user gave one.
    pub(crate) user: Option<&'a str>,
    /// The port, if the user gave one.
    pub(crate) port: Option<u16>,
    /// The file that stands for all others; `none` means none.
    pub(crate) file: Option<&'a Path>,
}

/// The options that relsync takes from `ssh`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SshOptions {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) identities: Vec<PathBuf>,
    pub(crate) identities_only: bool,
    /// The socket of the agent, `none`, or none for the usual one.
    pub(crate) agent: Option<String>,
    pub(crate) known_hosts: Vec<PathBuf>,
    /// Whether a host without known keys is accepted.
    pub(crate) accepts_new: bool,
    pub(crate) alias: Option<String>,
    pub(crate) jump: Option<String>,
    /// Whether a program would make the connection.
    pub(crate) has_proxy_command: bool,
}

/// Asks `ssh`.
pub(crate) fn of_host(asked: Asked<'_>) -> Result<SshOptions, SshConfigError> {
    let mut arguments = vec!["-G".to_owned(), "-T".to_owned()];
    if let Some(file) = asked.file {
        arguments.extend(["-F".to_owned(), file.display().to_string()]);
    }
    if let Some(user) = asked.user {
        arguments.extend(["-l".to_owned(), user.to_owned()]);
    }
    if let Some(port) = asked.port {
        arguments.extend(["-p".to_owned(), port.to_string()]);
    }
    // The next argument is the host, even if it begins with a dash.
    arguments.extend(["--".to_owned(), asked.host.to_owned()]);
    match machine::output_of("ssh", &arguments) {
        Ok(Ok(text)) => Ok(read(asked, &text)),
        Ok(Err(problem)) => Err(SshConfigError::Refused {
            host: asked.host.to_owned(),
            problem,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(usual(asked)),
        Err(error) => Err(SshConfigError::Run(error)),
    }
}

/// The options where no `ssh` is installed.
fn usual(asked: Asked<'_>) -> SshOptions {
    let home = machine::home_dir().unwrap_or_default();
    let in_home = |name: &str| home.join(".ssh").join(name);
    SshOptions {
        host: asked.host.to_owned(),
        port: asked.port.unwrap_or(SSH_PORT),
        user: asked.user.map_or_else(machine::user, str::to_owned),
        identities: USUAL_KEYS.iter().map(|name| in_home(name)).collect(),
        known_hosts: vec![in_home("known_hosts"), "/etc/ssh/ssh_known_hosts".into()],
        ..SshOptions::default()
    }
}

/// Reads what `ssh -G` prints: a line for each option, its name in lower case first.
fn read(asked: Asked<'_>, text: &str) -> SshOptions {
    let mut options = SshOptions {
        host: asked.host.to_owned(),
        port: SSH_PORT,
        ..SshOptions::default()
    };
    let mut identities = Vec::new();
    let (mut of_user, mut of_system) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        let set = || (value != "none").then(|| value.to_owned());
        match name {
            "hostname" => value.clone_into(&mut options.host),
            "port" => options.port = value.parse().unwrap_or(SSH_PORT),
            "user" => value.clone_into(&mut options.user),
            "identityfile" => identities.push(value.to_owned()),
            "identitiesonly" => options.identities_only = value == "yes",
            "identityagent" => options.agent = Some(value.to_owned()),
            "userknownhostsfile" => of_user = paths(value),
            "globalknownhostsfile" => of_system = paths(value),
            "stricthostkeychecking" => {
                options.accepts_new = matches!(value, "accept-new" | "no" | "off" | "false");
            }
            "hostkeyalias" => options.alias = set(),
            "proxyjump" => options.jump = set(),
            "proxycommand" => options.has_proxy_command = value != "none",
            _ => {}
        }
    }
    let is_usable = |path: &&String| !OTHER_KEYS.iter().any(|other| path.ends_with(other));
    let known = of_user.iter().chain(&of_system);
    options.known_hosts = known
        .filter(|path| *path != "none")
        .map(|path| expanded(path, asked, &options))
        .collect();
    options.identities = identities
        .iter()
        .filter(|path| *path != "none")
        .filter(is_usable)
        .map(|path| expanded(path, asked, &options))
        .collect();
    options
}

/// Splits a list of paths. `ssh -G` prints no quotes, so a word that begins no path continues one.
fn paths(list: &str) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    for word in list.split(' ') {
        match paths.last_mut() {
            Some(last) if !word.starts_with(['/', '~', '%']) && word != "none" => {
                last.push(' ');
                last.push_str(word);
            }
            _ => paths.push(word.to_owned()),
        }
    }
    paths
}

/// Expands the home directory and the tokens of ssh_config(5) in a path.
fn expanded(path: &str, asked: Asked<'_>, options: &SshOptions) -> PathBuf {
    let home = machine::home_dir().unwrap_or_default();
    let home = home.display().to_string();
    let path = match path.strip_prefix("~/") {
        Some(rest) => format!("{home}/{rest}"),
        None => path.to_owned(),
    };
    let mut text = String::new();
    let mut chars = path.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            text.push(char);
            continue;
        }
        match chars.next() {
            Some('h') => text.push_str(&options.host),
            Some('n') => text.push_str(asked.host),
            Some('p') => text.push_str(&options.port.to_string()),
            Some('r') => text.push_str(&options.user),
            Some('u') => text.push_str(&machine::user()),
            Some('d') => text.push_str(&home),
            Some('%') | None => text.push('%'),
            Some(other) => text.extend(['%', other]),
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str) -> Asked<'_> {
        Asked {
            host,
            user: None,
            port: None,
            file: None,
        }
    }

    #[test]
    fn what_ssh_prints_is_read() {
        let home = machine::home_dir().expect("a home");
        let text = "host board\nuser nerves\nhostname 10.0.0.7\nport 2200\nproxyusefdpass no\n\
             stricthostkeychecking accept-new\nhostkeyalias dev-7\nidentityfile ~/.ssh/id_%h\n\
             identityfile ~/.ssh/id_ed25519_sk\nidentitiesonly yes\nidentityagent none\n\
             globalknownhostsfile /etc/ssh/a /etc/ssh/b\nuserknownhostsfile /k/one /k/a b\n\
             proxyjump me@jump:2200,other\nproxycommand none\n";
        let options = read(asked("board"), text);
        let expected = SshOptions {
            host: "10.0.0.7".to_owned(),
            port: 2200,
            user: "nerves".to_owned(),
            identities: vec![home.join(".ssh/id_10.0.0.7")],
            identities_only: true,
            agent: Some("none".to_owned()),
            known_hosts: ["/k/one", "/k/a b", "/etc/ssh/a", "/etc/ssh/b"]
                .map(PathBuf::from)
                .to_vec(),
            accepts_new: true,
            alias: Some("dev-7".to_owned()),
            jump: Some("me@jump:2200,other".to_owned()),
            has_proxy_command: false,
        };
        assert_eq!(options, expected);
        let options = read(
            asked("px"),
            "proxycommand nc %h %p\nstricthostkeychecking ask\n",
        );
        assert!(options.has_proxy_command && !options.accepts_new);
        assert_eq!((options.host.as_str(), options.port), ("px", 22));
    }

    #[test]
    fn a_machine_without_ssh_has_the_usual_places() {
        let options = usual(asked("board"));
        assert_eq!(options.identities.len(), 3);
        assert!(options.identities[0].ends_with(".ssh/id_ed25519"));
        assert!(options.known_hosts[0].ends_with(".ssh/known_hosts"));
        assert!(!options.user.is_empty());
    }
}
