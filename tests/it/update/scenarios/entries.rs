//! Every kind of entry, drift, and files that relsync did not install.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use relsync_tests::release::listing;
use relsync_tests::rig::{Rig, noise};

use super::{number, path, push_all, push_nothing};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("permissions");
}

/// A tree with every kind of entry and name.
fn fill(root: &Path) {
    for dir in [
        "bin",
        "empty/also empty",
        "kinds",
        "kinds/dir",
        "kinds/dir2",
    ] {
        fs::create_dir_all(root.join(dir)).expect("a directory");
    }
    let files: [(&[u8], u32); 9] = [
        (b"bin/run", 0o755),
        (b"secret", 0o600),
        (b"name with spaces", 0o644),
        (
            "n\u{e4}me/\u{65e5}\u{672c}\u{8a9e}/\u{1f680}".as_bytes(),
            0o640,
        ),
        (b"raw-\xff\xfe\x80/\xc3(", 0o444),
        (b"new\nline", 0o644),
        (b"kinds/file", 0o644),
        (b"kinds/file2", 0o644),
        (b"kinds/dir/inside", 0o644),
    ];
    for (name, mode) in files {
        let path = root.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, name).expect("a file");
        set_mode(&path, mode);
    }
    set_mode(&root.join("empty"), 0o700);
    let links: [(&str, &str); 6] = [
        ("run", "bin/link"),
        ("../secret", "bin/up"),
        ("no/such/file", "dangling"),
        ("bin", "to-dir"),
        ("file", "kinds/link"),
        ("dir", "kinds/link2"),
    ];
    for (target, name) in links {
        symlink(target, root.join(name)).expect("a link");
    }
}

/// Turns each kind of entry into each other kind.
fn change_kinds(root: &Path) {
    let kinds = root.join("kinds");
    for file in ["file", "file2", "link", "link2"] {
        fs::remove_file(kinds.join(file)).expect("removed");
    }
    for dir in ["dir", "dir2"] {
        fs::remove_dir_all(kinds.join(dir)).expect("removed");
    }
    fs::create_dir(kinds.join("file")).expect("a directory");
    fs::write(kinds.join("file/inside"), "inside").expect("a file");
    symlink("dir", kinds.join("file2")).expect("a link");
    fs::write(kinds.join("dir"), "now a file").expect("a file");
    symlink("dir", kinds.join("dir2")).expect("a link");
    fs::write(kinds.join("link"), "now a file").expect("a file");
    fs::create_dir(kinds.join("link2")).expect("a directory");
    fs::write(kinds.join("link2/inside"), "inside").expect("a file");
}

#[test]
fn entries_of_every_kind_and_name() {
    let rig = Rig::new();
    let root = rig.tree().root().to_owned();
    fill(&root);
    push_all(&rig, &[]);
    push_nothing(&rig);
    let first = listing(&rig.device());

    change_kinds(&root);
    push_all(&rig, &[]);
    push_nothing(&rig);
    assert_eq!(rig.push(&["rollback"], 0)["generation"], 1);
    assert_eq!(listing(&rig.device()), first);

    fs::remove_dir_all(&root).expect("removed");
    fill(&root);
    assert_eq!(rig.push(&[], 0)["outcome"], "up-to-date");
    fs::remove_dir_all(&root).expect("removed");
    rig.tree().file("only", b"one");
    push_all(&rig, &["--max-delete", "100"]);
}

#[test]
fn a_mode_alone_costs_no_content() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.file("script", &noise(1, 50_000));
    push_all(&rig, &[]);
    set_mode(&tree.root().join("script"), 0o755);
    let result = push_all(&rig, &[]);
    assert!(number(&result["pack_bytes"]) < 500, "{result}");
}

