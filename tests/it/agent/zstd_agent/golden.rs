//! The golden vectors that the agent's own tests read as well.

use std::collections::BTreeSet;
use std::fs;

use zstd::zstd_safe::CParameter;

use super::frames::{Random, compress, compress_stream, edited, libzstd_decode, words};
use super::{Agent, Answer, Decoder, describe, repository_root};

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
