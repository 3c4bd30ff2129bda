//! Starts the agent on a node over Erlang distribution.
//!
//! This module owns the one call that the target runs before any module of ours is there, and the
//! exchange that follows it. The agent comes from the target's cache, or the host sends it once
//! (store-format.md, "Agent blob").

use std::fmt::Write as _;
use std::pin::pin;
use std::time::Duration;

use crate::target::agent;
use crate::target::greeting::{AgentSent, Greeting};
use crate::target::session::{Session, SessionError, unexpected};
use crate::target::status::TargetStatus;
use crate::target::wire::{self, PROTOCOL, Reply, Request};
use crate::transport::erl::{self, Call, Connection, Pid, SpawnBond, Term};
use crate::transport::{Meter, TransportError};

/// The time between two reports of the agent on its way.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Starts the agent and opens a session with it. Returns the session and the target's status. If
/// the host has to send the agent, `on_sent` hears of it at the beginning, a few times a second,
/// and at the end.
pub(super) async fn open(
    mut connection: Connection,
    greeting: &Greeting,
    on_sent: &mut (dyn FnMut(AgentSent) + Send),
) -> Result<(Session, TargetStatus), SessionError> {
    let hello = Request::Hello {
        host: greeting.holder().to_owned(),
        destination: greeting.destination.clone(),
        writable: greeting.writable.clone(),
        checksum: greeting.checksum,
        prepare: greeting.prepare,
    }
    .encode();
    let versions = agent::both()
        .each_ref()
        .map(agent::Variant::version)
        .concat();
    let variables = [
        ("Who", binary(greeting.holder().as_bytes())),
        ("Hello", binary(&hello)),
    ];
    // Versions do not compress.
    let versions = erl::list(vec![binding("Versions", erl::binary(&versions))]);
    let agent = evaluate(&mut connection, &variables, agent::boot(), versions).await?;
    let meter = connection.meter();
    let channel = connection.into_channel(agent);
    let mut session = Session::new(channel, greeting.silence, greeting.limit());
    match greet(&mut session, greeting, &meter, on_sent).await {
        Ok(status) => {
            session.set_greeted();
            Ok((session, status))
        }
        Err(error) => {
            // The next session must not meet the process that refuses.
            let _what_counts_is_known = session.close().await;
            Err(error)
        }
    }
}

/// Starts a process on the node that evaluates expressions. The values of variables stand before
/// the expressions in Erlang's text; the bindings come beside it.
pub(super) async fn evaluate(
    connection: &mut Connection,
    variables: &[(&str, String)],
    expressions: &str,
    bindings: Term,
) -> Result<Pid, TransportError> {
    let program = program(variables, expressions);
    let mut all = vec![("P", erl::binary(&program)), ("B", bindings)];
    all.extend(
        STEPS.iter().map(|(name, module, function, arity)| {
            (*name, erl::function(module, function, *arity))
        }),
    );
    // Erlang looks up bindings in the order of their names.
    all.sort_by_key(|(name, _)| *name);
    let all = all.into_iter().map(|(name, value)| binding(name, value));
    let arguments = [boot_expression(), erl::list(all.collect())];
    let call = Call {
        module: "erl_eval",
        function: "expr",
        arguments: &arguments,
    };
    connection.spawn(&call, SpawnBond::Monitor).await
}

async fn greet(
    session: &mut Session,
    greeting: &Greeting,
    meter: &Meter,
    on_sent: &mut (dyn FnMut(AgentSent) + Send),
) -> Result<TargetStatus, SessionError> {
    let mut reply = session.receive_checked().await?;
    if let Reply::WantsLoading { otp_release } = reply {
        let mut message = vec![0];
        message.extend(loading(otp_release, greeting)?);
        session.send_message(&message).await?;
        reply = session.receive_checked().await?;
    }
    if let Reply::WantsAgent { otp_release } = reply {
        reply = send_agent(session, otp_release, meter, on_sent).await?;
    }
    match reply {
        Reply::Hello(status) if status.protocol == PROTOCOL => Ok(*status),
        Reply::Hello(status) => Err(SessionError::Protocol {
            expected: PROTOCOL,
            found: status.protocol,
        }),
        other => Err(unexpected("a greeting", &other)),
    }
}

