use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;

use super::*;

/// Returns the BEAM files of a few applications of the installed OTP.
fn installed_beams(applications: &[&str]) -> Vec<Vec<u8>> {
    let script = "io:put_chars(code:lib_dir()), halt().";
    let output = Command::new("erl")
        .args(["-noinput", "-boot", "no_dot_erlang", "-eval", script])
        .output();
    let root = PathBuf::from(String::from_utf8(output.expect("erl").stdout).expect("a path"));
    let mut beams = Vec::new();
    for entry in std::fs::read_dir(root).expect("OTP's libraries") {
        let directory = entry.expect("an entry").path();
        let name = directory
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if applications
            .iter()
            .any(|application| name.starts_with(&format!("{application}-")))
        {
            let mut files: Vec<_> = std::fs::read_dir(directory.join("ebin"))
                .expect("ebin")
                .map(|file| file.expect("a file").path())
                .collect();
            files.sort();
            let files = files.iter().filter(|file| {
                file.extension()
                    .is_some_and(|extension| extension == "beam")
            });
            beams.extend(files.map(|file| std::fs::read(file).expect("a readable file")));
        }
    }
    assert!(
        beams.len() > 20,
        "only {} modules in {applications:?}",
        beams.len()
    );
    beams
}

/// Encodes one piece, decodes it again, and returns the body and what was done.
fn round_trip(new: &[u8], base: Option<&[u8]>, options: &Options) -> (Vec<u8>, PieceExplanation) {
    let encoded = encode_with(&[Piece { new, base }], options);
    let decoded = decode(&encoded.bytes, &[base], options.limits).expect("what was just encoded");
    assert!(
        decoded.len() == 1 && decoded[0] == new,
        "decoded content differs"
    );
    (encoded.bytes, encoded.explain[0])
}

fn quick() -> Options {
    Options {
        level: 1,
        ..Options::default()
    }
}

#[test]
fn every_installed_module_is_taken_apart_and_put_together() {
    let beams = installed_beams(&["sasl", "runtime_tools"]);
    let mut total = 0;
    for pair in beams.windows(2) {
        let (body, _) = round_trip(&pair[1], Some(&pair[0]), &quick());
        // Against an unrelated module plain may win; against itself it must not.
        total += body.len();
        let (body, explanation) = round_trip(&pair[1], Some(&pair[1]), &quick());
        assert!(
            explanation.transform == Transform::Beam || body.len() < 60,
            "{explanation:?}: {} bytes",
            body.len()
        );
    }
    assert!(total > 0);
}

#[test]
fn gzipped_modules_are_inflated() {
    for beam in installed_beams(&["runtime_tools", "sasl"]).iter().take(5) {
        let gzipped = inflate::gzip(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], 6, beam);
        let (body, explanation) = round_trip(&gzipped, Some(beam), &quick());
        assert_eq!(explanation.transform, Transform::Beam);
        assert!(body.len() < 200, "{} bytes", body.len());
        let (_, explanation) = round_trip(
            &gzipped,
            Some(beam),
            &Options {
                reflate: false,
                ..quick()
            },
        );
        assert_eq!(explanation.transform, Transform::Plain);
    }
}

#[test]
fn damaged_modules_come_back_too() {
    let beams = installed_beams(&["runtime_tools", "sasl"]);
    let beam = beams
        .iter()
        .min_by_key(|beam| beam.len().abs_diff(6000))
        .expect("a module");
    for at in (0..beam.len()).step_by(97) {
        let mut damaged = beam.clone();
        damaged[at] ^= 0x41;
        round_trip(&damaged, Some(beam), &quick());
        round_trip(beam, Some(&damaged), &quick());
        round_trip(&beam[..at], Some(beam), &quick());
    }
}

#[test]
fn damaged_bodies_are_refused_or_decode_to_something() {
    let beams = installed_beams(&["runtime_tools", "sasl"]);
    let beam = beams
        .iter()
        .min_by_key(|beam| beam.len().abs_diff(3000))
        .expect("a module");
    let encoded = encode(
        &[Piece {
            new: &beams[0],
            base: Some(beam),
        }],
        1,
    );
    let bases = [Some(&beam[..])];
    for at in 0..encoded.bytes.len() {
        let mut damaged = encoded.bytes.clone();
        damaged[at] ^= 0x55;
        if let Ok(contents) = decode(&damaged, &bases, Limits::default()) {
            assert_eq!(contents.len(), 1);
        }
        assert!(
            decode(&encoded.bytes[..at], &bases, Limits::default()).is_err(),
            "cut at {at}"
        );
    }
}

