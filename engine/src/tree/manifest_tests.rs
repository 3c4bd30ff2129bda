use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::golden_tests::{check_golden, golden_dir};

fn path(bytes: &[u8]) -> EntryPath {
    EntryPath::new(bytes).expect("valid path")
}

fn mode(bits: u32) -> Mode {
    Mode::new(bits).expect("valid mode")
}

fn file(name: &[u8], bits: u32, content: &[u8]) -> Entry {
    Entry {
        path: path(name),
        kind: EntryKind::File {
            mode: mode(bits),
            size: content.len().try_into().expect("fits"),
            sha256: Sha256::of(content),
        },
    }
}

fn dir(name: &[u8]) -> Entry {
    Entry {
        path: path(name),
        kind: EntryKind::Dir { mode: mode(0o755) },
    }
}

fn symlink(name: &[u8], target: &[u8]) -> Entry {
    Entry {
        path: path(name),
        kind: EntryKind::Symlink {
            target: SymlinkTarget::new(target).expect("valid target"),
        },
    }
}

fn release() -> Vec<Entry> {
    vec![
        dir(b"bin"),
        file(b"bin/start", 0o755, b"#!/bin/sh\n"),
        dir(b"lib"),
        dir(b"lib/app-1.0"),
        dir(b"lib/app-1.0/ebin"),
        file(
            b"lib/app-1.0/ebin/app.app",
            0o644,
            b"{application, app, []}.\n",
        ),
        file(b"lib/app-1.0/ebin/app.beam", 0o644, b"FOR1"),
        dir(b"lib/app-1.0/priv"),
        symlink(b"lib/current", b"app-1.0"),
    ]
}

/// The valid golden vectors: name and entries.
fn golden() -> Vec<(&'static str, Vec<Entry>)> {
    let odd_names = vec![
        dir(b" "),
        dir(b"a"),
        dir(b"a-b"),
        file(b"a/b", 0o4755, b""),
        dir(b"a/b-c"),
        file(b"a0", 0, b"x"),
        symlink("größe".as_bytes(), b"../\xff\xfe"),
        file(b"\xff\xfe\n", 0o7777, b""),
    ];
    let huge = Entry {
        path: path(&[b'n'; limits::COMPONENT_BYTES]),
        kind: EntryKind::File {
            mode: mode(0o600),
            size: limits::FILE_BYTES,
            sha256: Sha256([0xab; 32]),
        },
    };
    vec![
        ("empty", Vec::new()),
        ("release", release()),
        ("odd-names", odd_names),
        ("largest", vec![huge]),
    ]
}

/// The golden vectors that every reader must refuse: name, bytes, error.
fn refused() -> Vec<(&'static str, Vec<u8>, ManifestError)> {
    let order = |index| ManifestError::Order { index };
    let field = |index, field| ManifestError::Field { index, field };
    let path = |source| ManifestError::Path { index: 0, source };
    let truncated = |offset, wanted, left| {
        ManifestError::Read(ReadError::Truncated {
            offset,
            wanted,
            left,
        })
    };
    let orphan = EntryPath::new(b"a/b").expect("valid");
    vec![
        (
            "refused-magic",
            b"RSMX\x01\x00".to_vec(),
            ManifestError::Magic { found: *b"RSMX" },
        ),
        (
            "refused-version",
            b"RSMF\x02\x00".to_vec(),
            ManifestError::Version { found: 2 },
        ),
        (
            "refused-count",
            b"RSMF\x01\x05\x00\x01a\x01\x00".to_vec(),
            truncated(5, 25, 5),
        ),
        (
            "refused-count-limit",
            b"RSMF\x01\xc1\x84\x3d".to_vec(),
            ManifestError::Read(ReadError::AboveLimit {
                offset: 5,
                value: 1_000_001,
                limit: 1_000_000,
            }),
        ),
        (
            "refused-trailing",
            b"RSMF\x01\x00\x00".to_vec(),
            ManifestError::Read(ReadError::Trailing { offset: 6, left: 1 }),
        ),
        (
            "refused-varint",
            b"RSMF\x01\x81\x00\x00\x01a\x01\x00".to_vec(),
            ManifestError::Read(ReadError::Varint { offset: 5 }),
        ),
        (
            "refused-descending",
            two_dirs(b"\x00\x01b", b"\x00\x01a"),
            order(1),
        ),
        (
            "refused-twice",
            two_dirs(b"\x00\x01a", b"\x01\x00"),
            order(1),
        ),
        (
            "refused-short-prefix",
            two_dirs(b"\x00\x01a", b"\x00\x02ab"),
            order(1),
        ),
        (
            "refused-parent",
            two_dirs(b"\x00\x01b", b"\x00\x03c/d"),
            ManifestError::Parent {
                path: EntryPath::new(b"c/d").expect("valid"),
            },
        ),
        (
            "refused-through-symlink",
            b"RSMF\x01\x02\x00\x01a\x02\x01/\x01\x02/b\x01\x00".to_vec(),
            ManifestError::Parent { path: orphan },
        ),
        (
            "refused-absolute",
            one_dir(b"/etc"),
            path(PathError::EmptyComponent),
        ),
        (
            "refused-dotdot",
            one_dir(b".."),
            path(PathError::DotComponent),
        ),
        ("refused-nul", one_dir(b"a\0"), path(PathError::Nul)),
        (
            "refused-state-dir",
            one_dir(b".relsync"),
            path(PathError::StateDir),
        ),
        (
            "refused-kind",
            b"RSMF\x01\x01\x00\x01a\x03\x00".to_vec(),
            field(0, "kind"),
        ),
        (
            "refused-mode",
            b"RSMF\x01\x01\x00\x01a\x01\x80\x20".to_vec(),
            field(0, "mode"),
        ),
        (
            "refused-size",
            [
                &b"RSMF\x01\x01\x00\x01a\x00\x00\x81\x80\x80\x80\x80\x20"[..],
                &[0; 32],
            ]
            .concat(),
            field(0, "size"),
        ),
        (
            "refused-target",
            b"RSMF\x01\x01\x00\x01a\x02\x01\x00".to_vec(),
            field(0, "target"),
        ),
        (
            "refused-empty-target",
            b"RSMF\x01\x01\x00\x01a\x02\x00".to_vec(),
            field(0, "target"),
        ),
    ]
}

