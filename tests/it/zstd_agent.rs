//! The agent's zstd decoder against libzstd: what libzstd writes it reads, what is damaged it
//! refuses or reads as libzstd does, in bounded time and memory.
//!
//! One Erlang runtime decodes for all cases of a test (`tests/erl/relsync_zstd_driver.erl`).
//! `RELSYNC_ZSTD_CASES=N` asks for N random cases per test; `RELSYNC_BLESS=1` rewrites the golden
//! vectors that the eunit tests read as well.

#![expect(
    clippy::unwrap_used,
    reason = "what helps a test may fail as a test does"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter};

const MIB: usize = 1024 * 1024;

/// What the agent said of one frame.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Content(Vec<u8>),
    Refused(String),
}

/// Which of the agent's two entry points decodes.
#[derive(Clone, Copy, Debug)]
enum Decoder {
    Erlang,
    Native,
}

/// A running Erlang node that decodes what it is sent.
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
        let sources = root.join("erlang/apps/relsync_lib/src");
        let status = Command::new("erlc")
            .args(["+deterministic", "-Wall", "-Werror", "-o"])
            .arg(beams.path())
            .args(
                ["relsync_zstd", "relsync_zstd_entropy", "relsync_xxh64"]
                    .map(|module| sources.join(module).with_extension("erl")),
            )
            .arg(root.join("tests/erl/relsync_zstd_driver.erl"))
            .status()
            .unwrap();
        assert!(
            status.success(),
            "the decoder does not compile without warnings"
        );
        let mut child = Command::new("erl")
            .args(["-noinput", "-boot", "start_clean", "-pa"])
            .arg(beams.path())
            .args(["-eval", "relsync_zstd_driver:start()"])
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

