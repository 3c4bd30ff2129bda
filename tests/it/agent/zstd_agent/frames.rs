//! The inputs: contents of several natures, and frames as several users of libzstd write them.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter};

/// A small generator (xorshift64*). Every case can be repeated from its seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Returns a size up to `limit`. Every magnitude is equally likely.
    pub(super) fn size(&mut self, limit: usize) -> usize {
        let log = self.below(usize::try_from(limit.max(2).ilog2()).unwrap() + 1);
        self.below((2 << log).min(limit + 1))
    }

    pub(super) fn bytes(&mut self, size: usize) -> Vec<u8> {
        (0..size).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// Returns compiled modules of the installed OTP, one after another.
pub(super) fn beam_files(size: usize) -> Vec<u8> {
    let output = Command::new("erl")
        .args([
            "-noinput",
            "-boot",
            "start_clean",
            "-eval",
            "io:put_chars(code:lib_dir(stdlib)), halt().",
        ])
        .output()
        .unwrap();
    let ebin = PathBuf::from(String::from_utf8(output.stdout).unwrap()).join("ebin");
    let mut files: Vec<_> = fs::read_dir(ebin)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut bytes = Vec::new();
    for file in files {
        bytes.extend(fs::read(file).unwrap());
    }
    let mut all = bytes.clone();
    while all.len() < size {
        all.extend(&bytes);
    }
    all.truncate(size);
    all
}

pub(super) fn words(random: &mut Random, size: usize) -> Vec<u8> {
    const SYLLABLES: [&str; 12] = [
        "re", "sync", " ", "node", "\n", "mo", "dule", "er", ", ", "lang", "0x", "ta",
    ];
    let mut text = Vec::new();
    while text.len() < size {
        text.extend(SYLLABLES[random.below(12).min(random.below(12))].as_bytes());
    }
    text.truncate(size);
    text
}

/// Returns `size` bytes of content of one of several natures.
pub(super) fn content(random: &mut Random, beams: &[u8], size: usize) -> Vec<u8> {
    match random.below(7) {
        0 => random.bytes(size),
        1 => vec![7; size],
        2 => words(random, size),
        3 => (0..size).map(|_| b"aaaaaaab"[random.below(8)]).collect(),
        4 => {
            // Runs, noise and repeats alternate. So one frame has raw, run-length and compressed
            // blocks.
            let mut mixed = Vec::new();
            while mixed.len() < size {
                let part = random.size(400_000).max(1);
                match random.below(3) {
                    0 => mixed.extend(random.bytes(part)),
                    1 => mixed.resize(mixed.len() + part, 0),
                    _ => mixed.extend(words(random, part)),
                }
            }
            mixed.truncate(size);
            mixed
        }
        _ => {
            let start = random.below(beams.len() - size.min(beams.len()));
            beams[start..].iter().copied().cycle().take(size).collect()
        }
    }
}

/// Returns the content with a few changed bytes and a moved piece, like a new build.
pub(super) fn edited(random: &mut Random, old: &[u8]) -> Vec<u8> {
    let mut new = old.to_vec();
    for _ in 0..random.below(20) {
        if new.is_empty() {
            break;
        }
        let at = random.below(new.len());
        match random.below(3) {
            0 => new[at] ^= 0x55,
            1 => {
                let added = random.size(200);
                let noise = random.bytes(added);
                new.splice(at..at, noise);
            }
            _ => {
                let end = (at + random.size(5000)).min(new.len());
                let piece: Vec<u8> = new.drain(at..end).collect();
                let to = random.below(new.len() + 1);
                new.splice(to..to, piece);
            }
        }
    }
    new
}

/// Compresses as relsync's host does (level, prefix, long-distance matching), or with `variations`
/// as other users of libzstd might.
pub(super) fn compress(
    content: &[u8],
    prefix: &[u8],
    level: i32,
    variations: &[CParameter],
) -> Vec<u8> {
    let mut context = CCtx::create();
    context
        .set_parameter(CParameter::CompressionLevel(level))
        .unwrap();
    for variation in variations {
        context.set_parameter(*variation).unwrap();
    }
    if !prefix.is_empty() {
        context.ref_prefix(prefix).unwrap();
    }
    let mut frame = Vec::with_capacity(zstd::zstd_safe::compress_bound(content.len()));
    context.compress2(&mut frame, content).unwrap();
    frame
}

/// Returns a frame as written by a stream that does not know its size: no content size, and the
/// level's window.
pub(super) fn compress_stream(content: &[u8], level: i32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), level).unwrap();
    for part in content.chunks(50_000) {
        encoder.write_all(part).unwrap();
        encoder.flush().unwrap();
    }
    encoder.finish().unwrap()
}

pub(super) fn libzstd_decode(frame: &[u8], prefix: &[u8], max_size: usize) -> Option<Vec<u8>> {
    let mut context = DCtx::create();
    context.set_parameter(DParameter::WindowLogMax(31)).unwrap();
    if !prefix.is_empty() {
        context.ref_prefix(prefix).unwrap();
    }
    let mut content = Vec::with_capacity(max_size);
    context
        .decompress(&mut content, frame)
        .ok()
        .map(|_| content)
}
