//! `strace` on a running node. It records the node's calls about some files, and makes the kernel
//! answer with errors.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::node::Node;

/// The calls that change files or open them. Calls that the machine does not know are left out.
const CALLS: &str = "?open,?openat,?creat,?write,?writev,?pwrite64,?pwritev,?fsync,?fdatasync,?ftruncate,?fallocate,?rename,?renameat,\
     ?renameat2,?link,?linkat,?unlink,?unlinkat,?mkdir,?mkdirat,?rmdir,?symlink,?symlinkat,?chmod,?fchmodat,?utime,?utimes,?utimensat";

/// One call of the kernel: the `nth` with its name about this path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `openat`, `rename`, ….
    pub name: String,
    /// The first path that the call is about.
    pub path: String,
    /// The number, counted from 1.
    pub nth: usize,
}

/// A running `strace`.
#[derive(Debug)]
pub struct Tracer {
    process: Child,
    log: PathBuf,
}

impl Tracer {
    /// Records all calls of a node. An error says why tracing is impossible here.
    pub fn record(node: &Node, log: &Path) -> Result<Self, String> {
        Self::attach(node, log, &["-y", "-e", &format!("trace={CALLS}")])
    }

    /// Makes one call fail.
    pub fn inject(node: &Node, log: &Path, call: &Call, error: &str) -> Result<Self, String> {
        let Call { name, path, nth } = call;
        let trace = format!("trace={name}");
        let inject = format!("inject={name}:error={error}:when={nth}");
        Self::attach(node, log, &["-P", path, "-e", &trace, "-e", &inject])
    }

    fn attach(node: &Node, log: &Path, arguments: &[&str]) -> Result<Self, String> {
        let mut process = Command::new("strace")
            .args(["-f", "-p", &node.pid().to_string(), "-o"])
            .arg(log)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("strace: {error}"))?;
        let mut said = String::new();
        if let Some(stderr) = process.stderr.take() {
            let mut lines = BufReader::new(stderr);
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                if line.contains(" attached") {
                    // Nobody reads any further. The output that follows when it detaches fits in
                    // the pipe.
                    process.stderr = Some(lines.into_inner());
                    return Ok(Self {
                        process,
                        log: log.to_owned(),
                    });
                }
                said.push_str(&line);
                line.clear();
            }
        }
        let _ = process.wait();
        Err(format!("strace: {}", said.trim()))
    }

    /// Detaches from the node. Returns the calls about paths below a directory, in order.
    ///
    /// # Panics
    /// If the log cannot be read.
    pub fn calls(self, below: &Path) -> Vec<Call> {
        calls_in(&self.end(), below.to_str().expect("a path of text"))
    }

    /// Detaches from the node. Returns whether an error was injected.
    pub fn has_injected(self) -> bool {
        self.end().contains("(INJECTED)")
    }

    fn end(mut self) -> String {
        let _ = Command::new("kill")
            .arg(self.process.id().to_string())
            .status();
        let _ = self.process.wait();
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads lines like `123 rename("/a", "/b") = 0` and `123 fsync(7</a>) = 0`.
fn calls_in(log: &str, below: &str) -> Vec<Call> {
    let mut seen: Vec<(String, Vec<String>)> = Vec::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let Some((head, rest)) = line.split_once('(') else {
            continue;
        };
        let name = head.split_whitespace().last().unwrap_or_default();
        let paths = paths_in(rest, below);
        let Some(path) = paths.first().cloned() else {
            continue;
        };
        seen.push((name.to_owned(), paths));
        let nth = seen
            .iter()
            .filter(|(other, paths)| other == name && paths.contains(&path))
            .count();
        calls.push(Call {
            name: name.to_owned(),
            path,
            nth,
        });
    }
    calls
}

/// Returns the paths below a directory in a call's arguments: quoted, or in angle brackets after a
/// file descriptor. Only the agent names files by descriptors, and only files below the directory.
fn paths_in(arguments: &str, below: &str) -> Vec<String> {
    // The call's result is not among its arguments.
    let arguments = arguments
        .rsplit_once(") = ")
        .map_or(arguments, |(left, _)| left);
    arguments
        .split(['"', '<', '>'])
        .filter(|part| {
            part.starts_with("/proc/self/fd/")
                || part
                    .strip_prefix(below)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read() {
        let log = "1 openat(AT_FDCWD</x>, \"/d/a\", O_RDONLY) = 7</d/a>\n\
                   1 writev(7</d/a>, [{iov_base=\"x\", iov_len=1}], 1 <unfinished ...>\n\
                   1 <... writev resumed>) = 1\n\
                   1 rename(\"/d/a\", \"/d/b\") = 0\n\
                   1 rename(\"/d/c\", \"/d/a\") = 0\n\
                   1 rename(\"/d/a\", \"/d/e\") = 0\n\
                   1 rmdir(\"/proc/self/fd/7/a\") = 0\n\
                   1 mkdir(\"/dd\", 0777) = 0\n";
        let found: Vec<_> = calls_in(log, "/d")
            .into_iter()
            .map(|call| format!("{} {} {}", call.name, call.path, call.nth))
            .collect();
        let wanted = [
            "openat /d/a 1",
            "writev /d/a 1",
            "rename /d/a 1",
            "rename /d/c 1",
            "rename /d/a 3",
            "rmdir /proc/self/fd/7/a 1",
        ];
        assert_eq!(found, wanted);
    }
}
