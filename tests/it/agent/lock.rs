//! The lock: two virtual machines that share a destination never work on it at once.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use relsync_engine::target::session::{Session, SessionError};
use relsync_engine::target::wire::{Reply, Request};
use relsync_tests::node::{Node, NodeOptions};

use crate::agent::session::{block_on, open};

/// Two nodes, and a directory that both may write to.
struct Pair {
    first: Node,
    second: Node,
    dir: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("device")).expect("a directory");
        Self {
            first: Node::start(NodeOptions::default()),
            second: Node::start(NodeOptions::default()),
            dir,
        }
    }

    fn device(&self) -> PathBuf {
        self.dir.path().join("device")
    }

    /// Returns the holder of the lock, as the second node reports it.
    async fn holder(&self, destination: &Path) -> Option<String> {
        match open(&self.second, destination).await {
            Ok((session, _)) => {
                session.close().await.expect("closed");
                None
            }
            Err(SessionError::Busy { holder }) => Some(holder),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_session_of_another_vm_is_named() {
    let pair = Pair::new();
    let link = pair.dir.path().join("link");
    symlink(pair.device(), &link).expect("a link");
    fs::create_dir(pair.dir.path().join("other")).expect("a directory");
    block_on(async {
        let (session, _) = open(&pair.first, &pair.device()).await.expect("a session");
        let first = format!("tester@here on {}", pair.first.name());
        for way in [&pair.device(), &link] {
            assert_eq!(pair.holder(way).await, Some(first.clone()), "{way:?}");
        }
        assert_eq!(pair.holder(&pair.dir.path().join("other")).await, None);
        session.close().await.expect("closed");
        assert_eq!(pair.holder(&pair.device()).await, None);
    });
}

#[test]
fn a_vm_that_is_killed_lets_go() {
    let mut pair = Pair::new();
    block_on(async {
        let (held, _) = open(&pair.first, &pair.device()).await.expect("a session");
        assert!(pair.holder(&pair.device()).await.is_some());
        pair.first.kill();
        assert_eq!(pair.holder(&pair.device()).await, None);
        drop(held);
    });
}

#[test]
fn a_session_that_is_killed_lets_go() {
    let pair = Pair::new();
    block_on(async {
        let (held, _) = open(&pair.first, &pair.device()).await.expect("a session");
        pair.first.eval("exit(whereis(relsync_session), kill)");
        assert_eq!(pair.holder(&pair.device()).await, None);
        drop(held);
    });
}

/// Announces a pack, which creates the destination. Returns the target's objection.
async fn begin(session: &mut Session) -> Option<(String, String)> {
    let begin = Request::PackBegin {
        pack_id: [7; 32],
        size: 1,
        offset: 0,
    };
    session.send(&begin).await.expect("sent");
    session
        .send(&Request::Status { verify: false })
        .await
        .expect("sent");
    match session.receive().await {
        Ok(Reply::Error(error)) => Some((error.kind.to_string(), error.message)),
        Ok(Reply::Status(_)) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_makes_the_destination_has_it() {
    let pair = Pair::new();
    let new = pair.dir.path().join("new");
    block_on(async {
        let (mut early, _) = open(&pair.first, &new).await.expect("a session");
        let (mut late, _) = open(&pair.second, &new).await.expect("another session");
        assert_eq!(begin(&mut early).await, None);
        let (kind, message) = begin(&mut late).await.expect("refused");
        assert_eq!(kind, "busy");
        assert!(message.contains(pair.first.name()), "{message}");
        late.close().await.expect("closed");
        early.close().await.expect("closed");
    });
}

/// Takes the name of a destination's lock, as anybody could, and answers every caller.
fn occupy(node: &Node, destination: &Path, answer: &str) {
    node.eval(&format!(
        r#"{{ok, Info}} = file:read_file_info({destination:?}),
           Name = [0, io_lib:format("relsync/~b/~b", [element(10, Info), element(12, Info)])],
           {{ok, S}} = gen_tcp:listen(0, [binary, {{active, false}}, {{ifaddr, {{local, iolist_to_binary(Name)}}}}]),
           spawn(fun Serve() -> {{ok, C}} = gen_tcp:accept(S), {answer}, Serve() end), ok"#
    ));
}

#[test]
fn what_a_holder_says_is_bounded() {
    let pair = Pair::new();
    let table = [
        (
            "gen_tcp:send(C, binary:copy(<<27, \"[2J\", 255>>, 100000))",
            "\\x1B[2J\\xFF",
        ),
        (
            "gen_tcp:send(C, binary:copy(<<\"x\">>, 1000)), gen_tcp:close(C)",
            "xxxxx",
        ),
        ("put(C, keep)", "another session"),
    ];
    block_on(async {
        for (n, (answer, expected)) in table.iter().enumerate() {
            let device = pair.dir.path().join(n.to_string());
            fs::create_dir(&device).expect("a directory");
            occupy(&pair.first, &device, answer);
            let holder = pair.holder(&device).await.expect("busy");
            assert!(
                holder.starts_with(expected) && holder.len() <= 500,
                "{holder:?}"
            );
        }
    });
}

#[test]
fn a_stranger_cannot_lock_others_out() {
    let program = ["setpriv", "--reuid=65534", "--clear-groups", "erl"];
    let available = Command::new("setpriv")
        .args(["--reuid=65534", "true"])
        .status();
    if !available.is_ok_and(|status| status.success()) {
        let _ = writeln!(
            std::io::stderr(),
            "note: no stranger could be had: that takes root and setpriv"
        );
        return;
    }
    let pair = Pair::new();
    let home = tempfile::tempdir().expect("a directory");
    for dir in [home.path(), pair.dir.path()] {
        fs::set_permissions(dir, Permissions::from_mode(0o777)).expect("permissions");
    }
    let mut options = NodeOptions {
        program: program.map(str::to_owned).to_vec(),
        ..NodeOptions::default()
    };
    options.env.insert("HOME".to_owned(), home.path().into());
    options
        .env
        .insert("ERL_CRASH_DUMP".to_owned(), "/dev/null".into());
    let stranger = Node::start(options);
    occupy(
        &stranger,
        &pair.device(),
        "gen_tcp:send(C, <<\"me\">>), gen_tcp:close(C)",
    );
    block_on(async {
        assert_eq!(pair.holder(&pair.device()).await, None);
    });
}
