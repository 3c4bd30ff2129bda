//! Damaged frames, and frames that grow too large, are refused.

use zstd::zstd_safe::CParameter;

use super::frames::{Random, beam_files, compress, content, edited, libzstd_decode};
use super::{Agent, Answer, Decoder, MIB, case_count, describe};

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
                // One-shot libzstd reads on after a frame and has no limit for the window. Its
                // Huffman decoder is lenient about the end of a stream's last code.
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
            // The lengths are in headers.
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