/// A small generator (xorshift64*), so that every case can be repeated from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Any magnitude up to `limit` is as likely as any other.
    fn size(&mut self, limit: usize) -> usize {
        let log = self.below(usize::try_from(limit.max(2).ilog2()).unwrap() + 1);
        self.below((2 << log).min(limit + 1))
    }

    fn bytes(&mut self, size: usize) -> Vec<u8> {
        (0..size).map(|_| self.next().to_le_bytes()[0]).collect()
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

/// Compiled modules of the installed OTP, one after another.
fn beam_files(size: usize) -> Vec<u8> {
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

fn words(random: &mut Random, size: usize) -> Vec<u8> {
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

/// Content of one of several natures, `size` bytes of it.
fn content(random: &mut Random, beams: &[u8], size: usize) -> Vec<u8> {
    match random.below(7) {
        0 => random.bytes(size),
        1 => vec![7; size],
        2 => words(random, size),
        3 => (0..size).map(|_| b"aaaaaaab"[random.below(8)]).collect(),
        4 => {
            // Runs, noise and repeats in turn: raw, run-length and compressed blocks in one frame.
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

/// A few bytes changed, a piece moved: what a new build is to the old one.
fn edited(random: &mut Random, old: &[u8]) -> Vec<u8> {
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
fn compress(content: &[u8], prefix: &[u8], level: i32, variations: &[CParameter]) -> Vec<u8> {
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

/// A frame as a stream writes it that does not know its size: no content size, a window by level.
fn compress_stream(content: &[u8], level: i32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), level).unwrap();
    for part in content.chunks(50_000) {
        encoder.write_all(part).unwrap();
        encoder.flush().unwrap();
    }
    encoder.finish().unwrap()
}

fn libzstd_decode(frame: &[u8], prefix: &[u8], max_size: usize) -> Option<Vec<u8>> {
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

#[test]
fn every_level_of_libzstd_is_read() {
    let mut agent = Agent::start();
    let mut random = Random(0x5EED);
    let beams = beam_files(2 * MIB);
    for level in (-7..=22).chain([-100, -131_072]) {
        let raw = content(&mut random, &beams, 150_000);
        let prefix = edited(&mut random, &raw);
        for prefix in [&[][..], &prefix] {
            let frame = compress(
                &raw,
                prefix,
                level,
                &[CParameter::ChecksumFlag(level % 2 == 0)],
            );
            for decoder in [Decoder::Erlang, Decoder::Native] {
                let answer = agent.decode(decoder, &frame, prefix, raw.len());
                assert!(
                    answer == Answer::Content(raw.clone()),
                    "level {level}, {decoder:?}"
                );
            }
        }
    }
}

#[test]
fn random_frames_of_libzstd_are_read() {
    let mut agent = Agent::start();
    let beams = beam_files(9 * MIB);
    for seed in 1..=u64::try_from(case_count(60)).unwrap() {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let level = i32::try_from(random.below(30)).unwrap() - 7;
        // The high levels need seconds for megabytes.
        let size = random.size(if level > 9 { MIB } else { 8 * MIB });
        let raw = content(&mut random, &beams, size);
        let prefix = if random.one_in(2) {
            edited(&mut random, &raw)
        } else {
            Vec::new()
        };
        let variations = [
            CParameter::ChecksumFlag(random.one_in(4)),
            CParameter::ContentSizeFlag(!random.one_in(4)),
            CParameter::EnableLongDistanceMatching(random.one_in(3)),
            CParameter::TargetCBlockSize(if random.one_in(4) { 2000 } else { 0 }),
        ];
        let frame = if prefix.is_empty() && random.one_in(4) {
            compress_stream(&raw, level.min(19))
        } else {
            compress(&raw, &prefix, level, &variations)
        };
        let answer = agent.decode(Decoder::Erlang, &frame, &prefix, raw.len());
        assert!(
            answer == Answer::Content(raw),
            "seed {seed}, level {level}, {size} bytes: {}",
            describe(&answer)
        );
        if size > 0 {
            let answer = agent.decode(Decoder::Erlang, &frame, &prefix, size - 1);
            assert!(
                matches!(answer, Answer::Refused(_)),
                "seed {seed}: more than allowed is accepted"
            );
        }
    }
}

#[test]
fn eight_mebibytes_are_read() {
    let mut agent = Agent::start();
    let raw = beam_files(8 * MIB);
    let prefix = edited(&mut Random(8), &raw);
    let window = [
        CParameter::EnableLongDistanceMatching(true),
        CParameter::WindowLog(27),
    ];
    for (level, prefix) in [(3, &[][..]), (9, &prefix)] {
        let frame = compress(&raw, prefix, level, &window);
        assert!(
            agent.decode(Decoder::Erlang, &frame, prefix, raw.len())
                == Answer::Content(raw.clone())
        );
        assert!(
            agent.decode(Decoder::Native, &frame, prefix, raw.len())
                == Answer::Content(raw.clone())
        );
    }
}

#[test]
fn damaged_frames_are_refused_or_read_as_libzstd_does() {
    const MAX_SIZE: usize = 300_000;
    let mut agent = Agent::start();
    let beams = beam_files(MIB);
    let (mut refused, mut read) = (0, 0);
    for seed in 1..=u64::try_from(case_count(1500)).unwrap() {
        let mut random = Random(seed.wrapping_mul(0xD134_2543_DE82_EF95));
        let limit = if random.one_in(10) { MAX_SIZE } else { 8_000 };
        let size = random.size(limit);
        let raw = content(&mut random, &beams, size);
        let prefix = if random.one_in(3) {
            edited(&mut random, &raw)
        } else {
            Vec::new()
        };
        let level = i32::try_from(random.below(20)).unwrap() - 2;
        let checksum = CParameter::ChecksumFlag(random.one_in(8));
        let mut frame = compress(&raw, &prefix, level, &[checksum]);
        damage(&mut random, &mut frame);
        let expected = libzstd_decode(&frame, &prefix, MAX_SIZE);
        match (
            agent.decode(Decoder::Erlang, &frame, &prefix, MAX_SIZE),
            expected,
        ) {
            (Answer::Content(content), Some(expected)) => {
                assert!(
                    content == expected,
                    "seed {seed}: libzstd reads something else"
                );
                read += 1;
            }
            (Answer::Content(_), None) => {
                panic!("seed {seed}: libzstd refuses what the agent reads")
            }
            (Answer::Refused(reason), Some(_)) => {
                // One-shot libzstd reads on after a frame and sets no limit to the window; its
                // Huffman decoder is lenient about where the last code of a stream ends.
                let stricter = [
                    "bytes follow",
                    "window",
                    "skippable",
                    "trained dictionary",
                    "literal bits",
                ];
                assert!(
                    stricter.iter().any(|text| reason.contains(text)),
                    "seed {seed}: libzstd reads it, the agent says: {reason}"
                );
            }
            (Answer::Refused(_), None) => refused += 1,
        }
    }
    assert!(
        refused > 0 && read > 0,
        "{refused} refused, {read} read: the damage does not cover both"
    );
}

fn damage(random: &mut Random, frame: &mut Vec<u8>) {
    match random.below(6) {
        0 => frame.truncate(1 + random.below(frame.len() - 1)),
        1 => {
            let noise = random.size(3000);
            frame.truncate(4 + random.below(10));
            let noise = random.bytes(noise);
            frame.extend(noise);
        }
        2 => {
            let at = random.below(frame.len());
            let value = if random.one_in(2) { 0xFF } else { 0 };
            let end = (at + 1 + random.below(4)).min(frame.len());
            frame[at..end].fill(value);
        }
        3 => {
            // Headers are where the lengths are.
            let at = 4 + random.below(frame.len().saturating_sub(4).min(30));
            if let Some(byte) = frame.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        _ => {
            for _ in 0..=random.below(3) {
                let at = random.below(frame.len());
                frame[at] ^= 1 << random.below(8);
            }
        }
    }
}

#[test]
fn bombs_are_refused_before_they_grow() {
    let mut agent = Agent::start();
    // Half a million run-length blocks of 128 KiB: 64 GiB from 2 MB.
    let run = [0x02, 0x00, 0x10, b'x'];
    let mut runs = vec![0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x38];
    for _ in 0..500_000 {
        runs.extend(run);
    }
    let zeros = compress(
        &vec![0; 64 * MIB],
        &[],
        1,
        &[CParameter::ContentSizeFlag(false)],
    );
    let declared = [
        &[0x28, 0xB5, 0x2F, 0xFD, 0xE0][..],
        &[0xFF; 7],
        &[0x7F, 0x01, 0, 0],
    ]
    .concat();
    for (bomb, what) in [
        (&runs, "runs"),
        (&zeros, "zeros"),
        (&declared, "declared size"),
    ] {
        for decoder in [Decoder::Erlang, Decoder::Native] {
            let answer = agent.decode(decoder, bomb, &[], 10_000_000);
            let Answer::Refused(reason) = &answer else {
                panic!("{what}: {}", describe(&answer))
            };
            assert!(reason.contains("allowed are"), "{what}: {reason}");
        }
    }
}

fn describe(answer: &Answer) -> String {
    match answer {
        Answer::Content(content) => format!("{} bytes of content", content.len()),
        Answer::Refused(reason) => reason.clone(),
    }
}

// ------------------------------------------------------------------------------------------------
// Golden vectors

/// A frame with its content and prefix, by name.
struct Vector {
    name: &'static str,
    raw: Vec<u8>,
    prefix: Vec<u8>,
    frame: Vec<u8>,
}

fn golden_vectors() -> Vec<Vector> {
    let mut random = Random(42);
    let text = words(&mut random, 12_000);
    let new_text = edited(&mut random, &text);
    let noise = random.bytes(2_000);
    let skewed: Vec<u8> = (0..9_000)
        .map(|_| b"aaaaaaabbc"[random.below(10)])
        .collect();
    let vector = |name, raw: &[u8], prefix: &[u8], level, variations: &[CParameter]| Vector {
        name,
        raw: raw.to_vec(),
        prefix: prefix.to_vec(),
        frame: compress(raw, prefix, level, variations),
    };
    let checksum = [CParameter::ChecksumFlag(true)];
    let small_blocks = [CParameter::TargetCBlockSize(1500)];
    vec![
        vector("empty", b"", b"", 3, &[]),
        vector("one-byte-checksum", b"r", b"", 3, &checksum),
        vector("noise-checksum", &noise, b"", 3, &checksum),
        vector("text-fast", &text, b"", -5, &[]),
        vector("text-19-checksum", &text, b"", 19, &checksum),
        vector("text-small-blocks", &text, b"", 12, &small_blocks),
        vector("text-prefix", &new_text, &text, 19, &[]),
        vector(
            "text-prefix-fast",
            &new_text,
            &text,
            1,
            &[CParameter::ContentSizeFlag(false)],
        ),
        vector("skewed-literals", &skewed, b"", 1, &[]),
        Vector {
            name: "text-stream",
            raw: text.clone(),
            prefix: Vec::new(),
            frame: compress_stream(&text, 3),
        },
    ]
}

#[test]
fn golden_vectors_decode() {
    let folder = repository_root().join("tests/data/golden/zstd");
    if std::env::var_os("RELSYNC_BLESS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for vector in golden_vectors() {
            fs::write(folder.join(format!("{}.zst", vector.name)), &vector.frame).unwrap();
            fs::write(folder.join(format!("{}.raw", vector.name)), &vector.raw).unwrap();
            if !vector.prefix.is_empty() {
                fs::write(
                    folder.join(format!("{}.prefix", vector.name)),
                    &vector.prefix,
                )
                .unwrap();
            }
        }
    }
    let mut agent = Agent::start();
    let mut stored = BTreeSet::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "zst") {
            continue;
        }
        let frame = fs::read(&path).unwrap();
        let raw = fs::read(path.with_extension("raw")).unwrap();
        let prefix = fs::read(path.with_extension("prefix")).unwrap_or_default();
        assert_eq!(
            libzstd_decode(&frame, &prefix, raw.len()).as_ref(),
            Some(&raw),
            "{}",
            path.display()
        );
        for decoder in [Decoder::Erlang, Decoder::Native] {
            let answer = agent.decode(decoder, &frame, &prefix, raw.len());
            assert!(
                answer == Answer::Content(raw.clone()),
                "{}: {}",
                path.display(),
                describe(&answer)
            );
        }
        stored.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
    }
    let listed: BTreeSet<_> = golden_vectors()
        .iter()
        .map(|vector| vector.name.to_owned())
        .collect();
    assert_eq!(stored, listed);
}
