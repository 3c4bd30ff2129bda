//! The claims of a target: lengths, counts, indexes and numbers.

use relsync_tests::rogue::Script;

use super::{Trap, field, greeting, inventory, message, number};

/// Lengths and counts that a peer claims (CVE-2024-12084, CVE-2026-41035, CVE-2026-53794,
/// CVE-2026-70456). Each is checked against a limit and against the available bytes before anything
/// is allocated or read. Missing bytes are not filled up (CVE-2024-12085).
#[test]
fn claimed_lengths_are_not_believed() {
    let count = [&b"RSMF\x01"[..], &[0xff; 9], &[1]].concat();
    let many = [&b"RSMF\x01"[..], &[0xc0, 0x84, 0x3d], b"\0\x01a\x01\0"].concat();
    let longest = [&[0x81, 1][..], &[0xff; 9], &[1, 1]].concat();
    let hello = greeting(&[]);
    let said: [&[&[u8]]; 7] = [
        &[&longest],
        &[&message(0x81, &[vec![9, 0xff, 0xff, 0x7f, 1]])],
        &[&hello, &inventory(&count, count.len() as u64)],
        &[&hello, &inventory(&many, many.len() as u64)],
        &[&hello, &inventory(b"RSMF\x01\0", u64::MAX)],
        &[&hello, &inventory(b"RSMF\x01\0", 64 << 20)],
        &[
            &hello,
            &message(0x82, &[number(1, 1), vec![2, 0xff, 0xff, 0xff, 0x7f]]),
        ],
    ];
    for messages in said {
        let run = Trap::saying(messages).run(&["push", "--json", "--retries", "0"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert_eq!(run.result()["outcome"], "failed");
    }
    let frames: [&[u8]; 4] = [
        &[0xff; 4],
        &[0, 0x20, 0, 1, 112, 131],
        // These are a message of 4 GiB in a frame of a few bytes, and a tuple with as many
        // elements.
        &[0, 0, 0, 9, 112, 131, 109, 0xff, 0xff, 0xff, 0xff, 1, 2],
        &[0, 0, 0, 9, 112, 131, 105, 0xff, 0xff, 0xff, 0xff, 1, 2],
    ];
    for frame in frames {
        let run = Trap::new(Script::Raw(frame.to_vec())).run(&["push", "--json", "--retries", "0"]);
        assert!(matches!(run.code, Some(1 | 5)), "{run:?}");
    }
}

/// Indexes outside their tables and numbers without meaning (CVE-2025-10158, CVE-2026-43620,
/// CVE-2026-70459, CVE-2026-53792). The host accepts no index of the target without its table.
#[test]
fn indexes_and_numbers_of_a_target_stay_in_their_tables() {
    let huge = [number(1, u64::MAX), number(2, 1)].concat();
    let odd = [number(1, 0), number(2, 77)].concat();
    let current = [
        number(1, u64::MAX),
        field(2, &[1; 32]),
        field(3, &[2; 32]),
        number(4, 9),
        number(5, u64::MAX),
    ]
    .concat();
    let short = [number(1, 1), field(2, &[1; 31]), field(3, &[2; 32])].concat();
    let empty = inventory(b"RSMF\x01\0", 6);
    let table = [
        vec![field(9, &huge)],
        vec![field(9, &odd)],
        vec![field(8, &current)],
        vec![field(8, &short)],
        vec![number(1, 9), number(12, u64::MAX), number(13, u64::MAX)],
        vec![
            number(6, u64::MAX),
            field(10, &[field(1, &[0; 32]), number(2, u64::MAX)].concat()),
        ],
    ];
    for fields in table {
        let trap = Trap::saying(&[&greeting(&fields), &empty, &message(0x87, &[number(1, 9)])]);
        for arguments in [
            &["push", "--json", "--retries", "0"][..],
            &["status", "--json"],
        ] {
            let run = trap.run(arguments);
            assert!(matches!(run.code, Some(0 | 1 | 5)), "{run:?}");
            assert!(run.objects().last().is_some());
        }
    }
}

/// A target that says it is done is not believed. It has to name what was pushed.
#[test]
fn nothing_is_called_done_that_is_not_what_was_pushed() {
    let said = vec![greeting(&[]), inventory(b"RSMF\x01\0", 6)];
    let results = [
        vec![number(1, 0), number(2, 1)],
        vec![number(1, 0), number(2, 1), field(9, &[7; 32])],
        vec![number(1, 2), number(2, u64::MAX), field(9, &[0; 32])],
    ];
    for result in results {
        let trap = Trap::new(Script::Serve(said.clone(), message(0x87, &result)));
        let run = trap.run(&["push", "--json", "--retries", "0"]);
        assert_eq!(run.code, Some(5), "{run:?}");
        let result = run.result();
        assert_eq!(result["outcome"], "failed", "{run:?}");
        assert_eq!(result["error"]["kind"], "false_claim", "{run:?}");
        let told = result["error"]["message"].as_str().expect("a message");
        assert!(told.contains("the target says that it runs"), "{told}");
    }
    // It has listed no earlier generation, and says that it is back at a later one.
    let current = [number(1, 3), field(2, &[1; 32]), field(3, &[2; 32])].concat();
    let back = message(0x87, &[number(1, 0), number(2, 4), field(9, &[1; 32])]);
    let run = Trap::saying(&[&greeting(&[field(8, &current)]), &back]).run(&["rollback", "--json"]);
    assert_eq!(run.code, Some(5), "{run:?}");
    let error = run.result()["error"].clone();
    assert_eq!(error["kind"], "false_claim", "{run:?}");
    let told = error["message"].as_str().expect("a message");
    assert!(told.contains("a generation before 3"), "{told}");
}

/// Texts, lists and output of a target are bounded, wherever they would be shown.
#[test]
fn what_a_target_says_is_bounded() {
    let endless = vec![b'x'; 1 << 20];
    let busy = Trap::saying(&[&message(0x80, &[field(2, &endless)])]);
    let run = busy.run(&["push", "--json", "--retries", "0"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.out.len() < 10_000 && run.out.contains('…'), "{run:?}");
    let damage = field(11, &[field(1, b"x"), field(2, b"y")].concat());
    let trap = Trap::saying(&[&greeting(&vec![damage; 100_000])]);
    let run = trap.run(&["push", "--json", "--retries", "0"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let told = run.result()["error"]["message"].to_string();
    assert!(
        told.contains("names more than 1024 damaged files"),
        "{told}"
    );
    let mut said = vec![greeting(&[]), inventory(b"RSMF\x01\0", 6)];
    said.extend(vec![message(0x86, &[field(1, b"switch")]); 100]);
    let run = Trap::new(Script::Say(said)).run(&["push", "--json", "--retries", "0"]);
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(run.out.contains("more than 64 steps"), "{run:?}");
}
