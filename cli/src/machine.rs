//! The names of this machine and its user, the places of the user's files, and the time.
//!
//! The one place besides the command line that looks at the environment.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

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
    let user = env::var("USER").or_else(|_| env::var("LOGNAME")).ok();
    let user = user
        .as_deref()
        .and_then(non_blank)
        // A container or a service manager may set neither.
        .or_else(|| said_by("id", &["-un"]))
        .or_else(|| said_by("id", &["-u"]))
        .unwrap_or_else(|| "someone".to_owned());
    format!("{user}@{}", host_name())
}

/// The cookie in the user's `.erlang.cookie`, in the home directory or, as in OTP 25 and later, in the
/// configuration directory.
pub(crate) fn cookie_file() -> Option<String> {
    let home = env::home_dir()?;
    let configuration = if cfg!(target_os = "macos") {
        home.join("Library/Application Support")
    } else {
        match env::var_os("XDG_CONFIG_HOME") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => home.join(".config"),
        }
    };
    cookie_in(&home.join(".erlang.cookie"))
        .or_else(|| cookie_in(&configuration.join("erlang/.erlang.cookie")))
}

fn cookie_in(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > MAX_COOKIE_FILE_BYTES {
        return None;
    }
    non_blank(&fs::read_to_string(path).ok()?)
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
    use super::*;

    #[test]
    fn a_cookie_is_read_from_a_regular_file_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("cookie");
        fs::write(&file, "secret\n").expect("a file");
        assert_eq!(cookie_in(&file).as_deref(), Some("secret"));
        // Its size is 0, and reading it never ends.
        assert_eq!(cookie_in(Path::new("/dev/zero")), None);
    }
}
