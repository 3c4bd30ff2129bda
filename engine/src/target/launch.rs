//! Starts the agent in a VM that the host has reached.
//!
//! This module owns the program that the VM evaluates before any module of ours is there, and the
//! exchange that follows it. The agent comes from the target's cache, or the host sends it once
//! (store-format.md, "Agent blob").

use std::pin::pin;
use std::time::Duration;

use crate::target::agent;
use crate::target::greeting::{AgentSent, Greeting};
use crate::target::session::{Session, SessionError, unexpected};
use crate::target::status::TargetStatus;
use crate::target::wire::{PROTOCOL, Reply, Request};
use crate::transport::{Meter, Program, Variable, Vm, program};

/// The time between two reports of the agent on its way.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Starts the agent and opens a session with it. Returns the session and the target's status. If
/// the host has to send the agent, `on_sent` hears of it at the beginning, a few times a second,
/// and at the end.
pub(super) async fn open(
    vm: Box<dyn Vm>,
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
    let program = Program {
        variables: &[
            Variable::text("Who", greeting.holder().as_bytes()),
            Variable::text("Hello", &hello),
            Variable::random("Versions", &versions),
        ],
        expressions: agent::boot(),
    };
    let meter = vm.meter();
    let channel = vm.evaluate(&program).await?;
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
        ("State", program::binary_text(&greeting.state_dir())),
        ("Hash", program::binary_text(&variant_for(release)?.sha256)),
    ];
    Ok(program::compress(&variables, agent::fetch()))
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
