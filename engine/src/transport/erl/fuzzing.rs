//! Fuzzing targets of the distribution protocol: terms, control messages, the handshake, EPMD, a whole connection. The peer says the
//! input, whatever it hears, and hangs up.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{join, sink};
use tokio::runtime::Runtime;

use super::super::Meter;
use super::control::{self, Signal};
use super::handshake::{Offer, shake_hands};
use super::link::{Inbound, Link, Timing};
use super::node_name::{Cookie, LocalName, NodeName};
use super::reason;
use super::term::{self, Term};
use super::{ConnectError, epmd};

/// A reason is cut at 800 bytes; an ellipsis may follow.
const MAX_REASON: usize = 803;

const PATIENCE: Duration = Duration::from_secs(5);

/// Runs a future to its end; the runtime is made once.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

fn assert_printable(text: &str) {
    assert!(text.len() <= MAX_REASON, "{} bytes", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// A term: written again and read again it is the same.
pub fn erl_term(input: &[u8]) {
    let _ = term::tuple_elements(input);
    let _ = term::tagged_binary(input, "relsync");
    let Ok((term, rest)) = term::decode(input) else {
        return;
    };
    assert!(input.ends_with(rest));
    assert_printable(&reason::render(&term));
    let written = written(&term);
    let (again, rest) = term::decode(&written).expect("what was just written");
    assert!(rest.is_empty());
    assert_eq!(self::written(&again), written);
}

fn written(term: &Term<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    term.encode(&mut bytes);
    bytes
}

/// A control message with or without payload.
pub fn erl_frame(input: &[u8]) {
    match control::decode_frame(input) {
        Ok(Signal::Message { content, .. }) => assert!(input.ends_with(content)),
        Ok(Signal::Exit { reason, .. } | Signal::Down { reason, .. }) => assert_printable(&reason),
        Ok(Signal::SpawnReply {
            result: Err(reason),
            ..
        }) => assert_printable(&reason),
        Ok(Signal::Unlink { answer }) => {
            let (length, answer) = answer.split_first_chunk().expect("a length");
            assert_eq!(u32::try_from(answer.len()), Ok(u32::from_be_bytes(*length)));
            assert_eq!(control::decode_frame(answer), Ok(Signal::Other));
        }
        Ok(Signal::SpawnReply { .. } | Signal::Other) | Err(_) => {}
    }
}

/// What a node says in the handshake; the first byte says how the host introduces itself.
pub fn erl_handshake(input: &[u8]) {
    let Some((how, said)) = input.split_first() else {
        return;
    };
    let local = match how & 1 {
        0 => LocalName::Dynamic {
            host: "relsync".to_owned(),
        },
        _ => LocalName::Fixed(NodeName::parse("me@here").expect("a name")),
    };
    let node = NodeName::parse("app@host").expect("a name");
    let cookie = Cookie::new("secret").expect("a cookie");
    let offer = Offer {
        node: &node,
        dialled: "here",
        local: &local,
        cookie: &cookie,
        take_over: how & 2 != 0,
        timeout: PATIENCE,
        challenge: 4711,
        creation: 1,
    };
    let meter = Meter::default();
    let mut stream = join(said, sink());
    match block_on(shake_hands(&mut stream, &offer, &meter)) {
        Ok(identity) => assert_one_line(identity.name.as_str()),
        Err(error @ ConnectError::HandshakeTimeout { .. }) => panic!("{error}"),
        Err(error) => assert_one_line(&error.to_string()),
    }
    assert!(meter.counters().received_bytes <= said.len() as u64);
}

fn assert_one_line(text: &str) {
    assert!(text.len() < 4096, "{} bytes", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// What a port mapper answers.
pub fn erl_port_mapper(input: &[u8]) {
    let meter = Meter::default();
    let _ = block_on(epmd::ask_port(join(input, sink()), "app", &meter));
    let names = block_on(epmd::ask_names(join(input, sink()), &meter)).expect("any list will do");
    names.iter().for_each(|name| assert_one_line(name));
}

/// Names and cookies as a user writes them.
pub fn erl_name(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    for local in [
        LocalName::short(text, "host.lan"),
        LocalName::long(text, "host.lan"),
    ] {
        match local {
            Ok(LocalName::Fixed(name)) => assert_one_line(name.as_str()),
            Ok(LocalName::Dynamic { .. }) => panic!("a fixed name was asked for"),
            Err(_) => {}
        }
    }
    if let Ok(name) = NodeName::parse(text) {
        assert_eq!(format!("{}@{}", name.name(), name.host()), text);
        assert_one_line(text);
    }
    if let Ok(cookie) = Cookie::new(text) {
        assert_eq!(cookie.bytes().len(), text.chars().count());
        assert_eq!(format!("{cookie:?}"), "Cookie(..)");
    }
}

/// A connection after its handshake: everything that comes in until it ends.
pub fn erl_link(input: &[u8]) {
    block_on(async {
        let meter = Arc::new(Meter::default());
        let reader = Cursor::new(input.to_vec());
        let mut link = Link::start(reader, sink(), Timing::default(), None, meter.clone());
        let mut received = 0;
        while let Ok(inbound) = link.receive().await {
            match inbound {
                Inbound::Message { content, .. } => received += content.len(),
                Inbound::Exit { reason, .. }
                | Inbound::Down { reason, .. }
                | Inbound::SpawnReply {
                    result: Err(reason),
                    ..
                } => assert_printable(&reason),
                Inbound::SpawnReply { .. } => {}
            }
        }
        assert!(received <= input.len());
        assert!(meter.counters().received_bytes <= input.len() as u64);
    });
}
