//! The golden vectors of bodies: they decode to the same content as ever, and new bodies are about
//! as small.

use std::path::PathBuf;

use super::*;
use crate::golden_tests::golden_dir;

/// A case of the golden vectors: bases and contents of the pieces, and the body they were encoded
/// to.
struct Vector {
    directory: PathBuf,
    bases: Vec<Option<Vec<u8>>>,
    contents: Vec<Vec<u8>>,
}

impl Vector {
    fn all() -> Vec<Self> {
        let mut vectors: Vec<Self> = std::fs::read_dir(golden_dir("delta"))
            .expect("golden vectors")
            .map(|entry| Self::read(entry.expect("an entry").path()))
            .collect();
        vectors.sort_by(|one, other| one.directory.cmp(&other.directory));
        vectors
    }

    fn read(directory: PathBuf) -> Self {
        let contents: Vec<Vec<u8>> = (0..)
            .map_while(|n| std::fs::read(directory.join(format!("{n}.new"))).ok())
            .collect();
        let bases = (0..contents.len())
            .map(|n| std::fs::read(directory.join(format!("{n}.base"))).ok())
            .collect();
        Self {
            directory,
            bases,
            contents,
        }
    }

    fn bases(&self) -> Vec<Option<&[u8]>> {
        self.bases.iter().map(Option::as_deref).collect()
    }

    fn encode(&self) -> Encoded {
        // The case of this name shows bodies of several groups.
        let several = self.directory.ends_with("groups");
        let limits = if several {
            Limits {
                max_memory_bytes: 30_000,
                ..Limits::default()
            }
        } else {
            Limits::default()
        };
        let pieces: Vec<Piece<'_>> = self
            .contents
            .iter()
            .zip(self.bases())
            .map(|(new, base)| Piece { new, base })
            .collect();
        encode_with(
            &pieces,
            &Options {
                limits,
                ..Options::default()
            },
        )
    }
}

#[test]
fn golden_vectors_decode() {
    let vectors = Vector::all();
    assert!(vectors.len() >= 15, "only {} vectors", vectors.len());
    for vector in vectors {
        let path = vector.directory.join("body");
        if std::env::var_os("RELSYNC_BLESS").is_some() {
            std::fs::write(&path, vector.encode().bytes).expect("a writable golden vector");
        }
        let body = std::fs::read(&path).expect("the body of a golden vector");
        let contents = decode(&body, &vector.bases(), Limits::default()).expect("a golden body");
        assert_eq!(contents, vector.contents, "{}", path.display());
    }
}

#[test]
fn what_golden_vectors_show_is_still_made() {
    for vector in Vector::all() {
        let encoded = vector.encode();
        let body =
            std::fs::read(vector.directory.join("body")).expect("the body of a golden vector");
        let name = vector
            .directory
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        assert!(
            encoded.bytes.len() <= body.len() + body.len() / 20 + 8,
            "{name}: {} bytes",
            encoded.bytes.len()
        );
        let coding = encoded.explain[0].to_string();
        let expected = match &*name {
            "branches" | "difference" | "pointers" => "plain, differences from base",
            "no-base" => "beam, no base",
            _ => "beam, base as prefix",
        };
        assert_eq!(coding, expected, "{name}");
    }
}
