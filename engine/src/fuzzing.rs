//! The entry functions of the fuzz targets: the promises that every decoder keeps for any bytes.
//!
//! This module is compiled for tests and for fuzzing only. A target takes any bytes and panics if a
//! decoder breaks its promise; returning an error is fine. `fuzz/fuzz_targets` passes each target
//! to libFuzzer. The tests here replay the corpora of `fuzz/corpus`. Targets of private modules are
//! next to the code that they exercise.
//!
//! Inputs with several parts have the form that [`take_part`] reads.

use std::path::Component;

use crate::bytes::{Reader, Writer};
use crate::limits;
use crate::pack::{Cursor, FrameHead, Header, PackError, RecordReader, Sealer};
use crate::target::wire::{Assembler, MAX_PART_BYTES, Reply, parts};
use crate::tree::entry::{Entry, EntryKind, EntryPath, Escaped, Mode, SymlinkTarget};
use crate::tree::exclude::{Action, Rules};
use crate::tree::id::{ManifestId, Sha256, SnapshotId};
use crate::tree::manifest::Manifest;

pub use crate::delta::fuzzing::{
    beam, delta_round_trip, difference, frame_body, frame_streams, gzip, plain_frame,
};
pub use crate::store::fuzzing::{index_file, segment, segment_records, store_values};
pub use crate::transport::erl::fuzzing::{
    erl_frame, erl_handshake, erl_link, erl_name, erl_port_mapper, erl_term,
};
pub use crate::update::fuzzing::{hostile_target, inventory};

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All targets with their names. A name is also that of the target's file in `fuzz/fuzz_targets`
/// and of its corpus in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("beam", beam),
    ("bytes", bytes),
    ("delta_round_trip", delta_round_trip),
    ("difference", difference),
    ("entry", entry),
    ("erl_frame", erl_frame),
    ("erl_handshake", erl_handshake),
    ("erl_link", erl_link),
    ("erl_name", erl_name),
    ("erl_port_mapper", erl_port_mapper),
    ("erl_term", erl_term),
    ("exclude", exclude),
    ("frame_body", frame_body),
    ("frame_streams", frame_streams),
    ("gzip", gzip),
    ("hostile_target", hostile_target),
    ("index_file", index_file),
    ("inventory", inventory),
    ("manifest", manifest),
    ("manifest_delta", manifest_delta),
    ("pack", pack),
    ("pack_records", pack_records),
    ("segment", segment),
    ("segment_records", segment_records),
    ("store_values", store_values),
    ("wire_parts", wire_parts),
    ("wire_reply", wire_reply),
];

/// Takes a length of two bytes off the front of an input, and then that many bytes, or as many as
/// there are.
pub fn take_part<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (head, rest) = input.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*head)).min(rest.len());
    let (part, rest) = rest.split_at(length);
    *input = rest;
    Some(part)
}

/// Splits an input into its first part and the rest.
pub(crate) fn split(mut input: &[u8]) -> (&[u8], &[u8]) {
    let first = take_part(&mut input).unwrap_or_default();
    (first, input)
}

/// Reads fields as the first part says. Writing the values gives the same bytes.
pub fn bytes(input: &[u8]) {
    let (fields, data) = split(input);
    let mut reader = Reader::new(data);
    let mut writer = Writer::new();
    for field in fields {
        let limit = usize::from(field >> 3);
        let read = match field & 7 {
            0 => reader.u8().map(|value| writer.u8(value)),
            1 => reader.u16().map(|value| writer.u16(value)),
            2 => reader.u32().map(|value| writer.u32(value)),
            3 => reader.u64().map(|value| writer.u64(value)),
            4 => reader.varint().map(|value| writer.varint(value)),
            5 => reader.zigzag().map(|value| writer.zigzag(value)),
            6 => reader.length(limit).map(|value| {
                assert!(value <= limit);
                writer.length(value);
            }),
            _ => reader.blob(limit).map(|value| {
                assert!(value.len() <= limit);
                writer.blob(value);
            }),
        };
        if read.is_err() {
            return;
        }
    }
    assert_eq!(writer.as_slice(), &data[..reader.offset()]);
    assert_eq!(reader.remaining(), data.len() - reader.offset());
    assert_eq!(reader.is_empty(), reader.finish().is_ok());
}

