//! A sample project that real release tools build offline: rebar3, `mix release`, OTP's `systools`,
//! or `erlc` alone.
//!
//! A test process builds each variant once, into a directory that is removed when the process ends.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::device::copy;
use crate::otp;
use crate::release::{compile_with, compiler};

/// The cookie of every release built here.
pub const COOKIE: &str = "relsync-test-cookie";

/// The name of the application and of the release.
pub const NAME: &str = "sample";

/// The tool that makes a release. It also decides how the release starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// `rebar3 release` in mode `prod`: with its own ERTS.
    RebarProd,
    /// `rebar3 release` in mode `minimal`: OTP's applications, but no ERTS.
    RebarMinimal,
    /// `rebar3 release` in mode `dev`: links to the project's build directory.
    RebarDev,
    /// `mix release`: with its own ERTS.
    MixWithErts,
    /// `mix release` with `include_erts: false`: without any part of OTP.
    MixWithoutErts,
    /// Applications compiled into `lib`, for `erl -pa`.
    Plain,
    /// The release that `systools` makes with this OTP, in the layout of rebar3: OTP's
    /// applications, but no ERTS.
    Systools(u32),
}

/// The variant of the project to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Build {
    /// The number that its code returns.
    pub code: u32,
    /// The version of the application and of the release.
    pub version: &'static str,
    /// Whether it has a second application that needs OTP's `public_key`.
    pub has_extra: bool,
    /// Whether [`Build::FIRST`] was built in the same directory before.
    pub is_incremental: bool,
    /// Whether it is built by an OTP with newer versions of `kernel` and `stdlib` than the
    /// machine's.
    pub is_otp_patched: bool,
}

impl Build {
    /// The build that devices start with.
    pub const FIRST: Self = Self {
        code: 1,
        version: "1.0.0",
        has_extra: false,
        is_incremental: false,
        is_otp_patched: false,
    };

    /// A build with edited code.
    pub const CHANGED: Self = Self {
        code: 2,
        ..Self::FIRST
    };

    /// A build with edited code and a new version.
    pub const BUMPED: Self = Self {
        version: "2.0.0",
        ..Self::CHANGED
    };
}

impl Tool {
    /// Returns whether the tool can run here. If not, the tests are skipped with a note.
    pub fn is_here(self) -> bool {
        let program = match self {
            Self::RebarProd | Self::RebarMinimal | Self::RebarDev => "rebar3",
            Self::MixWithErts | Self::MixWithoutErts => "mix",
            Self::Plain => return true,
            Self::Systools(release) => return otp::program(release, "erl").is_some(),
        };
        let found = Command::new(program)
            .arg("--version")
            .env("HOME", scratch())
            .stdin(Stdio::null())
            .output();
        let is_here = found.is_ok_and(|output| output.status.success());
        if !is_here {
            crate::tally::say(&format!("SKIPPED: {self:?}: no {program} that runs"));
        }
        is_here
    }

    /// Returns whether the project is written in Elixir.
    pub fn is_mix(self) -> bool {
        matches!(self, Self::MixWithErts | Self::MixWithoutErts)
    }

    /// Builds the project, unless that was done before, and returns the release's root.
    ///
    /// # Panics
    /// If it does not build.
    pub fn build(self, build: Build) -> PathBuf {
        type Once = Arc<OnceLock<PathBuf>>;
        static BUILT: Mutex<BTreeMap<(Tool, Build), Once>> = Mutex::new(BTreeMap::new());
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        let next = built.len();
        let once = Arc::clone(built.entry((self, build)).or_default());
        drop(built);
        once.get_or_init(|| self.build_in(&scratch().join(format!("{next}")), build))
            .clone()
    }

    fn build_in(self, project: &Path, build: Build) -> PathBuf {
        if build.is_incremental {
            self.build_in(
                project,
                Build {
                    is_incremental: false,
                    ..Build::FIRST
                },
            );
            // rebar3 compares whole seconds to find sources that are newer than their compiled
            // files.
            std::thread::sleep(Duration::from_millis(1100));
        }
        let otp = || build.is_otp_patched.then(patched_otp);
        match self {
            Self::Plain => build_plain(project, build, &compiler()),
            Self::Systools(release) => build_with_systools(project, build, release),
            tool if tool.is_mix() => tool.build_with_mix(project, build, otp()),
            tool => tool.build_with_rebar3(project, build, otp()),
        }
    }

    fn build_with_rebar3(self, project: &Path, build: Build, otp: Option<&Path>) -> PathBuf {
        let mode = match self {
            Self::RebarProd => "prod",
            Self::RebarMinimal => "minimal",
            _ => "dev",
        };
        let more = if build.has_extra { ", extra" } else { "" };
        lay_out(
            "rebar3",
            project,
            build,
            &[("@MODE@", mode), ("@MORE@", more)],
        );
        if build.has_extra {
            copy(&project.join("extra"), &project.join("apps/extra"));
        }
        run(Command::new("rebar3").arg("release"), project, otp);
        project.join("_build/default/rel").join(NAME)
    }

