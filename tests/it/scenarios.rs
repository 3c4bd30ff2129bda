//! What happens in the life of a release: every kind of entry, drift, foreign files, ways to reload, hooks, generations.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use relsync_tests::binary::Run;
use relsync_tests::node::NodeOptions;
use relsync_tests::release::{compile, listing};
use relsync_tests::rig::{Rig, noise};
use serde_json::Value;

/// Hooks that fail whatever is done: where they are not run, the push succeeds.
const POISON: &str =
    "-module(poison).\n-export([presync/0]).\npresync() -> {error, hooks_were_run}.\n";

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("permissions");
}

fn version(n: u32) -> String {
    format!("-export([f/0]).\nf() -> {n}.")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// Pushes, and sees that the device then holds exactly the tree.
fn push_all(rig: &Rig, arguments: &[&str]) -> Value {
    let result = rig.push(arguments, 0);
    assert_eq!(result["outcome"], "applied", "{result}");
    assert_eq!(listing(&rig.device()), listing(rig.tree().root()));
    result
}

/// Pushes again, with hooks that fail when they run, and sees that nothing is done.
fn push_nothing(rig: &Rig) {
    fs::write(rig.cli.dir().join("poison.erl"), POISON).expect("a file");
    let before = rig.state();
    let result = rig.push(&["-H", "poison"], 0);
    assert_eq!(result["outcome"], "up-to-date", "{result}");
    assert_eq!(
        (&result["pack_bytes"], &result["content_bytes"]),
        (&0.into(), &0.into())
    );
    let traffic = number(&result["sent_bytes"]) + number(&result["received_bytes"]);
    assert!(traffic <= 2_000, "{result}");
    assert_eq!(rig.state(), before);
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

/// Makes of each kind of entry each other kind.
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

    // On first contact they go if that is wished, and only those that are not protected.
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

    // What neither size nor time tells, only the hash does.
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
    // A file in a directory that became another kind, and one that relsync's is now a directory.
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
    let result = push_all(&rig, &[]);
    assert!(number(&result["pack_bytes"]) < 5_000, "{result}");
}

#[test]
fn a_node_in_embedded_mode_loads_what_is_new() {
    let rig = Rig::with(NodeOptions {
        args: vec!["-mode".into(), "embedded".into()],
        ..NodeOptions::default()
    });
    let tree = rig.tree();
    tree.app("sample", "1.0", &[("sample", &version(1))]);
    // This node's boot file has kernel and stdlib only; a release that can be updated has crypto too.
    let run = rig.run(&[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains("lacks the application crypto"), "{run:?}");
    assert!(run.err.len() < 800, "{run:?}");
    rig.node.eval(
        "[Dir] = filelib:wildcard(filename:join(code:lib_dir(), \"crypto-*/ebin\")), \
         true = code:add_pathz(Dir), ok = application:load(crypto), {module, crypto} = code:load_file(crypto)",
    );
    let first = push_all(&rig, &[]);
    assert_eq!(first["modules"][0]["status"], "load", "{first}");
    assert_eq!(rig.node.eval("sample:f()"), "1");
    tree.app(
        "sample",
        "1.0",
        &[("sample", &version(2)), ("another", &version(3))],
    );
    push_all(&rig, &[]);
    assert_eq!(rig.node.eval("{sample:f(), another:f()}"), "{2,3}");
    rig.push(&["rollback"], 0);
    assert_eq!(
        rig.node.eval("{sample:f(), code:is_loaded(another)}"),
        "{1,false}"
    );
}

#[test]
fn sticky_modules_need_a_restart() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.app("sample", "1.0", &[("sample", &version(1))]);
    push_all(&rig, &[]);
    let ebin = rig.device().join("lib/sample-1.0/ebin");
    rig.node
        .eval(&format!("1 = sample:f(), ok = code:stick_dir({ebin:?})"));
    tree.app("sample", "1.0", &[("sample", &version(2))]);
    let result = rig.push(&[], 4);
    assert_eq!(
        (&result["outcome"], &result["modules"][0]["status"]),
        (&"applied".into(), &"sticky".into())
    );
    assert_eq!(listing(&rig.device()), listing(tree.root()));
    assert_eq!(rig.node.eval("sample:f()"), "1");
}

/// A process that stays in the code it was started with.
fn looping(n: u32) -> String {
    format!(
        "-export([f/0, start/0, loop/0]).\nf() -> {n}.\nstart() -> register(looper, spawn(fun loop/0)).\nloop() -> receive stop -> ok end."
    )
}

#[test]
fn code_in_use_is_not_purged_softly() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.app(
        "sample",
        "1.0",
        &[("sample", &looping(1)), ("other", &version(1))],
    );
    push_all(&rig, &[]);
    rig.node.eval("sample:start(), other:f()");
    tree.app("sample", "1.0", &[("sample", &looping(2))]);
    push_all(&rig, &[]);
    assert_eq!(
        rig.node.eval("{sample:f(), is_pid(whereis(looper))}"),
        "{2,true}"
    );

    tree.app(
        "sample",
        "1.0",
        &[("sample", &looping(3)), ("other", &version(3))],
    );
    rig.refused(
        &[],
        1,
        "in_use",
        &["sample", "looper", "nothing was changed"],
    );
    assert_eq!(
        rig.node
            .eval("{sample:f(), other:f(), is_pid(whereis(looper))}"),
        "{2,1,true}"
    );
    assert_eq!(
        rig.push(&["--dry-run"], 0)["modules"][1]["status"],
        "in_use"
    );

    push_all(&rig, &["--reload", "hard"]);
    assert_eq!(
        rig.node.eval("{sample:f(), other:f(), whereis(looper)}"),
        "{3,3,undefined}"
    );
}

