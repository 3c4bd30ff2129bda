//! The messages of the distribution protocol that the host sends and understands.
//!
//! Format: "Protocol between Connected Nodes" in the ERTS documentation, pass-through form. Neither
//! the atom cache nor fragments are ever negotiated. So a frame is `112, 131, Control`, followed by
//! `131, Payload` if the control message has a payload. `erl_dist` writes and reads both, after
//! [`term`] has measured a received one. `erl_dist::message::channel` is never used: it allocates
//! the length that a peer claims, loses bytes when it is cancelled, and does not flush ticks.

use std::io::Read;

use eetf::{FixInteger, List, Tuple};
use erl_dist::message::{
    Exit, Exit2, Message, MonitorPExit, PayloadExit, PayloadExit2, PayloadMonitorPExit, RecvError,
    Send,
};
use erl_dist::term::{Mfa, PidOrAtom};

use super::reason;
use super::term::{self, Atom, Pid, Reference, Term, TermError, VERSION};

/// Marks a frame without distribution header.
const PASS_THROUGH: u8 = 112;

/// The atom that tags relsync's own messages.
const MESSAGE_TAG: &str = "relsync";

/// The empty list, encoded. It takes the place of a payload that cannot be read.
const NO_PAYLOAD: [u8; 2] = [VERSION, 106];

/// The first bytes of the control message of a send with a trace token.
const SEND_TRACED: [u8; 5] = [VERSION, 104, 4, 97, 12];

/// The bond between a new process and the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpawnBond {
    /// A link: the process ends with the connection, unless it traps exits. The host learns of its
    /// end.
    Link,
    /// A monitor: the host learns of the process's end. The process does not learn of the
    /// connection's end.
    Monitor,
}

/// A function to be called in a new process.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// The module's name.
    pub module: &'a str,
    /// The function's name.
    pub function: &'a str,
    /// The arguments.
    pub arguments: &'a [Term],
}

/// The meaning of a frame. Texts of reasons are rendered and bounded.
#[derive(Debug, PartialEq)]
pub(super) enum Signal {
    /// One of relsync's messages to a process of the host.
    Message { to: Pid, content: Vec<u8> },
    /// A linked process ended, or a process sent an exit signal.
    Exit { from: Pid, to: Pid, reason: String },
    /// A monitored process ended.
    Down { monitor: Reference, reason: String },
    /// The answer to a request to spawn; the error is a short reason.
    SpawnReply {
        request: Reference,
        result: Result<Pid, String>,
    },
    /// The other side removed a link and waits for this frame as an answer.
    Unlink { answer: Vec<u8> },
    /// Anything else; none of it needs an answer.
    Other,
}

/// Returns the frame that sends one of relsync's messages, its length included.
pub(super) fn encode_message(to: &Pid, content: &[u8]) -> Vec<u8> {
    let message = term::tuple(vec![term::atom(MESSAGE_TAG), term::binary(content)]);
    encode_frame(Message::send(to.clone(), message), content.len())
}

/// Returns the frame that asks for a new process, its length included.
pub(super) fn encode_spawn(
    request: &Reference,
    from: &Pid,
    call: &Call<'_>,
    bond: SpawnBond,
) -> Vec<u8> {
    let entry = Mfa {
        module: Atom::from(call.module),
        function: Atom::from(call.function),
        arity: FixInteger {
            value: i32::try_from(call.arguments.len()).unwrap_or(i32::MAX),
        },
    };
    let option = match bond {
        SpawnBond::Link => "link",
        SpawnBond::Monitor => "monitor",
    };
    // A VM may limit the heap of every new process, and kill a process that exceeds it.
    let no_heap_limit = term::tuple(vec![term::atom("max_heap_size"), term::integer(0)]);
    let request = Message::spawn_request(
        request.clone(),
        from.clone(),
        // The group leader. The host prints nothing for a target, so the process sets its own.
        from.clone(),
        entry,
        List::from(vec![term::atom(option), no_heap_limit]),
        List::from(call.arguments.to_vec()),
    );
    encode_frame(request, 0)
}

