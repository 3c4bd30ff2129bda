//! Finds out whether a destination can be written, by writing there.
//!
//! Owns the expressions that the target evaluates for it. What a file system says of a directory's permissions is not enough: it may be
//! mounted read-only, or be none that takes files, like `/proc`. So an empty directory is made where a push would begin, and removed at
//! once; a target that is lost in between keeps `.relsync-probe-…`, empty.

use std::time::Duration;

use tokio::time::timeout;

use crate::target::launch;
use crate::transport::TransportError;
use crate::transport::erl::{self, Connection, Event};

/// A push makes the destination, but nothing above it; below it, it makes its state directory.
const PROGRAM: &str = r#"
Host = group_leader(),
group_leader(whereis(init), self()),
Name = list_to_binary([".relsync-probe-", integer_to_list(erlang:system_time())]),
Try = fun(In) ->
    Path = filename:join(In, Name),
    case prim_file:make_dir(Path) of
        ok -> prim_file:del_dir(Path);
        Error -> Error
    end
end,
Say = fun(Kind, Path, Reason) ->
    Host ! {relsync, <<Kind, (atom_to_binary(Reason, utf8))/binary, 0, Path/binary>>}
end,
case prim_file:read_file_info(Dir) of
    {ok, _} ->
        State = filename:join(Dir, <<".relsync">>),
        case Try(Dir) of
            ok ->
                case Try(State) of
                    {error, Reason} when Reason =/= enoent -> Say(2, State, Reason);
                    _ -> Say(0, Dir, ok)
                end;
            {error, Reason} -> Say(2, Dir, Reason)
        end;
    {error, enoent} ->
        case Try(filename:dirname(Dir)) of
            ok -> Say(1, Dir, ok);
            {error, Reason} -> Say(2, filename:dirname(Dir), Reason)
        end;
    {error, Reason} -> Say(2, Dir, Reason)
end.
"#;

/// Longer answers are none: a path and the name of an error.
const MAX_ANSWER_BYTES: usize = 8 * 1024;

/// What a destination is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It is there and can be written.
    Writable,
    /// It is not there, and can be made.
    Absent,
    /// It cannot be written, or not be made.
    Refused {
        /// Where it was tried.
        path: Vec<u8>,
        /// POSIX's name of the error, like `erofs`.
        reason: String,
    },
}

/// Tries whether the directory `dir` on the node can be written; the answer may take so long.
pub(super) async fn place(
    connection: &mut Connection,
    dir: &[u8],
    limit: Duration,
) -> Result<Place, TransportError> {
    let variables = [("Dir", launch::binary(dir))];
    let none = erl::list(Vec::new());
    launch::evaluate(connection, &variables, PROGRAM, none).await?;
    loop {
        let event = timeout(limit, connection.receive()).await;
        match event.map_err(|_| TransportError::Silent { after: limit })?? {
            Event::Message(answer) => {
                return decode(&answer).ok_or_else(|| TransportError::Malformed {
                    what: "an answer about the destination that is none".to_owned(),
                });
            }
            Event::Ended { reason, .. } if reason == "normal" => {}
            Event::Ended { reason, .. } => return Err(TransportError::AgentEnded { reason }),
        }
    }
}

fn decode(answer: &[u8]) -> Option<Place> {
    if answer.len() > MAX_ANSWER_BYTES {
        return None;
    }
    let (kind, rest) = answer.split_first()?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let reason = String::from_utf8(rest[..end].to_vec()).ok()?;
    match kind {
        0 => Some(Place::Writable),
        1 => Some(Place::Absent),
        2 => Some(Place::Refused {
            path: rest[end + 1..].to_vec(),
            reason,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_decoded_or_refused() {
        let long = vec![b'a'; MAX_ANSWER_BYTES + 1];
        let refused = Place::Refused {
            path: b"/ro".to_vec(),
            reason: "erofs".to_owned(),
        };
        let table: [(&[u8], Option<Place>); 8] = [
            (b"\x00ok\x00/srv", Some(Place::Writable)),
            (b"\x01ok\x00/srv", Some(Place::Absent)),
            (b"\x02erofs\x00/ro", Some(refused)),
            (b"\x03ok\x00/srv", None),
            (b"\x02erofs", None),
            (b"\x02\xff\x00/ro", None),
            (b"", None),
            (&long, None),
        ];
        for (answer, expected) in table {
            assert_eq!(decode(answer), expected, "{answer:?}");
        }
    }
}
