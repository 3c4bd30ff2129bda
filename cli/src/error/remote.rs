//! What the agent refuses, by the kinds of store-format.md.

use relsync_engine::target::wire::{ErrorKind, HookFailure, RemoteError};

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
pub(super) fn remote_exit(kind: &ErrorKind) -> Exit {
    match kind {
        ErrorKind::Path => Exit::Usage,
        ErrorKind::Damaged => Exit::HalfDone,
        _ => Exit::Failed,
    }
}

/// What to try after a refusal: where a hook judged the release, it is the release that is at fault.
pub(super) fn refusal_hint(remote: &RemoteError) -> Option<String> {
    let hint = match &remote.hook {
        Some(HookFailure::Unhealthy) => {
            "the release did not become healthy: see what the hook said"
        }
        Some(HookFailure::Refused) => "the hook refused the update: see what it said",
        Some(HookFailure::Timeout) => "--hook-timeout gives it longer, if that is all it needs",
        Some(HookFailure::Other(_)) | None => return remote_hint(&remote.kind),
    };
    Some(hint.to_owned())
}

/// What to try when the agent refuses; the kinds are those of store-format.md.
pub(super) fn remote_hint(kind: &ErrorKind) -> Option<String> {
    let hint = match kind {
        ErrorKind::Busy => {
            "wait for the other push to end; a session whose host is gone ends by itself within a minute or so"
        }
        ErrorKind::State => {
            "look at what stands there and remove it: the next push makes the state directory anew, and scans the target"
        }
        ErrorKind::Path => "check --destination-path and --destination-rw-path",
        ErrorKind::Space => {
            "free some space on the target; what earlier generations hold (`relsync status`) goes with the next update that fits, \
             as --keep and --keep-bytes say"
        }
        ErrorKind::ReadOnly => {
            "name a directory that can be written with -q, or remount in a presync hook"
        }
        ErrorKind::Conflict => {
            "keep what is there: move it away, or leave it out with --exclude; or replace it with --overwrite GLOB: a rollback brings it back"
        }
        ErrorKind::Io => {
            "check --destination-path, and that the user the node runs as may read and write there"
        }
        ErrorKind::Pack | ErrorKind::BaseChanged => {
            "something else changed the target meanwhile: push again with --checksum"
        }
        ErrorKind::Hooks => "correct the hooks; what they printed, if they ran, stands above",
        ErrorKind::HooksExports => {
            "correct the hooks: no function that is never called may look like one"
        }
        ErrorKind::InUse => IN_USE_HINT,
        ErrorKind::Boot => BOOT_HINT,
        ErrorKind::SameName => {
            "the target's file system ignores case: rename one of them, or leave it out with --exclude"
        }
        ErrorKind::MountPoint => {
            "change what is mounted there where it comes from, unmount it, or leave the path out with --exclude"
        }
        ErrorKind::OnLoad => {
            "what the message says happened on the target; a library that the module loads may be missing there (--shared-libs)"
        }
        ErrorKind::OtherOtp => OTHER_OTP_HINT,
        ErrorKind::BadBeam => {
            "the release was compiled for another OTP release than the target runs, or a file is damaged"
        }
        ErrorKind::Restart => {
            "name what starts the release on the target: --restart-command 'bin/app daemon' (run in the destination), or `none` where a supervisor \
             starts it again; or push with --reload none and restart the VM yourself"
        }
        ErrorKind::Damaged => {
            "the target's files are between two releases, its code still runs: repair its file system (space, permissions, the \
             medium) before its VM restarts, then run `relsync status` or push again, which completes or undoes the switch first"
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