fn encode_frame(message: Message, payload_size: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload_size + 128);
    frame.extend([0, 0, 0, 0, PASS_THROUGH]);
    let written = message.write_into(&mut frame);
    debug_assert!(written.is_ok(), "names and numbers of the host are short");
    // Callers keep frames far below 4 GiB. The target would refuse a wrong length.
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Reads a frame, without its length. An unreadable payload costs a message or the reason of an
/// exit, but not the connection.
pub(super) fn decode_frame(frame: &[u8]) -> Result<Signal, TermError> {
    let Some(body) = frame.strip_prefix(&[PASS_THROUGH]) else {
        return Err(TermError::Shape {
            wanted: "a message without distribution header",
        });
    };
    let (control, payload) = body.split_at(measure(body)?);
    let (payload, unreadable) = match payload {
        [] => (payload, None),
        [VERSION, ..] => match measure(payload) {
            Ok(size) if size == payload.len() => (payload, None),
            Ok(_) => (&NO_PAYLOAD[..], Some(TermError::Shape { wanted: "alone" })),
            Err(error) => (&NO_PAYLOAD[..], Some(error)),
        },
        _ => {
            return Err(TermError::Shape {
                wanted: "a payload with version byte",
            });
        }
    };
    if control.starts_with(&SEND_TRACED) {
        return Ok(traced(control, payload).unwrap_or(Signal::Other));
    }
    match Message::read_from(&mut control.chain(payload)) {
        Ok(message) => Ok(signal(message, unreadable)),
        Err(RecvError::UnsupportedOp { .. }) => Ok(Signal::Other),
        // `erl_dist` knows the number but not this shape, such as a list of bytes as arguments.
        Err(_) if matches!(control, [VERSION, 104, _, 97, ..]) => Ok(Signal::Other),
        Err(_) => Err(TermError::Shape {
            wanted: "a control message",
        }),
    }
}

/// Returns the length of the term at the start of some bytes, its version byte included.
fn measure(bytes: &[u8]) -> Result<usize, TermError> {
    match bytes.split_first() {
        Some((&VERSION, term)) => Ok(1 + term::measure(term)?),
        _ => Err(TermError::Shape {
            wanted: "a term with version byte",
        }),
    }
}

/// Reads a send with a trace token. `erl_dist` 0.8 mistakes the token for the receiver.
fn traced(control: &[u8], payload: &[u8]) -> Option<Signal> {
    let Ok(Term::Tuple(Tuple { elements })) = Term::decode(control) else {
        return None;
    };
    let [_, _, Term::Pid(to_pid), _] = <[Term; 4]>::try_from(elements).ok()? else {
        return None;
    };
    let message = Term::decode(payload).ok()?;
    Some(signal(Message::Send(Send { to_pid, message }), None))
}

fn signal(message: Message, unreadable: Option<TermError>) -> Signal {
    let render = |reason: &Term| match unreadable {
        None => reason::render(reason),
        Some(error) => format!("unreadable reason ({error})"),
    };
    match message {
        Message::Send(sent) => match content(sent.message) {
            Some(content) => Signal::Message {
                to: sent.to_pid,
                content,
            },
            None => Signal::Other,
        },
        Message::Exit(Exit {
            from_pid,
            to_pid,
            reason,
        })
        | Message::Exit2(Exit2 {
            from_pid,
            to_pid,
            reason,
        })
        | Message::PayloadExit(PayloadExit {
            from_pid,
            to_pid,
            reason,
        })
        | Message::PayloadExit2(PayloadExit2 {
            from_pid,
            to_pid,
            reason,
        }) => Signal::Exit {
            from: from_pid,
            to: to_pid,
            reason: render(&reason),
        },
        Message::MonitorPExit(MonitorPExit {
            reference, reason, ..
        })
        | Message::PayloadMonitorPExit(PayloadMonitorPExit {
            reference, reason, ..
        }) => Signal::Down {
            monitor: reference,
            reason: render(&reason),
        },
        Message::SpawnReply(reply) => Signal::SpawnReply {
            request: reply.req_id,
            result: match reply.result {
                PidOrAtom::Pid(pid) => Ok(pid),
                PidOrAtom::Atom(reason) => Err(reason::render(&reason.into())),
            },
        },
        Message::UnlinkId(unlink)
            if matches!(unlink.id, Term::FixInteger(_) | Term::BigInteger(_)) =>
        {
            Signal::Unlink {
                answer: encode_frame(
                    Message::unlink_id_ack(unlink.id, unlink.to_pid, unlink.from_pid),
                    0,
                ),
            }
        }
        _ => Signal::Other,
    }
}