    fn build_with_mix(self, project: &Path, build: Build, otp: Option<&Path>) -> PathBuf {
        let erts = if self == Self::MixWithErts {
            "true"
        } else {
            "false"
        };
        let more = if build.has_extra {
            "{:extra, path: \"extra\"}"
        } else {
            ""
        };
        lay_out("mix", project, build, &[("@ERTS@", erts), ("@MORE@", more)]);
        // The second version implements the protocol for one more type.
        let implementation = project.join("integer.ex");
        if build.code == 1 {
            fs::remove_file(implementation).expect("removed");
        } else {
            fs::rename(implementation, project.join("lib/integer.ex")).expect("renamed");
        }
        run(
            Command::new("mix").args(["release", "--overwrite", "--quiet"]),
            project,
            otp,
        );
        project.join("_build/prod/rel").join(NAME)
    }
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/projects")
}

/// Returns a directory of this process. It is removed when the process ends in any way.
fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (path, _) = SCRATCH.get_or_init(|| {
        let path = tempfile::tempdir().expect("a directory").keep();
        // Its input ends when this process ends.
        let remover = Command::new("sh")
            .args(["-c", "cat; rm -rf \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh runs");
        (path, remover)
    });
    path
}

/// Returns a copy of the machine's OTP with newer versions of `kernel` and `stdlib`.
fn patched_otp() -> &'static Path {
    static PATCHED: OnceLock<PathBuf> = OnceLock::new();
    PATCHED.get_or_init(|| {
        let root = scratch().join("otp");
        let patch = data().join("patch_otp.escript");
        run(
            Command::new("escript").arg(patch).arg(&root),
            scratch(),
            None,
        );
        root
    })
}

/// Copies the sources of a project and fills in the build's values.
fn lay_out(kind: &str, project: &Path, build: Build, more: &[(&str, &str)]) {
    copy(&data().join(kind), project);
    let code = build.code.to_string();
    let common = [
        ("@CODE@", code.as_str()),
        ("@VERSION@", build.version),
        ("@COOKIE@", COOKIE),
    ];
    fill_in(project, &[&common, more].concat());
}

/// Replaces words in all files of a project, except built ones.
///
/// # Panics
/// If a file cannot be read or written.
pub fn fill_in(dir: &Path, words: &[(&str, &str)]) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if !path.ends_with("_build") {
                fill_in(&path, words);
            }
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let filled = words.iter().fold(text.clone(), |text, (word, value)| {
            text.replace(word, value)
        });
        if filled != text {
            fs::write(&path, filled).expect("written");
        }
    }
}

/// Compiles the applications of the rebar3 project into `lib`, and adds the parts of OTP and the
/// files for a start.
fn build_with_systools(project: &Path, build: Build, release: u32) -> PathBuf {
    let program = |name| otp::program(release, name).expect("that release is here");
    let root = build_plain(project, build, &program("erlc"));
    let escript = program("escript");
    let patch = if build.is_otp_patched {
        "patched"
    } else {
        "plain"
    };
    let mut assemble = Command::new(&escript[0]);
    assemble
        .args(&escript[1..])
        .arg(data().join("assemble.escript"))
        .arg(&root)
        .args([build.version, COOKIE, patch]);
    run(&mut assemble, project, None);
    root
}

/// Compiles the applications of the rebar3 project into `lib`.
fn build_plain(project: &Path, build: Build, compiler: &[String]) -> PathBuf {
    let sources = tempfile::tempdir().expect("a directory");
    lay_out("rebar3", sources.path(), build, &[]);
    let root = project.join("rel");
    let application = |from: &str, name: &str, version: &str, modules: &[&str]| {
        let from = sources.path().join(from).join("src");
        let ebin = root.join(format!("lib/{name}-{version}/ebin"));
        fs::create_dir_all(&ebin).expect("a directory");
        let read = |file: &str| fs::read_to_string(from.join(file)).expect("a source");
        let listed = format!("{{env, []}}, {{modules, [{}]}}", modules.join(", "));
        let app = read(&format!("{name}.app.src")).replace("{env, []}", &listed);
        fs::write(ebin.join(format!("{name}.app")), app).expect("written");
        for module in modules {
            let source = read(&format!("{module}.erl"));
            let body = source.replacen(&format!("-module({module})."), "", 1);
            compile_with(compiler, &ebin, &[(module, &body)]);
        }
    };
    application(
        "apps/sample",
        NAME,
        build.version,
        &["sample", "sample_server"],
    );
    if build.has_extra {
        application("extra", "extra", "1.0.0", &["extra"]);
    }
    root
}

/// Runs a tool in a directory, without a network and with a home of its own. It uses the OTP at
/// `otp`, or the machine's.
fn run(command: &mut Command, dir: &Path, otp: Option<&Path>) {
    let home = scratch().join("home");
    fs::create_dir_all(&home).expect("a directory");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = otp.map(|otp| otp.join("bin"));
    let dirs = own.into_iter().chain(std::env::split_paths(&path));
    let output = command
        .current_dir(dir)
        .env("PATH", std::env::join_paths(dirs).expect("a path"))
        .env("HOME", &home)
        .env("REBAR_CACHE_DIR", home.join("rebar3"))
        .env("REBAR_OFFLINE", "1")
        .env("MIX_HOME", home.join("mix"))
        .env("MIX_ENV", "prod")
        .env("HEX_OFFLINE", "1")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .expect("the tool runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
}
