//! Starts the agent on a node over Erlang distribution.
//!
//! Owns the one call that the target runs before any module of ours is there, and the exchange that follows it: the agent comes from
//! the target's cache, or is sent once (store-format.md, "Agent blob").

use crate::agent;
use crate::session::{Session, SessionError, unexpected};
use crate::transport::erl::{Call, Connection, ErlTransport, SpawnBond, Term};
use crate::wire::{PROTOCOL, Reply, Request, TargetStatus};

/// What the host says of itself and wants of the target.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// Who calls, as `user@machine`: shown to whoever finds the target busy.
    pub host: String,
    /// The release's root on the target, absolute.
    pub destination: Vec<u8>,
    /// Where the tree is written if the destination is read-only, absolute.
    pub writable: Option<Vec<u8>>,
    /// Whether drift is looked for by hash instead of size, time and mode.
    pub checksum: bool,
}

impl Greeting {
    fn state_dir(&self) -> Vec<u8> {
        let mut dir = self
            .writable
            .clone()
            .unwrap_or_else(|| self.destination.clone());
        dir.extend_from_slice(b"/.relsync");
        dir
    }
}

/// Starts the agent and opens a session with it; returns the session and what the target says of itself.
pub async fn open(
    mut connection: Connection,
    greeting: &Greeting,
) -> Result<(Session<ErlTransport>, TargetStatus), SessionError> {
    let hello = Request::Hello {
        host: greeting.host.clone(),
        destination: greeting.destination.clone(),
        writable: greeting.writable.clone(),
        checksum: greeting.checksum,
    }
    .encode();
    let state_dir = greeting.state_dir();
    let host_pid = connection.local_pid().clone();
    let hashes: Vec<Term<'_>> = agent::both()
        .iter()
        .map(|variant| Term::binary(&variant.sha256))
        .collect();
    let arguments = [
        boot_expression(),
        Term::List(vec![
            binding("P", Term::binary(agent::BOOT)),
            binding(
                "B",
                Term::List(vec![
                    binding("Host", Term::Pid(host_pid)),
                    binding("Who", Term::binary(holder(&greeting.host))),
                    binding("State", Term::binary(&state_dir)),
                    binding("Hashes", Term::Tuple(hashes)),
                    binding("Hello", Term::binary(&hello)),
                ]),
            ),
        ]),
    ];
    let call = Call {
        module: "erl_eval",
        function: "expr",
        arguments: &arguments,
    };
    let agent = connection.spawn(&call, SpawnBond::Monitor).await?;
    let mut session = Session::new(connection.into_transport(agent));
    let mut reply = session.receive_checked().await?;
    if let Reply::WantsAgent { otp_release } = reply {
        send_agent(&mut session, otp_release).await?;
        reply = session.receive_checked().await?;
    }
    match reply {
        Reply::Hello(status) if status.protocol == PROTOCOL => Ok((session, *status)),
        Reply::Hello(status) => Err(SessionError::Protocol {
            expected: PROTOCOL,
            found: status.protocol,
        }),
        other => Err(unexpected("a greeting", &other)),
    }
}

async fn send_agent(session: &mut Session<ErlTransport>, release: u64) -> Result<(), SessionError> {
    let variant = u32::try_from(release)
        .ok()
        .and_then(agent::variant_for_otp_release)
        .ok_or(SessionError::OldOtp { release })?;
    let mut message = vec![0];
    message.extend_from_slice(variant.blob);
    session.send_message(&message).await
}

/// What names the session to others: one byte says how long it is.
fn holder(host: &str) -> &[u8] {
    let bytes = host.as_bytes();
    &bytes[..bytes.len().min(120)]
}

/// The abstract form of `erl_eval:exprs(Program, B)`, where the program's text comes compressed as `P`.
fn boot_expression() -> Term<'static> {
    let node = |kind: &'static str, rest: Vec<Term<'static>>| {
        let mut elements = vec![Term::atom(kind), Term::Integer(0)];
        elements.extend(rest);
        Term::Tuple(elements)
    };
    let atom = |name: &'static str| node("atom", vec![Term::atom(name)]);
    let var = |name: &'static str| node("var", vec![Term::atom(name)]);
    let call = |module: &'static str, function: &'static str, arguments: Vec<Term<'static>>| {
        let target = node("remote", vec![atom(module), atom(function)]);
        node("call", vec![target, Term::List(arguments)])
    };
    let second = |of: Term<'static>| {
        let two = node("integer", vec![Term::Integer(2)]);
        call("erlang", "element", vec![two, of])
    };
    let bytes = call("zlib", "uncompress", vec![var("P")]);
    let text = call("erlang", "binary_to_list", vec![bytes]);
    let tokens = second(call("erl_scan", "string", vec![text]));
    let program = second(call("erl_parse", "parse_exprs", vec![tokens]));
    call("erl_eval", "exprs", vec![program, var("B")])
}

fn binding<'a>(name: &'a str, value: Term<'a>) -> Term<'a> {
    Term::Tuple(vec![Term::atom(name), value])
}
