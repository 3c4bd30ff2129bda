//! The choice of bases, and its cost.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::*;
use crate::plan::installed::DriftKind;
use crate::store::chunk;
use crate::tree::entry::{EntryKind, EntryPath, Mode};
use crate::tree::manifest::Manifest;

type Files<'f> = &'f [(&'f str, Vec<u8>)];

fn manifest(files: Files<'_>) -> Manifest {
    let mode = |bits| Mode::new(bits).expect("a mode");
    let mut entries = BTreeMap::new();
    for (path, content) in files {
        for (at, _) in path.match_indices('/') {
            entries.insert(&path[..at], EntryKind::Dir { mode: mode(0o755) });
        }
        let kind = EntryKind::File {
            mode: mode(0o644),
            size: content.len() as u64,
            sha256: Sha256::of(content),
        };
        entries.insert(path, kind);
    }
    let entries = entries.into_iter().map(|(path, kind)| Entry {
        path: EntryPath::new(path.as_bytes()).expect("a path"),
        kind,
    });
    Manifest::new(entries.collect()).expect("a manifest")
}

/// Contents in memory that count the questions about them.
#[derive(Default)]
struct Counted {
    contents: HashMap<Sha256, Vec<u8>>,
    reads: Cell<usize>,
    read_bytes: Cell<usize>,
}

impl Counted {
    fn of(sides: &[Files<'_>]) -> Self {
        let files = sides.iter().copied().flatten();
        let contents = files.map(|(_, content)| (Sha256::of(content), content.clone()));
        Self {
            contents: contents.collect(),
            ..Self::default()
        }
    }
}

impl Contents for Counted {
    fn has(&self, sha256: &Sha256) -> bool {
        self.contents.contains_key(sha256)
    }

    fn beginning(&self, sha256: &Sha256, limit: usize) -> Option<Vec<u8>> {
        let content = self.contents.get(sha256)?;
        let beginning = &content[..content.len().min(limit)];
        self.reads.set(self.reads.get() + 1);
        self.read_bytes.set(self.read_bytes.get() + beginning.len());
        Some(beginning.to_vec())
    }

    fn chunks(&self, sha256: &Sha256) -> Vec<(ChunkId, u64)> {
        let mut rest = self.contents.get(sha256).map_or(&[][..], |content| content);
        let mut chunks = Vec::new();
        while let Some(length) = chunk::first_cut(rest, true) {
            let (chunk, behind) = rest.split_at(length);
            chunks.push((ChunkId::of(chunk), length as u64));
            rest = behind;
        }
        chunks
    }
}

/// Returns the paths of the bases of the new files.
fn chosen(held: Files<'_>, new: Files<'_>, contents: &Counted) -> Vec<Option<String>> {
    let (base, manifest) = (manifest(held), manifest(new));
    let drift = BTreeMap::new();
    let held = TargetTree {
        manifest: &base,
        drift: &drift,
        inventory: false,
    };
    let mut bases = Bases::new(held, contents);
    let entries = manifest.entries().iter();
    let files = entries.filter(|entry| entry.content().is_some());
    files
        .map(|entry| {
            let at = bases.like(entry)?;
            Some(base.entries()[at].path.to_string())
        })
        .collect()
}

/// Text that resembles no other but that of the same name.
fn text(name: &str, lines: usize) -> Vec<u8> {
    let line = |number| Sha256::of(format!("{name} {number}").as_bytes()).to_string() + "\n";
    (0..lines).map(line).collect::<String>().into_bytes()
}

/// The same content with a line in the middle replaced.
fn edited(content: &[u8]) -> Vec<u8> {
    let middle = content.len() / 2;
    [&content[..middle], b"an edit\n", &content[middle + 40..]].concat()
}

/// The part of a module that a sketch sees: its atoms, and code that differs with every number of
/// an atom.
fn module(atoms: &[&str], code: &[u8]) -> Vec<u8> {
    let mut table = u32::try_from(atoms.len())
        .expect("few")
        .to_be_bytes()
        .to_vec();
    for atom in atoms {
        table.push(u8::try_from(atom.len()).expect("short"));
        table.extend_from_slice(atom.as_bytes());
    }
    let mut beam = b"FOR1\0\0\0\0BEAM".to_vec();
    for (name, data) in [(b"AtU8", &table[..]), (b"Code", code)] {
        beam.extend_from_slice(name);
        beam.extend_from_slice(&u32::try_from(data.len()).expect("short").to_be_bytes());
        beam.extend_from_slice(data);
        beam.resize(beam.len().next_multiple_of(4), 0);
    }
    beam
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::read::GzEncoder::new(content, flate2::Compression::default());
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut gzip, &mut bytes).expect("memory");
    bytes
}

#[test]
fn the_most_alike_is_chosen() {
    let (a, b, c) = (text("a", 40), text("b", 40), text("c", 41));
    let large = text("large", 8000);
    let moved_within: Vec<u8> = [&text("front", 600)[..], &large[100_000..]].concat();
    let parser = [
        "parser", "parse", "token", "reduce", "shift", "goto", "state",
    ];
    let parser = (
        module(&parser, &text("code", 9)),
        module(
            &[&parser[1..], &["new_parser"]].concat(),
            &text("other code", 9),
        ),
    );
    let server = module(
        &["server", "init", "handle_call", "reply"],
        &text("code", 9),
    );
    let table: &[(&str, Files<'_>, Files<'_>, Option<&str>)] = &[
        (
            "a version bump",
            &[
                ("lib/x-1.0/ebin/m.beam", a.clone()),
                ("lib/y-1.0/ebin/m.beam", b.clone()),
            ],
            &[("lib/x-1.1/ebin/m.beam", edited(&a))],
            Some("lib/x-1.0/ebin/m.beam"),
        ),
        (
            "two of that name, neither in that application",
            &[
                ("lib/x-1.0/ebin/m.beam", c.clone()),
                ("lib/y-1.0/ebin/m.beam", b.clone()),
            ],
            &[("lib/z-1.0/ebin/m.beam", edited(&b))],
            Some("lib/y-1.0/ebin/m.beam"),
        ),
        (
            "two versions are held",
            &[
                ("lib/x-1.0/ebin/m.beam", a.clone()),
                ("lib/x-1.2/ebin/m.beam", edited(&c)),
            ],
            &[("lib/x-1.1/ebin/m.beam", c.clone())],
            Some("lib/x-1.2/ebin/m.beam"),
        ),
        (
            "a module moves to where another of its name was",
            &[
                ("lib/x-1.0/ebin/m.beam", a.clone()),
                ("lib/y-1.0/ebin/m.beam", b.clone()),
            ],
            &[("lib/x-1.1/ebin/m.beam", edited(&b))],
            Some("lib/y-1.0/ebin/m.beam"),
        ),
        (
            "renamed with an edit",
            &[("priv/a.txt", a.clone()), ("priv/b.txt", b.clone())],
            &[("etc/c.txt", edited(&b))],
            Some("priv/b.txt"),
        ),
        (
            "the content at the path is another",
            &[("a.txt", a.clone()), ("b.txt", b.clone())],
            &[("a.txt", edited(&b))],
            Some("b.txt"),
        ),
        (
            "the content at the path is alike, and so is another",
            &[("a.txt", edited(&a)), ("b.txt", a.clone())],
            &[("a.txt", edited(&edited(&a)))],
            Some("a.txt"),
        ),
        (
            "nothing is alike but the path",
            &[("a.txt", a.clone()), ("b.txt", b.clone())],
            &[("a.txt", text("d", 40))],
            Some("a.txt"),
        ),
        (
            "nothing is alike",
            &[
                ("lib/x-1.0/ebin/m.beam", a.clone()),
                ("lib/y-1.0/ebin/n.beam", b.clone()),
            ],
            &[("lib/z-1.0/ebin/m.beam", text("d", 40))],
            None,
        ),
        (
            "renamed, and its code differs everywhere",
            &[
                ("ebin/parser.beam", parser.0.clone()),
                ("ebin/server.beam", server.clone()),
            ],
            &[("ebin/new_parser.beam", parser.1.clone())],
            Some("ebin/parser.beam"),
        ),
        (
            "the same, gzip'ed",
            &[
                ("ebin/parser.beam", gzip(&parser.0)),
                ("ebin/server.beam", gzip(&server)),
            ],
            &[("ebin/new_parser.beam", gzip(&parser.1))],
            Some("ebin/parser.beam"),
        ),
        (
            "another beginning, another name, the same chunks",
            &[
                ("data/old", large.clone()),
                ("data/other.img", text("o", 8000)),
            ],
            &[("data/new.img", moved_within)],
            Some("data/old"),
        ),
    ];
    for (what, held, new, expected) in table {
        let contents = Counted::of(&[held, new]);
        let expected = expected.map(str::to_owned);
        assert_eq!(chosen(held, new, &contents), [expected], "{what}");
    }
}

#[test]
fn swapped_files_find_each_other() {
    let (a, b) = (text("a", 40), text("b", 40));
    let held = [("a.txt", a.clone()), ("b.txt", b.clone())];
    let new = [("a.txt", edited(&b)), ("b.txt", edited(&a))];
    let bases = chosen(&held, &new, &Counted::of(&[&held, &new]));
    assert_eq!(bases, [Some("b.txt".to_owned()), Some("a.txt".to_owned())]);
}

#[test]
fn what_the_host_lacks_or_the_target_changed_is_no_base() {
    let a = text("a", 40);
    let held = [
        ("priv/a.txt", edited(&a)),
        ("priv/b.txt", edited(&edited(&a))),
    ];
    let new = [("a.txt", a)];
    let without_first = Counted::of(&[&held[1..], &new]);
    assert_eq!(
        chosen(&held, &new, &without_first),
        [Some("priv/b.txt".to_owned())]
    );

    let (base, manifest) = (manifest(&held), manifest(&new));
    let at = base.index_of(b"priv/a.txt").expect("held");
    let drift = BTreeMap::from([(at, DriftKind::Changed)]);
    let held_files = TargetTree {
        manifest: &base,
        drift: &drift,
        inventory: false,
    };
    let contents = Counted::of(&[&held, &new]);
    let mut bases = Bases::new(held_files, &contents);
    assert_eq!(
        bases.like(&manifest.entries()[0]),
        base.index_of(b"priv/b.txt")
    );
}

#[test]
fn unreadable_content_is_taken_by_its_path() {
    struct Unreadable;
    impl Contents for Unreadable {
        fn has(&self, _: &Sha256) -> bool {
            true
        }
        fn beginning(&self, _: &Sha256, _: usize) -> Option<Vec<u8>> {
            None
        }
        fn chunks(&self, _: &Sha256) -> Vec<(ChunkId, u64)> {
            Vec::new()
        }
    }
    let base = manifest(&[
        ("lib/w-1.0/ebin/o.beam", text("a", 9)),
        ("lib/x-1.0/ebin/m.beam", text("b", 9)),
    ]);
    let drift = BTreeMap::new();
    let held = TargetTree {
        manifest: &base,
        drift: &drift,
        inventory: false,
    };
    let table = [
        ("lib/x-1.1/ebin/m.beam", Some(&b"lib/x-1.0/ebin/m.beam"[..])),
        ("lib/y-1.1/ebin/m.beam", Some(b"lib/x-1.0/ebin/m.beam")),
        ("lib/y-1.1/ebin/n.beam", None),
    ];
    for (path, expected) in table {
        let new = manifest(&[(path, text("c", 9))]);
        let entry = new.get(path.as_bytes()).expect("there");
        let like = Bases::new(held, &Unreadable).like(entry);
        assert_eq!(
            like,
            expected.and_then(|path| base.index_of(path)),
            "{path}"
        );
    }
}

#[test]
fn a_thousand_candidates_are_bounded_work() {
    let names: Vec<String> = (0..1000).map(|n| format!("lib/a{n}/m.beam")).collect();
    let files = |edit: fn(&[u8]) -> Vec<u8>, prefix: &str| -> Vec<(String, Vec<u8>)> {
        let file = |(n, name): (usize, &String)| {
            (prefix.to_owned() + name, edit(&text(name, 30 + n % 50)))
        };
        names.iter().enumerate().map(file).collect()
    };
    let (held, new) = (files(<[u8]>::to_vec, ""), files(edited, "new/"));
    let as_files = |files: &[(String, Vec<u8>)], count: usize| -> Vec<(&'static str, Vec<u8>)> {
        let leaked = |(name, content): &(String, Vec<u8>)| (&*name.clone().leak(), content.clone());
        files.iter().take(count).map(leaked).collect()
    };
    let held = as_files(&held, 1000);
    let one = as_files(&new, 1);
    let contents = Counted::of(&[&held, &one]);
    chosen(&held, &one, &contents);
    let most = limits::BASE_CANDIDATES + limits::BASE_NEIGHBOURS + 1;
    assert!(
        contents.reads.get() <= most,
        "{} reads",
        contents.reads.get()
    );

    let all = as_files(&new, 1000);
    let contents = Counted::of(&[&held, &all]);
    let first = chosen(&held, &all, &contents);
    assert!(
        contents.reads.get() <= 2000,
        "{} reads",
        contents.reads.get()
    );
    assert!(contents.read_bytes.get() <= 2000 * limits::SKETCH_BYTES);
    assert_eq!(chosen(&held, &all, &contents), first, "the same every time");
}
