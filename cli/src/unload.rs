//! `agent unload`: takes the agent's modules out of a target's VM.

use relsync_engine::target::Unloaded;
use relsync_engine::target::session::SessionError;
use serde_json::json;

use crate::args::ConfirmArgs;
use crate::config_file;
use crate::error::{CliError, Exit};
use crate::output::Output;
use crate::trust;
use crate::units::Count;

/// Runs `agent unload`.
pub(crate) async fn run(mut args: ConfirmArgs, output: &Output) -> Result<Exit, CliError> {
    config_file::fill_target(&mut args.target, output)?;
    let mut target = trust::target(&args.target, false, None, output).await?;
    let unloaded = target.unload_agent().await?;
    let node = target.address.name();
    match unloaded {
        Unloaded::Busy { holder } => Err(SessionError::Busy { holder }.into()),
        Unloaded::Probation => Err(CliError::AgentInUse),
        Unloaded::Modules(modules) => {
            for module in &modules {
                output.detail(&format!("  removed {module}"));
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
                "node": node,
                "modules": modules,
            }));
            Ok(Exit::Done)
        }
    }
}
