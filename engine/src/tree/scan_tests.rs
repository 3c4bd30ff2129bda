use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;
use crate::tree::exclude::Action;

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::create_dir_all(dir.path().join("lib/app-1.0/ebin")).expect("mkdir");
    fs::create_dir_all(dir.path().join("empty")).expect("mkdir");
    fs::write(dir.path().join("lib/app-1.0/ebin/a.beam"), "FOR1").expect("write");
    dir
}

fn paths(walk: &Walk) -> Vec<String> {
    walk.found
        .iter()
        .map(|found| found.path.to_string())
        .collect()
}

fn problems(root: &Path) -> Vec<String> {
    match walk(root, &Rules::default()) {
        Err(ScanError::Entries { problems }) => problems.iter().map(ToString::to_string).collect(),
        other => panic!("expected problems, got {other:?}"),
    }
}

#[test]
fn everything_is_found_in_order() {
    let dir = tree();
    let start = dir.path().join("start");
    fs::write(&start, "x").expect("write");
    fs::set_permissions(&start, Permissions::from_mode(0o4755)).expect("chmod");
    let walk = walk(dir.path(), &Rules::default()).expect("walk");
    let expected = [
        "empty",
        "lib",
        "lib/app-1.0",
        "lib/app-1.0/ebin",
        "lib/app-1.0/ebin/a.beam",
        "start",
    ];
    assert_eq!(paths(&walk), expected);
    let FoundKind::File { mode, stat } = &walk.found[5].kind else {
        panic!("no file: {:?}", walk.found[5]);
    };
    assert_eq!((mode.bits(), stat.size), (0o4755, 1));
    assert_eq!(walk.left_out, []);
}

#[test]
fn links_are_kept_and_not_followed() {
    let dir = tree();
    for (target, link) in [
        ("..", "lib/up"),
        (".", "self"),
        ("/nowhere\u{e9}", "broken"),
        ("loop", "loop"),
    ] {
        symlink(target, dir.path().join(link)).expect("symlink");
    }
    let walk = walk(dir.path(), &Rules::default()).expect("walk");
    let links: Vec<String> = walk
        .found
        .iter()
        .filter_map(|found| match &found.kind {
            FoundKind::Symlink { target } => Some(format!("{} -> {target}", found.path)),
            _ => None,
        })
        .collect();
    assert_eq!(
        links,
        [
            "broken -> /nowhereé",
            "lib/up -> ..",
            "loop -> loop",
            "self -> ."
        ]
    );
    assert_eq!(walk.found.len(), 5 + 4);
}

#[test]
fn names_are_raw_bytes() {
    let dir = tree();
    let name = OsStr::from_bytes(b"\xff\xfe name\n");
    fs::write(dir.path().join(name), "x").expect("write");
    let walk = walk(dir.path(), &Rules::default()).expect("walk");
    assert_eq!(
        walk.found.last().map(|found| found.path.as_bytes()),
        Some(&b"\xff\xfe name\n"[..])
    );
}

#[test]
fn what_no_release_can_hold_is_named() {
    let dir = tree();
    let _listener = UnixListener::bind(dir.path().join("lib/socket")).expect("bind");
    let made = Command::new("mkfifo").arg(dir.path().join("pipe")).status();
    assert!(made.expect("mkfifo").success());
    let expected = [
        "`lib/socket` is a socket, which no release can hold",
        "`pipe` is a FIFO, which no release can hold",
    ];
    assert_eq!(problems(dir.path()), expected);
}

