//! The messages of the distribution protocol that the host sends and understands.
//!
//! Format: "Protocol between Connected Nodes" in the ERTS documentation, pass-through form: neither
//! the atom cache nor fragments are ever negotiated, so a frame is `112, 131, Control` and, where
//! the control message has a payload, `131, Payload`.

use super::reason;
use super::term::{self, Pid, Reference, Term, TermError};

/// Marks a frame without distribution header.
const PASS_THROUGH: u8 = 112;

/// Precedes every encoded term.
const TERM_VERSION: u8 = 131;

/// The atom that tags relsync's own messages.
const MESSAGE_TAG: &str = "relsync";

/// The numbers of the control messages.
mod number {
    pub(super) const SEND: i64 = 2;
    pub(super) const EXIT: i64 = 3;
    pub(super) const EXIT2: i64 = 8;
    pub(super) const SEND_TRACED: i64 = 12;
    pub(super) const MONITOR_EXIT: i64 = 21;
    pub(super) const PAYLOAD_EXIT: i64 = 24;
    pub(super) const PAYLOAD_EXIT2: i64 = 26;
    pub(super) const PAYLOAD_MONITOR_EXIT: i64 = 28;
    pub(super) const SPAWN_REQUEST: i64 = 29;
    pub(super) const SPAWN_REPLY: i64 = 31;
    pub(super) const UNLINK_ID: i64 = 35;
    pub(super) const UNLINK_ID_ACK: i64 = 36;
}

/// How a new process is bound to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpawnBond {
    /// A link: the process ends with the connection, unless it traps exits, and its end is
    /// reported.
    Link,
    /// A monitor: the process's end is reported, nothing tells it of the connection's.
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
    pub arguments: &'a [Term<'a>],
}

/// A frame's meaning. Texts of reasons are rendered and bounded.
#[derive(Debug, PartialEq)]
pub(super) enum Signal<'a> {
    /// One of relsync's messages to a process of the host.
    Message { to: Pid, content: &'a [u8] },
    /// A linked process ended, or somebody sent an exit signal.
    Exit { from: Pid, to: Pid, reason: String },
    /// A monitored process ended.
    Down { monitor: Reference, reason: String },
    /// The answer to a request to spawn; the error is a short reason.
    SpawnReply {
        request: Reference,
        result: Result<Pid, String>,
    },
    /// A link was given up and the other side waits for this frame as an answer.
    Unlink { answer: Vec<u8> },
    /// Anything else; none of it needs an answer.
    Other,
}

/// The frame that sends one of relsync's messages, its length included.
pub(super) fn encode_message(to: &Pid, content: &[u8]) -> Vec<u8> {
    let control = Term::Tuple(vec![
        Term::Integer(number::SEND),
        Term::atom(""),
        Term::Pid(to.clone()),
    ]);
    let payload = Term::Tuple(vec![Term::atom(MESSAGE_TAG), Term::binary(content)]);
    encode_frame(&control, Some(&payload), content.len())
}

/// The frame that asks for a new process, its length included.
pub(super) fn encode_spawn(
    request: &Reference,
    from: &Pid,
    call: &Call<'_>,
    bond: SpawnBond,
) -> Vec<u8> {
    let arity = i64::try_from(call.arguments.len()).unwrap_or(i64::MAX);
    let entry = Term::Tuple(vec![
        Term::atom(call.module),
        Term::atom(call.function),
        Term::Integer(arity),
    ]);
    let option = match bond {
        SpawnBond::Link => "link",
        SpawnBond::Monitor => "monitor",
    };
    // A VM may limit the heap of every new process, and kill those that exceed it.
    let no_heap_limit = Term::Tuple(vec![Term::atom("max_heap_size"), Term::Integer(0)]);
    let control = Term::Tuple(vec![
        Term::Integer(number::SPAWN_REQUEST),
        Term::Reference(request.clone()),
        Term::Pid(from.clone()),
        // The group leader. The host prints nothing for a target: the process finds one of its own.
        Term::Pid(from.clone()),
        entry,
        Term::List(vec![Term::atom(option), no_heap_limit]),
    ]);
    encode_frame(&control, Some(&Term::List(call.arguments.to_vec())), 0)
}

fn encode_frame(control: &Term<'_>, payload: Option<&Term<'_>>, payload_size: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload_size + 128);
    frame.extend([0, 0, 0, 0, PASS_THROUGH, TERM_VERSION]);
    control.encode(&mut frame);
    if let Some(payload) = payload {
        frame.push(TERM_VERSION);
        payload.encode(&mut frame);
    }
    // Callers keep frames far below 4 GiB; a length that lies would be refused by the target.
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Reads a frame, without its length. A payload that is not relsync's is not looked into.
pub(super) fn decode_frame(frame: &[u8]) -> Result<Signal<'_>, TermError> {
    let Some(control) = frame.strip_prefix(&[PASS_THROUGH, TERM_VERSION]) else {
        return Err(TermError::Shape {
            wanted: "a message without distribution header",
        });
    };
    let (control, rest) = term::decode(control)?;
    let payload = match rest.split_first() {
        None => None,
        Some((&TERM_VERSION, payload)) => Some(payload),
        Some(_) => {
            return Err(TermError::Shape {
                wanted: "a payload with version byte",
            });
        }
    };
    let Term::Tuple(elements) = control else {
        return Err(TermError::Shape {
            wanted: "a control tuple",
        });
    };
    let mut elements = elements.into_iter();
    match elements.next() {
        Some(Term::Integer(number)) => Ok(signal(number, elements.collect(), payload)),
        _ => Err(TermError::Shape {
            wanted: "a numbered control tuple",
        }),
    }
}