#[test]
fn files_that_relsync_did_not_install_stay() {
    let rig = Rig::new();
    let foreign = |root: &Path| {
        for (name, content) in [
            ("log/erlang.log.1", "started"),
            ("data/my.db", "rows"),
            ("stray", "x"),
        ] {
            fs::create_dir_all(root.join(name).parent().expect("a parent")).expect("a directory");
            fs::write(root.join(name), content).expect("a file");
        }
    };
    let is_there = |root: &Path, name: &str| root.join(name).exists();
    foreign(&rig.device());
    let tree = rig.tree();
    tree.file("data/schema", b"1").file("own", b"own");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    fs::write(rig.device().join("log/erlang.log.1"), "started, worked").expect("a file");
    fs::remove_dir_all(tree.root().join("data")).expect("removed");
    let second = rig.push(&[], 0);
    assert_eq!(second["entries"]["removed"], 2, "{second}");
    assert!(
        second["notes"].to_string().contains("data"),
        "it says that the directory stays: {second}"
    );
    for name in ["log/erlang.log.1", "data/my.db", "stray"] {
        assert!(is_there(&rig.device(), name), "{name}");
    }
    assert!(!is_there(&rig.device(), "data/schema"));
    rig.push(&["rollback"], 0);
    assert!(is_there(&rig.device(), "data/schema") && is_there(&rig.device(), "data/my.db"));

    // On first contact, they are removed if the user wants that, and only those that are not
    // protected.
    let other = rig.cli.dir().join("other");
    foreign(&other);
    let arguments = ["-p", path(&other), "--delete", "--protect", "log/"];
    rig.push(&arguments, 0);
    let left = listing(&other).join("\n");
    assert!(
        left.contains("log/erlang.log.1") && left.contains("own"),
        "{left}"
    );
    assert!(!left.contains("stray") && !left.contains("data"), "{left}");
}

#[test]
fn drift_is_shown_and_repaired() {
    let rig = Rig::new();
    let tree = rig.tree();
    for name in ["edited", "deleted", "chmoded", "same-size", "dir/untouched"] {
        tree.file(name, name.as_bytes());
    }
    push_all(&rig, &[]);
    let at = |name: &str| rig.device().join(name);
    fs::write(at("edited"), "something else").expect("a file");
    fs::remove_file(at("deleted")).expect("removed");
    set_mode(&at("chmoded"), 0o777);
    let status = rig.push(&["status"], 0);
    assert_eq!(
        status["drift"]["paths"],
        serde_json::json!(["chmoded", "deleted", "edited"])
    );
    assert_eq!(
        [
            &status["drift"]["mode"],
            &status["drift"]["missing"],
            &status["drift"]["changed"]
        ],
        [1, 1, 1]
    );
    let repaired = push_all(&rig, &[]);
    assert_eq!(repaired["generation"], 2, "{repaired}");
    push_nothing(&rig);

    // Only the hash shows this change, not size or time.
    let modified = fs::metadata(at("same-size"))
        .and_then(|m| m.modified())
        .expect("a time");
    fs::write(at("same-size"), "SAME-SIZE").expect("a file");
    let file = File::options()
        .write(true)
        .open(at("same-size"))
        .expect("a file");
    file.set_modified(modified).expect("a time");
    let status = rig.push(&["status", "--checksum"], 0);
    assert_eq!(status["drift"]["paths"], serde_json::json!(["same-size"]));
    push_all(&rig, &["--checksum"]);
    // A file in a directory that became another kind, and one of relsync's files that is now a
    // directory.
    fs::remove_dir_all(at("dir")).expect("removed");
    fs::write(at("dir"), "a file").expect("a file");
    fs::remove_file(at("edited")).expect("removed");
    fs::create_dir(at("edited")).expect("a directory");
    push_all(&rig, &[]);
}

#[test]
fn a_renamed_directory_costs_no_content() {
    let rig = Rig::new();
    let tree = rig.tree();
    for n in 0..20 {
        tree.file(&format!("lib/app-1/priv/{n}"), &noise(n, 20_000));
    }
    push_all(&rig, &[]);
    fs::rename(tree.root().join("lib/app-1"), tree.root().join("lib/app-2")).expect("renamed");
    let result = push_all(&rig, &[]);
    assert!(number(&result["pack_bytes"]) < 2_000, "{result}");
}

#[test]
fn what_a_foreign_target_holds_serves_as_base() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.file("large", &noise(1, 300_000))
        .file("same", &noise(2, 300_000));
    assert_eq!(rig.cli.run(&["snapshot", "create", "_rel"]).code, Some(0));
    for name in ["large", "same"] {
        fs::copy(tree.root().join(name), rig.device().join(name)).expect("a copy");
    }
    let mut content = noise(1, 300_000);
    content[150_000..150_010].copy_from_slice(b"0123456789");
    tree.file("large", &content);
    let result = push_all(&rig, &["--overwrite", "large"]);
    assert!(number(&result["pack_bytes"]) < 5_000, "{result}");
}