#[test]
fn a_body_is_hardly_longer_than_its_content_compressed() {
    let content: Vec<u8> = (0..5000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect();
    let plain = residual::compress(&[], &content, residual::Search::Level(BEST_LEVEL)).len();
    let (body, _) = round_trip(&content, None, &Options::default());
    assert!(
        body.len() <= plain + 64,
        "{} bytes, {plain} compressed",
        body.len()
    );
}

#[test]
fn what_its_base_contains_costs_next_to_nothing() {
    let mut word = 1_u64;
    let base: Vec<u8> = std::iter::repeat_with(|| {
        word = word
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        word.to_le_bytes()
    })
    .take(64 << 10)
    .flatten()
    .collect();
    let mut new = base[100_000..400_000].to_vec();
    new.splice(150_000..150_100, *b"inserted");
    for (level, most) in [(9, 200), (BEST_LEVEL, 120)] {
        let options = Options {
            level,
            ..Options::default()
        };
        let (body, explanation) = round_trip(&new, Some(&base), &options);
        assert!(body.len() < most, "{} bytes at level {level}", body.len());
        let is_quick = level < BEST_LEVEL;
        assert!(
            !is_quick || explanation.coder == Coder::Prefix,
            "{explanation}"
        );
    }
}

#[test]
fn frames_beyond_the_decoder_s_memory_are_cut_into_groups() {
    let contents: Vec<Vec<u8>> = (0..6_u8).map(|n| vec![n; 30_000]).collect();
    let pieces: Vec<Piece<'_>> = contents
        .iter()
        .map(|new| Piece {
            new,
            base: Some(&contents[0]),
        })
        .collect();
    let limits = Limits {
        max_memory_bytes: 130_000,
        ..Limits::default()
    };
    let encoded = encode_with(&pieces, &Options { limits, ..quick() });
    let bases = vec![Some(&contents[0][..]); contents.len()];
    assert_eq!(
        decode(&encoded.bytes, &bases, limits).expect("own body"),
        contents
    );
    let less = Limits {
        max_memory_bytes: 119_000,
        ..limits
    };
    assert!(matches!(
        decode(&encoded.bytes, &bases, less),
        Err(DecodeError::TooLarge | DecodeError::Zstd { .. })
    ));
    let less = Limits {
        max_content_bytes: 179_999,
        ..limits
    };
    assert!(matches!(
        decode(&encoded.bytes, &bases, less),
        Err(DecodeError::TooLarge)
    ));
    assert!(decode(&encoded.bytes, &bases[1..], limits).is_err());
}

#[test]
fn another_zlib_is_noticed() {
    let content = b"a text, and a text again\n".repeat(300);
    let file = inflate::gzip(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], 6, &content);
    let encoded = encode(
        &[Piece {
            new: &file,
            base: Some(&content),
        }],
        1,
    );
    assert_eq!(encoded.explain[0].transform, Transform::Inflate);
    let mut other = encoded.bytes.clone();
    // The check stands behind version and flags.
    other[2] ^= 1;
    assert!(matches!(
        decode(&other, &[Some(&content)], Limits::default()),
        Err(DecodeError::ZlibDiffers)
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn anything_comes_back(
        pieces in prop::collection::vec((prop::collection::vec(0_u8..8, 0..400), prop::option::of(prop::collection::vec(0_u8..8, 0..400))), 0..6),
    ) {
        let as_pieces: Vec<Piece<'_>> = pieces.iter().map(|(new, base)| Piece { new, base: base.as_deref() }).collect();
        let bases: Vec<Option<&[u8]>> = as_pieces.iter().map(|piece| piece.base).collect();
        let encoded = encode(&as_pieces, BEST_LEVEL);
        let expected: Vec<Vec<u8>> = pieces.iter().map(|(new, _)| new.clone()).collect();
        prop_assert_eq!(encoded.explain.len(), pieces.len());
        prop_assert_eq!(decode(&encoded.bytes, &bases, Limits::default()).expect("own body"), expected);
    }

    #[test]
    fn no_body_makes_the_decoder_panic(mut body in prop::collection::vec(any::<u8>(), 0..80), base in prop::collection::vec(any::<u8>(), 0..80)) {
        body.insert(0, 1);
        if let Ok(contents) = decode(&body, &[Some(&base)], Limits::default()) {
            prop_assert_eq!(contents.len(), 1);
        }
    }
}

/// A case of the golden vectors: bases and contents of the pieces, and the body they were encoded to.
struct Vector {
    directory: PathBuf,
    bases: Vec<Option<Vec<u8>>>,
    contents: Vec<Vec<u8>>,
}

impl Vector {
    fn all() -> Vec<Self> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden/delta");
        let mut vectors: Vec<Self> = std::fs::read_dir(root)
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
        // The case named so shows bodies of several groups.
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
    assert!(vectors.len() >= 13, "only {} vectors", vectors.len());
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
            "difference" => "plain, differences from base",
            "no-base" => "beam, no base",
            _ => "beam, base as prefix",
        };
        assert_eq!(coding, expected, "{name}");
    }
}

#[test]
fn all_chunks_of_installed_modules_are_understood() {
    for file in installed_beams(&["stdlib", "crypto"]) {
        let module = beam::Module::unpack(&file, beam::Reading::Base).expect("a module");
        let container = module.container().expect("a module");
        let tables = beam::Tables::read(&container);
        let streams = beam::split(&container, &tables, &tables, beam::Role::New).expect("a module");
        let opaque = beam::opaque_chunks(&streams[streams::Kind::Recipe]).expect("a recipe");
        for id in opaque {
            assert!(
                matches!(&id, b"Type" | b"StrT" | b"CInf" | b"Meta" | b"Attr"),
                "{} of a module of {} bytes",
                id.escape_ascii(),
                file.len()
            );
        }
    }
}
