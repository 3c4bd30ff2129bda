//! The data that a target can learn from a host.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use relsync_tests::binary::{Cli, Run};
use relsync_tests::release::Release;
use relsync_tests::rig::noise;
use relsync_tests::rogue::{Rogue, Script};

use super::{Trap, claim, field, greeting, inventory, message, number};

/// A target that enumerates the other side's files (CVE-2024-12086, CVE-2026-53797,
/// CVE-2026-53801). It cannot ask for anything. Whatever it claims to have, it gets what a push of
/// this release consists of, and nothing else from the store or the disk.
#[test]
fn a_target_learns_nothing_but_the_release() {
    let trap = Trap::saying(&[]);
    let secret = noise(7, 4096);
    let store = |dir: &str, name: &str, content: &[u8]| {
        let tree = Release::new(trap.cli.dir().join(dir));
        tree.file(name, content);
        let run = trap.cli.run(&["snapshot", "create", dir]);
        assert_eq!(run.code, Some(0), "{run:?}");
    };
    store("other", "lib/app-1.0/priv/data", &secret);
    fs::write(trap.cli.dir().join("outside"), &secret).expect("a file");
    symlink("../outside", trap.cli.dir().join("_rel/link")).expect("a link");

    // The target claims to have the secret as a file of the release, and then asks for more in
    // every possible way.
    let claimed = claim(&secret);
    let said = vec![greeting(&[]), inventory(&claimed, claimed.len() as u64)];
    for kind in [0x00, 0x02, 0x05, 0x0a, 0x20, 0x80, 0x81, 0x82] {
        let mut asking = said.clone();
        asking.push(message(
            kind,
            &[field(1, b"other"), field(2, b"/etc/passwd")],
        ));
        let rogue = Rogue::start(Script::Say(asking));
        let trap = Trap {
            cli: Cli::new(),
            rogue,
        };
        let run = push_from(&trap, trap_tree(&trap, &secret));
        assert_ne!(run.code, Some(0), "{run:?}");
        assert_only_the_release(&trap.rogue.heard(), &secret);
    }
    let result = message(0x87, &[number(1, 0), number(2, 1)]);
    let trap = Trap {
        rogue: Rogue::start(Script::Serve(said, result)),
        ..trap
    };
    let run = trap.run(&["push", "--retries", "0"]);
    // It does not even say which snapshot it runs now.
    assert_eq!(run.code, Some(5), "{run:?}");
    let heard = trap.rogue.heard();
    assert!(
        heard.iter().any(|part| part.get(1) == Some(&0x06)),
        "it was not told to apply"
    );
    assert_only_the_release(&heard, &secret);
}

/// Returns a tree with a link that leads to the secret.
fn trap_tree(trap: &Trap, secret: &[u8]) -> PathBuf {
    let tree = Release::new(trap.cli.dir().join("_rel"));
    tree.file("lib/app-1.0/priv/data", b"what is pushed");
    fs::write(trap.cli.dir().join("outside"), secret).expect("a file");
    symlink("../outside", tree.root().join("link")).expect("a link");
    tree.root().to_owned()
}

fn push_from(trap: &Trap, tree: PathBuf) -> Run {
    let tree = tree.display().to_string();
    trap.run(&["push", "--retries", "0", "-l", &tree])
}

/// Asserts that there are only the requests of a push, and no part of the secret, which is
/// incompressible.
fn assert_only_the_release(heard: &[Vec<u8>], secret: &[u8]) {
    assert!(!heard.is_empty());
    let all = heard.concat();
    for window in secret.windows(8).step_by(8) {
        assert!(
            !all.windows(8).any(|sent| sent == window),
            "the secret was sent"
        );
    }
    for part in heard.iter().filter(|part| part.len() > 1) {
        assert!(
            matches!(part[1], 0x00 | 0x02 | 0x04..=0x06 | 0x0f),
            "{:#04x}",
            part[1]
        );
    }
}
