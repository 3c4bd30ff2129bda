//! The embedded agent: it belongs to the sources beside it, and loads on every OTP release that it
//! is meant for.
//!
//! Tests that need other OTP releases run on those that `scripts/otp-run.sh --list` names. The
//! digests are checked everywhere, so that a changed source without `make agent` is noticed on any
//! machine.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use relsync_engine::target::agent;
use sha2::{Digest, Sha256};

const REBUILD: &str =
    "sources and blobs of the agent have parted: run `make agent` and commit the result";
const SOURCES: [&str; 2] = [
    "erlang/apps/relsync_boot/src",
    "erlang/apps/relsync_lib/src",
];
const GENERATED: [&str; 3] = ["agent-23.blob", "agent-26.blob", "boot.txt"];

fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests lie in the repository")
        .to_path_buf()
}

/// Returns the directory of other OTP releases' roots, also for scripts that run from a copy of the
/// repository.
fn otp_dir() -> PathBuf {
    std::env::var_os("RELSYNC_OTP_DIR").map_or_else(|| repo().join("target/otp"), PathBuf::from)
}

fn script(repo: &Path, name: &str) -> Command {
    let mut command = Command::new(repo.join("scripts").join(name));
    command.env("RELSYNC_OTP_DIR", otp_dir());
    command
}

fn output_of(command: &mut Command) -> Output {
    command.output().expect("the script starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn otp_releases() -> Vec<u32> {
    let output = output_of(script(&repo(), "otp-run.sh").arg("--list"));
    let listed = text(&output.stdout);
    listed
        .lines()
        .map(|line| line.parse().expect("a release number"))
        .collect()
}

/// Prints the part that a test had to leave out. It bypasses the test harness, which hides the
/// output of passing tests.
fn note(what: &str) {
    writeln!(std::io::stderr(), "note: {what}").expect("stderr is open");
}

/// Evaluates Erlang expressions in a fresh node of a release, and returns their output.
fn evaluate(release: u32, expressions: &str) -> String {
    let code = format!("{expressions}, halt().");
    let output = output_of(
        script(&repo(), "otp-run.sh")
            .arg(release.to_string())
            .args(["erl", "-noinput", "-boot", "no_dot_erlang", "-eval", &code]),
    );
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "OTP {release}: {stdout}\n{stderr}");
    stdout
}

fn sha256_hex(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory of the copy");
    for entry in fs::read_dir(from).expect("a directory of the repository") {
        let entry = entry.expect("a directory entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a file type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file is copied");
        }
    }
}

/// Adds the paths and digests of the Erlang sources in and below a directory of the repository.
fn digest_sources(repo: &Path, directory: &str, digests: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(repo.join(directory)).expect("a directory of sources") {
        let path = entry.expect("a directory entry").path();
        let name = path.file_name().expect("a file name").to_string_lossy();
        let named = format!("{directory}/{name}");
        if path.is_dir() {
            digest_sources(repo, &named, digests);
        } else if name.ends_with(".erl") || name.ends_with(".hrl") {
            digests.insert(named, sha256_hex(&path));
        }
    }
}

/// Returns the paths and digests of everything that `make agent` reads and writes.
fn present_digests(repo: &Path) -> BTreeMap<String, String> {
    let mut digests = BTreeMap::new();
    for directory in SOURCES {
        digest_sources(repo, directory, &mut digests);
    }
    for name in GENERATED {
        let path = format!("engine/agent/{name}");
        let digest = sha256_hex(&repo.join(&path));
        digests.insert(path, digest);
    }
    digests
}

#[test]
fn recorded_digests_are_those_of_sources_and_blobs() {
    let repo = repo();
    let recorded =
        fs::read_to_string(repo.join("engine/agent/sources.sha256")).expect("recorded digests");
    let recorded: BTreeMap<String, String> = recorded
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(digest, path)| (path.to_owned(), digest.to_owned()))
        .collect();
    assert_eq!(recorded, present_digests(&repo), "{REBUILD}");
}

