//! Hints for errors once a target answers: of the link, the conversation and the update.

use relsync_engine::pack::encode::EncodeError;
use relsync_engine::target::ErrorKind;
use relsync_engine::target::session::SessionError;
use relsync_engine::transport::TransportError;
use relsync_engine::update::PushError;

use super::remote::{refusal_exit, refusal_hint, remote_hint};
use super::store::store_class;
use super::{Class, Exit};

pub(super) fn session_class(error: &SessionError) -> Class<'_> {
    let hint = |text: &str| Some(text.to_owned());
    match error {
        SessionError::Transport(transport) => transport_class(transport),
        SessionError::Wire(_)
        | SessionError::Unexpected { .. }
        | SessionError::TooManySteps { .. }
        | SessionError::Protocol { .. } => (
            "protocol",
            Exit::Failed,
            hint("use the same version of relsync for every push to this target"),
        ),
        SessionError::Remote(remote) => (
            remote.kind.as_str(),
            refusal_exit(&remote.kind),
            refusal_hint(remote),
        ),
        SessionError::Hung { .. }
        | SessionError::NoAnswer { .. }
        | SessionError::Unfinished { .. }
        | SessionError::Stuck { .. } => (
            "hung",
            Exit::Unreachable,
            hint(
                "`exit(whereis(relsync_session), kill)` on the target ends the session; then `relsync status` tells which release the target runs",
            ),
        ),
        SessionError::FalseClaim(_) => (
            "false_claim",
            Exit::Unreachable,
            hint(
                "do not trust this target: look at the device itself; `relsync status` only repeats what the target says",
            ),
        ),
        SessionError::InvalidEnd(_) => (
            "protocol",
            Exit::Unreachable,
            hint("`relsync status` tells which release the target runs"),
        ),
        SessionError::Busy { .. } => ("busy", Exit::Failed, remote_hint(&ErrorKind::Busy)),
        SessionError::Returning => (
            "busy",
            Exit::Failed,
            hint(
                "wait a moment: `relsync status` then tells which release the target went back to",
            ),
        ),
        SessionError::Lacks { application } => (
            "agent",
            Exit::Failed,
            Some(format!(
                "add {application} to the release's applications, or put its directory into `code:lib_dir()` of the target"
            )),
        ),
        SessionError::OldOtp { .. } => (
            "old_otp",
            Exit::Failed,
            hint("update Erlang/OTP on the target first"),
        ),
    }
}

fn transport_class(error: &TransportError) -> Class<'static> {
    match error {
        TransportError::Closed | TransportError::Silent { .. } | TransportError::Io { .. } => (
            "lost",
            Exit::Unreachable,
            Some(
                "push again: it continues where it stopped; a higher --retries lets it try longer"
                    .to_owned(),
            ),
        ),
        TransportError::SpawnRefused { .. } => (
            "agent",
            Exit::Failed,
            Some("the target must run OTP 23 or newer with kernel, stdlib and crypto".to_owned()),
        ),
        TransportError::AgentEnded { .. } => (
            "agent",
            Exit::Failed,
            Some("push again; if it happens again, please report it with this message".to_owned()),
        ),
        TransportError::Oversized { .. }
        | TransportError::Malformed { .. }
        | TransportError::MessageTooLarge { .. } => ("protocol", Exit::Failed, None),
    }
}

pub(super) fn push_class(error: &PushError) -> Class<'_> {
    let hint = |text: &str| Some(text.to_owned());
    match error {
        PushError::Session(error) => session_class(error),
        PushError::LostWhileApplying { .. } => (
            "lost",
            Exit::Unreachable,
            hint("`relsync status` tells which release the target runs"),
        ),
        PushError::ZlibDiffers => ("zlib_differs", Exit::Failed, None),
        PushError::PackDiffers(error) => session_class(error),
        PushError::Worker(_) => ("io", Exit::Failed, None),
        PushError::Store(error) => store_class(error),
        PushError::Encode(EncodeError::Sink(_)) | PushError::Spool(_) => (
            "store",
            Exit::Store,
            hint("check the free space where the store is"),
        ),
        PushError::Encode(_) => (
            "store",
            Exit::Store,
            hint("`relsync store check --read-data` tells whether the store is damaged"),
        ),
        PushError::Manifest(_) | PushError::WrongManifest => (
            "bad_manifest",
            Exit::Failed,
            hint(
                "push again: the target scans its files if a record is damaged; `relsync status` names the damaged records",
            ),
        ),
        PushError::NextBoot(_) => ("boot", Exit::Failed, remote_hint(&ErrorKind::Boot)),
        PushError::OtherOtp(_) => ("other_otp", Exit::Failed, remote_hint(&ErrorKind::OtherOtp)),
        PushError::NothingRemains { count } => (
            "nothing_remains",
            Exit::Failed,
            Some(format!(
                "check --local-path and --destination-path; if the previous push was the mistake, `relsync rollback` undoes it; --max-delete {count} allows this one"
            )),
        ),
        PushError::Conflict { .. } => ("conflict", Exit::Failed, remote_hint(&ErrorKind::Conflict)),
        PushError::MountPoints { .. } => (
            "mount_point",
            Exit::Failed,
            remote_hint(&ErrorKind::MountPoint),
        ),
        PushError::TooManyDeletes { .. } => (
            "max_delete",
            Exit::Failed,
            hint("`relsync plan` lists them; raise --max-delete, or keep some with --protect"),
        ),
    }
}
