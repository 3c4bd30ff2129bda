//! A target's text on the terminal.

use std::thread;

use relsync_engine::target::wire::PROTOCOL;
use relsync_tests::rogue::Script;

use super::{Trap, field, greeting, inventory, message, number};

/// A target's text on the user's terminal (log injection, 3.5.0). Control characters are spelled
/// out, wherever the text appears.
#[test]
fn a_target_cannot_drive_the_terminal() {
    let evil = "\u{1b}]0;owned\u{7}\u{9b}2J\r\u{202e}gone\nforged".as_bytes();
    let error = [field(1, b"io"), field(2, evil), field(3, evil)];
    let module = [field(1, evil), field(2, evil), field(3, evil)].concat();
    let result = [
        number(1, 0),
        number(2, 1),
        field(3, &module),
        field(4, evil),
        number(5, 1),
        field(7, &[]),
    ];
    let back = [
        number(1, 1),
        number(2, 1),
        field(6, &error.concat()),
        field(4, evil),
    ];
    let noisy = greeting(&[
        field(3, evil),
        field(14, evil),
        field(11, &[field(1, evil), field(2, evil)].concat()),
    ]);
    let left_out = [inventory(b"RSMF\x01\0", 6), field(4, evil)].concat();
    let progress = [
        message(0x86, &[field(1, evil)]),
        message(0x85, &[field(1, evil)]),
    ];
    let status = [message(
        0x89,
        &[
            number(1, PROTOCOL),
            number(2, 27),
            field(3, evil),
            field(20, &module),
        ],
    )];
    let place = [message(
        0x8c,
        &[number(1, 2), field(2, evil), field(3, evil)],
    )];
    let endings = [
        message(0x88, &error),
        message(0x87, &result),
        message(0x87, &back),
    ];
    let mut scripts = vec![
        (vec![message(0x80, &[field(2, evil)])], "push"),
        ([&[noisy.clone()][..], &status].concat(), "status"),
        ([&[noisy.clone()][..], &status, &place].concat(), "doctor"),
    ];
    for ending in endings {
        let script = [&[noisy.clone(), left_out.clone()][..], &progress, &[ending]].concat();
        scripts.push((script, "push"));
    }
    // Most of the time is spent waiting for the target.
    thread::scope(|scope| {
        for (script, command) in &scripts {
            for more in [&[][..], &["--json"]] {
                scope.spawn(move || check(script, command, more));
            }
        }
    });
}

/// A target with this script is asked. What it says must not drive the terminal, or look like a line
/// of relsync.
fn check(script: &[Vec<u8>], command: &str, more: &[&str]) {
    let trap = Trap::new(Script::Say(script.to_vec()));
    let verbose: &[&str] = if command == "push" {
        &["-v", "--retries", "0"]
    } else {
        &[]
    };
    let mut running = trap.command(&[&[command][..], verbose, more].concat());
    let output = running.output().expect("relsync runs");
    let shown = [output.stdout, output.stderr].concat();
    let shown = String::from_utf8_lossy(&shown);
    assert!(
        shown.contains("owned"),
        "{command}: nothing of it is shown: {shown}"
    );
    for line in shown.lines() {
        let drives = |c: char| c.is_control() && c != '\t' || c == '\u{202e}';
        assert!(!line.contains(drives), "{command}: {line:?}");
        assert!(!line.starts_with("forged"), "{command}: {shown:?}");
    }
}
