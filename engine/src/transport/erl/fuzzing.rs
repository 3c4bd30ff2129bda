//! Fuzz targets of the distribution protocol: terms, control messages, the handshake, EPMD, a whole
//! connection. The peer sends the input, ignores everything it receives, and hangs up.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{join, sink};
use tokio::runtime::Runtime;

use super::super::Meter;
use super::super::link::{Link, Timing};
use super::control::{self, Signal};
use super::handshake::{Offer, shake_hands};
use super::inbound::{self, Inbound};
use super::node_name::{Cookie, LocalName, NodeName};
use super::reason;
use super::term;
use super::{ConnectError, epmd};

/// A reason is cut at 800 bytes, and an ellipsis may follow.
const MAX_REASON: usize = 803;

const PATIENCE: Duration = Duration::from_secs(5);

/// Runs a future to its end. Each thread makes its runtime once.
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

/// Decodes a term. If it is accepted, it is printed within bounds and can be written again.
pub fn erl_term(input: &[u8]) {
    let Ok((term, rest)) = term::decode(input) else {
        return;
    };
    assert!(input.ends_with(rest));
    assert_printable(&reason::render(&term));
    let mut written = Vec::new();
    term.encode(&mut written).expect("memory to write to");
    let _ = term::decode(&written[1..]);
}

/// Decodes a control message with or without payload.
pub fn erl_frame(input: &[u8]) {
    match control::decode_frame(input) {
        Ok(Signal::Message { content, .. }) => assert!(input.ends_with(&content)),
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

/// Runs a handshake with a node that sends the input. The first byte chooses the host's own name.
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

/// Reads the input as a port mapper's answers.
pub fn erl_port_mapper(input: &[u8]) {
    let meter = Meter::default();
    let _ = block_on(epmd::ask_port(join(input, sink()), "app", &meter));
    let names = block_on(epmd::ask_names(join(input, sink()), &meter));
    assert_one_line(&names.concat());
}

/// Reads the input as names and cookies that a user wrote.
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

/// Runs a connection after its handshake, and receives everything until it ends.
pub fn erl_link(input: &[u8]) {
    block_on(async {
        let meter = Arc::new(Meter::default());
        let reader = Cursor::new(input.to_vec());
        let timing = Timing::default();
        let mut link = Link::start(reader, sink(), timing, None, meter.clone(), inbound::decode);
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// The maximum address space of a process that reads hostile bytes, in KiB. It is far below the
    /// 4 GiB that a length of four bytes can claim.
    const ADDRESS_SPACE_KIB: u32 = 1024 * 1024;

    const TARGETS: [fn(&[u8]); 6] = [
        erl_term,
        erl_frame,
        erl_handshake,
        erl_link,
        erl_name,
        erl_port_mapper,
    ];

    /// The beginnings of terms, counts and messages, with any bytes between them.
    fn any_input() -> impl Strategy<Value = Vec<u8>> {
        let beginnings: &[&[u8]] = &[
            &[104, 2],
            &[105, 0, 0, 0, 3],
            &[106],
            &[108, 0, 0, 0, 1],
            &[116, 0, 0, 0, 1],
            &[109, 0, 0, 0, 1],
            &[119, 1, b'a'],
            &[88, 119, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7],
            &[97, 1],
            &[112, 131, 104, 3, 97, 2],
            &[131],
            &[255, 255, 255, 255],
            &[0, 0, 0, 16],
            b"w\0",
            b"name ",
            b" at port ",
            b"\0\x03sok",
        ];
        let piece = prop_oneof![
            prop::sample::select(beginnings).prop_map(<[u8]>::to_vec),
            (77_u8..122).prop_map(|tag| vec![tag, 255, 255, 255, 255]),
            prop::collection::vec(any::<u8>(), 0..8),
        ];
        prop::collection::vec(piece, 0..100).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(input in any_input()) {
            TARGETS.iter().for_each(|target| target(&input));
            erl_frame(&[&[112, 131][..], &input].concat());
            let length = u32::try_from(input.len() + 2).unwrap_or(u32::MAX).to_be_bytes();
            erl_link(&[&length[..], &[112, 131], &input].concat());
        }
    }

    #[test]
    fn any_bytes_are_answered_within_bounded_memory() {
        let test = "transport::erl::fuzzing::tests::any_bytes_are_answered";
        let limited = format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$0\" --exact {test}");
        let run = Command::new("sh")
            .args(["-c", &limited])
            .arg(std::env::current_exe().expect("this program"))
            .output()
            .expect("a shell");
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{said}");
        assert!(said.contains("1 passed"), "{said}");
    }
}
