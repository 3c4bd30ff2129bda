use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;

use super::cursor::put_signed;
use super::*;
use crate::delta::zstd_frame::{self, Search};
use inflate::Deflater;
use zlib::Level;

/// Returns the BEAM files of a few applications of the installed OTP.
pub(super) fn installed_beams(applications: &[&str]) -> Vec<Vec<u8>> {
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

/// Encodes one piece, decodes it again, and returns the body and its explanation.
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
        let gzipped = inflate::gzip(
            &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
            Level::DEFAULT,
            beam,
            &Deflater::default(),
        );
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
        let (body, _) = round_trip(&new, Some(&base), &options);
        assert!(body.len() < most, "{} bytes at level {level}", body.len());
    }
}

/// Returns what zstd makes of the contents in one piece.
///
/// Below the best level, zstd finds some percent more or less, depending on where in the frame the
/// content begins. So the contents stand there behind their lengths, as in a body, if that makes
/// more of them.
fn solid(contents: &[&[u8]], level: i32) -> usize {
    let compressed =
        |content: &[u8]| zstd_frame::compress_bare(&[], content, Search::Level(level)).len();
    let concatenated = contents.concat();
    if level == BEST_LEVEL {
        return compressed(&concatenated);
    }
    let mut as_in_a_body = Vec::new();
    for content in contents {
        put_signed(
            &mut as_in_a_body,
            i64::try_from(content.len()).expect("a length"),
        );
    }
    as_in_a_body.extend_from_slice(&concatenated);
    compressed(&as_in_a_body).max(compressed(&concatenated))
}

/// The most bytes that a body may be longer than its contents in one zstd frame: its head, and the
/// length of each piece.
fn most_overhead(pieces: usize) -> usize {
    64 + 5 * pieces
}

pub(super) fn assert_not_larger_than_solid(pieces: &[Piece<'_>], options: &Options) {
    let contents: Vec<&[u8]> = pieces.iter().map(|piece| piece.new).collect();
    let solid_bytes = solid(&contents, options.level);
    let encoded = encode_with(pieces, options);
    assert!(
        encoded.bytes.len() <= solid_bytes + most_overhead(pieces.len()),
        "{} bytes at level {}, {solid_bytes} by zstd alone: {:?}",
        encoded.bytes.len(),
        options.level,
        encoded.explain
    );
}

#[test]
fn what_a_transform_hides_is_found_without_it() {
    // Content that is deflated twice stands there once. Inflated, the copy no longer resembles the
    // original.
    let text: Vec<u8> = noise(9)
        .take(150_000)
        .map(|byte| b'a' + byte % 16)
        .collect();
    let gzip = inflate::gzip(
        &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
        Level::DEFAULT,
        &text,
        &Deflater::default(),
    );
    let archive = [b"an archive: ", &gzip[..], b"its end"].concat();
    let pieces = [&gzip, &archive].map(|new| Piece { new, base: None });
    let encoded = encode(&pieces, BEST_LEVEL);
    assert!(
        encoded.bytes.len() < gzip.len() + 200,
        "{} bytes of {}",
        encoded.bytes.len(),
        gzip.len()
    );
    for level in [1, 9, BEST_LEVEL] {
        assert_not_larger_than_solid(
            &pieces,
            &Options {
                level,
                ..Options::default()
            },
        );
    }
}

#[test]
fn a_base_that_leads_astray_costs_nothing() {
    let beams = installed_beams(&["runtime_tools", "sasl"]);
    for (new, base) in beams.iter().zip(beams.iter().rev()).take(6) {
        let cut = &base[..base.len() / 2];
        let unlike: Vec<u8> = noise(3).take(200_000).collect();
        for base in [base, cut, &unlike] {
            let pieces = [Piece {
                new,
                base: Some(base),
            }];
            assert_not_larger_than_solid(&pieces, &Options::default());
        }
    }
}

fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut word = seed;
    std::iter::repeat_with(move || {
        word = word
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (word >> 33).to_le_bytes()[0]
    })
}