fn signal<'a>(number: i64, elements: Vec<Term<'a>>, payload: Option<&'a [u8]>) -> Signal<'a> {
    match (number, elements.as_slice(), payload) {
        (number::SEND | number::SEND_TRACED, [_, Term::Pid(to), ..], Some(payload)) => {
            match term::tagged_binary(payload, MESSAGE_TAG) {
                Some(content) => Signal::Message {
                    to: to.clone(),
                    content,
                },
                None => Signal::Other,
            }
        }
        (number::EXIT | number::EXIT2, [Term::Pid(from), Term::Pid(to), reason], None) => {
            Signal::Exit {
                from: from.clone(),
                to: to.clone(),
                reason: reason::render(reason),
            }
        }
        (
            number::PAYLOAD_EXIT | number::PAYLOAD_EXIT2,
            [Term::Pid(from), Term::Pid(to)],
            Some(reason),
        ) => Signal::Exit {
            from: from.clone(),
            to: to.clone(),
            reason: render_payload(reason),
        },
        (number::MONITOR_EXIT, [_, _, Term::Reference(monitor), reason], None) => Signal::Down {
            monitor: monitor.clone(),
            reason: reason::render(reason),
        },
        (number::PAYLOAD_MONITOR_EXIT, [_, _, Term::Reference(monitor)], Some(reason)) => {
            Signal::Down {
                monitor: monitor.clone(),
                reason: render_payload(reason),
            }
        }
        (number::SPAWN_REPLY, [Term::Reference(request), _, _, result], None) => {
            let result = match result {
                Term::Pid(pid) => Ok(pid.clone()),
                other => Err(reason::render(other)),
            };
            Signal::SpawnReply {
                request: request.clone(),
                result,
            }
        }
        (
            number::UNLINK_ID,
            [
                id @ (Term::Integer(_) | Term::Big { .. }),
                Term::Pid(from),
                Term::Pid(to),
            ],
            None,
        ) => {
            let answer = Term::Tuple(vec![
                Term::Integer(number::UNLINK_ID_ACK),
                id.clone(),
                Term::Pid(to.clone()),
                Term::Pid(from.clone()),
            ]);
            Signal::Unlink {
                answer: encode_frame(&answer, None, 0),
            }
        }
        _ => Signal::Other,
    }
}

fn render_payload(bytes: &[u8]) -> String {
    match term::decode(bytes) {
        Ok((reason, _)) => reason::render(&reason),
        Err(error) => format!("unreadable reason ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pid(id: u32) -> Pid {
        Pid {
            node: "app@host".into(),
            id,
            serial: 0,
            creation: 7,
        }
    }

    fn reference() -> Reference {
        Reference {
            node: "me@host".into(),
            creation: 7,
            words: vec![1, 2, 3],
        }
    }

    fn frame(elements: Vec<Term<'_>>, payload: Option<&Term<'_>>) -> Vec<u8> {
        encode_frame(&Term::Tuple(elements), payload, 0).split_off(4)
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
                content: b"content"
            })
        );
    }

    #[test]
    fn signals_are_recognised() {
        let reason = Term::atom("killed");
        let exit = Signal::Exit {
            from: pid(1),
            to: pid(2),
            reason: "killed".into(),
        };
        let down = Signal::Down {
            monitor: reference(),
            reason: "killed".into(),
        };
        let [from, to] = [1, 2].map(|id| Term::Pid(pid(id)));
        let monitor = Term::Reference(reference());
        let table = [
            (
                frame(
                    vec![Term::Integer(3), from.clone(), to.clone(), reason.clone()],
                    None,
                ),
                exit,
            ),
            (
                frame(
                    vec![Term::Integer(24), from.clone(), to.clone()],
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
                    vec![Term::Integer(28), from.clone(), to.clone(), monitor.clone()],
                    Some(&reason),
                ),
                down,
            ),
            (
                frame(
                    vec![
                        Term::Integer(31),
                        monitor.clone(),
                        to.clone(),
                        Term::Integer(1),
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
                        Term::Integer(31),
                        monitor,
                        to.clone(),
                        Term::Integer(0),
                        Term::atom("badopt"),
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
                    vec![Term::Integer(2), Term::atom(""), to.clone()],
                    Some(&Term::atom("hello")),
                ),
                Signal::Other,
            ),
            (
                frame(vec![Term::Integer(1), from.clone(), to.clone()], None),
                Signal::Other,
            ),
        ];
        for (frame, signal) in table {
            assert_eq!(decode_frame(&frame), Ok(signal));
        }
        let unlink = frame(
            vec![
                Term::Integer(35),
                Term::Integer(i64::MAX),
                from.clone(),
                to.clone(),
            ],
            None,
        );
        let answer = encode_frame(
            &Term::Tuple(vec![Term::Integer(36), Term::Integer(i64::MAX), to, from]),
            None,
            0,
        );
        assert_eq!(decode_frame(&unlink), Ok(Signal::Unlink { answer }));
    }

    #[test]
    fn frames_of_another_form_are_refused() {
        let good = frame(vec![Term::Integer(1)], None);
        assert_eq!(decode_frame(&good), Ok(Signal::Other));
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
