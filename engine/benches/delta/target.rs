//! The agent's decoder at work: real nodes of the OTP releases that are here.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ours::Ours;
use crate::{Result, scratch};

/// The oldest release, and the one of the machine that tests run on.
const RELEASES: &str = "25,23";

/// A release of OTP with the agent's decoder, compiled.
pub(crate) struct Target {
    release: String,
    /// The decoder's modules and what measures them.
    ebin: PathBuf,
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "decode on OTP {}", self.release)
    }
}

/// What decoding took.
pub(crate) struct Decoding {
    milliseconds: u32,
    peak_kib: u32,
}

impl fmt::Display for Decoding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = f64::from(self.milliseconds) / 1e3;
        let memory = f64::from(self.peak_kib) / 1024.0;
        write!(formatter, "{time:>6.2} s {memory:>3.0} MiB")
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn otp(release: &str, program: &str) -> Command {
    let mut command = Command::new(repository().join("scripts/otp-run.sh"));
    command.args([release, program]);
    command
}

impl Target {
    /// Compiles the decoder for the releases asked for; those that are not here are left out.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let asked = std::env::var("RELSYNC_RELEASES").unwrap_or_else(|_| RELEASES.to_owned());
        let list = Command::new(repository().join("scripts/otp-run.sh"))
            .arg("--list")
            .output()?;
        let here = String::from_utf8(list.stdout)?;
        asked
            .split(',')
            .filter(|release| here.lines().any(|line| line == *release))
            .map(|release| Self::compile(release, &here))
            .collect()
    }

    fn compile(release: &str, here: &str) -> Result<Self> {
        // The agent of 23 to 25 is compiled by 23, that of the others by 27.
        let agent = if release < "26" { "23" } else { "27" };
        let compiler = if here.lines().any(|line| line == agent) {
            agent
        } else {
            release
        };
        let ebin = scratch("delta-agent").join(release);
        fs::create_dir_all(&ebin)?;
        let mut command = otp(compiler, "erlc");
        command.args(["+deterministic", "-o"]).arg(&ebin);
        let sources = repository().join("erlang/apps/relsync_lib/src");
        for entry in fs::read_dir(sources.join("pack"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_decoder = ["delta", "zstd", "xxh64"]
                .iter()
                .any(|part| name.starts_with(&format!("relsync_lib_{part}")));
            if is_decoder {
                command.arg(&path);
            }
        }
        for module in ["varint", "worker"] {
            command.arg(sources.join(format!("files/relsync_lib_{module}.erl")));
        }
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/delta/decode_frames.erl"));
        let output = command.output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stdout).into_owned().into());
        }
        Ok(Self {
            release: release.to_owned(),
            ebin,
        })
    }

    /// Lets a fresh node decode the frames of a pair.
    pub(crate) fn decode(&self, ours: &Ours) -> Result<Decoding> {
        if ours.content_bytes == 0 {
            return Ok(Decoding {
                milliseconds: 0,
                peak_kib: 0,
            });
        }
        let output = otp(&self.release, "erl")
            .args(["-noinput", "-boot", "no_dot_erlang", "-pa"])
            .arg(&self.ebin)
            .args(["-run", "decode_frames", "main"])
            .arg(&ours.frames)
            .env("ERL_CRASH_DUMP_BYTES", "0")
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<u32> = said
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
        match numbers[..] {
            [milliseconds, peak_kib] if output.status.success() => Ok(Decoding {
                milliseconds,
                peak_kib,
            }),
            _ => Err(format!("OTP {}: {said}", self.release).into()),
        }
    }
}
