//! The agent's zstd decoder compared with libzstd. It reads everything that libzstd writes. It
//! refuses damaged frames or reads them as libzstd does, in bounded time and memory.
//!
//! One Erlang runtime decodes for all cases of a test (`tests/erl/relsync_lib_zstd_driver.erl`).
//! `RELSYNC_ZSTD_CASES=N` asks for N random cases per test. `RELSYNC_BLESS=1` rewrites the golden
//! vectors that the eunit tests read too.

#![expect(
    clippy::unwrap_used,
    reason = "what helps a test may fail as a test does"
)]

mod damaged;
mod frames;
mod golden;
mod sound;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const MIB: usize = 1024 * 1024;

/// The agent's answer for one frame.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Content(Vec<u8>),
    Refused(String),
}

/// The agent's entry point that decodes.
#[derive(Clone, Copy, Debug)]
enum Decoder {
    Erlang,
    Native,
}

/// A running Erlang node that decodes the frames it receives.
struct Agent {
    child: Child,
    requests: Option<ChildStdin>,
    replies: ChildStdout,
    _beams: tempfile::TempDir,
}

impl Agent {
    fn start() -> Self {
        let root = repository_root();
        let beams = tempfile::tempdir().unwrap();
        let sources = root.join("erlang/apps/relsync_lib/src/pack");
        let status = Command::new("erlc")
            .args(["+deterministic", "-Wall", "-Werror", "-o"])
            .arg(beams.path())
            .args(
                [
                    "relsync_lib_zstd",
                    "relsync_lib_zstd_entropy",
                    "relsync_lib_xxh64",
                ]
                .map(|module| sources.join(module).with_extension("erl")),
            )
            .arg(root.join("tests/erl/relsync_lib_zstd_driver.erl"))
            .status()
            .unwrap();
        assert!(
            status.success(),
            "the decoder does not compile without warnings"
        );
        let mut child = Command::new("erl")
            .args(["-noinput", "-boot", "start_clean", "-pa"])
            .arg(beams.path())
            .args(["-eval", "relsync_lib_zstd_driver:start()"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            requests: child.stdin.take(),
            replies: child.stdout.take().unwrap(),
            child,
            _beams: beams,
        }
    }

    fn decode(&mut self, decoder: Decoder, frame: &[u8], prefix: &[u8], max_size: usize) -> Answer {
        let mut request = vec![matches!(decoder, Decoder::Native).into()];
        request.extend(u64::try_from(max_size).unwrap().to_be_bytes());
        request.extend(u32::try_from(prefix.len()).unwrap().to_be_bytes());
        request.extend(prefix);
        request.extend(frame);
        let requests = self.requests.as_mut().unwrap();
        requests
            .write_all(&u32::try_from(request.len()).unwrap().to_be_bytes())
            .unwrap();
        requests.write_all(&request).unwrap();
        let mut size = [0; 4];
        self.replies.read_exact(&mut size).unwrap();
        let mut reply = vec![0; usize::try_from(u32::from_be_bytes(size)).unwrap()];
        self.replies.read_exact(&mut reply).unwrap();
        let data = reply.split_off(1);
        match reply[0] {
            0 => Answer::Content(data),
            1 => Answer::Refused(String::from_utf8(data).unwrap()),
            _ => panic!("the decoder failed: {}", String::from_utf8_lossy(&data)),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The driver ends when its input does.
        self.requests = None;
        let _ = self.child.wait();
    }
}

fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn case_count(default: usize) -> usize {
    std::env::var("RELSYNC_ZSTD_CASES").map_or(default, |count| count.parse().unwrap())
}

fn describe(answer: &Answer) -> String {
    match answer {
        Answer::Content(content) => format!("{} bytes of content", content.len()),
        Answer::Refused(reason) => reason.clone(),
    }
}