/// Returns the binary in `{relsync, Binary}`.
fn content(message: Term) -> Option<Vec<u8>> {
    let Term::Tuple(Tuple { elements }) = message else {
        return None;
    };
    match <[Term; 2]>::try_from(elements) {
        Ok([Term::Atom(tag), Term::Binary(content)]) if tag.name == MESSAGE_TAG => {
            Some(content.bytes)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pid(id: u32) -> Pid {
        Pid::new("app@host", id, 0, 7)
    }

    fn reference() -> Reference {
        Reference {
            node: "me@host".into(),
            creation: 7,
            id: vec![1, 2, 3],
        }
    }

    fn frame(elements: Vec<Term>, payload: Option<&Term>) -> Vec<u8> {
        let mut frame = vec![PASS_THROUGH];
        term::tuple(elements).encode(&mut frame).unwrap();
        if let Some(payload) = payload {
            payload.encode(&mut frame).unwrap();
        }
        frame
    }

    #[test]
    fn a_message_comes_back_from_its_frame() {
        let frame = encode_message(&pid(1), b"content");
        let (length, frame) = frame.split_first_chunk().unwrap();
        assert_eq!(u32::from_be_bytes(*length) as usize, frame.len());
        assert_eq!(
            decode_frame(frame),
            Ok(Signal::Message {
                to: pid(1),
                content: b"content".to_vec()
            })
        );
    }

    #[test]
    fn signals_are_recognised() {
        let reason = term::atom("killed");
        let exit = Signal::Exit {
            from: pid(1),
            to: pid(2),
            reason: "killed".into(),
        };
        let down = Signal::Down {
            monitor: reference(),
            reason: "killed".into(),
        };
        let [from, to] = [1, 2].map(|id| Term::from(pid(id)));
        let monitor = Term::from(reference());
        let table = [
            (
                frame(
                    vec![term::integer(3), from.clone(), to.clone(), reason.clone()],
                    None,
                ),
                exit,
            ),
            (
                frame(
                    vec![term::integer(24), from.clone(), to.clone()],
                    Some(&reason),
                ),
                Signal::Exit {
                    from: pid(1),
                    to: pid(2),
                    reason: "killed".into(),
                },
            ),
            (
                frame(
                    vec![term::integer(28), from.clone(), to.clone(), monitor.clone()],
                    Some(&reason),
                ),
                down,
            ),
            (
                frame(
                    vec![
                        term::integer(31),
                        monitor.clone(),
                        to.clone(),
                        term::integer(1),
                        from.clone(),
                    ],
                    None,
                ),
                Signal::SpawnReply {
                    request: reference(),
                    result: Ok(pid(1)),
                },
            ),
            (
                frame(
                    vec![
                        term::integer(31),
                        monitor,
                        to.clone(),
                        term::integer(0),
                        term::atom("badopt"),
                    ],
                    None,
                ),
                Signal::SpawnReply {
                    request: reference(),
                    result: Err("badopt".into()),
                },
            ),
            (
                frame(
                    vec![term::integer(2), term::atom(""), to.clone()],
                    Some(&term::atom("hello")),
                ),
                Signal::Other,
            ),
            (
                frame(vec![term::integer(1), from.clone(), to.clone()], None),
                Signal::Other,
            ),
        ];
        for (frame, signal) in table {
            assert_eq!(decode_frame(&frame), Ok(signal));
        }
        let unlink = frame(
            vec![
                term::integer(35),
                term::integer(i64::MAX),
                from.clone(),
                to.clone(),
            ],
            None,
        );
        let answer = frame(
            vec![term::integer(36), term::integer(i64::MAX), to, from],
            None,
        );
        let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
        let answer = [&length[..], &answer].concat();
        assert_eq!(decode_frame(&unlink), Ok(Signal::Unlink { answer }));
    }

    #[test]
    fn a_traced_message_is_a_message() {
        let elements = vec![
            term::integer(12),
            term::atom(""),
            pid(1).into(),
            term::tuple(vec![term::integer(1), term::integer(2)]),
        ];
        let message = term::tuple(vec![term::atom(MESSAGE_TAG), term::binary(b"x")]);
        let traced = frame(elements, Some(&message));
        let (to, content) = (pid(1), b"x".to_vec());
        assert_eq!(decode_frame(&traced), Ok(Signal::Message { to, content }));
    }

    #[test]
    fn a_known_message_of_another_shape_is_let_go() {
        let odd = frame(vec![term::integer(3), term::integer(1)], None);
        assert_eq!(decode_frame(&odd), Ok(Signal::Other));
        let no_payload = frame(vec![term::integer(2), term::atom(""), pid(1).into()], None);
        assert_eq!(decode_frame(&no_payload), Ok(Signal::Other));
        let spawn = vec![
            term::integer(29),
            reference().into(),
            pid(1).into(),
            pid(1).into(),
            term::tuple(vec![
                term::atom("lists"),
                term::atom("seq"),
                term::integer(2),
            ]),
            term::list(vec![]),
        ];
        let numbers = term::list(vec![term::integer(1), term::integer(2)]);
        assert_eq!(
            decode_frame(&frame(spawn, Some(&numbers))),
            Ok(Signal::Other)
        );
        let unlink = vec![
            term::integer(35),
            term::atom("id"),
            pid(1).into(),
            pid(2).into(),
        ];
        assert_eq!(decode_frame(&frame(unlink, None)), Ok(Signal::Other));
    }

    #[test]
    fn a_payload_that_cannot_be_read_spoils_the_reason_only() {
        let exit = frame(vec![term::integer(24), pid(1).into(), pid(2).into()], None);
        for (payload, why) in [
            (&[131, 82, 0][..], "term has the unsupported tag 82"),
            (&[131, 68][..], "term has the unsupported tag 68"),
            (
                &[131, 80, 0, 0, 0, 1, 120][..],
                "term has the unsupported tag 80",
            ),
            (&[131, 108, 255, 255, 255, 255][..], "term ends early"),
            (
                &[131, 77, 0, 0, 0, 1, 0, 1][..],
                "term has a malformed part",
            ),
            (&[131, 106, 0][..], "term is not alone"),
        ] {
            let Ok(Signal::Exit { reason, .. }) = decode_frame(&[&exit, payload].concat()) else {
                panic!("no exit")
            };
            assert_eq!(reason, format!("unreadable reason ({why})"));
        }
    }

    #[test]
    fn frames_of_another_form_are_refused() {
        let good = frame(vec![term::integer(5)], None);
        assert_eq!(decode_frame(&good), Ok(Signal::Other));
        let unknown = frame(vec![term::integer(99), term::integer(1)], None);
        assert_eq!(decode_frame(&unknown), Ok(Signal::Other));
        let headed = [&[131, 68, 0][..], &good[2..]].concat();
        let unversioned = [&good[..], &[106]].concat();
        for bad in [
            &headed[..],
            &unversioned,
            &[],
            &[112],
            &[112, 131],
            &[112, 131, 106],
            &[112, 131, 104, 1, 106],
        ] {
            assert!(decode_frame(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_frames_do_not_panic(number in 0_u8..40, rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_frame(&rest);
            let frame = [&[112, 131, 104, 4, 97, number][..], &rest].concat();
            let _ = decode_frame(&frame);
        }
    }
}
