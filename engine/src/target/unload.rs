//! Takes the agent's modules out of a target's VM.
//!
//! This module owns the expressions that the target evaluates for it. A session cannot do it,
//! because its process runs the very code that is to go. The expressions remove the modules that
//! were loaded under the file name `relsync`, in any version. They also remove what the loader left
//! in the environment. The module that carries the messages of this very call goes when the channel
//! has ended. The cached blob in a state directory stays. If the link to the target is
//! lost meanwhile, the target has lost some modules. The next session loads them again.

use std::time::Duration;

use tokio::time::timeout;

use crate::transport::{Channel, Program, TransportError, Variable, Vm};

/// The time that a VM may take for one module, because it looks at each of its processes.
pub(super) const MODULE_TIMEOUT: Duration = Duration::from_secs(180);

/// The program that the target evaluates. It takes the session's name, so that no session begins
/// meanwhile. Each purge is a walk over all processes.
const PROGRAM: &str = r#"
Host = group_leader(),
group_leader(whereis(init), self()),
Say = fun(Kind, Text) -> Host ! {relsync, <<Kind, Text/binary>>} end,
Remove = fun(Module) ->
    code:purge(Module),
    code:delete(Module),
    code:purge(Module)
end,
case {catch register(relsync_session, self()), whereis(relsync_agent_probation)} of
    {true, undefined} ->
        put(relsync_who, {2, Who}),
        Modules = [Module || Module <- erlang:loaded(), {file, "relsync"} <- [code:is_loaded(Module)]],
        Bearers = [Module || Module <- Modules, node(Host) =:= node(), Module =:= relsync_agent_ssh_channel],
        lists:foreach(
            fun(Module) ->
                Remove(Module),
                Say(1, atom_to_binary(Module, utf8))
            end,
            Modules -- Bearers
        ),
        spawn(fun() ->
            Monitor = monitor(process, Host),
            receive {'DOWN', Monitor, process, _, _} -> lists:foreach(Remove, Bearers) end
        end),
        [Say(1, atom_to_binary(Module, utf8)) || Module <- Bearers],
        application:unset_env(relsync_agent_blob, blob),
        Say(0, <<>>);
    {true, _} ->
        Say(3, <<>>);
    _ ->
        Say(2, case catch process_info(whereis(relsync_session), dictionary) of
            {dictionary, Values} -> element(2, proplists:get_value(relsync_who, Values, {2, <<"?">>}));
            _ -> <<"?">>
        end)
end.
"#;

/// The longest answer that counts: a module's name, or the holder of the target.
const MAX_ANSWER_BYTES: usize = 1024;

/// A number of modules that no agent reaches.
const MAX_MODULES: usize = 1000;

/// The outcome of an unloading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unloaded {
    /// The target removed these modules. The list is empty if there were none.
    Modules(Vec<String>),
    /// A session holds the target.
    Busy {
        /// The holder, as that session named itself.
        holder: String,
    },
    /// A generation is on probation, and its timer belongs to the agent.
    Probation,
}

/// One message of the target.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Removed(String),
    End(Option<Unloaded>),
}

/// Removes the agent's modules. The target tells other sessions the `holder`. Each module may take
/// up to `limit`.
pub(super) async fn unload(
    vm: Box<dyn Vm>,
    holder: &str,
    limit: Duration,
) -> Result<Unloaded, TransportError> {
    let program = Program {
        variables: &[Variable::text("Who", holder.as_bytes())],
        expressions: PROGRAM,
    };
    let mut channel = vm.evaluate(&program).await?;
    let unloaded = receive(&mut *channel, limit).await;
    // The target has answered what counts.
    let _ = channel.close().await;
    unloaded
}

async fn receive(channel: &mut dyn Channel, limit: Duration) -> Result<Unloaded, TransportError> {
    let mut modules = Vec::new();
    let mut end = None;
    loop {
        let message = timeout(limit, channel.receive()).await;
        match message.map_err(|_| TransportError::Silent { after: limit })? {
            Ok(message) => match decode(&message) {
                Some(Answer::Removed(module)) if modules.len() < MAX_MODULES => {
                    modules.push(module);
                }
                Some(Answer::End(other)) => end = Some(other),
                _ => {
                    return Err(TransportError::Malformed {
                        what: "an answer about the agent's modules that is none".to_owned(),
                    });
                }
            },
            // The session's name is free again only now.
            Err(TransportError::AgentEnded { reason }) => {
                return match end {
                    Some(Some(refused)) => Ok(refused),
                    Some(None) => {
                        modules.sort();
                        Ok(Unloaded::Modules(modules))
                    }
                    None => Err(TransportError::AgentEnded { reason }),
                };
            }
            Err(error) => return Err(error),
        }
    }
}

fn decode(message: &[u8]) -> Option<Answer> {
    if message.len() > MAX_ANSWER_BYTES {
        return None;
    }
    let (kind, text) = message.split_first()?;
    let text = String::from_utf8_lossy(text).into_owned();
    match kind {
        0 => Some(Answer::End(None)),
        1 => Some(Answer::Removed(text)),
        2 => Some(Answer::End(Some(Unloaded::Busy { holder: text }))),
        3 => Some(Answer::End(Some(Unloaded::Probation))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_decoded_or_refused() {
        let busy = Unloaded::Busy {
            holder: "me".to_owned(),
        };
        let table: [(&[u8], Option<Answer>); 7] = [
            (b"\x00", Some(Answer::End(None))),
            (b"\x01a", Some(Answer::Removed("a".to_owned()))),
            (b"\x02me", Some(Answer::End(Some(busy)))),
            (b"\x03", Some(Answer::End(Some(Unloaded::Probation)))),
            (b"\x04", None),
            (b"", None),
            (&[1; MAX_ANSWER_BYTES + 1], None),
        ];
        for (message, expected) in table {
            assert_eq!(decode(message), expected, "{message:?}");
        }
    }
}
