//! `trust`, and the question that it answers beforehand: may relsync prove the cookie to a node that
//! only a `relsync.toml` names?
//!
//! On a terminal the user is asked once. Elsewhere the command is refused, and the error says how to
//! allow it. `bindings` explains why, and keeps the answers.

use std::sync::Arc;

use relsync_engine::target::{Address, Target};
use relsync_engine::transport::erl::NodeName;
use relsync_engine::transport::ssh::Prompter;
use serde_json::json;

use crate::args::{TargetArgs, TrustArgs};
use crate::bindings::{Bindings, Way};
use crate::config_file;
use crate::error::{CliError, Exit};
use crate::machine;
use crate::output::Output;
use crate::prompter::Terminal;
use crate::target::{self, TargetError};
use crate::units::Rate;

/// Resolves the target that the arguments name, and asks the user about it if need be.
pub(crate) async fn target(
    args: &TargetArgs,
    checksum: bool,
    bwlimit: Option<Rate>,
    output: &Output,
) -> Result<Target, CliError> {
    let bindings = Bindings::load(machine::config_dir())?;
    let resolve = |bindings: &Bindings| target::resolve(args, checksum, bwlimit, bindings);
    let mut resolved = match resolve(&bindings) {
        Err(TargetError::Untrusted { way }) if output.can_ask() => {
            if !ask(&way, output).await? {
                return Err(TargetError::Untrusted { way }.into());
            }
            output.aside(&remember(&bindings, &way)?);
            resolve(&Bindings::load(machine::config_dir())?)?
        }
        resolved => resolved?,
    };
    let server = match &mut resolved.address {
        Address::Ssh(address) => Some(&mut address.server),
        Address::Erl(node) => node.tunnel.as_mut(),
    };
    if let Some(server) = server {
        server.set_prompter(&(Arc::new(Terminal(output.clone())) as Arc<dyn Prompter>));
    }
    Ok(resolved)
}

/// Asks the user. A thread waits for the answer, so that Ctrl-C is heard.
async fn ask(way: &Way, output: &Output) -> Result<bool, CliError> {
    output.aside(&format!(
        "relsync.toml names a node to which you have not let relsync prove your cookie yet: {way}.\n\
         Whoever answers there can pass the proof on to any node with this cookie, and take it over."
    ));
    let output = output.clone();
    let asking = tokio::task::spawn_blocking(move || output.ask("Is this node yours?"));
    asking.await.map_err(|error| CliError::Local {
        action: "ask about the node".to_owned(),
        source: error.into(),
    })
}

/// Adds the node to the user's list, and says so.
fn remember(bindings: &Bindings, way: &Way) -> Result<String, CliError> {
    let path = bindings.remember(way)?;
    let path = path.display();
    Ok(format!("{path} now lists {way}"))
}

/// Runs `trust`.
pub(crate) fn run(args: &TrustArgs, output: &Output) -> Result<Exit, CliError> {
    let bindings = Bindings::load(machine::config_dir())?;
    let way = way(args, output)?;
    output.line(&remember(&bindings, &way)?);
    output.result(&json!({"outcome": "ok", "node": way.node.as_str()}));
    Ok(Exit::Done)
}

/// The node that the arguments name, else that of the file.
fn way(args: &TrustArgs, output: &Output) -> Result<Way, CliError> {
    let named = TargetArgs {
        destination_node: args.node.clone(),
        address: args.address.clone(),
        dist_port: args.dist_port,
        epmd_port: args.epmd_port,
        tunnel: args.tunnel.clone(),
        ..TargetArgs::default()
    };
    let named = if args.node.is_some() {
        named
    } else {
        let file = config_file::read(args.config.as_deref(), args.profile.as_deref())?;
        let mut of_file = named;
        file.config.fill_target(&mut of_file);
        file.say(None, output);
        of_file
    };
    let node = named
        .destination_node
        .as_deref()
        .ok_or(TargetError::NoNode)?;
    if let Some(text) = &named.address {
        target::check_address(text)?;
    }
    Ok(Way {
        node: NodeName::parse(node).map_err(TargetError::NodeName)?,
        address: named.address,
        dist_port: named.dist_port,
        epmd_port: named.epmd_port,
        tunnel: named.tunnel,
    })
}
