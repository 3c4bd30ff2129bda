//! The command when its link is cut, its user interrupts it, or its target is gone.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use relsync_engine::limits;
use relsync_engine::pack::{Header, RecordReader, Sealer};
use relsync_tests::binary::Run;
use relsync_tests::proxy::{Cut, Proxy};
use relsync_tests::rig::Rig;

#[test]
fn a_cut_connection_is_picked_up_again() {
    let rig = Rig::new();
    rig.release(1);
    rig.noise("noise", 2_500_000);
    let proxy = Proxy::start(
        &rig.node,
        &[Cut::After(1_500_000), Cut::After(1_200_000), Cut::Never],
    );
    let dist_port = proxy.port().to_string();
    let pushed = rig.push(&["--dist-port", &dist_port, "--bwlimit", "5MB"], 0);
    assert_eq!(pushed["outcome"], "applied");
    let sent = pushed["sent_bytes"].as_u64().expect("a number");
    // If each session had started from the beginning, this would be 5 MB.
    assert!(sent < 4_500_000, "{sent}");
    let proxy = Proxy::start(&rig.node, &[Cut::After(50_000)]);
    rig.noise("noise", 300_000);
    let dist_port = proxy.port().to_string();
    let failed = rig.push(&["--dist-port", &dist_port, "--retries", "0"], 5);
    assert_eq!(failed["error"]["kind"], "lost", "{failed}");
}