/// Takes paths, link targets, modes and ids. Accepted ones are safe to join and to print.
pub fn entry(input: &[u8]) {
    if let Ok(path) = EntryPath::new(input) {
        assert_eq!(path.as_bytes(), input);
        assert_inside(&path);
    }
    if let Some(target) = SymlinkTarget::new(input) {
        assert!(!input.is_empty() && input.len() <= limits::SYMLINK_TARGET_BYTES);
        assert_eq!(target.as_bytes(), input);
    }
    assert!(!Escaped(input).to_string().chars().any(char::is_control));
    if let Some(bits) = input.first_chunk() {
        let bits = u32::from_be_bytes(*bits);
        assert_eq!(Mode::new(bits).is_some(), bits <= Mode::MAX);
        assert!(Mode::from_st_mode(bits).bits() <= Mode::MAX);
    }
    if let Ok(hex) = std::str::from_utf8(input)
        && let Some(id) = Sha256::from_hex(hex)
    {
        assert_eq!(id.to_string(), hex.to_ascii_lowercase());
    }
}

fn assert_inside(path: &EntryPath) {
    let mut components = path.as_path().components();
    assert!(components.all(|component| matches!(component, Component::Normal(_))));
    assert!(!path.as_bytes().contains(&0));
    assert_eq!(
        path.components().count(),
        path.as_path().components().count()
    );
    let root = std::path::Path::new("/srv/release");
    let below = path.below(root);
    assert!(below.starts_with(root) && below != root);
}

/// Decodes a manifest. An accepted one is the canonical form of its entries.
pub fn manifest(input: &[u8]) {
    if let Ok(manifest) = Manifest::decode(input) {
        assert_canonical(&manifest, input);
    }
}

fn assert_canonical(manifest: &Manifest, bytes: &[u8]) {
    assert_eq!(manifest.encode(), bytes);
    let again = Manifest::from_unsorted(manifest.entries().to_vec()).expect("sound entries");
    assert_eq!(again.encode(), bytes);
    assert_eq!(manifest.id(), SnapshotId::of(bytes));
    assert_eq!(manifest.sha256(), ManifestId::of(bytes));
    let mut content_bytes = 0_u64;
    for (index, entry) in manifest.entries().iter().enumerate() {
        assert_inside(&entry.path);
        assert_eq!(manifest.index_of(entry.path.as_bytes()), Some(index));
        assert_parent(manifest, entry);
        if let EntryKind::File { size, .. } = &entry.kind {
            content_bytes += size;
        }
    }
    assert_eq!(manifest.content_bytes(), content_bytes);
    assert!(manifest.listing().lines().count() >= manifest.len());
}

fn assert_parent(manifest: &Manifest, entry: &Entry) {
    if let Some(parent) = entry.path.parent() {
        assert!(manifest.get(parent).is_some_and(Entry::is_dir));
    }
}

/// Decodes a manifest from a frame with another manifest as prefix.
pub fn manifest_delta(input: &[u8]) {
    let (base, frame) = split(input);
    let base = Manifest::decode(base).unwrap_or_else(|_| Manifest::empty());
    let limit = limits::MIB;
    if let Ok(bytes) = crate::delta::zstd_frame::decompress(base.encode(), frame, limit) {
        assert!(bytes.len() <= limit);
        manifest(&bytes);
    }
    let coded = crate::delta::zstd_frame::compress(base.encode(), frame, 1).expect("compression");
    let back = crate::delta::zstd_frame::decompress(base.encode(), &coded, limit);
    assert_eq!(back.expect("what was just compressed"), frame);
}

/// Reads a pack from the input.
pub fn pack(input: &[u8]) {
    let _ = read_pack(input, 8, 8);
}

/// Reads a pack whose records are the input's parts. Their checksums are right, but their content
/// may be invalid.
pub fn pack_records(mut input: &[u8]) {
    let mut sealer = Sealer::default();
    let mut pack = Vec::new();
    while let Some(payload) = take_part(&mut input) {
        pack.extend(sealer.record(payload));
    }
    let trailer = sealer.finish();
    pack.extend(trailer);
    let _ = read_pack(&pack, 8, 8);
}