fn variant_for(release: u64) -> Result<&'static agent::Variant, SessionError> {
    u32::try_from(release)
        .ok()
        .and_then(agent::variant_for_otp_release)
        .ok_or(SessionError::OldOtp { release })
}

/// The message that makes a target of this OTP release load the agent.
fn loading(release: u64, greeting: &Greeting) -> Result<Vec<u8>, SessionError> {
    let variables = [
        ("Release", release.to_string()),
        ("State", binary(&greeting.state_dir())),
        ("Hash", binary(&variant_for(release)?.sha256)),
    ];
    Ok(program(&variables, agent::fetch()))
}

/// Sends the agent and waits for its first words.
async fn send_agent(
    session: &mut Session,
    release: u64,
    meter: &Meter,
    on_sent: &mut (dyn FnMut(AgentSent) + Send),
) -> Result<Reply, SessionError> {
    let mut message = vec![0];
    message.extend_from_slice(variant_for(release)?.blob);
    let before = meter.counters().sent_bytes;
    let total = message.len() as u64;
    let mut tell = |sent: u64| {
        on_sent(AgentSent {
            sent: sent.min(total),
            total,
        });
    };
    let mut answer = pin!(async {
        session.send_message(&message).await?;
        session.receive_checked().await
    });
    loop {
        tell(meter.counters().sent_bytes - before);
        tokio::select! {
            reply = &mut answer => {
                let reply = reply?;
                tell(total);
                return Ok(reply);
            }
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
        }
    }
}

/// Compresses expressions, with the values of their variables before them. The program then carries
/// only once what the values have in common.
fn program(variables: &[(&str, String)], expressions: &str) -> Vec<u8> {
    let mut text = String::new();
    for (name, value) in variables {
        text.push_str(name);
        // Without the space, Erlang would read `=<<`, which begins with another operator.
        text.push_str("= ");
        text.push_str(value);
        text.push(',');
    }
    text.push_str(expressions);
    wire::deflate(text.as_bytes())
}

/// Bytes as Erlang's text of a binary.
pub(super) fn binary(bytes: &[u8]) -> String {
    let mut text = String::from("<<\"");
    for byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                let _infallible = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text.push_str("\">>");
    text
}

/// The steps that make a running program of compressed text. Each goes under the name of a
/// variable, which is shorter than its name in the abstract form.
const STEPS: [(&str, &str, &str, u8); 6] = [
    ("U", "zlib", "uncompress", 1),
    ("L", "erlang", "binary_to_list", 1),
    ("S", "erl_scan", "string", 1),
    ("E", "erlang", "element", 2),
    ("Q", "erl_parse", "parse_exprs", 1),
    ("X", "erl_eval", "exprs", 2),
];

/// The abstract form of `erl_eval:exprs(Program, B)`. The program's text comes compressed as `P`.
fn boot_expression() -> Term {
    let node = |kind: &'static str, rest: Vec<Term>| {
        let mut elements = vec![erl::atom(kind), erl::integer(0)];
        elements.extend(rest);
        erl::tuple(elements)
    };
    let var = |name: &'static str| node("var", vec![erl::atom(name)]);
    let call = |step: &'static str, arguments: Vec<Term>| {
        node("call", vec![var(step), erl::list(arguments)])
    };
    let second = |of: Term| {
        let two = node("integer", vec![erl::integer(2)]);
        call("E", vec![two, of])
    };
    let text = call("L", vec![call("U", vec![var("P")])]);
    let tokens = second(call("S", vec![text]));
    let program = second(call("Q", vec![tokens]));
    call("X", vec![program, var("B")])
}

fn binding(name: &str, value: Term) -> Term {
    erl::tuple(vec![erl::atom(name), value])
}
