//! The agent reads frames that libzstd writes.

use zstd::zstd_safe::CParameter;

use super::frames::{Random, beam_files, compress, compress_stream, content, edited};
use super::{Agent, Answer, Decoder, MIB, case_count, describe};

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
        // High levels take seconds for megabytes.
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
