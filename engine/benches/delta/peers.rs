//! What other tools make of the same pairs.
//!
//! Each delta tool gets the files one by one, and again all in one piece; the smaller of both counts for it. What was
//! measured is kept beside the bench's other files, since neither the tools nor the pairs change from run to run.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use relsync_engine::tree::id::Sha256;

use crate::pair::{Change, Pair};
use crate::{Result, scratch};

/// Content of one zstd frame where nothing but compression is asked for: that of our frames.
const ALONE_BYTES: usize = 1 << 20;

/// Bytes of each tool; none where it is not installed, or failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Peers {
    rsync: Option<u64>,
    xdelta3: Option<u64>,
    bsdiff: Option<u64>,
    patch_from: Option<u64>,
    casync: Option<u64>,
    /// All new content compressed without the old.
    alone: Option<u64>,
}

impl Peers {
    /// Returns the names of the tools, and what they needed.
    pub(crate) fn columns(&self) -> [(&'static str, Option<u64>); 6] {
        [
            ("rsync -z", self.rsync),
            ("xdelta3", self.xdelta3),
            ("bsdiff", self.bsdiff),
            ("zstd -pf", self.patch_from),
            ("casync", self.casync),
            ("zstd", self.alone),
        ]
    }

    /// Returns the fewest bytes that any of them needed.
    pub(crate) fn best(&self) -> Option<u64> {
        self.columns()
            .into_iter()
            .filter_map(|(_, bytes)| bytes)
            .min()
    }

    /// Runs the tools, or recalls what they needed for the same content.
    pub(crate) fn measure(pair: &Pair) -> Result<Self> {
        let file = scratch("delta-peers").join(Self::key(pair));
        if let Some(peers) = fs::read_to_string(&file)
            .ok()
            .and_then(|text| Self::parse(&text))
        {
            return Ok(peers);
        }
        let tools = Tools::new(pair)?;
        let peers = Self {
            rsync: tools.rsync()?,
            xdelta3: tools.smaller(&pair.changes, xdelta3)?,
            bsdiff: tools.smaller(&pair.changes, bsdiff)?,
            patch_from: tools.smaller(&pair.changes, patch_from)?,
            casync: tools.casync()?,
            alone: Some(alone(pair)?),
        };
        fs::create_dir_all(scratch("delta-peers"))?;
        fs::write(file, peers.text())?;
        Ok(peers)
    }

    fn key(pair: &Pair) -> String {
        let mut all = Vec::new();
        for change in &pair.changes {
            for bytes in [
                change.path.as_os_str().as_encoded_bytes(),
                &change.old,
                &change.new,
            ] {
                all.extend_from_slice(&Sha256::of(bytes).as_bytes()[..]);
            }
        }
        Sha256::of(&all).to_string()
    }

    fn text(&self) -> String {
        let numbers = self
            .columns()
            .map(|(_, bytes)| bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()));
        numbers.join(" ")
    }

    fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<Option<u64>> = text.split(' ').map(|number| number.parse().ok()).collect();
        let [rsync, xdelta3, bsdiff, patch_from, casync, alone] = numbers[..] else {
            return None;
        };
        Some(Self {
            rsync,
            xdelta3,
            bsdiff,
            patch_from,
            casync,
            alone,
        })
    }
}

/// The command of a tool that makes `out` from `old` and `new`.
type DeltaTool = fn(old: &Path, new: &Path, out: &Path) -> Command;

fn xdelta3(old: &Path, new: &Path, out: &Path) -> Command {
    let mut command = Command::new("xdelta3");
    command
        .args(["-9", "-S", "lzma", "-f", "-e", "-s"])
        .arg(old);
    command.arg(new).arg(out);
    command
}

fn bsdiff(old: &Path, new: &Path, out: &Path) -> Command {
    let mut command = Command::new("bsdiff");
    command.arg(old).arg(new).arg(out);
    command
}

fn patch_from(old: &Path, new: &Path, out: &Path) -> Command {
    let mut command = Command::new("zstd");
    let from = [OsStr::new("--patch-from="), old.as_os_str()].join(OsStr::new(""));
    command
        .args(["-q", "-f", "--ultra", "-22", "--long=27"])
        .arg(from);
    command.arg(new).arg("-o").arg(out);
    command
}