fn one_dir(name: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    write_header(&mut writer, 1);
    writer.u8(0);
    writer.blob(name);
    writer.bytes(b"\x01\x00");
    writer.into_vec()
}

/// Two directories of mode 0755, each path given as it is coded.
fn two_dirs(first: &[u8], second: &[u8]) -> Vec<u8> {
    const KIND_AND_MODE: &[u8] = b"\x01\xed\x03";
    [b"RSMF\x01\x02", first, KIND_AND_MODE, second, KIND_AND_MODE].concat()
}

#[test]
fn golden_vectors() {
    let mut names = Vec::new();
    for (name, entries) in golden() {
        let manifest = Manifest::new(entries).expect(name);
        check_golden("manifest", &format!("{name}.bin"), manifest.encode());
        check_golden(
            "manifest",
            &format!("{name}.txt"),
            manifest.listing().as_bytes(),
        );
        assert_eq!(Manifest::decode(manifest.encode()).as_ref(), Ok(&manifest));
        names.extend([format!("{name}.bin"), format!("{name}.txt")]);
    }
    for (name, bytes, error) in refused() {
        assert_eq!(Manifest::decode(&bytes), Err(error.clone()), "{name}");
        check_golden("manifest", &format!("{name}.bin"), &bytes);
        check_golden(
            "manifest",
            &format!("{name}.txt"),
            format!("refused\t{error}\n").as_bytes(),
        );
        names.extend([format!("{name}.bin"), format!("{name}.txt")]);
    }
    for file in std::fs::read_dir(golden_dir("manifest")).expect("golden directory") {
        let name = file
            .expect("entry")
            .file_name()
            .into_string()
            .expect("UTF-8");
        assert!(names.contains(&name), "{name} belongs to no test");
    }
}

#[test]
fn entries_are_found() {
    let mut entries = release();
    entries.push(file(b"lib/zcopy", 0o600, b"FOR1"));
    let manifest = Manifest::new(entries).expect("valid");
    assert_eq!(manifest.index_of(b"lib"), Some(2));
    assert_eq!(manifest.index_of(b"lib/"), None);
    assert_eq!(manifest.get(b"nothing"), None);
    assert_eq!(manifest.content_bytes(), 10 + 24 + 4 + 4);
}

#[test]
fn entries_that_break_the_rules_are_refused() {
    let table = [
        (
            vec![dir(b"b"), dir(b"a")],
            ManifestError::Order { index: 1 },
        ),
        (
            vec![dir(b"a"), dir(b"a")],
            ManifestError::Order { index: 1 },
        ),
        (
            vec![dir(b"a/b")],
            ManifestError::Parent { path: path(b"a/b") },
        ),
        (
            vec![file(b"a", 0o644, b""), dir(b"a/b")],
            ManifestError::Parent { path: path(b"a/b") },
        ),
        (
            vec![dir(b"a-b"), dir(b"a/b")],
            ManifestError::Parent { path: path(b"a/b") },
        ),
    ];
    for (entries, error) in table {
        assert_eq!(Manifest::new(entries), Err(error));
    }
}