#[test]
fn reload_none_changes_files_only() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.app("sample", "1.0", &[("sample", &version(1))]);
    push_all(&rig, &[]);
    assert_eq!(rig.node.eval("sample:f()"), "1");
    tree.app("sample", "1.0", &[("sample", &version(2))]);
    push_all(&rig, &["--reload", "none"]);
    assert_eq!(rig.node.eval("sample:f()"), "1");
    let status = rig.push(&["status"], 0);
    assert_eq!(status["modules"][0]["module"], "sample", "{status}");
    // The next push that reloads brings the code up to date as well.
    tree.file("more", b"more");
    push_all(&rig, &[]);
    assert_eq!(rig.node.eval("sample:f()"), "2");
}

#[test]
fn on_load_runs_and_its_failure_takes_everything_back() {
    let rig = Rig::new();
    let tree = rig.tree();
    let module = |n: u32, answer: &str| {
        format!(
            "-export([f/0]).\n-on_load(init/0).\ninit() -> persistent_term:put(loaded, {n}), {answer}.\nf() -> {n}."
        )
    };
    tree.app(
        "sample",
        "1.0",
        &[("sample", &module(1, "ok")), ("other", &version(1))],
    );
    push_all(&rig, &[]);
    assert_eq!(
        rig.node
            .eval("{sample:f(), other:f(), persistent_term:get(loaded)}"),
        "{1,1,1}"
    );
    tree.app("sample", "1.0", &[("sample", &module(2, "ok"))]);
    push_all(&rig, &[]);
    assert_eq!(
        rig.node.eval("{sample:f(), persistent_term:get(loaded)}"),
        "{2,2}"
    );
    tree.app(
        "sample",
        "1.0",
        &[
            ("sample", &module(3, "{error, no_hardware}")),
            ("other", &version(3)),
        ],
    );
    rig.refused(&[], 3, "on_load", &["on_load", "sample"]);
    assert_eq!(rig.node.eval("{sample:f(), other:f()}"), "{2,1}");
    tree.app("sample", "1.0", &[("sample", &module(4, "ok"))]);
    push_all(&rig, &[]);
    assert_eq!(rig.node.eval("{sample:f(), other:f()}"), "{4,3}");
}

#[test]
fn applications_are_restarted() {
    let rig = Rig::new();
    let tree = rig.tree();
    let make = |n: u32| {
        let app = "-behaviour(application).\n-export([start/2, stop/1]).\n\
                   start(_, _) -> sample_server:start_link().\nstop(_) -> ok.";
        // The state is of the version that made it: only a restart changes it.
        let server = format!(
            "-behaviour(gen_server).\n-export([start_link/0, init/1, handle_call/3, handle_cast/2]).\n\
             start_link() -> gen_server:start_link({{local, ?MODULE}}, ?MODULE, [], []).\n\
             init([]) -> {{ok, {n}}}.\nhandle_call(_, _, S) -> {{reply, {{S, {n}}}, S}}.\nhandle_cast(_, S) -> {{noreply, S}}."
        );
        tree.app(
            "sample",
            "1.0",
            &[("sample_app", app), ("sample_server", &server)],
        );
        tree.file(
            "lib/sample-1.0/ebin/sample.app",
            b"{application, sample, [{vsn, \"1.0\"}, {modules, [sample_app, sample_server]}, {registered, [sample_server]}, \
              {applications, [kernel, stdlib]}, {mod, {sample_app, []}}]}.",
        );
    };
    make(1);
    push_all(&rig, &[]);
    rig.node.eval("ok = application:start(sample)");
    make(2);
    push_all(&rig, &[]);
    assert_eq!(rig.node.eval("gen_server:call(sample_server, x)"), "{1,2}");
    make(3);
    push_all(&rig, &["--reload", "apps"]);
    assert_eq!(rig.node.eval("gen_server:call(sample_server, x)"), "{3,3}");
}