#[test]
fn an_interrupted_push_leaves_the_target_and_goes_on_later() {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.noise("noise", 300_000);
    let mut command = rig.command(&["--json", "--bwlimit", "100kB"]);
    let mut running = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("relsync runs");
    let mut lines = BufReader::new(running.stdout.take().expect("its output")).lines();
    let sending = |line: &String| line.contains("\"progress\"");
    lines
        .by_ref()
        .map(|line| line.expect("text"))
        .find(sending)
        .expect("progress");
    signal(&running, "-INT");
    let last = lines
        .map(|line| line.expect("text"))
        .last()
        .expect("a result");
    assert_eq!(running.wait().expect("an end").code(), Some(130));
    let result: serde_json::Value = serde_json::from_str(&last).expect("JSON");
    assert_eq!(
        (&result["outcome"], &result["error"]["kind"]),
        (&"failed".into(), &"interrupted".into())
    );
    let status = rig.push(&["status"], 0);
    assert_eq!(status["current"]["generation"], 1);
    assert!(
        status["incoming_bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 0),
        "{status}"
    );
    let again = rig.run(&[]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.out.contains("Sending the other "), "{again:?}");
    assert_eq!(rig.push(&["status"], 0)["current"]["generation"], 2);
}

#[test]
fn an_interrupted_push_goes_on_whatever_is_said_of_the_link() {
    let rig = Rig::new();
    rig.release(1);
    rig.noise("noise", 2_500_000);
    interrupt(&rig, &["--link-rate", "10M"]);
    let pushed = rig.push(&["--link-rate", "1k"], 0);
    assert_eq!(pushed["outcome"], "applied");
    let sent = pushed["sent_bytes"].as_u64().expect("a number");
    assert!(sent < 1_600_000, "{sent}");
}

/// Each record of what the target has is whole, but the pack that this host sends does not begin with them.
#[test]
fn a_part_of_another_hosts_pack_is_not_continued() {
    let rig = Rig::new();
    rig.release(1);
    rig.noise("noise", 2_500_000);
    interrupt(&rig, &[]);
    let incoming = rig.device().join(".relsync/incoming");
    let mut files = fs::read_dir(incoming).expect("a directory");
    let file = files.next().expect("a pack").expect("a pack").path();
    let mut pack = fs::read(&file).expect("a part of a pack");
    let limit = limits::PACK_HEADER_RECORD_BYTES;
    let record = RecordReader::new(&pack).record(limit).expect("a record");
    let mut header = Header::decode(record, 0).expect("a header");
    header.content_bytes += 1;
    let record = Sealer::default().record(&header.encode());
    pack[..record.len()].copy_from_slice(&record);
    fs::write(&file, pack).expect("a file");
    let pushed = rig.run(&[]);
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
    let told = format!("{}{}", pushed.out, pushed.err);
    assert!(told.contains("sending the whole pack"), "{told}");
    let installed = fs::read(rig.device().join("noise")).expect("a file");
    assert_eq!(
        installed,
        fs::read(rig.tree().root().join("noise")).expect("a file")
    );
}

/// Pushes until the target has more than a mebibyte of the pack, and the link is cut.
fn interrupt(rig: &Rig, arguments: &[&str]) {
    let proxy = Proxy::start(&rig.node, &[Cut::After(1_900_000)]);
    let dist_port = proxy.port().to_string();
    let cut = ["--dist-port", &dist_port, "--retries", "0"];
    let failed = rig.push(&[&cut[..], arguments].concat(), 5);
    assert_eq!(failed["error"]["kind"], "lost", "{failed}");
    let begun = rig.push(&["status"], 0)["incoming_bytes"].as_u64();
    assert!(begun.is_some_and(|bytes| bytes > 1 << 20), "{begun:?}");
}

#[test]
fn a_loss_is_told_once() {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.release(2);
    let source = "-module(cutter).\n-export([postsync/0]).\n\
                  postsync() -> [erlang:disconnect_node(Node) || Node <- nodes(hidden)], ok.\n";
    fs::write(rig.cli.dir().join("cutter.erl"), source).expect("a file");
    let run = rig.run(&["-H", "cutter.erl"]);
    let told = "lost the target while it applied the update";
    let line = run.err.lines().find(|line| line.contains(told));
    let line = line.expect("a note");
    assert_eq!(line.matches("lost the target").count(), 1, "{run:?}");
    assert!(line.ends_with("looking for the target again"), "{run:?}");
}

#[test]
fn what_goes_out_is_told_as_it_goes() {
    let rig = Rig::new();
    rig.release(1);
    rig.noise("noise", 300_000);
    let run = rig.run(&["--json", "--bwlimit", "200kB"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let events: Vec<serde_json::Value> = run
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    for (kind, fields) in [
        ("agent", &["sent_bytes"][..]),
        ("progress", &["taken_bytes", "sent_bytes"]),
    ] {
        let told: Vec<_> = events
            .iter()
            .filter(|event| event["type"] == kind)
            .collect();
        assert!(told.len() > 2, "{kind}: {run:?}");
        let total = told[0]["total_bytes"].as_u64().expect("bytes");
        for field in fields {
            let of = |event: &serde_json::Value| event[*field].as_u64().expect("bytes");
            let sizes: Vec<u64> = told.iter().map(|event| of(event)).collect();
            assert!(sizes.is_sorted(), "{kind} {field}: {sizes:?}");
            // Bytes that only wait here have not been sent.
            assert!(sizes[0] < 32_000, "{kind} {field}: {sizes:?}");
            assert_eq!(sizes.last(), Some(&total), "{kind} {field}: {sizes:?}");
        }
    }
}

#[test]
fn an_interrupted_push_does_not_wait_for_what_waits_here() {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    let before = rig.state();
    rig.noise("noise", 150_000);
    let mut command = rig.command(&["--json", "--bwlimit", "3kB"]);
    let mut running = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("relsync runs");
    let mut lines = BufReader::new(running.stdout.take().expect("its output")).lines();
    let is_sending = |line: &String| line.contains("\"progress\"");
    let mut texts = lines.by_ref().map(|line| line.expect("text"));
    texts.find(is_sending).expect("progress");
    // All of it is queued, and sending it would take most of a minute.
    thread::sleep(Duration::from_secs(1));
    let interrupted = Instant::now();
    signal(&running, "-INT");
    let said: Vec<String> = lines.map(|line| line.expect("text")).collect();
    assert_eq!(
        running.wait().expect("an end").code(),
        Some(130),
        "{said:?}"
    );
    assert!(interrupted.elapsed() < Duration::from_secs(30), "{said:?}");
    assert!(
        said.iter().any(|line| line.contains("what became of it")),
        "{said:?}"
    );
    let last = said.last().expect("a result");
    assert!(last.contains("\"interrupted\""), "{last}");
    let (files, modules) = rig.state();
    assert_eq!(modules, before.1);
    assert!(
        !files.iter().any(|file| file.starts_with("noise")),
        "{files:?}"
    );
    assert_eq!(rig.push(&[], 0)["generation"], 2);
}

#[test]
fn an_interrupted_rollback_does_not_say_that_nothing_happens() {
    let rig = Rig::new();
    // While the target is busy with this, the host waits for it.
    rig.node.eval(
        "Self = self(), spawn(fun() -> true = register(relsync_session, self()), \
         put(relsync_who, {5, <<\"a probation that ran out\">>}), Self ! held, receive never -> ok end end), \
         receive held -> ok end",
    );
    let mut running = rig
        .command(&["rollback"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("relsync runs");
    let mut lines = BufReader::new(running.stdout.take().expect("its output")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.starts_with("Rolling back"))));
    signal(&running, "-INT");
    let ended = running.wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(
        said.contains("has already asked for") && !said.contains("unchanged"),
        "{said}"
    );
}

#[test]
fn a_session_of_ones_own_that_ends_is_waited_for() {
    const RETURNING: &str = "a probation that ran out";
    let rig = Rig::new();
    let machine = rig
        .node
        .eval("{ok, Name} = inet:gethostname(), list_to_atom(Name)");
    let machine = machine.trim_matches('\'');
    let status = |user: Option<&str>, holder: &str, milliseconds: u32| {
        // The tag of a target that goes back, or that of a session.
        let tag = if holder == RETURNING { 5 } else { 2 };
        rig.node.eval(&format!(
            "Self = self(), spawn(fun() -> true = register(relsync_session, self()), put(relsync_who, {{{tag}, <<{holder:?}>>}}), \
             Self ! held, timer:sleep({milliseconds}) end), receive held -> ok end"
        ));
        let mut command = rig.command(&["status"]);
        match user {
            Some(user) => command.env("USER", user),
            None => command.env_remove("USER").env_remove("LOGNAME"),
        };
        let run = Run::of(&mut command);
        rig.node.eval("catch exit(whereis(relsync_session), kill)");
        rig.node.wait_for("whereis(relsync_session)", "undefined");
        run
    };
    let own = format!("tester@{machine}");
    let tester = Some("tester");
    assert_eq!(status(tester, &own, 1000).code, Some(0));
    for (holder, milliseconds) in [(own.as_str(), 600_000), ("x@y", 1000)] {
        let run = status(tester, holder, milliseconds);
        assert!(run.code == Some(1) && run.err.contains(holder), "{run:?}");
    }
    // The caller is known even if the environment does not tell.
    let said = Command::new("id").arg("-un").output().expect("id runs");
    let user = String::from_utf8(said.stdout).expect("a name");
    let nameless = format!("{}@{machine}", user.trim());
    assert_eq!(status(None, &nameless, 1000).code, Some(0));
    // The host also waits for an update that rolls back by itself.
    assert_eq!(status(tester, RETURNING, 1000).code, Some(0));
    let run = status(tester, RETURNING, 600_000);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.err.contains("is going back") && run.err.contains("wait a moment"),
        "{run:?}"
    );
    assert!(!run.err.contains("nothing was changed"), "{run:?}");
}

/// The reader of the output stalls (`less`, Ctrl-S) while a hook prints more than a pipe holds. The
/// update goes its way, and the process ends on one signal.
#[test]
fn a_reader_that_stalls_holds_up_neither_the_target_nor_the_end() {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    rig.release(2);
    let source = "-module(chatty).\n-export([presync/0]).\n\
                  presync() -> [io:put_chars([lists:duplicate(100, $a), 10]) || _ <- lists:seq(1, 3000)], ok.\n";
    fs::write(rig.cli.dir().join("chatty.erl"), source).expect("a file");
    let mut running = rig
        .command(&["-H", "chatty.erl"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("relsync runs");
    rig.node.wait_for("sample:version()", "2");
    rig.node.wait_for("whereis(relsync_session)", "undefined");
    assert!(
        running.try_wait().expect("a state").is_none(),
        "it waits for its reader"
    );
    signal(&running, "-TERM");
    // Nobody has read a byte.
    assert_eq!(running.wait().expect("an end").code(), Some(0));
    assert_eq!(rig.push(&["status"], 0)["current"]["generation"], 2);
}

#[test]
fn the_second_signal_ends_the_process_without_a_word() {
    let rig = Rig::new();
    rig.release(1);
    let source = "-module(slow).\n-export([presync/0]).\npresync() -> timer:sleep(600000).\n";
    fs::write(rig.cli.dir().join("slow.erl"), source).expect("a file");
    for (first, second) in [("-TERM", "-TERM"), ("-INT", "-TERM"), ("-TERM", "-INT")] {
        let mut running = rig
            .command(&["-H", "slow.erl"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("relsync runs");
        let mut lines = BufReader::new(running.stdout.take().expect("its output")).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.starts_with("Running presync"))));
        signal(&running, first);
        let errors = BufReader::new(running.stderr.take().expect("its errors"));
        let mut errors = errors.lines().map(|line| line.expect("text"));
        let told = errors.next().expect("a word on the second signal");
        assert!(told.contains("again to leave at once"), "{told}");
        signal(&running, second);
        assert_eq!(running.wait().expect("an end").code(), Some(130));
        assert_eq!((errors.next(), lines.count()), (None, 0));
        rig.node.eval("exit(whereis(relsync_session), kill)");
        rig.node.wait_for("whereis(relsync_session)", "undefined");
    }
}

fn signal(process: &Child, name: &str) {
    let pid = process.id().to_string();
    let killed = Command::new("kill").args([name, &pid]).status();
    assert!(killed.expect("kill runs").success());
}
