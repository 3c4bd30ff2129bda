//! A soft update breaks no process: funs of the previous code, processes in the way, and the way
//! back with hooks.

use std::fs;

use relsync_tests::binary::Run;
use relsync_tests::rig::Rig;

use super::{push_all, version};

/// A server whose state, table and mailbox hold funs of its module.
fn holder(version: u32) -> String {
    format!(
        "-behaviour(gen_server).
         -export([start/0, count/0, f/0, init/1, handle_call/3, handle_cast/2, handle_info/2]).
         start() ->
             {{ok, _}} = gen_server:start({{local, holder}}, holder, [], []),
             Late = spawn(timer, sleep, [infinity]),
             register(late, Late),
             late ! {{unread, step({version})}},
             ok.
         step(N) -> fun(X) -> {{{version}, N, X}} end.
         f() -> {version}.
         count() -> gen_server:call(holder, count).
         init([]) ->
             Table = ets:new(holder_table, [named_table, public]),
             ets:insert(Table, {{step, fun(X) -> {{{version}, table, X}} end}}),
             {{ok, {{0, fun(N) -> N + 1 end}}}}.
         handle_call(count, _, {{N, F}}) ->
             [{{step, G}}] = ets:lookup(holder_table, step),
             {{messages, [{{unread, H}}]}} = process_info(whereis(late), messages),
             M = F(N),
             {{reply, {{{version}, M, G(x), H(y)}}, {{M, F}}}}.
         handle_cast(_, S) -> {{noreply, S}}.
         handle_info(_, S) -> {{noreply, S}}."
    )
}

#[test]
fn holders_of_funs_survive_push_rollback_and_push() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.app("sample", "1.0", &[("holder", &holder(1))]);
    push_all(&rig, &[]);
    let server = rig.node.eval("holder:start(), whereis(holder)");
    let ask = |version: u32, count: u32| {
        assert_eq!(
            rig.node.eval("{holder:count(), holder:f()}"),
            format!("{{{{{version},{count},{{1,table,x}},{{1,1,y}}}},{version}}}")
        );
        assert_eq!(rig.node.eval("whereis(holder)"), server);
    };
    ask(1, 1);
    tree.app("sample", "1.0", &[("holder", &holder(2))]);
    let pushed = push_all(&rig, &[]);
    assert_eq!(pushed["ended_funs"], serde_json::json!([]), "{pushed}");
    ask(2, 2);
    let back = rig.push(&["rollback"], 0);
    assert_eq!(back["ended_funs"], serde_json::json!([]), "{back}");
    ask(1, 3);
    push_all(&rig, &[]);
    ask(2, 4);

    // The code of the funs is purged now. The loss is reported before and after.
    tree.app("sample", "1.0", &[("holder", &holder(3))]);
    let planned = rig.push(&["plan"], 0);
    assert_eq!(
        planned["ended_funs"],
        serde_json::json!(["holder"]),
        "{planned}"
    );
    let run = rig.run(&[]);
    let note = "the code from two updates ago of 1 module (holder)";
    assert!(run.code == Some(0) && run.out.contains(note), "{run:?}");
    assert!(
        rig.node.eval("catch holder:count()").contains("badfun"),
        "funs of the version before last live on?"
    );
}

/// A process that never leaves the code in which it was started.
fn looping(n: u32) -> String {
    format!(
        "-export([f/0, start/0, loop/0]).
         f() -> {n}.
         start() -> register(looper, spawn(fun loop/0)).
         loop() -> receive stop -> ok end."
    )
}

fn write_hooks(rig: &Rig, name: &str, body: &str) {
    let file = rig.cli.dir().join(format!("{name}.erl"));
    fs::write(file, format!("-module({name}).\n{body}\n")).expect("a file");
}

const STOPPING: &str = "-export([presync/0, postsync/0]).
    presync() ->
        case whereis(looper) of
            undefined -> ok;
            Pid -> Monitor = monitor(process, Pid), Pid ! stop, receive {'DOWN', Monitor, _, _, _} -> ok end
        end.
    postsync() -> sample:start().";

