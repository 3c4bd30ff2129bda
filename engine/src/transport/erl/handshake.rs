//! The distribution handshake, on the side that connects.
//!
//! Format: "Distribution Handshake" in the ERTS documentation, version 6 (OTP 23 and newer). Each
//! message is a two-byte length, followed by that many bytes. The table shows what the host waits
//! for, and what a hang-up means at that point:
//!
//! | sent | awaited | hang-up |
//! |---|---|---|
//! | name (or request for one), flags | status | closed |
//! | (`false` or `true` after `alive`) | challenge, the node's name and flags | closed |
//! | own challenge, digest | digest | wrong cookie |
//!
//! `erl_dist` 0.8 has a handshake too, but only its flags are used here. It sends its proof of the
//! cookie before it checks who answered. It never answers `alive`. It reports a wrong cookie and a
//! hang-up as the same error. It hashes a cookie beyond ASCII as UTF-8, while nodes hash Latin-1.

use std::io;
use std::time::Duration;

use erl_dist::DistributionFlags as Flags;
use md5::{Digest, Md5};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::super::Meter;
use super::error::{ConnectError, HandshakeStep};
use super::node_name::{Cookie, LocalName, NodeName};

/// The maximum size of a handshake message in bytes: the fixed fields and a node name, with room
/// for fields that later releases append.
const MAX_MESSAGE: u16 = 1024;

/// The first bytes of a TLS alert. A node that expects TLS answers any other protocol with an
/// alert.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// The abilities that the node must have. Every OTP release from 23 on has them.
const NEEDED_FLAGS: [Flags; 3] = [Flags::HANDSHAKE_23, Flags::BIG_CREATION, Flags::SPAWN];

/// Returns the host's abilities. Without the flag "published" the host is a hidden node. Without
/// "fragments" and the atom cache, every message comes whole and self-contained.
fn our_flags() -> Flags {
    Flags::mandatory()
        | Flags::DIST_MONITOR
        | Flags::DIST_MONITOR_NAME
        | Flags::UNICODE_IO
        | Flags::SMALL_ATOM_TAGS
        | Flags::BIG_SEQTRACE_LABELS
        | Flags::EXIT_PAYLOAD
        | Flags::SPAWN
}

/// The host's side of a handshake.
pub(super) struct Offer<'a> {
    pub(super) node: &'a NodeName,
    /// The host that was connected to.
    pub(super) dialled: &'a str,
    pub(super) local: &'a LocalName,
    pub(super) cookie: &'a Cookie,
    /// Whether to replace a connection that the node still has under our name.
    pub(super) take_over: bool,
    /// The limit of each step.
    pub(super) timeout: Duration,
    /// A random number.
    pub(super) challenge: u32,
    /// The number that tells this run's pids from those of an earlier run; not zero. If the node
    /// chooses our name, it chooses another number too.
    pub(super) creation: u32,
}

/// The host's name and creation after the handshake.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) name: NodeName,
    pub(super) creation: u32,
}

/// Runs the handshake on a fresh connection.
pub(super) async fn shake_hands<S>(
    stream: &mut S,
    offer: &Offer<'_>,
    meter: &Meter,
) -> Result<Identity, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut talk = Talk {
        stream,
        offer,
        meter,
        taking_over: false,
    };
    talk.send_name().await?;
    let identity = talk.receive_status().await?;
    let node_challenge = talk.receive_challenge().await?;
    let mut reply = vec![b'r'];
    reply.extend(offer.challenge.to_be_bytes());
    reply.extend(digest(offer.cookie, node_challenge));
    talk.send(&reply, HandshakeStep::Proof).await?;
    talk.receive_proof().await?;
    Ok(identity)
}

/// Returns the proof of knowing the cookie: a hash of the cookie and the other side's challenge as
/// decimal text.
fn digest(cookie: &Cookie, challenge: u32) -> [u8; 16] {
    let mut hash = Md5::new();
    hash.update(cookie.bytes());
    hash.update(challenge.to_string());
    hash.finalize().into()
}

