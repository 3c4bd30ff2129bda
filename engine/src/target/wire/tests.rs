//! The golden vectors of the messages: the host's are made here and read by the agent's tests
//! (`relsync_lib_wire_tests.erl`), the agent's are made there and read here; and bytes from anybody.

mod replies;
mod requests;

use std::collections::BTreeSet;
use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;

use super::fields::Message;
use super::*;
use crate::golden_tests::{check_golden, golden_dir};
use crate::limits;

use replies::replies;
use requests::requests;

/// Numbers that people read, and that times are computed with, make sense.
#[test]
fn absurd_numbers_of_a_target_are_bounded() {
    let huge = [&[0xff; 9][..], &[1]].concat();
    let number = |tag| [&[tag, 10][..], &huge].concat();
    let nested = |tag: u8, fields: &[u8]| {
        [&[tag, u8::try_from(fields.len()).expect("short")], fields].concat()
    };
    let current = [number(5), number(6)].concat();
    let kept = number(2);
    let message = [
        &[0x89][..],
        &number(6),
        &nested(8, &current),
        &nested(21, &kept),
    ]
    .concat();
    let Ok(Reply::Status(status)) = Reply::decode(&message) else {
        panic!("no status");
    };
    let current = status.current.expect("a generation");
    assert_eq!(status.free_bytes, Some(limits::TARGET_DISK_BYTES));
    assert_eq!(status.kept_bytes, [(0, limits::TARGET_DISK_BYTES)]);
    assert_eq!(current.applied_at, limits::TARGET_CLOCK_S);
    assert_eq!(current.probation_ms, Some(limits::TARGET_MILLIS));
    let message = [&[0x87][..], &number(8)].concat();
    let Ok(Reply::Result(result)) = Reply::decode(&message) else {
        panic!("no result");
    };
    assert_eq!(result.probation_ms, Some(limits::TARGET_MILLIS));
}

#[test]
fn golden_requests_are_encoded() {
    for (name, request, text) in requests() {
        check_golden("wire", &format!("{name}.bin"), &request.encode());
        check_golden("wire", &format!("{name}.txt"), text.as_bytes());
    }
}

#[test]
fn golden_replies_are_decoded() {
    for (name, reply) in replies() {
        let bytes = fs::read(golden_dir("wire").join(format!("{name}.bin"))).expect(name);
        assert_eq!(Reply::decode(&bytes), Ok(reply), "{name}");
    }
}

