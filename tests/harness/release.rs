//! Sample releases, compiled by the machine's own Erlang.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A release tree under construction: `lib/<app>-<vsn>/ebin` and any other files.
#[derive(Debug)]
pub struct Release {
    root: PathBuf,
}

impl Release {
    /// Starts with an empty tree.
    ///
    /// # Panics
    /// If the directory cannot be made.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        fs::create_dir_all(&root).expect("a release directory");
        Self { root }
    }

    /// Returns the tree's root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Compiles an application: its modules and its `.app` file. Each module is a name and the text
    /// after `-module(name).`.
    ///
    /// # Panics
    /// If a module does not compile.
    pub fn app(&self, name: &str, version: &str, modules: &[(&str, &str)]) -> &Self {
        let ebin = self.root.join(format!("lib/{name}-{version}/ebin"));
        fs::create_dir_all(&ebin).expect("an ebin directory");
        compile(&ebin, modules);
        let names: Vec<&str> = modules.iter().map(|(module, _)| *module).collect();
        let app = format!(
            "{{application, {name}, [{{description, \"sample\"}}, {{vsn, \"{version}\"}}, {{modules, [{}]}}, \
             {{registered, []}}, {{applications, [kernel, stdlib]}}]}}.\n",
            names.join(", ")
        );
        self.file(
            &format!("lib/{name}-{version}/ebin/{name}.app"),
            app.as_bytes(),
        )
    }

    /// Makes the files that a start of a version needs: `releases/start_erl.data`, the `.rel` file
    /// and the boot file that OTP's tools make of it. The last two are in `releases/<version>`.
    /// Applications that the tree does not have are taken from the Erlang that makes it. `root` is
    /// the variable that stands for the tree in the boot file, and the directory of the tree that
    /// it means.
    ///
    /// # Panics
    /// If OTP's tools fail.
    pub fn bootable(
        &self,
        version: &str,
        applications: &[(&str, &str)],
        root: (&str, &str),
    ) -> &Self {
        let dir = self.root.join("releases").join(version);
        fs::create_dir_all(&dir).expect("a directory");
        let listed: Vec<String> = applications
            .iter()
            .map(|(name, version)| format!("{{{name}, {version:?}}}"))
            .collect();
        let script = format!(
            "[Root, Version, Variable, Dir] = init:get_plain_arguments(),
             Here = [begin _ = application:load(A), {{ok, V}} = application:get_key(A, vsn), {{A, V}} end || A <- [kernel, stdlib]],
             Given = [{}],
             Applications = [P || {{A, _}} = P <- Here, not lists:keymember(A, 1, Given)] ++ Given,
             Erts = erlang:system_info(version),
             Name = filename:join([Root, \"releases\", Version, \"start\"]),
             ok = file:write_file(Name ++ \".rel\", io_lib:format(\"~p.~n\", [{{release, {{\"sample\", Version}}, {{erts, Erts}}, Applications}}])),
             ok = file:write_file(filename:join([Root, \"releases\", \"start_erl.data\"]), [Erts, \" \", Version]),
             Options = [{{path, [Root ++ \"/lib/*/ebin\"]}}, {{variables, [{{Variable, filename:join(Root, Dir)}}]}},
                        {{outdir, filename:dirname(Name)}}, no_warn_sasl, silent],
             {{ok, systools_make, _}} = systools:make_script(Name, Options),
             halt(0).",
            listed.join(", ")
        );
        let words = crate::node::default_program();
        let output = Command::new(&words[0])
            .args(&words[1..])
            .args([
                "-noinput",
                "-boot",
                "no_dot_erlang",
                "-eval",
                &script,
                "-extra",
            ])
            .arg(&self.root)
            .args([version, root.0, root.1])
            .output()
            .expect("erl runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "erl: {said}");
        self
    }

    /// Writes a file and makes its directories.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn file(&self, path: &str, content: &[u8]) -> &Self {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, content).expect("a file");
        self
    }
}

/// Compiles modules into a directory, with debug information as in releases.
///
/// # Panics
/// If one does not compile.
pub fn compile(into: &Path, modules: &[(&str, &str)]) {
    compile_with(&compiler(), into, modules);
}

/// Compiles modules with this compiler.
///
/// # Panics
/// If one does not compile.
pub fn compile_with(program: &[String], into: &Path, modules: &[(&str, &str)]) {
    let sources = tempfile::tempdir().expect("a temporary directory");
    let mut erlc = Command::new(&program[0]);
    erlc.args(&program[1..])
        .args(["+debug_info", "+deterministic", "-o"])
        .arg(into);
    for (name, body) in modules {
        let path = sources.path().join(format!("{name}.erl"));
        fs::write(&path, format!("-module({name}).\n{body}\n")).expect("a source");
        erlc.arg(path);
    }
    let output = erlc.output().expect("erlc runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "erlc: {said}");
}

/// Returns the `erlc` of the release that the nodes run, if `RELSYNC_TEST_ERL` says how to run its
/// `erl`.
pub(crate) fn compiler() -> Vec<String> {
    let mut words = crate::node::default_program();
    if let Some(last) = words.last_mut()
        && let Some(dir) = last.strip_suffix("erl")
    {
        *last = format!("{dir}erlc");
    }
    words
}

/// Returns the content of a directory, without `.relsync`, in order. A line has an entry's path,
/// kind, permissions, and its content's hash or its target.
///
/// # Panics
/// If something cannot be read.
pub fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    list(root, Path::new(""), &mut lines);
    lines.sort();
    lines
}

fn list(root: &Path, below: &Path, lines: &mut Vec<String>) {
    use std::os::unix::fs::PermissionsExt;
    for entry in fs::read_dir(root.join(below)).expect("a directory") {
        let name = entry.expect("an entry").file_name();
        let path = below.join(&name);
        if path == Path::new(".relsync") {
            continue;
        }
        let full = root.join(&path);
        let metadata = fs::symlink_metadata(&full).expect("metadata");
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_symlink() {
            let target = fs::read_link(&full).expect("a link");
            lines.push(format!("{} -> {}", path.display(), target.display()));
        } else if metadata.is_dir() {
            lines.push(format!("{}/ {mode:o}", path.display()));
            list(root, &path, lines);
        } else {
            let content = fs::read(&full).expect("a file");
            let hash = relsync_engine::tree::id::Sha256::of(&content);
            lines.push(format!("{} {mode:o} {hash}", path.display()));
        }
    }
}