struct Talk<'a, S> {
    stream: &'a mut S,
    offer: &'a Offer<'a>,
    meter: &'a Meter,
    /// Whether the host told the node to give up the connection that it has under our name.
    taking_over: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<'_, S> {
    async fn send_name(&mut self) -> Result<(), ConnectError> {
        let (flags, name) = match self.offer.local {
            LocalName::Dynamic { host } => (our_flags() | Flags::NAME_ME, host.as_str()),
            LocalName::Fixed(name) => (our_flags(), name.as_str()),
        };
        let mut message = vec![b'N'];
        message.extend(flags.bits().to_be_bytes());
        message.extend(self.offer.creation.to_be_bytes());
        message.extend(u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes());
        message.extend_from_slice(name.as_bytes());
        self.send(&message, HandshakeStep::Status).await
    }

    async fn receive_status(&mut self) -> Result<Identity, ConnectError> {
        let message = self.receive(HandshakeStep::Status).await?;
        let Some(status) = message.strip_prefix(b"s") else {
            return Err(self.not_erlang("no status"));
        };
        match (status, self.offer.local) {
            (b"ok" | b"ok_simultaneous", LocalName::Fixed(name)) => Ok(self.identity(name)),
            (b"alive", LocalName::Fixed(name)) if self.offer.take_over => {
                self.send(b"strue", HandshakeStep::Challenge).await?;
                self.taking_over = true;
                Ok(self.identity(name))
            }
            (b"alive", LocalName::Fixed(_)) => {
                self.send(b"sfalse", HandshakeStep::Status).await?;
                Err(self.name_in_use())
            }
            (b"nok", LocalName::Fixed(_)) => Err(self.name_in_use()),
            (b"not_allowed", _) => Err(ConnectError::NotAllowed {
                node: self.offer.node.clone(),
            }),
            (status, LocalName::Dynamic { .. }) => status
                .strip_prefix(b"named:")
                .and_then(parse_named)
                .ok_or_else(|| self.not_erlang("no name in the status")),
            _ => Err(self.not_erlang("an unknown status")),
        }
    }

    fn identity(&self, name: &NodeName) -> Identity {
        Identity {
            name: name.clone(),
            creation: self.offer.creation,
        }
    }

    async fn receive_challenge(&mut self) -> Result<u32, ConnectError> {
        let message = match self.receive(HandshakeStep::Challenge).await {
            // Before OTP 25, a node keeps its old connection until that ends by itself.
            Err(ConnectError::HandshakeClosed { .. } | ConnectError::HandshakeTimeout { .. })
                if self.taking_over =>
            {
                return Err(self.name_in_use());
            }
            message => message?,
        };
        if message.first() == Some(&b'n') {
            return Err(ConnectError::TooOld {
                node: self.offer.node.clone(),
            });
        }
        let Some((flags, challenge, name)) = parse_challenge(&message) else {
            return Err(self.not_erlang("no challenge"));
        };
        if !NEEDED_FLAGS.iter().all(|needed| flags.contains(*needed)) {
            return Err(ConnectError::TooOld {
                node: self.offer.node.clone(),
            });
        }
        let actual = std::str::from_utf8(name)
            .ok()
            .and_then(|name| NodeName::parse(name).ok());
        let dialled = self.offer.dialled.to_owned();
        match (self.offer.node.clone(), actual) {
            (_, None) => Err(self.not_erlang("its name is not a node name")),
            (node, Some(actual)) if node == actual => Ok(challenge),
            (node, Some(actual)) if node.differs_in_style(&actual) => {
                Err(ConnectError::NameStyle {
                    node,
                    actual,
                    dialled,
                })
            }
            (node, Some(actual)) => Err(ConnectError::OtherNode {
                node,
                actual,
                dialled,
            }),
        }
    }

    async fn receive_proof(&mut self) -> Result<(), ConnectError> {
        let node = self.offer.node.clone();
        let message = match self.receive(HandshakeStep::Proof).await {
            Err(ConnectError::HandshakeClosed { .. }) => {
                return Err(ConnectError::WrongCookie { node });
            }
            message => message?,
        };
        match message.strip_prefix(b"a") {
            Some(proof) if *proof == digest(self.offer.cookie, self.offer.challenge) => Ok(()),
            Some(_) => Err(ConnectError::Unproven { node }),
            None => Err(self.not_erlang("no proof of the cookie")),
        }
    }

    async fn send(&mut self, message: &[u8], step: HandshakeStep) -> Result<(), ConnectError> {
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        let framed = [&length.to_be_bytes(), message].concat();
        let sent = timeout(self.offer.timeout, async {
            self.stream.write_all(&framed).await?;
            self.stream.flush().await
        });
        match sent.await {
            Ok(Ok(())) => {
                self.meter.sent(framed.len());
                Ok(())
            }
            Ok(Err(_)) => Err(ConnectError::HandshakeClosed {
                node: self.offer.node.clone(),
                step,
            }),
            Err(_) => Err(self.stalled(step)),
        }
    }

    async fn receive(&mut self, step: HandshakeStep) -> Result<Vec<u8>, ConnectError> {
        match timeout(self.offer.timeout, self.receive_message()).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(Broken::Io)) => Err(ConnectError::HandshakeClosed {
                node: self.offer.node.clone(),
                step,
            }),
            Ok(Err(Broken::Tls)) => Err(ConnectError::TlsExpected {
                node: self.offer.node.clone(),
            }),
            Ok(Err(Broken::Length(length))) => {
                Err(self.not_erlang(&format!("a message of {length} bytes")))
            }
            Err(_) => Err(self.stalled(step)),
        }
    }

    async fn receive_message(&mut self) -> Result<Vec<u8>, Broken> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).await?;
        self.meter.received(head.len());
        let length = u16::from_be_bytes(head);
        if head == TLS_ALERT {
            return Err(Broken::Tls);
        }
        if length > MAX_MESSAGE {
            return Err(Broken::Length(length));
        }
        let mut message = vec![0; length.into()];
        self.stream.read_exact(&mut message).await?;
        self.meter.received(message.len());
        self.meter.message_arrived();
        Ok(message)
    }

    fn name_in_use(&self) -> ConnectError {
        let local = match self.offer.local {
            LocalName::Fixed(name) => name.to_string(),
            LocalName::Dynamic { host } => host.clone(),
        };
        ConnectError::NameInUse {
            node: self.offer.node.clone(),
            local,
        }
    }

    fn stalled(&self, step: HandshakeStep) -> ConnectError {
        ConnectError::HandshakeTimeout {
            node: self.offer.node.clone(),
            step,
            timeout: self.offer.timeout,
        }
    }

    fn not_erlang(&self, what: &str) -> ConnectError {
        ConnectError::NotErlang {
            node: self.offer.node.clone(),
            what: what.to_owned(),
        }
    }
}

