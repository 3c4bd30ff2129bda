//! The transform of BEAM files, on real modules.
//!
//! The modules are those of the machine's OTP, of the roots that are here, and below
//! `RELSYNC_BEAMS_DIR` (Elixir's, say). The test takes a sample of them, or all with
//! `RELSYNC_BEAMS=all`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::beam::{
    Module, Reading, Role, Tables, instruction_operands, join, opaque_chunks, split,
};
use super::inflate::Deflater;
use super::streams::{KINDS, Kind, Streams};
use super::{Limits, Options, Piece, beam_md5, decode, encode_with};

/// The number of modules of which one is in the sample.
const SAMPLE_STEP: usize = 29;
/// The number of modules of which one is also damaged, or decoded by the agent. All modules would
/// take hours.
const SMALLER_STEP: usize = 7;
/// The releases: the oldest one, the first with types, and the first with long atoms and plain
/// literals.
const RELEASES: [&str; 4] = ["23", "25", "27", "29"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn otp(release: &str, program: &str) -> Command {
    let mut command = Command::new(repository().join("scripts/otp-run.sh"));
    command.args([release, program]);
    command.env("ERL_CRASH_DUMP_BYTES", "0");
    command
}

/// Runs an expression and returns what it prints.
fn erl(release: &str, expression: &str, arguments: &[&OsStr]) -> String {
    let output = otp(release, "erl")
        .args(["-noinput", "-boot", "no_dot_erlang", "-eval", expression])
        .arg("-extra")
        .args(arguments)
        .output()
        .expect("erl");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "OTP {release}: {said}");
    said
}

fn releases() -> Vec<String> {
    let list = Command::new(repository().join("scripts/otp-run.sh"))
        .arg("--list")
        .output();
    let list = String::from_utf8(list.expect("otp-run.sh").stdout).expect("numbers");
    let here = list.lines().filter(|release| RELEASES.contains(release));
    here.map(str::to_owned).collect()
}

fn beams_below(root: &Path) -> Vec<PathBuf> {
    let mut beams = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let entry = entry.expect("an entry");
            let path = entry.path();
            if entry.file_type().expect("its type").is_dir() {
                folders.push(path);
            } else if path.extension() == Some(OsStr::new("beam")) {
                beams.push(path);
            }
        }
    }
    beams.sort();
    beams
}

/// Returns the modules to examine, by release. Modules of no release stand under an empty name.
fn beams() -> Vec<(String, Vec<PathBuf>)> {
    let step = match std::env::var("RELSYNC_BEAMS").as_deref() {
        Ok("all") => 1,
        _ => SAMPLE_STEP,
    };
    let sample = |root: &Path| -> Vec<PathBuf> {
        let all = beams_below(root);
        assert!(
            all.len() > SAMPLE_STEP,
            "{} modules in {}",
            all.len(),
            root.display()
        );
        all.into_iter().step_by(step).collect()
    };
    let mut beams: Vec<(String, Vec<PathBuf>)> = releases()
        .into_iter()
        .map(|release| {
            let root = erl(&release, "io:put_chars(code:lib_dir()), halt().", &[]);
            let sample = sample(Path::new(&root));
            (release, sample)
        })
        .collect();
    if let Some(root) = std::env::var_os("RELSYNC_BEAMS_DIR") {
        beams.push((String::new(), sample(Path::new(&root))));
    }
    assert!(!beams.is_empty(), "no release of OTP is here");
    beams
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a readable file")
}

/// Splits a module as a base is split, and as a new one is against `base`, and joins the latter.
fn split_and_joined(new: &[u8], base: &[u8]) -> Option<(Streams, Vec<u8>)> {
    let base = Module::unpack(base, Reading::Base).ok()?;
    let base = base.container().ok()?;
    let base = Tables::read(&base);
    let module = Module::unpack(new, Reading::Exact).ok()?;
    let container = module.container().ok()?;
    let streams = split(&container, &Tables::read(&container), &base, Role::New).ok()?;
    let each: [&[u8]; KINDS] = std::array::from_fn(|kind| &streams[Kind::ALL[kind]][..]);
    let (joined, _) = join(|kind| each[kind.index()], &base, &Deflater::default()).ok()?;
    Some((streams, joined))
}

#[test]
fn real_modules_come_back_and_no_chunk_of_theirs_degrades() {
    for (release, files) in beams() {
        let mut before = read(&files[0]);
        for file in files {
            let beam = read(&file);
            for base in [&beam, &before] {
                let name = file.display();
                let (streams, joined) =
                    split_and_joined(&beam, base).unwrap_or_else(|| panic!("{name} is a module"));
                assert!(joined == beam, "{name} of OTP {release} differs");
                let opaque = opaque_chunks(&streams[Kind::Recipe]).expect("a recipe");
                for id in opaque {
                    assert!(
                        matches!(&id, b"Type" | b"StrT" | b"CInf" | b"Meta" | b"Attr"),
                        "{} of {name}",
                        id.escape_ascii()
                    );
                }
            }
            before = beam;
        }
    }
}

/// A small generator (Knuth's MMIX constants), so that every run damages the same bytes.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }

    /// Changes, inserts or removes a byte, or removes the bytes that follow one.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, bytes[at]),
            2 => {
                bytes.remove(at);
            }
            _ => bytes[at] ^= 1 << self.below(8),
        }
    }
}

