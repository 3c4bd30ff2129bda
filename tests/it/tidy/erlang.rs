//! The modules of the agent that may change files, start processes, and call the code server.

use super::Findings;
use super::source::Source;

/// The calls that change files. Only `relsync_lib_fs` makes them, and only it uses `prim_file`.
const MUTATORS: &[&str] = &[
    "file:allocate",
    "file:change_group",
    "file:change_mode",
    "file:change_owner",
    "file:change_time",
    "file:copy",
    "file:datasync",
    "file:del_dir",
    "file:del_dir_r",
    "file:delete",
    "file:make_dir",
    "file:make_link",
    "file:make_symlink",
    "file:open",
    "file:pwrite",
    "file:rename",
    "file:set_cwd",
    "file:sync",
    "file:truncate",
    "file:write",
    "file:write_file",
    "file:write_file_info",
    "filelib:ensure_dir",
    "filelib:ensure_path",
    "prim_file:",
];

/// The calls that run programs. `relsync_lib_tools` makes them.
const RUNNERS: &[&str] = &["open_port", "os:cmd"];

/// The calls that start a process. `relsync_lib_worker` makes them, so that no process has a limit
/// to its heap.
const STARTERS: &[&str] = &["spawn(", "spawn_link(", "spawn_monitor(", "spawn_opt("];

pub(super) const WORKER_MODULE: &str = "relsync_lib_worker";

/// Modules that run where no other module of ours is, and start the session's process.
pub(super) const ALONE_MODULES: &[&str] = &["relsync_lib_ssh_channel", "relsync_stdio"];

pub(super) const FILES_MODULE: &str = "relsync_lib_fs";

/// The module that opens the files which the module above changes.
pub(super) const PLACES_MODULE: &str = "relsync_lib_place";

/// The module that runs programs of the target.
pub(super) const TOOLS_MODULE: &str = "relsync_lib_tools";

/// The modules that may call the code server, with the allowed functions and the reason. An empty
/// list allows all.
#[rustfmt::skip]
pub(super) const CODE_CALLERS: &[(&str, &[&str], &str)] = &[
    ("relsync_lib_code", &[], "owns the running code of the release"),
    ("relsync_lib_loader", &["atomic_load", "delete", "is_loaded", "load_file", "purge", "soft_purge", "which"], "brings the agent's own modules in, before relsync_lib_code is there"),
    ("relsync_fetch", &["add_pathz", "del_path", "lib_dir", "load_binary", "load_file"], "loads the loader, and crypto where the release has none; it is evaluated, not a module of the target"),
    ("relsync_stdio", &["add_pathz", "ensure_loaded", "lib_dir"], "looks for crypto; it is evaluated, not a module of the target"),
    ("relsync_lib_zstd", &["ensure_loaded"], "asks whether this OTP has a zstd module"),
];

/// Checks that only the modules in the tables change files, start processes or call `code`.
pub(super) fn check(source: &Source, findings: &mut Findings) {
    let module = match source.between("erlang/", ".erl") {
        Some(path) if !path.contains("/test/") => path.rsplit('/').next().unwrap_or(path),
        _ => return,
    };
    let lines = source.lines();
    if module != FILES_MODULE && module != PLACES_MODULE {
        findings.forbid(
            source,
            &lines,
            MUTATORS,
            "erlang-files",
            &format!("only {FILES_MODULE} may call"),
        );
    }
    if module != TOOLS_MODULE && !ALONE_MODULES.contains(&module) {
        findings.forbid(
            source,
            &lines,
            RUNNERS,
            "erlang-tools",
            &format!("only {TOOLS_MODULE} may call"),
        );
    }
    if module != WORKER_MODULE && !ALONE_MODULES.contains(&module) {
        findings.forbid(
            source,
            &lines,
            STARTERS,
            "erlang-processes",
            &format!("only {WORKER_MODULE} starts processes, but here is"),
        );
    }
    let allowed = CODE_CALLERS
        .iter()
        .find(|(name, ..)| *name == module)
        .map(|(_, functions, _)| *functions);
    if allowed == Some(&[]) {
        return;
    }
    for line in &lines {
        for (at, prefix) in line.code.match_indices("code:") {
            let is_part = |char: char| char.is_alphanumeric() || char == '_';
            let rest = &line.code[at + prefix.len()..];
            let function = &rest[..rest.find(|char| !is_part(char)).unwrap_or(rest.len())];
            if line.code[..at].ends_with(is_part)
                || allowed.is_some_and(|all| all.contains(&function))
            {
                continue;
            }
            findings.add(
                source,
                line.number,
                "erlang-code",
                &format!("{module} must not call `code:{function}`"),
            );
        }
    }
}