/// Waits until a running push has come to a line of its output that holds a text.
fn await_line(running: &mut Child, text: &str) -> impl Iterator<Item = String> + use<> {
    use std::io::{BufRead, BufReader};
    let mut lines = BufReader::new(running.stdout.take().expect("its output"))
        .lines()
        .map(|line| line.expect("text"));
    let found = lines.find(|line| line.contains(text));
    assert!(found.is_some(), "{text}");
    lines
}

#[test]
fn of_two_pushes_at_once_the_second_is_told_who_is_first() {
    let rig = Rig::new();
    rig.release(1);
    let source = "-module(slow).\n-export([presync/0]).\n\
                  presync() -> register(slow, self()), io:format(\"waiting~n\"), receive go -> ok end.\n";
    fs::write(rig.cli.dir().join("slow.erl"), source).expect("a file");
    let mut first = rig
        .command(&["--json", "-H", "slow.erl"])
        .env("USER", "first-user")
        .stdout(Stdio::piped())
        .spawn()
        .expect("relsync runs");
    let rest = await_line(&mut first, "waiting");
    rig.refused(&[], 1, "busy", &["first-user"]);
    rig.node.eval("slow ! go");
    let last = rest.last().expect("a result");
    assert!(first.wait().expect("an end").success(), "{last}");
    assert_eq!(rig.push(&[], 0)["outcome"], "up-to-date");
}

#[test]
fn hooks_come_as_beam_as_source_and_are_compiled_by_the_target() {
    let rig = Rig::new();
    let tree = rig.tree();
    let body = "-export([presync/0, postsync/1]).\npresync() -> io:format(\"hello from presync~n\").\n\
                postsync(#{generation := G}) -> io:format(\"generation ~b~n\", [G]).";
    compile(rig.cli.dir(), &[("beam_hooks", body)]);
    let source = rig.cli.dir().join("source_hooks.erl");
    fs::write(&source, format!("-module(source_hooks).\n{body}\n")).expect("a file");
    let no_path = rig.cli.dir().join("no-path");
    fs::create_dir(&no_path).expect("a directory");
    let table: [(&str, Option<&PathBuf>); 4] = [
        ("beam_hooks", None),
        ("beam_hooks.beam", None),
        ("source_hooks", None),
        ("source_hooks", Some(&no_path)),
    ];
    for (n, (hooks, search_path)) in (1..).zip(table) {
        tree.file("n", n.to_string().as_bytes());
        let mut command = rig.command(&["-H", hooks]);
        if let Some(dir) = search_path {
            command.env("PATH", dir);
        }
        let run = Run::of(&mut command);
        assert_eq!(run.code, Some(0), "{hooks}: {run:?}");
        for line in [
            "| hello from presync".to_owned(),
            format!("| generation {n}"),
        ] {
            assert!(run.out.contains(&line), "{hooks}: {run:?}");
        }
        let module = hooks.trim_end_matches(".beam");
        assert_eq!(rig.node.eval(&format!("code:is_loaded({module})")), "false");
    }
}