fn read_pack(pack: &[u8], entries: usize, base_entries: usize) -> Result<(), PackError> {
    let mut records = RecordReader::new(pack);
    let payload = records.record(limits::PACK_HEADER_RECORD_BYTES)?;
    let header = Header::decode(payload, base_entries)?;
    assert!(header.deletes.is_sorted() && header.deletes.iter().all(|index| *index < base_entries));
    assert_eq!(
        Header::decode(&header.encode(), base_entries).as_ref(),
        Ok(&header)
    );
    let (mut cursor, mut again) = (Cursor::default(), Cursor::default());
    for _ in 0..header.frames {
        let payload = records.record(limits::PACK_RECORD_BYTES)?;
        let (head, body) = FrameHead::decode(payload, &mut cursor, entries, base_entries)?;
        for piece in &head.pieces {
            assert!(piece.entry < entries);
            assert!(piece.base.is_none_or(|base| base.base < base_entries));
        }
        assert_eq!(head.encode(&mut again, body), payload);
    }
    records.finish(pack)
}

/// Decodes a message of the agent.
pub fn wire_reply(input: &[u8]) {
    let _ = Reply::decode(input);
}

/// Joins messages from parts. The result is the content of the parts, and a message split into
/// parts comes back.
pub fn wire_parts(mut input: &[u8]) {
    let mut whole = Assembler::default();
    for part in parts(input) {
        assert!(part.len() <= MAX_PART_BYTES + 1);
        if let Some(message) = whole.add(&part).expect("a part of ours") {
            assert_eq!(message, input);
        }
    }
    let mut assembler = Assembler::default();
    let mut expected = Vec::new();
    while let Some(part) = take_part(&mut input) {
        let Ok(message) = assembler.add(part) else {
            return;
        };
        expected.extend_from_slice(&part[1..]);
        if let Some(message) = message {
            assert_eq!(message, expected);
            expected.clear();
        }
    }
}

/// Matches patterns, one per line in the first part, against the path in the rest.
pub fn exclude(input: &[u8]) {
    let (patterns, path) = split(input);
    let mut rules = Rules::default();
    for (index, pattern) in String::from_utf8_lossy(patterns).lines().enumerate() {
        let action = if index % 2 == 0 {
            Action::Exclude
        } else {
            Action::Include
        };
        if let Err(error) = rules.push(action, pattern) {
            assert!(error.to_string().contains(pattern));
        }
    }
    for is_dir in [false, true] {
        let found = rules.exclusion(path, is_dir);
        assert_eq!(found, rules.exclusion(path, is_dir));
        let _ = found.map(|reason| reason.to_string());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn fuzz_dir() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
    }

    /// The maximum number of inputs that the repository holds for one target.
    const MAX_INPUTS: usize = 20;

    #[test]
    fn the_corpora_are_replayed() {
        for (name, target) in TARGETS {
            let dir = fuzz_dir().join("corpus").join(name);
            let mut replayed = 0;
            for entry in std::fs::read_dir(&dir).expect("a corpus of each target") {
                let path = entry.expect("an entry").path();
                target(&std::fs::read(&path).expect("an input"));
                replayed += 1;
            }
            assert!(
                (1..=MAX_INPUTS).contains(&replayed),
                "{} has {replayed} inputs",
                dir.display()
            );
        }
    }

    #[test]
    fn every_target_has_its_program() {
        let of_engine = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).expect("a program");
            text.contains("relsync_engine::fuzzing")
        };
        let programs: BTreeSet<String> = std::fs::read_dir(fuzz_dir().join("fuzz_targets"))
            .expect("the programs")
            .map(|entry| entry.expect("an entry").path())
            .filter(of_engine)
            .map(|path| path.file_stem().expect("a name").to_string_lossy().into())
            .collect();
        let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).into()).collect();
        assert_eq!(programs, targets);
    }

    #[test]
    fn parts_are_taken_up_to_what_is_there() {
        let mut input = &[0, 2, 7, 8, 0, 0, 0, 9, 1][..];
        let table: [Option<&[u8]>; 4] = [Some(&[7, 8]), Some(&[]), Some(&[1]), None];
        for expected in table {
            assert_eq!(take_part(&mut input), expected);
        }
    }
}
