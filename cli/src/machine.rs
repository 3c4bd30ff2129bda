//! The names of this machine and its user, the places of the user's files, and the time.
//!
//! The one place besides the command line that looks at the environment.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::own_file::{self, FileError, Rules};

/// The largest cookie file that is read.
const MAX_COOKIE_FILE_BYTES: u64 = 4096;

/// This machine's name, as `hostname` says it.
pub(crate) fn host_name() -> String {
    let from_kernel = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    from_kernel
        .as_deref()
        .and_then(non_blank)
        .or_else(|| said_by("hostname", &[]))
        .unwrap_or_else(|| "localhost".to_owned())
}

/// This machine's name with its domain, as far as it has one.
pub(crate) fn full_host_name() -> String {
    said_by("hostname", &["-f"]).unwrap_or_else(host_name)
}

/// The answer of a program about this machine or its user.
fn said_by(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        // A program may start others, as `ssh -G` does for `Match exec`.
        .env_remove("RELSYNC_PASSWORD")
        .env_remove("RELSYNC_COOKIE")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    if output.status.success() {
        non_blank(&text)
    } else {
        None
    }
}

/// The user who runs relsync, as `user@machine`.
pub(crate) fn caller() -> String {
    format!("{}@{}", user(), host_name())
}

/// The user who runs relsync.
pub(crate) fn user() -> String {
    let user = env::var("USER").or_else(|_| env::var("LOGNAME")).ok();
    user.as_deref()
        .and_then(non_blank)
        // A container or a service manager may set neither.
        .or_else(|| said_by("id", &["-un"]))
        .or_else(|| said_by("id", &["-u"]))
        .unwrap_or_else(|| "someone".to_owned())
}

/// The user's home directory.
pub(crate) fn home_dir() -> Option<PathBuf> {
    env::home_dir().filter(|home| !home.as_os_str().is_empty())
}

/// A path in which `~/` stands for the home directory.
pub(crate) fn in_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// The socket of the user's SSH agent.
pub(crate) fn ssh_agent() -> Option<PathBuf> {
    let socket = env::var_os("SSH_AUTH_SOCK")?;
    (!socket.is_empty()).then(|| socket.into())
}

/// The password for SSH that the user has put into the environment.
pub(crate) fn password() -> Option<String> {
    let password = env::var("RELSYNC_PASSWORD").ok()?;
    (!password.is_empty()).then_some(password)
}

/// The output of a program, or the last line of its complaints if it failed.
pub(crate) fn output_of(program: &str, arguments: &[String]) -> io::Result<Result<String, String>> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(Ok(text(&output.stdout)));
    }
    let said = text(&output.stderr);
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    Ok(Err(lines.join("; ")))
}

/// The cookie in the user's `.erlang.cookie`, in the home directory or, as in OTP 25 and later, in the
/// configuration directory. As Erlang does, this refuses a file that others may read.
pub(crate) fn cookie_file() -> Result<Option<String>, FileError> {
    let Some(home) = env::home_dir() else {
        return Ok(None);
    };
    let configuration = if cfg!(target_os = "macos") {
        home.join("Library/Application Support")
    } else {
        match env::var_os("XDG_CONFIG_HOME") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => home.join(".config"),
        }
    };
    match cookie_in(&home.join(".erlang.cookie"))? {
        Some(cookie) => Ok(Some(cookie)),
        None => cookie_in(&configuration.join("erlang/.erlang.cookie")),
    }
}

fn cookie_in(path: &Path) -> Result<Option<String>, FileError> {
    match own_file::read(path, Rules::Secret, MAX_COOKIE_FILE_BYTES) {
        Ok(content) => match String::from_utf8(content) {
            Ok(text) => Ok(non_blank(&text)),
            Err(_) => Err(FileError::Text {
                path: path.to_owned(),
            }),
        },
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The directory for relsync's data of this user.
pub(crate) fn data_dir() -> Option<PathBuf> {
    directories::ProjectDirs::from("", "", "relsync").map(|dirs| dirs.data_dir().to_owned())
}

/// `ERL_LIBS` for a compiler that works in another directory.
pub(crate) fn erl_libs() -> Option<OsString> {
    let libs = env::var_os("ERL_LIBS")?;
    let absolute = env::split_paths(&libs).map(|dir| std::path::absolute(&dir).unwrap_or(dir));
    env::join_paths(absolute).ok()
}

/// The directory for relsync's configuration of this user.
pub(crate) fn config_dir() -> Option<PathBuf> {
    directories::ProjectDirs::from("", "", "relsync").map(|dirs| dirs.config_dir().to_owned())
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn non_blank(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_cookie_is_read_only_from_a_file_of_the_user_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("cookie");
        assert!(matches!(cookie_in(&file), Ok(None)));
        fs::write(&file, "secret\n").expect("a file");
        let mode = |mode| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("a mode");
            cookie_in(&file)
        };
        for private in [0o600, 0o400] {
            let cookie = mode(private).expect("a cookie");
            assert_eq!(cookie.as_deref(), Some("secret"));
        }
        for open in [0o640, 0o604, 0o610] {
            let error = mode(open).expect_err("a refusal");
            assert!(matches!(error, FileError::Readable { .. }), "{error}");
        }
        let below = cookie_in(&file.join("below"));
        assert!(matches!(below, Ok(None)), "{below:?}");
        // Its size is 0, and reading it never ends.
        let device = cookie_in(Path::new("/dev/zero"));
        assert!(matches!(device, Err(FileError::Kind { .. })), "{device:?}");
    }
}