#[test]
fn building_elsewhere_gives_the_embedded_bytes() {
    let releases = otp_releases();
    if ![23, 27].iter().all(|needed| releases.contains(needed)) {
        note("the agent was not rebuilt: OTP 23 and 27 are not here (scripts/otp-root.sh 23 27)");
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let copy = directory.path().join("some/other place");
    for part in SOURCES.into_iter().chain(["scripts"]) {
        copy_tree(&repo().join(part), &copy.join(part));
    }
    let built = output_of(&mut script(&copy, "build-agent.sh"));
    assert!(built.status.success(), "{}", text(&built.stderr));
    for name in GENERATED.into_iter().chain(["sources.sha256"]) {
        let rebuilt = fs::read(copy.join("engine/agent").join(name)).expect("a rebuilt file");
        let committed = fs::read(repo().join("engine/agent").join(name)).expect("a committed file");
        assert!(rebuilt == committed, "{name}: {REBUILD}");
    }
}

#[test]
fn each_release_loads_its_variant_and_accepts_the_boot_expressions() {
    let agent_directory = repo().join("engine/agent");
    let releases = otp_releases();
    if releases.is_empty() {
        note("the agent was loaded nowhere: no Erlang is installed");
    }
    for release in releases {
        let Some(variant) = agent::variant_for_otp_release(release) else {
            continue;
        };
        let loaded = evaluate(
            release,
            &format!(
                r#"Read = fun(Name) ->
                       {{ok, Bytes}} = file:read_file(filename:join({agent_directory:?}, Name)),
                       <<Version:16/binary, Packed/binary>> = Bytes,
                       {{Version, binary_to_term(Packed)}}
                   end,
                   {{Version, Modules}} = Read("agent-{}.blob"),
                   [{{relsync_agent_loader, _}} | Others] = Modules,
                   true = Others =:= lists:ukeysort(1, Others),
                   [begin
                        {{module, M}} = code:load_binary(M, atom_to_list(M) ++ ".beam", Beam),
                        {{ok, {{M, Md5}}}} = beam_lib:md5(Beam),
                        Md5 = M:module_info(md5)
                    end || {{M, Beam}} <- Modules],
                   {{module, crypto}} = code:ensure_loaded(crypto),
                   false = relsync_agent_loader:is_whole(Version),
                   relsync_agent_blob:hold(<<0:256>>, kept),
                   true = relsync_agent_loader:is_whole(Version),
                   false = relsync_agent_loader:is_whole(<<0:128>>),
                   true = code:delete(relsync_agent_zstd),
                   false = relsync_agent_loader:is_whole(Version),
                   {{ok, Boot}} = file:read_file(filename:join({agent_directory:?}, "boot.txt")),
                   [{{ok, _}} = begin
                        {{ok, Tokens, _}} = erl_scan:string(binary_to_list(Text)),
                        {{ok, Body}} = erl_parse:parse_exprs(Tokens),
                        Clause = {{clause, 0, [{{var, 0, Name}} || Name <- Arguments], [], Body}},
                        erl_lint:module([
                            {{attribute, 0, module, boot}},
                            {{attribute, 0, export, [{{boot, length(Arguments)}}]}},
                            {{function, 0, boot, length(Arguments), [Clause]}}
                        ])
                    end || {{Text, Arguments}} <- lists:zip(
                        binary:split(Boot, <<"\n">>, [global, trim]),
                        [['Who', 'Versions', 'Hello'], ['Host', 'Release', 'State', 'Hash'], []]
                    )],
                   io:format("~b", [length(Modules)])"#,
                variant.name
            ),
        );
        assert!(
            loaded.parse::<usize>().is_ok_and(|count| count > 0),
            "OTP {release}: {loaded}"
        );
    }
}

/// Makes the builder turn a boot module with this content into expressions.
fn build_boot(directory: &Path, content: &str) -> Output {
    let source = directory.join("scratch_boot.erl");
    fs::write(
        &source,
        format!("-module(scratch_boot).\n-record(r, {{a}}).\n{content}\n"),
    )
    .expect("a source");
    let releases = otp_releases();
    let oldest = releases.first().expect("an OTP release").to_string();
    output_of(
        script(&repo(), "otp-run.sh")
            .args([&oldest, "escript"])
            .arg(repo().join("scripts/agent_blob.escript"))
            .arg("boot")
            .args([directory.join("boot.txt"), source]),
    )
}

#[test]
fn boot_expressions_evaluate_on_every_release() {
    if otp_releases().is_empty() {
        note("no boot expressions were evaluated: no Erlang is installed");
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let built = build_boot(
        directory.path(),
        r#"boot(Name, Bytes) ->
               Sum = fun Sum([]) -> 0; Sum([Head | Tail]) -> Head + Sum(Tail) end,
               try crypto:hash(sha256, Bytes) of
                   <<First, _/binary>> -> self() ! {Name, First, Sum([B || <<B>> <= Bytes])}
               catch
                   error:Reason -> exit({Reason, ?MODULE})
               end,
               receive {Name, A, B} when is_integer(A) -> [Name, A, B] end."#,
    );
    assert!(built.status.success(), "{}", text(&built.stderr));
    let boot = directory.path().join("boot.txt");
    for release in otp_releases() {
        let value = evaluate(
            release,
            &format!(
                r#"{{ok, Bytes}} = file:read_file({boot:?}),
                   {{ok, Tokens, _}} = erl_scan:string(binary_to_list(Bytes)),
                   {{ok, Body}} = erl_parse:parse_exprs(Tokens),
                   {{value, Value, _}} = erl_eval:exprs(Body, [{{'Name', relsync}}, {{'Bytes', <<1, 2, 3>>}}]),
                   io:format("~w", [Value])"#
            ),
        );
        assert_eq!(value, "[relsync,3,6]", "OTP {release}");
    }
}

#[test]
fn boot_expressions_that_no_target_could_evaluate_are_refused() {
    if otp_releases().is_empty() {
        note("no boot module was refused: no Erlang is installed");
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (content, complaint) in [
        (
            "boot(A) -> missing(A).",
            "calls the local function missing/1",
        ),
        (
            "boot(A) -> lists:map(fun missing/1, A).",
            "refers to the local function missing/1",
        ),
        ("boot(A) -> A#r.a.", "uses a record"),
        ("boot({A}) -> A.", "an argument must be a variable"),
        ("boot(A) when A > 1 -> A.", "must hold one function"),
        ("boot(A) -> A.\nmore(A) -> A.", "must hold one function"),
        ("boot(A) -> A + .", "syntax error"),
    ] {
        let refused = build_boot(directory.path(), content);
        let stderr = text(&refused.stderr);
        assert!(!refused.status.success(), "{content}: was built");
        assert!(stderr.contains(complaint), "{content}: {stderr}");
    }
    assert!(!directory.path().join("boot.txt").exists());
}