#[test]
fn a_prefix_bomb_is_refused() {
    // Directories are nested 2,040 deep. Then come 100,000 entries of a few bytes, each with a path
    // of 4 kB.
    const DEPTH: usize = 2_040;
    const LEAVES: usize = 100_000;
    let mut writer = Writer::new();
    write_header(&mut writer, DEPTH + LEAVES);
    for depth in 0..DEPTH {
        writer.length((2 * depth).saturating_sub(1));
        writer.blob(if depth == 0 { b"d" } else { b"/d" });
        writer.bytes(b"\x01\x00");
    }
    let mut before = String::new();
    for leaf in 0..LEAVES {
        let name = format!("/{leaf:06}");
        let shared = shared_prefix(before.as_bytes(), name.as_bytes());
        writer.length(2 * DEPTH - 1 + shared);
        writer.blob(&name.as_bytes()[shared..]);
        writer.bytes(b"\x01\x00");
        before = name;
    }
    let error = Manifest::decode(writer.as_slice()).expect_err("expands to 400 MB");
    let what = "bytes of paths";
    assert!(
        matches!(error, ManifestError::TooLarge { what: found, .. } if found == what),
        "{error}"
    );
}

fn any_kind() -> impl Strategy<Value = Option<EntryKind>> {
    prop_oneof![
        (0..=Mode::MAX, 0..=limits::FILE_BYTES, any::<[u8; 32]>()).prop_map(
            |(bits, size, hash)| {
                Some(EntryKind::File {
                    mode: mode(bits),
                    size,
                    sha256: Sha256(hash),
                })
            }
        ),
        (0..=Mode::MAX).prop_map(|bits| Some(EntryKind::Dir { mode: mode(bits) })),
        vec(1_u8..=255, 1..20).prop_map(
            |target| SymlinkTarget::new(&target).map(|target| EntryKind::Symlink { target })
        ),
    ]
}

/// Any tree: names from a small alphabet so that prefixes, siblings and nesting are common.
fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
    let name = prop_oneof!["[ab.0-]{1,3}", "[ab/-]{1,9}"];
    btree_map(name, any_kind(), 0..30).prop_map(|named| {
        let mut entries: std::collections::BTreeMap<EntryPath, EntryKind> = named
            .into_iter()
            .filter_map(|(name, kind)| Some((EntryPath::new(name.as_bytes()).ok()?, kind?)))
            .collect();
        let parents: Vec<EntryPath> = entries.keys().flat_map(ancestors).collect();
        for parent in parents {
            entries.insert(parent, EntryKind::Dir { mode: mode(0o755) });
        }
        entries
            .into_iter()
            .map(|(path, kind)| Entry { path, kind })
            .collect()
    })
}

fn ancestors(path: &EntryPath) -> Vec<EntryPath> {
    let mut found = Vec::new();
    let mut current = path.parent();
    while let Some(bytes) = current {
        let parent = EntryPath::new(bytes).expect("a parent is a path");
        found.push(parent);
        current = bytes
            .iter()
            .rposition(|byte| *byte == b'/')
            .map(|slash| &bytes[..slash]);
    }
    found
}

proptest! {
    #[test]
    fn manifests_come_back(entries in any_entries()) {
        let manifest = Manifest::new(entries.clone()).expect("valid");
        let again = Manifest::decode(manifest.encode()).expect("canonical");
        prop_assert_eq!(again.entries(), &entries[..]);
        prop_assert_eq!(again.id(), manifest.id());
        prop_assert_eq!(again.sha256(), manifest.sha256());
        let mut reversed = entries;
        reversed.reverse();
        prop_assert_eq!(Manifest::from_unsorted(reversed), Ok(manifest));
    }

    #[test]
    fn every_damage_is_refused_or_canonical(entries in any_entries(), at: prop::sample::Index, byte: u8) {
        let mut bytes = Manifest::new(entries).expect("valid").encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(manifest) = Manifest::decode(&bytes) {
            let again = Manifest::new(manifest.entries().to_vec()).expect("valid");
            prop_assert_eq!(again.encode(), &bytes[..]);
        }
        prop_assert!(Manifest::decode(&bytes[..at]).is_err());
    }

    #[test]
    fn garbage_never_panics(tail in vec(any::<u8>(), 0..200)) {
        let _ = Manifest::decode(&[&b"RSMF\x01"[..], &tail].concat());
    }
}
