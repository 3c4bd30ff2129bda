//! Counts the bytes of deltas between two versions of modules, beside what other tools make of the same pairs.
//!
//! `cargo bench -p relsync-engine --bench delta` recompiles modules of the installed OTP with small changes;
//! `RELSYNC_PAIRS=DIR` adds the pairs `DIR/*/{old,new}`, `RELSYNC_LEVEL` sets the level, `RELSYNC_ALONE` leaves the other tools
//! out, `RELSYNC_EXPLAIN` shows how each file was coded. Files that are equal are left out. The agent's decoder is measured on
//! the same frames: its time, and the most memory its process had.
#![expect(clippy::print_stdout, reason = "a table is what this prints")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use relsync_engine::delta::{self, Limits, Options, Piece};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// New content of one frame; base content comes on top.
const FRAME_BYTES: usize = 1 << 20;

/// A changed file: its path, its old and its new content.
struct Change {
    path: PathBuf,
    old: Vec<u8>,
    new: Vec<u8>,
}

fn main() -> Result<()> {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("delta-pairs");
    make_pairs(&scratch)?;
    println!(
        "{:<28} {:>5} {:>9} | {:>8} {:>8} {:>8} {:>8} | {:>8} {:>9} {:>9} | in Erlang",
        "pair",
        "files",
        "bytes",
        "rsync -z",
        "xdelta3",
        "bsdiff",
        "zstd-pf",
        "relsync",
        "enc MB/s",
        "dec MB/s"
    );
    for root in [
        Some(scratch),
        std::env::var_os("RELSYNC_PAIRS").map(PathBuf::from),
    ]
    .into_iter()
    .flatten()
    {
        let mut pairs: Vec<_> = std::fs::read_dir(root)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::result::Result<_, _>>()?;
        pairs.sort();
        for pair in pairs.iter().filter(|pair| pair.join("new").is_dir()) {
            measure(pair)?;
        }
    }
    Ok(())
}

fn make_pairs(scratch: &Path) -> Result<()> {
    if scratch.is_dir() {
        return Ok(());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/make_pairs.escript");
    let status = Command::new("escript").arg(script).arg(scratch).status()?;
    if status.success() {
        Ok(())
    } else {
        Err("make_pairs.escript failed".into())
    }
}

fn measure(pair: &Path) -> Result<()> {
    let changes = changes(pair)?;
    let bytes: usize = changes.iter().map(|change| change.new.len()).sum();
    let _absent_at_first = std::fs::remove_dir_all(frames_directory());
    let ours = relsync(&changes)?;
    let agent = decode_in_erlang()?;
    let others = if std::env::var_os("RELSYNC_ALONE").is_some() {
        [0; 4]
    } else {
        others(&changes)?
    };
    println!(
        "{:<28} {:>5} {:>9} | {:>8} {:>8} {:>8} {:>8} | {:>8} {:>9.1} {:>9.1} | {agent}",
        pair.file_name().unwrap_or_default().to_string_lossy(),
        changes.len(),
        bytes,
        others[0],
        others[1],
        others[2],
        others[3],
        ours.bytes,
        megabytes_per_s(bytes, ours.encoding),
        megabytes_per_s(bytes, ours.decoding),
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn megabytes_per_s(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}

fn changes(pair: &Path) -> Result<Vec<Change>> {
    let (old, new) = (files(&pair.join("old"))?, files(&pair.join("new"))?);
    let changes = new.into_iter().filter_map(|(path, new)| {
        let old = old.get(&path).cloned().unwrap_or_default();
        (old != new).then_some(Change { path, old, new })
    });
    Ok(changes.collect())
}

fn files(root: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.is_file() {
                files.insert(
                    path.strip_prefix(root)?.to_path_buf(),
                    std::fs::read(&path)?,
                );
            }
        }
    }
    Ok(files)
}

struct Ours {
    bytes: usize,
    encoding: Duration,
    decoding: Duration,
}

/// Encodes and decodes frames of about [`FRAME_BYTES`].
fn relsync(changes: &[Change]) -> Result<Ours> {
    let mut ours = Ours {
        bytes: 0,
        encoding: Duration::ZERO,
        decoding: Duration::ZERO,
    };
    let pieces: Vec<Piece<'_>> = changes
        .iter()
        .map(|change| Piece {
            new: &change.new,
            base: (!change.old.is_empty()).then_some(&change.old[..]),
        })
        .collect();
    let level = std::env::var("RELSYNC_LEVEL")
        .ok()
        .and_then(|level| level.parse().ok());
    let options = Options {
        level: level.unwrap_or(delta::BEST_LEVEL),
        limits: Limits {
            max_content_bytes: 64 << 20,
            ..Limits::default()
        },
        ..Options::default()
    };
    let mut rest = &pieces[..];
    while !rest.is_empty() {
        let mut len = 0;
        let count = rest.iter().take_while(|piece| {
            len += piece.new.len();
            len <= FRAME_BYTES
        });
        let (frame, behind) = rest.split_at(count.count().max(1));
        rest = behind;
        let start = Instant::now();
        let encoded = delta::encode_with(frame, &options);
        ours.encoding += start.elapsed();
        keep_frame(frame, &encoded.bytes, ours.bytes)?;
        ours.bytes += encoded.bytes.len();
        let bases: Vec<Option<&[u8]>> = frame.iter().map(|piece| piece.base).collect();
        let start = Instant::now();
        let decoded = delta::decode(&encoded.bytes, &bases, options.limits)?;
        ours.decoding += start.elapsed();
        if decoded
            .iter()
            .zip(frame)
            .any(|(decoded, piece)| decoded != piece.new)
        {
            return Err("decoded content differs".into());
        }
        if std::env::var_os("RELSYNC_EXPLAIN").is_some() {
            for (piece, explain) in frame.iter().zip(&encoded.explain) {
                println!("    {:>8} {explain:?}", piece.new.len());
            }
        }
    }
    Ok(ours)
}

fn frames_directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("delta-frames")
}