#[test]
fn an_explanation_says_which_piece_costs() {
    let old: Vec<u8> = noise(1).take(200_000).collect();
    let mut edited = old.clone();
    for at in [10, 100_000, 199_990] {
        edited[at] ^= 1;
    }
    let other: Vec<u8> = noise(2).take(50_000).collect();
    let gzip = |content: &[u8]| {
        inflate::gzip(
            &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
            Level::DEFAULT,
            content,
            &Deflater::default(),
        )
    };
    let (gzipped, gzipped_old) = (gzip(&edited), gzip(&old));
    for (new, base) in [(&edited, &old), (&gzipped, &gzipped_old)] {
        let pieces =
            [(new, Some(&base[..])), (&other, None)].map(|(new, base)| Piece { new, base });
        let encoded = encode(&pieces, BEST_LEVEL);
        let costs: Vec<u64> = encoded.explain.iter().map(|one| one.bytes).collect();
        assert!(costs[0] < 500 && costs[1] > 49_000, "{costs:?}");
    }
}

/// Contents of many kinds: noise, repetitions, text, modules, modules with changes, deflated
/// content.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let beams: Vec<Vec<u8>> = installed_beams(&["runtime_tools", "sasl"])
        .into_iter()
        .filter(|beam| beam.len() < 30_000)
        .collect();
    let changed = (
        prop::sample::select(beams.clone()),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
    );
    let gzip = |content: Vec<u8>| {
        inflate::gzip(
            &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
            Level::DEFAULT,
            &content,
            &Deflater::default(),
        )
    };
    let simple = prop_oneof![
        (any::<u64>(), 0_usize..40_000)
            .prop_map(|(seed, length)| noise(seed).take(length).collect::<Vec<u8>>()),
        (any::<u64>(), 1_usize..50, 0_usize..2000).prop_map(|(seed, length, times)| noise(seed)
            .take(length)
            .collect::<Vec<u8>>()
            .repeat(times)),
        // Noise with the same byte stamped on every fourth place, over and over. It has short
        // matches only, which low levels do not find.
        (any::<u64>(), 1_usize..8).prop_map(|(seed, times)| {
            let mut content: Vec<u8> = noise(seed).take(4000).collect();
            for stamp in 0..times {
                let stamp_at =
                    |(at, byte): (usize, &u8)| if at % 4 == stamp % 4 { b'a' } else { *byte };
                let stamped: Vec<u8> = content[..4000].iter().enumerate().map(stamp_at).collect();
                content.extend(stamped);
            }
            content
        }),
        prop::collection::vec(
            prop::sample::select(vec![
                "module",
                " ",
                "receive\n",
                "begin",
                "end.\n",
                "{ok, State}"
            ]),
            0..3000
        )
        .prop_map(|words| words.concat().into_bytes()),
        prop::sample::select(beams),
        changed.prop_map(|(mut beam, changes)| {
            for (at, byte) in changes {
                let at = at.index(beam.len());
                beam[at] = byte;
            }
            beam
        }),
    ];
    (simple, any::<bool>())
        .prop_map(move |(content, gzipped)| if gzipped { gzip(content) } else { content })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_larger_than_zstd_makes_it(
        pieces in prop::collection::vec((content(), prop::option::of(content())), 1..5),
        repeated in any::<bool>(),
        level in prop::sample::select(vec![3, 9, BEST_LEVEL]),
        reflate in any::<bool>(),
    ) {
        let mut pieces: Vec<Piece<'_>> = pieces.iter().map(|(new, base)| Piece { new, base: base.as_deref() }).collect();
        if repeated {
            pieces.push(Piece { base: None, ..pieces[0] });
        }
        assert_not_larger_than_solid(&pieces, &Options { level, reflate, ..Options::default() });
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
    let parts: u64 = encoded.explain.iter().map(|part| part.bytes).sum();
    assert_eq!(parts, encoded.bytes.len() as u64, "of several groups");
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
    let file = inflate::gzip(
        &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
        Level::DEFAULT,
        &content,
        &Deflater::default(),
    );
    let encoded = encode(
        &[Piece {
            new: &file,
            base: Some(&content),
        }],
        1,
    );
    assert_eq!(encoded.explain[0].transform, Transform::Inflate);
    let mut other = encoded.bytes.clone();
    // The check stands behind the version and the flags.
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
        let parts: u64 = encoded.explain.iter().map(|explanation| explanation.bytes).sum();
        prop_assert!(pieces.is_empty() || parts == encoded.bytes.len() as u64, "{:?}", encoded);
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
