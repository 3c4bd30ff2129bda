//! What the agent refuses, by the kinds of store-format.md.

use relsync_engine::target::wire::RemoteError;

use super::Exit;

/// What to try when processes are in the way of new code.
pub(crate) const IN_USE_HINT: &str =
    "`--reload hard` kills these processes, `--reload apps` restarts their applications";

/// The hint for an update after which a restart would miss something.
pub(crate) const BOOT_HINT: &str = "push what is named as well (an --exclude may leave it out), or build the release for what the target has; \
    `relsync doctor` tells what a restart would miss now";

/// The hint for modules that were compiled for another OTP than the target runs.
pub(crate) const OTHER_OTP_HINT: &str = "build the release with the OTP that the target runs; if it brings its own ERTS, --reload vm starts it with that";

/// How the process ends when the agent refuses: its errors leave the target as it was, but for one.
pub(super) fn remote_exit(kind: &str) -> Exit {
    match kind {
        "path" => Exit::Usage,
        "damaged" => Exit::HalfDone,
        _ => Exit::Failed,
    }
}

/// What to try after a refusal: where a hook judged the release, it is the release that is at fault.
pub(super) fn refusal_hint(remote: &RemoteError) -> Option<String> {
    let says = |text: &str| remote.kind == "hooks" && remote.message.contains(text);
    let hint = if says("the health hook returned ") {
        "the release did not become healthy: see what the hook said"
    } else if says(" hook returned an error: ") {
        "the hook refused the update: see what it said"
    } else if says(" hook did not return within ") {
        "--hook-timeout gives it longer, if that is all it needs"
    } else {
        return remote_hint(&remote.kind);
    };
    Some(hint.to_owned())
}

/// What to try when the agent refuses; the kinds are those of store-format.md.
pub(super) fn remote_hint(kind: &str) -> Option<String> {
    let hint = match kind {
        "busy" => {
            "wait for the other push to end; a session whose host is gone ends by itself within a minute or so"
        }
        "state" => {
            "look at what stands there and remove it: the next push makes the state directory anew, and scans the target"
        }
        "path" => "check --destination-path and --destination-rw-path",
        "space" => {
            "free some space on the target; what earlier generations hold (`relsync status`) goes with the next update that fits, \
             as --keep and --keep-bytes say"
        }
        "read_only" => "name a directory that can be written with -q, or remount in a presync hook",
        "conflict" => {
            "keep what is there: move it away, or leave it out with --exclude; or replace it with --overwrite GLOB: a rollback brings it back"
        }
        "io" => {
            "check --destination-path, and that the user the node runs as may read and write there"
        }
        "pack" | "base_changed" => {
            "something else changed the target meanwhile: push again with --checksum"
        }
        "hooks" => "correct the hooks; what they printed, if they ran, stands above",
        "hooks_exports" => "correct the hooks: no function that is never called may look like one",
        "in_use" => IN_USE_HINT,
        "boot" => BOOT_HINT,
        "same_name" => {
            "the target's file system ignores case: rename one of them, or leave it out with --exclude"
        }
        "mount_point" => {
            "change what is mounted there where it comes from, unmount it, or leave the path out with --exclude"
        }
        "on_load" => {
            "what the message says happened on the target; a library that the module loads may be missing there (--shared-libs)"
        }
        "other_otp" => OTHER_OTP_HINT,
        "bad_beam" => {
            "the release was compiled for another OTP release than the target runs, or a file is damaged"
        }
        "restart" => {
            "name what starts the release on the target: --restart-command 'bin/app daemon' (run in the destination), or `none` where a supervisor \
             starts it again; or push with --reload none and restart the VM yourself"
        }
        "damaged" => {
            "the target's files are between two releases, its code still runs: repair its file system (space, permissions, the \
             medium) before its VM restarts, then run `relsync status` or push again, which completes or undoes the switch first"
        }
        "no_generation" => {
            "`relsync status` lists what the target keeps; push older ones with --snapshot ID"
        }
        "not_on_probation" => {
            "there is nothing to confirm; `relsync status` shows the target's state"
        }
        "internal" => {
            "please report it with this message; `relsync status` shows the target's state"
        }
        "protocol" => "use the same version of relsync for every push to this target",
        _ => return None,
    };
    Some(hint.to_owned())
}
