//! `agent unload`: takes the agent's modules out of a target's VM.

use std::time::Duration;

use relsync_engine::target::session::SessionError;
use relsync_engine::target::unload::{self, Unloaded};
use relsync_engine::transport::erl::connect;
use serde_json::json;

use crate::args::ConfirmArgs;
use crate::config::Config;
use crate::error::{CliError, Exit};
use crate::output::{Output, printable};
use crate::target::Target;
use crate::units::Count;

/// How long a VM may take for one module: it looks at each of its processes.
const MODULE_TIMEOUT: Duration = Duration::from_secs(180);

/// Runs `agent unload`.
pub(crate) async fn run(mut args: ConfirmArgs, output: &Output) -> Result<Exit, CliError> {
    Config::load(args.target.profile.as_deref())?.fill_target(&mut args.target);
    let target = Target::resolve(&args.target, false, None)?;
    let node = target.node();
    let mut connection = connect(&target.erl).await?;
    let unloaded = unload::unload(&mut connection, target.greeting.holder(), MODULE_TIMEOUT).await;
    // What counts has been answered.
    let _ = connection.close().await;
    match unloaded.map_err(SessionError::Transport)? {
        Unloaded::Busy { holder } => Err(SessionError::Busy { holder }.into()),
        Unloaded::Probation => Err(CliError::AgentInUse),
        Unloaded::Modules(modules) => {
            for module in &modules {
                output.detail(&format!("  removed {}", printable(module)));
            }
            output.line(&match modules.len() {
                0 => format!("{node} has no agent loaded"),
                count => format!(
                    "Removed the agent from {node}: {}; the next session loads it again",
                    Count(count, "module")
                ),
            });
            output.result(&json!({
                "outcome": "ok",
                "node": node.as_str(),
                "modules": modules,
            }));
            Ok(Exit::Done)
        }
    }
}