#[test]
fn generations_are_kept_and_returned_to() {
    let rig = Rig::new();
    let mut listings = Vec::new();
    for n in 1..=5 {
        rig.release(n);
        push_all(&rig, &["--keep", "3"]);
        assert_eq!(rig.node.eval("sample:version()"), n.to_string());
        listings.push(listing(&rig.device()));
    }
    let status = rig.push(&["status"], 0);
    assert_eq!(status["kept"], serde_json::json!([2, 3, 4]), "{status}");
    let runs = |generation: u32| {
        let index = usize::try_from(generation).expect("an index") - 1;
        assert_eq!(listing(&rig.device()), listings[index], "{generation}");
        assert_eq!(rig.node.eval("sample:version()"), generation.to_string());
        let current = &rig.push(&["status"], 0)["current"];
        assert_eq!(current["generation"], generation, "{current}");
    };
    rig.push(&["rollback"], 0);
    runs(4);
    rig.push(&["rollback", "--to", "2"], 0);
    runs(2);
    rig.refused(
        &["rollback"],
        1,
        "no_generation",
        &["no earlier generation"],
    );
    rig.refused(&["rollback", "--to", "77"], 1, "no_generation", &["77"]);

    // What the target does not keep comes from the store, and a generation can be named by its snapshot.
    let list = rig.push(&["snapshot", "list"], 0);
    assert_eq!(list["outcome"], "ok", "{list}");
    rig.release(1);
    let first = push_all(&rig, &[]);
    assert_eq!(rig.node.eval("sample:version()"), "1");
    rig.release(4);
    push_all(&rig, &["--keep", "1"]);
    assert_eq!(
        rig.push(&["status"], 0)["kept"].as_array().map(Vec::len),
        Some(1)
    );
    let snapshot = first["snapshot"].as_str().expect("an id");
    rig.push(&["rollback", "--to", snapshot], 0);
    assert_eq!(rig.node.eval("sample:version()"), "1");
}

#[test]
fn a_writable_path_stands_before_the_destination() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.app(
        "sample",
        "1.0",
        &[("sample", &version(1)), ("kept", &version(1))],
    );
    // As it would leave the factory: the release is there, relsync has not seen it.
    let copied = Command::new("cp")
        .arg("-r")
        .arg(tree.root().join("lib"))
        .arg(rig.device())
        .status();
    assert!(copied.expect("cp runs").success());
    let ebin = rig.device().join("lib/sample-1.0/ebin");
    rig.node.eval(&format!(
        "true = code:add_patha({ebin:?}), {{1, 1}} = {{sample:f(), kept:f()}}"
    ));
    let factory = listing(&rig.device());
    let writable = rig.cli.dir().join("rw");
    fs::create_dir(&writable).expect("a directory");
    let arguments = ["-q", path(&writable)];

    tree.app("sample", "1.0", &[("sample", &version(2))]);
    tree.app("added", "1.0", &[("added", &version(7))]);
    let result = rig.push(&arguments, 0);
    assert_eq!(result["outcome"], "applied", "{result}");
    assert_eq!(
        listing(&rig.device()),
        factory,
        "the destination is not written to"
    );
    assert_eq!(
        rig.node.eval("{sample:f(), kept:f(), added:f()}"),
        "{2,1,7}"
    );
    let new_ebin = writable.join("lib/sample-1.0/ebin");
    assert_eq!(
        rig.node.eval("code:which(sample)"),
        format!("{:?}", new_ebin.join("sample.beam"))
    );
    let again = rig.push(&arguments, 0);
    assert_eq!(again["outcome"], "up-to-date", "{again}");
    tree.app("sample", "1.0", &[("sample", &version(3))]);
    rig.push(&arguments, 0);
    assert_eq!(rig.node.eval("{sample:f(), kept:f()}"), "{3,1}");
    rig.push(&[&["rollback"][..], &arguments].concat(), 0);
    assert_eq!(rig.node.eval("{sample:f(), kept:f()}"), "{2,1}");
    assert_eq!(listing(&rig.device()), factory);
}