#[test]
fn damaged_modules_come_back_as_they_are() {
    let quick = Options {
        level: 1,
        limits: Limits {
            max_content_bytes: 8 << 20,
            ..Limits::default()
        },
        ..Options::default()
    };
    let mut random = Random(1);
    for (_, files) in beams() {
        for file in files.iter().step_by(SMALLER_STEP) {
            let beam = read(file);
            let mut damaged = beam.clone();
            for _ in 0..3 {
                random.damage(&mut damaged);
                for (new, base) in [(&damaged, &beam), (&beam, &damaged), (&damaged, &damaged)] {
                    let encoded = encode_with(
                        &[Piece {
                            new,
                            base: Some(base),
                        }],
                        &quick,
                    );
                    let decoded =
                        decode(&encoded.bytes, &[Some(base)], quick.limits).expect("own body");
                    assert!(decoded == [&new[..]], "{}", file.display());
                }
            }
        }
    }
}

#[test]
fn the_md5_is_what_the_loader_says() {
    // The expression asks the loader's own function, and beam_lib for the chunks that it knows.
    let expression = "[begin
            {ok, Beam} = file:read_file(File),
            MD5 = code:module_md5(Beam),
            {ok, {_, MD5}} = beam_lib:md5(Beam),
            io:format(\"~s ~s~n\", [[io_lib:format(\"~2.16.0b\", [B]) || <<B>> <= MD5], File])
        end || File <- init:get_plain_arguments()], halt().";
    for (release, files) in beams() {
        let mut compared = 0;
        for some in files.chunks(200).filter(|_| !release.is_empty()) {
            let arguments: Vec<&OsStr> = some.iter().map(|file| file.as_os_str()).collect();
            let said = erl(&release, expression, &arguments);
            let md5s: HashMap<&str, &str> = said
                .lines()
                .filter_map(|line| line.split_once(' ').map(|(md5, file)| (file, md5)))
                .collect();
            for file in some {
                let md5 = beam_md5(&read(file)).expect("a module");
                let hex = md5.iter().fold(String::new(), |mut hex, byte| {
                    write!(hex, "{byte:02x}").expect("memory");
                    hex
                });
                let expected = md5s.get(&*file.to_string_lossy()).copied();
                assert_eq!(Some(&*hex), expected, "{} of OTP {release}", file.display());
                compared += 1;
            }
        }
        assert!(compared > 5 || release.is_empty(), "OTP {release}");
    }
}

#[test]
fn instructions_have_the_operands_that_the_compilers_say() {
    let expression = "Print = fun Print(Opcode) ->
            try beam_opcodes:opname(Opcode) of
                {_, Arity} -> io:format(\"~b \", [Arity]), Print(Opcode + 1)
            catch error:_ -> ok end
        end, Print(1), halt().";
    for release in releases() {
        let said = erl(&release, expression, &[]);
        let arities: Vec<u8> = said
            .split_whitespace()
            .map(|n| n.parse().expect("a number"))
            .collect();
        assert!(arities.len() > 150, "OTP {release}: {said}");
        for (opcode, arity) in (1_u8..).zip(arities) {
            assert_eq!(
                instruction_operands(opcode),
                Some(arity),
                "instruction {opcode} of OTP {release}"
            );
        }
    }
}

/// Compiles the agent's decoder, and the bench's module that compares decoded frames with the
/// expected content.
fn compiled_agent(folder: &Path, release: &str) {
    let mut command = otp(release, "erlc");
    command.arg("-o").arg(folder);
    let sources = repository().join("erlang/apps/relsync_lib/src");
    for entry in fs::read_dir(sources.join("pack")).expect("the agent's sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_decoder = ["delta", "zstd", "xxh64"]
            .iter()
            .any(|part| name.starts_with(&format!("relsync_lib_{part}")));
        if is_decoder {
            command.arg(&path);
        }
    }
    for module in ["varint", "worker"] {
        command.arg(sources.join(format!("files/relsync_lib_{module}.erl")));
    }
    command.arg(repository().join("engine/benches/delta/decode_frames.erl"));
    let output = command.output().expect("erlc");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

/// Encodes each module against the one before it, and against itself damaged.
fn write_frames(files: &[PathBuf], folder: &Path) {
    let mut random = Random(2);
    let mut before = read(&files[0]);
    for (number, file) in files.iter().enumerate() {
        let beam = read(file);
        let mut damaged = beam.clone();
        random.damage(&mut damaged);
        let pieces = [(&beam, &before), (&beam, &damaged), (&damaged, &beam)];
        for (index, (new, base)) in pieces.into_iter().enumerate() {
            if new.len() > Limits::default().max_content_bytes {
                continue;
            }
            let options = Options {
                level: 3,
                ..Options::default()
            };
            let encoded = encode_with(
                &[Piece {
                    new,
                    base: Some(base),
                }],
                &options,
            );
            let frame = folder.join(format!("{number:05}-{index}"));
            fs::create_dir_all(&frame).expect("a folder");
            for (name, bytes) in [("body", &encoded.bytes), ("0.new", new), ("0.base", base)] {
                fs::write(frame.join(name), bytes).expect("a file");
            }
        }
        before = beam;
    }
}

#[test]
fn the_agent_decodes_real_modules() {
    for (release, files) in beams()
        .into_iter()
        .filter(|(release, _)| !release.is_empty())
    {
        let files: Vec<PathBuf> = files.into_iter().step_by(SMALLER_STEP).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let frames = folder.path().join("frames");
        write_frames(&files, &frames);
        compiled_agent(folder.path(), &release);
        let output = otp(&release, "erl")
            .args(["-noinput", "-boot", "no_dot_erlang", "-pa"])
            .arg(folder.path())
            .args(["-run", "decode_frames", "main"])
            .arg(&frames)
            .output()
            .expect("erl");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "OTP {release}: {said}");
        // The program stops at the first content that differs, and ends with two figures.
        assert_eq!(said.split_whitespace().count(), 2, "OTP {release}: {said}");
    }
}