/// Compresses the new content as solid as frames do, without a base.
fn alone(pair: &Pair) -> Result<u64> {
    let content: Vec<u8> = pair
        .changes
        .iter()
        .flat_map(|change| change.new.iter().copied())
        .collect();
    let (new, out) = (scratch("delta-alone"), scratch("delta-alone.zst"));
    let mut bytes = 0;
    for frame in content.chunks(ALONE_BYTES) {
        fs::write(&new, frame)?;
        let mut command = Command::new("zstd");
        command
            .args(["-q", "-f", "-19", "--no-check"])
            .arg(&new)
            .arg("-o")
            .arg(&out);
        bytes += run(command, &out)?.ok_or("zstd is not installed")?;
    }
    Ok(bytes)
}

/// Runs a command; returns the size of what it wrote, or none if it is not there or failed.
fn run(mut command: Command, out: &Path) -> Result<Option<u64>> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(Some(fs::metadata(out)?.len())),
        _ => Ok(None),
    }
}

/// The changed files of a pair, written down.
struct Tools {
    root: PathBuf,
}

impl Tools {
    fn new(pair: &Pair) -> Result<Self> {
        let root = scratch("delta-others");
        let _absent_at_first = fs::remove_dir_all(&root);
        let (mut all_old, mut all_new) = (Vec::new(), Vec::new());
        for change in &pair.changes {
            for (side, content, all) in [
                ("old", &change.old, &mut all_old),
                ("new", &change.new, &mut all_new),
            ] {
                let path = root.join(side).join(&change.path);
                fs::create_dir_all(path.parent().unwrap_or(&root))?;
                fs::write(path, content)?;
                all.extend_from_slice(content);
            }
        }
        fs::write(root.join("all-old"), all_old)?;
        fs::write(root.join("all-new"), all_new)?;
        Ok(Self { root })
    }

    /// Runs a tool file by file, and on all files in one piece.
    fn smaller(&self, changes: &[Change], tool: DeltaTool) -> Result<Option<u64>> {
        let out = self.root.join("out");
        let delta = |old: &Path, new: &Path| run(tool(old, new, &out), &out);
        let solid = delta(&self.root.join("all-old"), &self.root.join("all-new"))?;
        let mut single = Some(0);
        for change in changes {
            let (old, new) = (
                self.root.join("old").join(&change.path),
                self.root.join("new").join(&change.path),
            );
            single = match (single, delta(&old, &new)?) {
                (Some(sum), Some(bytes)) => Some(sum + bytes),
                _ => None,
            };
        }
        Ok([solid, single].into_iter().flatten().min())
    }

    /// What rsync sends for the tree.
    fn rsync(&self) -> Result<Option<u64>> {
        let batch = self.root.join("batch");
        let mut command = Command::new("rsync");
        command
            .args(["-rIz", "--no-whole-file", "--only-write-batch"])
            .arg(&batch)
            .arg(format!("{}/", self.root.join("new").display()))
            .arg(self.root.join("old"));
        run(command, &batch)
    }

    /// The chunks that casync lacks for the new tree once it has the old, and its index.
    fn casync(&self) -> Result<Option<u64>> {
        let store = self.root.join("casync");
        let index = self.root.join("index.caidx");
        let mut bytes = 0;
        for side in ["old", "new"] {
            let held = folder_bytes(&store)?;
            let mut command = Command::new("casync");
            command
                .args(["make", "--without=all", "--store"])
                .arg(&store)
                .arg(&index)
                .arg(self.root.join(side));
            let Some(index_bytes) = run(command, &index)? else {
                return Ok(None);
            };
            bytes = folder_bytes(&store)? - held + index_bytes;
        }
        Ok(Some(bytes))
    }
}

fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    if folder.is_dir() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            bytes += if entry.file_type()?.is_dir() {
                folder_bytes(&entry.path())?
            } else {
                entry.metadata()?.len()
            };
        }
    }
    Ok(bytes)
}