/// The status, as soon as the node has noticed that the host of the session before is gone.
fn status_once_free(rig: &Rig) -> Value {
    let start = Instant::now();
    loop {
        let run = rig.run(&["status", "--json"]);
        let result = run.result();
        let is_busy = result["error"]["kind"] == "busy";
        if !(is_busy && start.elapsed() < Duration::from_secs(20)) {
            assert_eq!(run.code, Some(0), "{run:?}");
            return result;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn hooks_are_told_what_changes() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.app(
        "sample",
        "1.0",
        &[("sample", &version(1)), ("gone", &version(1))],
    );
    push_all(&rig, &[]);
    fs::remove_file(tree.root().join("lib/sample-1.0/ebin/gone.beam")).expect("removed");
    tree.app("sample", "1.0", &[("sample", &version(2))]);
    tree.app("other", "0.1.0-rc.1", &[("other", &version(1))]);
    let source = "-module(teller).\n-export([presync/1, postsync/1, rollback/1, health/0]).\n\
                  presync(C) -> tell(presync, C).\npostsync(C) -> tell(postsync, C).\n\
                  rollback(C) -> tell(rollback, C).\nhealth() -> {error, sick}.\n\
                  tell(Point, #{point := P, snapshot := <<_:256>> = S, base := <<_:256>> = B, generation := G,\n\
                  modules := M, applications := A}) ->\n\
                  io:format(\"~p ~p ~p ~p ~p ~p~n\", [Point, P, S =:= B, G, M, A]).\n";
    fs::write(rig.cli.dir().join("teller.erl"), source).expect("a file");
    let run = rig.run(&["-H", "teller"]);
    assert_eq!(run.code, Some(3), "{run:?}");
    let what = "2 [gone,other,sample] [other,sample]";
    for (point, kind, is_base) in [
        ("presync", "update", false),
        ("postsync", "update", false),
        ("postsync", "undo", true),
        ("rollback", "undo", true),
    ] {
        let line = format!("| {point} {kind} {is_base} {what}\n");
        assert!(run.out.contains(&line), "{line}: {run:?}");
    }
}

#[test]
fn a_module_of_the_release_can_be_the_hooks() {
    let rig = Rig::new();
    let tree = rig.tree();
    let module = |n: u32| {
        format!(
            "-export([f/0, postsync/0]).\nf() -> {n}.\npostsync() -> io:format(\"hooks {n}~n\")."
        )
    };
    tree.app("sample", "1.0", &[("sample", &module(1))]);
    push_all(&rig, &["-H", "sample"]);
    assert_eq!(rig.node.eval("sample:f()"), "1");
    tree.app("sample", "1.0", &[("sample", &module(2))]);
    let run = rig.run(&["-H", "sample"]);
    assert!(
        run.code == Some(0) && run.out.contains("| hooks 2"),
        "{run:?}"
    );
    assert_eq!(listing(&rig.device()), listing(tree.root()));
    assert_eq!(rig.node.eval("sample:f()"), "2");
    assert_eq!(rig.push(&["status"], 0)["modules"], serde_json::json!([]));
}

#[test]
fn a_push_after_a_cut_sends_the_rest_only() {
    use relsync_tests::proxy::{Cut, Proxy};
    let rig = Rig::new();
    rig.release(1);
    rig.noise("noise", 2_000_000);
    let proxy = Proxy::start(&rig.node, &[Cut::After(1_500_000)]);
    let port = proxy.port().to_string();
    // Slow enough that what was sent has been taken when the link breaks.
    let arguments = ["--dist-port", &port, "--retries", "0", "--bwlimit", "2MB"];
    rig.refused(&arguments, 5, "lost", &[]);
    let status = status_once_free(&rig);
    let held = number(&status["incoming_bytes"]);
    assert!(held >= 1_000_000, "{status}");
    let rest = push_all(&rig, &[]);
    let sent = number(&rest["sent_bytes"]);
    assert!(sent < number(&rest["pack_bytes"]) - held + 20_000, "{rest}");
}

#[test]
fn a_hook_that_never_returns_is_ended() {
    let rig = Rig::new();
    rig.release(1);
    push_all(&rig, &[]);
    rig.load();
    rig.release(2);
    let hooks = |point: &str, body: &str| {
        let source = format!("-module(hooks).\n-export([{point}/0]).\n{point}() -> {body}.\n");
        fs::write(rig.cli.dir().join("hooks.erl"), source).expect("a file");
    };
    let table = [
        ("presync", "error(boom)", 1, "boom"),
        ("presync", "{error, not_now}", 1, "not_now"),
        ("presync", "receive never -> ok end", 1, "presync"),
        ("postsync", "error(boom)", 3, "boom"),
        ("postsync", "exit(gone)", 3, "gone"),
        ("postsync", "throw(thrown)", 3, "thrown"),
        ("postsync", "receive never -> ok end", 3, "postsync"),
        ("health", "{error, sick}", 3, "sick"),
        ("health", "receive never -> ok end", 3, "health"),
    ];
    for (point, body, code, part) in table {
        hooks(point, body);
        let start = Instant::now();
        rig.refused(
            &["-H", "hooks", "--hook-timeout", "500ms"],
            code,
            "hooks",
            &[part],
        );
        assert!(start.elapsed() < Duration::from_secs(60), "{point} {body}");
        assert_eq!(
            rig.node.eval("{sample:version(), code:is_loaded(hooks)}"),
            "{1,false}"
        );
    }
    push_all(&rig, &[]);
}