#[test]
fn unreadable_directories_are_named() {
    let dir = tree();
    let locked = dir.path().join("empty");
    fs::set_permissions(&locked, Permissions::from_mode(0o000)).expect("chmod");
    // Root can read everything, so nothing is refused.
    if fs::read_dir(&locked).is_err() {
        assert!(problems(dir.path())[0].starts_with("`empty` cannot be read"));
    } else {
        assert!(walk(dir.path(), &Rules::default()).is_ok());
    }
    fs::set_permissions(&locked, Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn wrong_roots_have_errors_of_their_own() {
    let dir = tree();
    let rules = Rules::default();
    let missing = walk(&dir.path().join("nothing"), &rules);
    assert!(
        matches!(missing, Err(ScanError::Root { .. })),
        "{missing:?}"
    );
    let file = walk(&dir.path().join("lib/app-1.0/ebin/a.beam"), &rules);
    assert!(
        matches!(file, Err(ScanError::NotADirectory { .. })),
        "{file:?}"
    );
    let empty = walk(&dir.path().join("empty"), &rules);
    assert!(
        matches!(empty, Err(ScanError::Empty { excluded: 0, .. })),
        "{empty:?}"
    );
    fs::create_dir(dir.path().join("empty/.relsync")).expect("mkdir");
    let state_only = walk(&dir.path().join("empty"), &rules);
    assert!(
        matches!(state_only, Err(ScanError::Empty { excluded: 1, .. })),
        "{state_only:?}"
    );
}

#[test]
fn what_is_left_out_is_reported_once() {
    let dir = tree();
    fs::create_dir_all(dir.path().join("lib/kernel-9.0/ebin")).expect("mkdir");
    fs::write(dir.path().join("lib/kernel-9.0/ebin/k.beam"), "FOR1").expect("write");
    fs::create_dir(dir.path().join(".relsync")).expect("mkdir");
    fs::write(dir.path().join("nif.so"), "ELF").expect("write");
    fs::write(dir.path().join("erl.log"), "log").expect("write");
    let mut rules = Rules::default();
    rules.push(Action::Exclude, "*.log").expect("pattern");
    let walk = walk(dir.path(), &rules).expect("walk");
    let left_out: Vec<_> = walk
        .left_out
        .iter()
        .map(|left| {
            (
                left.path.as_slice(),
                left.reason.to_string(),
                left.stat.map(|stat| stat.size),
            )
        })
        .collect();
    let expected = [
        (&b".relsync"[..], "relsync's own state".to_owned(), None),
        (b"erl.log", "--exclude *.log".to_owned(), Some(3)),
        (b"lib/kernel-9.0", "system library".to_owned(), None),
        (b"nif.so", "shared library".to_owned(), Some(3)),
    ];
    assert_eq!(left_out, expected);
    assert!(!paths(&walk).iter().any(|path| path.contains("kernel")));
}

#[test]
fn racy_stats() {
    let at = |mtime_ns, ctime_ns| FileStat {
        size: 1,
        mtime_ns,
        ctime_ns,
        inode: 1,
    };
    const S: i64 = NS_PER_S;
    let table = [
        (at(S + 1, S + 1), 2 * S, false),
        (at(2 * S - 1, S + 1), 2 * S, true),
        (at(S + 1, 2 * S - 1), 2 * S, true),
        (at(S + 1, S + 1), S + 1, true),
        // Whole seconds may be rounded.
        (at(S, S), 2 * S, true),
        (at(S, S), 3 * S, true),
        (at(S, S), 3 * S + 1, false),
        // This time lies in the future.
        (at(9 * S + 1, S + 1), 5 * S, true),
        (at(i64::MAX, i64::MAX), i64::MAX, true),
    ];
    for (stat, now_ns, racy) in table {
        assert_eq!(stat.is_racy(now_ns), racy, "{stat:?} at {now_ns}");
    }
}

type ReadResult = Result<(Read, Vec<u8>), ReadFileError<()>>;

fn root_dir(path: &Path) -> RootDir {
    RootDir::open(path.to_owned()).expect("the root")
}

fn read(root: &Path, path: &str, mut meanwhile: impl FnMut(u32)) -> (u32, ReadResult) {
    let mut attempts = 0;
    let read = read_file(&root_dir(root), path.as_bytes(), |file, _| {
        let mut content = Vec::new();
        io::Read::read_to_end(file, &mut content).map_err(ConsumeError::Read)?;
        attempts += 1;
        meanwhile(attempts);
        Ok(content)
    });
    (attempts, read)
}

#[test]
fn a_file_that_changes_is_read_again() {
    let dir = tree();
    let path = dir.path().join("file");
    fs::write(&path, "old").expect("write");
    let (attempts, made) = read(dir.path(), "file", |attempt| {
        if attempt == 1 {
            fs::write(&path, "newer").expect("write");
        }
    });
    assert_eq!(attempts, 2);
    assert_eq!(made.expect("read").1, b"newer");
    let (attempts, made) = read(dir.path(), "file", |attempt| {
        fs::write(&path, "x".repeat(attempt as usize + 10)).expect("write");
    });
    assert_eq!(attempts, READ_ATTEMPTS);
    assert!(
        matches!(made, Err(ReadFileError::File(ProblemKind::Changing))),
        "{made:?}"
    );
}

#[test]
fn a_file_that_became_something_else_is_not_read() {
    let dir = tree();
    let path = dir.path().join("file");
    let (_, gone) = read(dir.path(), "file", |_| ());
    assert!(
        matches!(gone, Err(ReadFileError::File(ProblemKind::Unreadable(_)))),
        "{gone:?}"
    );
    symlink("lib/app-1.0/ebin/a.beam", &path).expect("symlink");
    let (attempts, link) = read(dir.path(), "file", |_| ());
    assert!(
        matches!(link, Err(ReadFileError::File(ProblemKind::Changing))),
        "{link:?}"
    );
    assert_eq!(attempts, 0);
}

/// A directory like `lib`, with other content, outside the root.
fn outside(dir: &Path) -> PathBuf {
    let outside = dir.join("outside");
    fs::create_dir_all(outside.join("app-1.0/ebin")).expect("mkdir");
    fs::write(outside.join("app-1.0/ebin/a.beam"), "SECRET").expect("write");
    fs::write(outside.join("app-1.0/ebin/b.beam"), "SECRET").expect("write");
    outside
}

#[test]
fn no_link_is_followed_on_the_way_to_a_file() {
    let dir = tree();
    let outside = outside(dir.path());
    let release = dir.path().join("release");
    fs::create_dir(&release).expect("mkdir");
    for target in [
        outside.as_path(),
        Path::new("../outside"),
        Path::new("../lib"),
    ] {
        let link = release.join("lib");
        symlink(target, &link).expect("symlink");
        let (attempts, made) = read(&release, "lib/app-1.0/ebin/a.beam", |_| ());
        assert!(
            matches!(made, Err(ReadFileError::File(ProblemKind::Changing))),
            "{made:?}"
        );
        assert_eq!(attempts, 0);
        for path in ["lib", "lib/app-1.0", "lib/app-1.0/ebin"] {
            let opened = root_dir(&release).listing(path.as_bytes());
            assert!(opened.is_err_and(is_something_else), "{path}");
        }
        fs::remove_file(link).expect("unlink");
    }
    let (attempts, made) = read(&release, "../outside/app-1.0/ebin/a.beam", |_| ());
    assert!(made.is_err(), "{made:?}");
    assert_eq!(attempts, 0);
}

#[test]
fn a_file_that_became_a_fifo_is_not_waited_for() {
    let dir = tree();
    let made = Command::new("mkfifo").arg(dir.path().join("file")).status();
    assert!(made.expect("mkfifo").success());
    let (attempts, pipe) = read(dir.path(), "file", |_| ());
    assert!(
        matches!(pipe, Err(ReadFileError::File(ProblemKind::Changing))),
        "{pipe:?}"
    );
    assert_eq!(attempts, 0);
}

/// Returns the content that a scan reads at a moment; `None` if a directory changed meanwhile.
fn contents(root: &Path) -> Option<Vec<(String, Vec<u8>)>> {
    let walk = walk(root, &Rules::default()).ok()?;
    let files = walk.found.iter().filter_map(|found| match found.kind {
        FoundKind::File { .. } => Some(&found.path),
        _ => None,
    });
    files
        .map(|path| {
            let (_, content) = read_file(&walk.root, path.as_bytes(), |file, _| {
                let mut content = Vec::new();
                io::Read::read_to_end(file, &mut content).map_err(ConsumeError::<()>::Read)?;
                Ok(content)
            })
            .ok()?;
            Some((path.to_string(), content))
        })
        .collect()
}

#[test]
fn a_directory_that_turns_into_a_link_and_back_leads_nowhere() {
    let dir = tempfile::tempdir().expect("tempdir");
    let release = dir.path().join("release");
    fs::rename(tree().keep(), &release).expect("rename");
    let (lib, link) = (release.join("lib"), dir.path().join("link"));
    symlink(outside(dir.path()), &link).expect("symlink");
    // The clock ends both, so that a failure of one does not leave the other running.
    let begun = Instant::now();
    let is_on = || begun.elapsed() < Duration::from_secs(1);
    let (mut disturbed, mut whole) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while is_on() {
                renameat_with(CWD, &lib, CWD, &link, RenameFlags::EXCHANGE).expect("an exchange");
            }
        });
        while is_on() {
            match contents(&release) {
                None => disturbed += 1,
                Some(files) if files.is_empty() => {}
                Some(files) => {
                    assert_eq!(
                        files,
                        [("lib/app-1.0/ebin/a.beam".into(), b"FOR1".to_vec())]
                    );
                    whole += 1;
                }
            }
        }
    });
    assert!(disturbed > 0, "{whole} scans met nobody");
}