#[test]
fn golden_vectors_are_all_listed() {
    let requests = requests().into_iter().map(|(name, ..)| name);
    let replies = replies().into_iter().map(|(name, _)| name);
    let listed: BTreeSet<String> = requests
        .chain(replies)
        .flat_map(|name| [format!("{name}.bin"), format!("{name}.txt")])
        .collect();
    let stored: BTreeSet<String> = fs::read_dir(golden_dir("wire"))
        .expect("golden vectors")
        .map(|file| {
            file.expect("entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    assert_eq!(stored, listed);
}

#[test]
fn boot_messages_are_decoded() {
    let busy = |holder: &str, returning| Reply::Busy {
        holder: holder.to_owned(),
        returning,
    };
    let table: [(&[u8], Reply); 7] = [
        (&[0x80, 1, 1, 25], Reply::WantsAgent { otp_release: 25 }),
        (&[0x80, 4, 1, 25], Reply::WantsLoading { otp_release: 25 }),
        (
            &[0x80, 3, 6, b'c', b'r', b'y', b'p', b't', b'o'],
            Reply::Lacks {
                application: "crypto".to_owned(),
            },
        ),
        (b"\x80\x02\x04me@b", busy("me@b", false)),
        (b"\x80\x05\x04back", busy("back", true)),
        (b"\x80\x02\x00", busy("", false)),
        (&[0x80], busy("", false)),
    ];
    for (bytes, reply) in table {
        assert_eq!(Reply::decode(bytes), Ok(reply), "{bytes:?}");
    }
}

#[test]
fn what_a_target_says_is_bounded() {
    let text = |bytes: &[u8]| [&[0x88, 2][..], &[0x84, 0x10], bytes].concat();
    // 2052 bytes, and the cut halves a character of two.
    let long = [&b"x"[..], "ä".repeat(1025).as_bytes(), b"y"].concat();
    let Ok(Reply::Error(error)) = Reply::decode(&text(&long)) else {
        panic!("no error");
    };
    assert_eq!(error.message, format!("x{}…", "ä".repeat(511)));
    let note = [4, 1, b'n'];
    let notes = |count| [&[0x87][..], &note.repeat(count)].concat();
    assert!(Reply::decode(&notes(limits::TARGET_NOTES)).is_ok());
    let error = Reply::decode(&notes(limits::TARGET_NOTES + 1));
    assert!(
        matches!(error, Err(WireError::TooMany { what: "notes", .. })),
        "{error:?}"
    );
    let mut assembler = Assembler::default();
    assert_eq!(assembler.add(&[1]), Err(WireError::EmptyPart));
}

#[test]
fn replies_that_break_the_rules_are_refused() {
    let field = |message, tag| Err(WireError::BadField { message, tag });
    let table: [(&[u8], Result<Reply, WireError>); 9] = [
        (b"", Err(WireError::Empty)),
        (&[0x01], Err(WireError::UnknownMessage(0x01))),
        (&[0x8f], Err(WireError::UnknownMessage(0x8f))),
        // A number with bytes behind it, a snapshot of 31 bytes, an outcome and a drift that do not exist.
        (&[0x83, 1, 2, 5, 5], field(0x83, 1)),
        (&[&[0x87, 9, 31][..], &[0; 31]].concat(), field(0x87, 9)),
        (&[0x87, 1, 1, 3], field(0x87, 1)),
        (&[0x81, 9, 3, 2, 1, 3], field(0x81, 9)),
        // An unknown tag is skipped, a missing number is 0, of repeated ones the last counts.
        (&[0x83, 200, 1, 0], Ok(Reply::Credit { bytes: 0 })),
        (&[0x83, 1, 1, 4, 1, 1, 9], Ok(Reply::Credit { bytes: 9 })),
    ];
    for (bytes, expected) in table {
        assert_eq!(Reply::decode(bytes), expected, "{bytes:?}");
    }
    let lengths: [&[u8]; 4] = [
        &[0x83, 1],
        &[0x83, 1, 2, 5],
        &[0x83, 1, 0x80, 0],
        b"\x85\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01text",
    ];
    for bytes in lengths {
        assert!(
            matches!(Reply::decode(bytes), Err(WireError::Bytes(_))),
            "{bytes:?}"
        );
    }
}

#[test]
fn messages_are_bounded_while_they_are_joined() {
    let mut part = vec![1];
    part.resize(1 + (8 << 20), 0);
    let mut assembler = Assembler::default();
    for _ in 0..MAX_REPLY_BYTES / (8 << 20) {
        assert_eq!(assembler.add(&part), Ok(None));
    }
    let limit = MAX_REPLY_BYTES;
    assert_eq!(assembler.add(&[1, 0]), Err(WireError::TooLarge { limit }));
    let mut assembler = Assembler::default();
    assert_eq!(assembler.add(&[]), Err(WireError::Empty));
    assert_eq!(assembler.add(&[2, 0]), Err(WireError::BadPart(2)));
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(kind in 0x7f_u8..=0x8b, bytes in vec(any::<u8>(), 0..200)) {
        let _ = Reply::decode(&bytes);
        let _ = Reply::decode(&[&[kind], &bytes[..]].concat());
    }

    /// Fields of right lengths with any content: what gets past the framing.
    #[test]
    fn any_fields_are_decoded_or_refused(
        kind in 0x80_u8..=0x8a,
        fields in vec((0_u8..=21, vec(any::<u8>(), 0..40)), 0..8),
    ) {
        let message = fields
            .into_iter()
            .fold(Message::new(kind), |message, (tag, value)| message.bytes(tag, &value));
        let _ = Reply::decode(&message.finish());
    }

    /// A message that was changed in one byte or cut is read or refused.
    #[test]
    fn damaged_messages_are_decoded_or_refused(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let replies = replies();
        let (name, _) = which.get(&replies);
        let mut bytes = fs::read(golden_dir("wire").join(format!("{name}.bin"))).expect("a vector");
        let at = at.index(bytes.len());
        let _ = Reply::decode(&bytes[..at]);
        bytes[at] = byte;
        let _ = Reply::decode(&bytes);
    }

    #[test]
    fn parts_join_to_the_message(message in vec(any::<u8>(), 0..3 * MAX_PART_BYTES)) {
        let parts: Vec<_> = parts(&message).collect();
        let (last, before) = parts.split_last().expect("a part");
        let mut assembler = Assembler::default();
        for part in before {
            prop_assert_eq!(part.len(), 1 + MAX_PART_BYTES);
            prop_assert_eq!(assembler.add(part), Ok(None));
        }
        prop_assert_eq!(assembler.add(last), Ok(Some(message)));
    }

    #[test]
    fn any_parts_are_joined_or_refused(parts in vec(vec(0_u8..4, 0..20), 0..10)) {
        let mut assembler = Assembler::default();
        for part in parts {
            if assembler.add(&part).is_err() {
                break;
            }
        }
    }
}