#[test]
fn presync_may_stop_whom_soft_would_refuse_to_kill() {
    let rig = Rig::new();
    let tree = rig.tree();
    let release = |n| tree.app("sample", "1.0", &[("sample", &looping(n))]);
    release(1);
    push_all(&rig, &[]);
    rig.node.eval("sample:start()");
    release(2);
    push_all(&rig, &[]);
    release(3);
    rig.refused(
        &[],
        1,
        "in_use",
        &["sample", "looper", "nothing was changed"],
    );

    // Hooks that stop nothing. `postsync` undoes what `presync` did.
    write_hooks(
        &rig,
        "idle",
        "-export([presync/0, postsync/1]).
         presync() -> io:format(\"presync~n\").
         postsync(#{point := P}) -> io:format(\"postsync ~p~n\", [P]).",
    );
    let run = rig.run(&["-H", "idle"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.out.contains("| presync") && run.out.contains("| postsync undo"),
        "{run:?}"
    );
    assert_eq!(
        rig.node.eval("{sample:f(), is_pid(whereis(looper))}"),
        "{2,true}"
    );

    write_hooks(&rig, "stopping", STOPPING);
    let planned = rig.run(&["plan", "-H", "stopping"]);
    assert!(
        planned
            .out
            .contains("--reload soft would refuse the push, unless presync stops these"),
        "{planned:?}"
    );
    push_all(&rig, &["-H", "stopping"]);
    assert_eq!(
        rig.node.eval("{sample:f(), is_pid(whereis(looper))}"),
        "{3,true}"
    );
    for (n, when) in [(4, "late"), (5, "early")] {
        release(n);
        push_all(&rig, &["-H", "stopping", "--presync", when]);
        assert_eq!(
            rig.node.eval("{sample:f(), is_pid(whereis(looper))}"),
            format!("{{{n},true}}")
        );
    }
    // The way back asks just as late. A process that runs the code that it leaves continues, until
    // it is in the way.
    rig.push(&["rollback", "-H", "idle"], 0);
    assert_eq!(
        rig.node.eval("{sample:f(), is_pid(whereis(looper))}"),
        "{4,true}"
    );
    rig.refused(&["rollback", "-H", "idle"], 1, "in_use", &["looper"]);
    rig.push(&["rollback", "-H", "stopping"], 0);
    assert_eq!(
        rig.node.eval("{sample:f(), is_pid(whereis(looper))}"),
        "{3,true}"
    );
}

const MIGRATING: &str = "-export([presync/1, postsync/1, health/1]).
    presync(#{point := P, generation := G}) -> io:format(\"presync ~p ~p~n\", [P, G]).
    postsync(#{point := P, snapshot := S, base := B, modules := M, applications := A}) ->
        io:format(\"postsync ~p ~p ~p ~p~n\", [P, {byte_size(S), S =:= B}, M, A]),
        persistent_term:put(sample_format, P).
    health(#{point := P}) -> io:format(\"health ~p~n\", [P]), true.";

#[test]
fn a_rollback_runs_hooks_too() {
    let rig = Rig::new();
    let tree = rig.tree();
    for n in 1..=3 {
        tree.app("sample", "1.0", &[("sample", &version(n))]);
        push_all(&rig, &[]);
    }
    write_hooks(&rig, "migrating", MIGRATING);
    let run = rig.run(&["rollback", "--hooks", "migrating"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for line in [
        "| presync undo 2",
        "| postsync undo {32,false} [sample] [sample]",
        "| health undo",
    ] {
        assert!(run.out.contains(line), "{line}: {run:?}");
    }
    assert_eq!(rig.node.eval("persistent_term:get(sample_format)"), "undo");
    assert_eq!(rig.node.eval("code:is_loaded(migrating)"), "false");

    // If presync fails, the way back is refused. The installed release stays, and the other hooks
    // lead back to it.
    write_hooks(
        &rig,
        "refusing",
        "-export([presync/0, postsync/1]).
         presync() -> {error, not_now}.
         postsync(#{point := P, snapshot := S, base := B}) -> io:format(\"postsync ~p ~p~n\", [P, S =:= B]).",
    );
    rig.refused(
        &["rollback", "-H", "refusing"],
        1,
        "hooks",
        &["presync", "not_now", "nothing was changed"],
    );
    let run = rig.run(&["rollback", "-H", "refusing"]);
    assert!(run.out.contains("| postsync update true"), "{run:?}");
    let status = rig.push(&["status"], 0);
    assert_eq!(status["current"]["generation"], 2, "{status}");

    // A later failure is reported, and the earlier release is restored anyway.
    write_hooks(&rig, "sick", "-export([health/0]).\nhealth() -> sick.");
    let result = rig.push(&["rollback", "-H", "sick"], 4);
    let notes = result["notes"].to_string();
    assert!(
        notes.contains("the earlier release is back, but the health hook returned sick"),
        "{result}"
    );
    assert_eq!(result["generation"], 1, "{result}");
    assert_eq!(rig.node.eval("sample:f()"), "1");

    // A module that is not a hook is found before the target is contacted. Source is sent if
    // nothing compiles here.
    write_hooks(&rig, "typo", "-export([pstsync/0]).\npstsync() -> ok.");
    rig.refused(
        &["rollback", "-H", "typo"],
        1,
        "hooks_exports",
        &["pstsync"],
    );
    tree.app("sample", "1.0", &[("sample", &version(4))]);
    push_all(&rig, &[]);
    let no_path = rig.cli.dir().join("no-path");
    fs::create_dir(&no_path).expect("a directory");
    let run = Run::of(
        rig.command(&["rollback", "-H", "migrating", "--hook-timeout", "20s"])
            .env("PATH", &no_path),
    );
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.out.contains("| postsync undo"), "{run:?}");
}