/// Writes a frame down, as the golden vectors are.
fn keep_frame(frame: &[Piece<'_>], body: &[u8], number: usize) -> Result<()> {
    let directory = frames_directory().join(number.to_string());
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("body"), body)?;
    for (index, piece) in frame.iter().enumerate() {
        std::fs::write(directory.join(format!("{index}.new")), piece.new)?;
        if let Some(base) = piece.base {
            std::fs::write(directory.join(format!("{index}.base")), base)?;
        }
    }
    Ok(())
}

/// Lets the agent's decoder decode the frames that were written down; returns what it says.
fn decode_in_erlang() -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/decode_frames.escript");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../erlang/apps/relsync_lib/src");
    let output = Command::new("escript")
        .arg(script)
        .arg(sources)
        .arg(frames_directory())
        .output()?;
    if !output.status.success() {
        return Err(format!(
            "decode_frames.escript: {}",
            String::from_utf8_lossy(&output.stdout)
        )
        .into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Returns what rsync -z, xdelta3, bsdiff and `zstd --patch-from` make of the changes, file by file.
fn others(changes: &[Change]) -> Result<[u64; 4]> {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("delta-others");
    let _absent_at_first = std::fs::remove_dir_all(&scratch);
    let mut totals = [0; 4];
    for (side, content) in [("old", 0), ("new", 1)] {
        for change in changes {
            let path = scratch.join(side).join(&change.path);
            std::fs::create_dir_all(path.parent().unwrap_or(&scratch))?;
            std::fs::write(
                path,
                if content == 0 {
                    &change.old
                } else {
                    &change.new
                },
            )?;
        }
    }
    for change in changes {
        let (old, new) = (
            scratch.join("old").join(&change.path),
            scratch.join("new").join(&change.path),
        );
        let out = scratch.join("out");
        let (old, new, out) = (old.as_os_str(), new.as_os_str(), out.as_os_str());
        let patch_from = [
            &"--patch-from=".to_owned(),
            &old.to_string_lossy().into_owned(),
        ]
        .map(String::as_str)
        .concat();
        let runs: [(usize, Vec<&std::ffi::OsStr>); 3] = [
            (
                1,
                vec![
                    "xdelta3".as_ref(),
                    "-9".as_ref(),
                    "-S".as_ref(),
                    "lzma".as_ref(),
                    "-f".as_ref(),
                    "-e".as_ref(),
                    "-s".as_ref(),
                    old,
                    new,
                    out,
                ],
            ),
            (2, vec!["bsdiff".as_ref(), old, new, out]),
            (
                3,
                vec![
                    "zstd".as_ref(),
                    "-q".as_ref(),
                    "-f".as_ref(),
                    "--ultra".as_ref(),
                    "-22".as_ref(),
                    patch_from.as_ref(),
                    new,
                    "-o".as_ref(),
                    out,
                ],
            ),
        ];
        for (tool, command) in runs {
            let output = Command::new(command[0]).args(&command[1..]).output()?;
            if output.status.success() {
                totals[tool] += std::fs::metadata(out)?.len();
            }
        }
    }
    let batch = scratch.join("batch");
    let mut rsync = Command::new("rsync");
    rsync
        .args(["-rIz", "--no-whole-file", "--only-write-batch"])
        .arg(&batch);
    rsync
        .arg(format!("{}/", scratch.join("new").display()))
        .arg(scratch.join("old"));
    if rsync.output()?.status.success() {
        totals[0] = std::fs::metadata(&batch)?.len();
    }
    Ok(totals)
}
