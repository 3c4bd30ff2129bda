//! Hints and exit codes for what the agent refuses, by the kinds of store-format.md.

use relsync_engine::target::{ErrorKind, HookFailure, RemoteError};

use super::Exit;

/// The hint for processes that are in the way of new code.
pub(crate) const IN_USE_HINT: &str =
    "`--reload hard` kills these processes, `--reload apps` restarts their applications";

/// The hint for an update after which a restart would miss something.
pub(crate) const BOOT_HINT: &str = "push what the message names as well (an --exclude may leave it out), or build the release for what the target has; \
    `relsync doctor` tells what a restart would miss now";

/// The hint for modules that were compiled for another OTP than the target runs.
pub(crate) const OTHER_OTP_HINT: &str = "build the release with the OTP that the target runs; if the release brings its own ERTS, --reload vm starts it with that";

/// How the process ends when the agent refuses. All refusals but one leave the target unchanged.
pub(super) fn refusal_exit(kind: &ErrorKind) -> Exit {
    match kind {
        ErrorKind::Path => Exit::Usage,
        ErrorKind::Damaged => Exit::HalfDone,
        _ => Exit::Failed,
    }
}

/// The hint after a refusal. If a hook judged the release, the release is at fault, not the hook.
pub(super) fn refusal_hint(remote: &RemoteError) -> Option<String> {
    let hint = match &remote.hook {
        Some(HookFailure::Unhealthy) => {
            "the release did not become healthy: see what the hook said"
        }
        Some(HookFailure::Refused) => "the hook refused the update: see what it said",
        Some(HookFailure::Timeout) => {
            "--hook-timeout gives the hook longer, if that is all it needs"
        }
        Some(HookFailure::Other(_)) | None => return remote_hint(&remote.kind),
    };
    Some(hint.to_owned())
}

/// The hint for a kind of refusal; the kinds are those of store-format.md.
pub(super) fn remote_hint(kind: &ErrorKind) -> Option<String> {
    let hint = match kind {
        ErrorKind::Busy => {
            "wait for the other push to end; a session whose host is gone ends by itself within a minute or so"
        }
        ErrorKind::State => {
            "look at what is there and remove it: the next push creates the state directory again, and scans the target"
        }
        ErrorKind::Path => "check --destination-path and --destination-rw-path",
        ErrorKind::Space => {
            "free some space on the target; earlier generations take some (`relsync status`): --keep and --keep-bytes limit them from the \
             next update that fits"
        }
        ErrorKind::ReadOnly => {
            "name a writable directory with -q, or remount the file system in a presync hook"
        }
        ErrorKind::Conflict => {
            "to keep what is there, move it away, or leave it out with --exclude; to replace it, use --overwrite GLOB: a rollback brings it back"
        }
        ErrorKind::Io => {
            "check --destination-path, and that the node's user may read and write there"
        }
        ErrorKind::Pack | ErrorKind::BaseChanged => {
            "something else changed the target meanwhile: push again with --checksum"
        }
        ErrorKind::Interfered => {
            "`relsync status` shows what is installed now; push again when nobody else does"
        }
        ErrorKind::Hooks => "correct the hooks; what they printed, if they ran, is shown above",
        ErrorKind::HooksExports => {
            "export a hook, or rename the function that only looks like one: relsync would never call it"
        }
        ErrorKind::InUse => IN_USE_HINT,
        ErrorKind::Boot => BOOT_HINT,
        ErrorKind::SameName => {
            "the target's file system ignores case: rename one of them, or leave it out with --exclude"
        }
        ErrorKind::MountPoint => {
            "unmount it, change the file at the place that it is mounted from, or leave the path out with --exclude"
        }
        ErrorKind::OnLoad => {
            "the function failed on the target; a library that the module loads may be missing there (--shared-libs)"
        }
        ErrorKind::OtherOtp => OTHER_OTP_HINT,
        ErrorKind::BadBeam => {
            "the release was compiled for another OTP release than the target runs, or a file is damaged"
        }
        ErrorKind::Restart => {
            "name the command that starts the release on the target: --restart-command 'bin/app daemon' (it runs in the destination), or `none` if a \
             supervisor starts it again; or push with --reload none and restart the VM yourself"
        }
        ErrorKind::Damaged => {
            "the target's files are between two releases, and its code still runs: repair its file system (space, permissions, the \
             medium) before its VM restarts; then run `relsync status` or push again: both first complete or undo the switch"
        }
        ErrorKind::NoGeneration => {
            "`relsync status` lists what the target keeps; push older ones with --snapshot ID"
        }
        ErrorKind::NotOnProbation => {
            "there is nothing to confirm; `relsync status` shows the target's state"
        }
        ErrorKind::Internal => {
            "please report it with this message; `relsync status` shows the target's state"
        }
        ErrorKind::Protocol => "use the same version of relsync for every push to this target",
        _ => return None,
    };
    Some(hint.to_owned())
}