/// The reasons why a message could not be read.
enum Broken {
    Io,
    Tls,
    Length(u16),
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// Reads the name and creation that the node chose for us, after `named:`.
fn parse_named(bytes: &[u8]) -> Option<Identity> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let (creation, _) = rest.split_first_chunk()?;
    let name = NodeName::parse(std::str::from_utf8(name).ok()?).ok()?;
    Some(Identity {
        name,
        creation: u32::from_be_bytes(*creation),
    })
}

/// Reads the node's flags, challenge and name.
fn parse_challenge(message: &[u8]) -> Option<(Flags, u32, &[u8])> {
    let rest = message.strip_prefix(b"N")?;
    let (flags, rest) = rest.split_first_chunk()?;
    let (challenge, rest) = rest.split_first_chunk()?;
    let (_creation, rest) = rest.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk()?;
    let name = rest.get(..u16::from_be_bytes(*length).into())?;
    Some((
        Flags::from_bits_truncate(u64::from_be_bytes(*flags)),
        u32::from_be_bytes(*challenge),
        name,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);
    const NODE: &str = "app@host.lan";

    fn framed(message: &[u8]) -> Vec<u8> {
        [
            &u16::try_from(message.len()).unwrap().to_be_bytes(),
            message,
        ]
        .concat()
    }

    fn challenge(flags: u64, name: &str) -> Vec<u8> {
        let mut message = vec![b'N'];
        message.extend(flags.to_be_bytes());
        message.extend([0, 0, 0, 9, 0, 0, 0, 1]);
        message.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
        message.extend(name.as_bytes());
        framed(&message)
    }

    fn named() -> Vec<u8> {
        framed(b"snamed:\x00\x05XY@me\x00\x00\x00\x07")
    }

    /// Shakes hands with a peer that sends these bytes, ignores everything it receives, and then
    /// hangs up or stalls.
    fn shake(
        local: LocalName,
        answer: Vec<u8>,
        hang_up: bool,
    ) -> (Result<Identity, ConnectError>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut ours, mut theirs) = tokio::io::duplex(4096);
            theirs.write_all(&answer).await.unwrap();
            let offer = Offer {
                node: &NodeName::parse(NODE).unwrap(),
                dialled: "here",
                local: &local,
                cookie: &Cookie::new("secret").unwrap(),
                take_over: false,
                timeout: LIMIT,
                challenge: 4711,
                creation: 3,
            };
            if hang_up {
                theirs.shutdown().await.unwrap();
            }
            let result = shake_hands(&mut ours, &offer, &Meter::default()).await;
            drop(ours);
            let mut heard = Vec::new();
            theirs.read_to_end(&mut heard).await.unwrap();
            (result, heard)
        })
    }

    fn dynamic() -> LocalName {
        LocalName::Dynamic { host: "me".into() }
    }

    fn fixed() -> LocalName {
        LocalName::Fixed(NodeName::parse("me@here").unwrap())
    }

    #[test]
    fn a_node_that_names_us_and_proves_the_cookie_is_accepted() {
        let proof = framed(&[&b"a"[..], &digest(&Cookie::new("secret").unwrap(), 4711)].concat());
        let (result, heard) = shake(
            dynamic(),
            [named(), challenge(u64::MAX, NODE), proof].concat(),
            false,
        );
        let name = NodeName::parse("XY@me").unwrap();
        assert_eq!(result.unwrap(), Identity { name, creation: 7 });
        let flags = u64::from_be_bytes(heard[3..11].try_into().unwrap());
        assert_eq!(flags & 1, 0, "we must stay hidden");
        assert_eq!(flags, 0x17_0357_5fbc | Flags::NAME_ME.bits());
        assert_eq!(heard[15..19], [0, 2, b'm', b'e']);
        assert_eq!(
            heard[heard.len() - 16..],
            digest(&Cookie::new("secret").unwrap(), 9)
        );
    }

    /// Tells whether an error is the expected one.
    type Check = fn(&ConnectError) -> bool;

    #[test]
    fn hostile_and_refusing_peers_give_exact_errors() {
        use ConnectError as E;
        let status = |text: &[u8]| framed(&[b"s", text].concat());
        let then = |first: Vec<u8>, next: Vec<u8>| [first, next].concat();
        let ack = framed(&[&b"a"[..], &[0; 16]].concat());
        let good = || then(named(), challenge(u64::MAX, NODE));
        let closed_at =
            |error: &E, wanted| matches!(error, E::HandshakeClosed { step, .. } if *step == wanted);
        assert!(closed_at(
            &shake(dynamic(), vec![], true).0.unwrap_err(),
            HandshakeStep::Status
        ));
        assert!(closed_at(
            &shake(dynamic(), named(), true).0.unwrap_err(),
            HandshakeStep::Challenge
        ));
        let table: Vec<(&str, LocalName, Vec<u8>, bool, Check)> = vec![
            ("stall", dynamic(), vec![], false, |e| {
                matches!(
                    e,
                    E::HandshakeTimeout {
                        step: HandshakeStep::Status,
                        ..
                    }
                )
            }),
            ("half a length", dynamic(), vec![0], true, |e| {
                matches!(e, E::HandshakeClosed { .. })
            }),
            ("half a message", dynamic(), vec![0, 9, b's'], false, |e| {
                matches!(e, E::HandshakeTimeout { .. })
            }),
            ("stalled challenge", dynamic(), named(), false, |e| {
                matches!(
                    e,
                    E::HandshakeTimeout {
                        step: HandshakeStep::Challenge,
                        ..
                    }
                )
            }),
            ("stalled proof", dynamic(), good(), false, |e| {
                matches!(
                    e,
                    E::HandshakeTimeout {
                        step: HandshakeStep::Proof,
                        ..
                    }
                )
            }),
            ("hang-up after our proof", dynamic(), good(), true, |e| {
                matches!(e, E::WrongCookie { .. })
            }),
            ("wrong proof", dynamic(), then(good(), ack), false, |e| {
                matches!(e, E::Unproven { .. })
            }),
            (
                "TLS alert",
                dynamic(),
                vec![0x15, 3, 1, 0, 2, 2, 10],
                false,
                |e| matches!(e, E::TlsExpected { .. }),
            ),
            (
                "HTTP",
                dynamic(),
                b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
                false,
                |e| matches!(e, E::NotErlang { .. }),
            ),
            ("empty message", dynamic(), vec![0, 0], false, |e| {
                matches!(e, E::NotErlang { .. })
            }),
            (
                "ok to a request for a name",
                dynamic(),
                status(b"ok"),
                false,
                |e| matches!(e, E::NotErlang { .. }),
            ),
            (
                "cut name",
                dynamic(),
                status(b"named:\x01\x00XY@me"),
                false,
                |e| matches!(e, E::NotErlang { .. }),
            ),
            (
                "no creation",
                dynamic(),
                status(b"named:\x00\x05XY@me"),
                false,
                |e| matches!(e, E::NotErlang { .. }),
            ),
            ("alive", fixed(), status(b"alive"), false, |e| {
                matches!(e, E::NameInUse { .. })
            }),
            ("nok", fixed(), status(b"nok"), false, |e| {
                matches!(e, E::NameInUse { .. })
            }),
            (
                "not allowed",
                dynamic(),
                status(b"not_allowed"),
                false,
                |e| matches!(e, E::NotAllowed { .. }),
            ),
            ("unknown status", fixed(), status(b"maybe"), false, |e| {
                matches!(e, E::NotErlang { .. })
            }),
            (
                "old challenge",
                fixed(),
                then(status(b"ok"), framed(b"n\x00\x05")),
                false,
                |e| matches!(e, E::TooOld { .. }),
            ),
            (
                "no spawn",
                fixed(),
                then(status(b"ok"), challenge(!Flags::SPAWN.bits(), NODE)),
                false,
                |e| matches!(e, E::TooOld { .. }),
            ),
            (
                "cut challenge",
                fixed(),
                then(status(b"ok"), framed(b"N\x00")),
                false,
                |e| matches!(e, E::NotErlang { .. }),
            ),
            (
                "style",
                fixed(),
                then(status(b"ok"), challenge(u64::MAX, "app@host")),
                false,
                |e| matches!(e, E::NameStyle { .. }),
            ),
            (
                "other",
                fixed(),
                then(status(b"ok"), challenge(u64::MAX, "b@host.lan")),
                false,
                |e| matches!(e, E::OtherNode { .. }),
            ),
            (
                "bad name",
                fixed(),
                then(status(b"ok"), challenge(u64::MAX, "nonsense")),
                false,
                |e| matches!(e, E::NotErlang { .. }),
            ),
        ];
        for (case, local, answer, hang_up, expected) in table {
            let error = shake(local, answer, hang_up).0.expect_err(case);
            assert!(expected(&error), "{case}: {error:?}");
            assert!(
                !format!("{error} {error:?}").contains("secret"),
                "{case} tells the cookie"
            );
        }
    }

    #[test]
    fn alive_is_answered() {
        let (_, heard) = shake(fixed(), framed(b"salive"), false);
        assert!(heard.ends_with(&framed(b"sfalse")), "{heard:?}");
    }

    #[test]
    fn another_node_gets_no_proof_of_the_cookie() {
        let answer = [framed(b"sok"), challenge(u64::MAX, "someone@else")].concat();
        let (result, heard) = shake(fixed(), answer, false);
        assert!(matches!(result, Err(ConnectError::OtherNode { .. })));
        let name = framed(&heard[2..]);
        assert_eq!(heard, name, "only the host's name was sent");
    }
}
