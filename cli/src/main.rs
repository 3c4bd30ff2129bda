//! The `relsync` command.
//!
//! | file | owns |
//! |---|---|
//! | `args`, `config`, `config_file`, `units` | the command line, `relsync.toml`, how values are written |
//! | `own_file`, `bindings`, `trust` | which files relsync uses, and which nodes get the cookie |
//! | `target`, `machine`, `source`, `whole`, `hooks` | the inputs: the node, this host, the snapshot (and whether it is a whole release), the hooks |
//! | `push`, `reload`, `rollback`, `status`, `doctor`, `unload` | the commands on a target |
//! | `snapshot`, `export`, `store` | the commands on the local store |
//! | `plan`, `listing`, `notes`, `terms`, `report`, `events`, `progress` | what relsync prints |
//! | `output`, `printable`, `printer` | the one way to the terminal |
//! | `interrupt`, `error` | Ctrl-C; errors as prose, hint and exit code |

mod args;
mod bindings;
mod config;
mod config_file;
mod doctor;
mod error;
mod events;
mod export;
#[cfg(test)]
mod fuzzing;
mod hooks;
mod interrupt;
mod listing;
mod machine;
mod notes;
mod origin;
mod output;
mod own_file;
mod plan;
mod printable;
mod printer;
mod progress;
mod prompter;
mod push;
#[cfg(test)]
mod reference_tests;
mod reload;
mod report;
mod rollback;
mod snapshot;
mod source;
mod ssh;
mod ssh_config;
mod status;
mod store;
mod target;
mod terminal;
mod terms;
mod trust;
mod units;
mod unload;
mod whole;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use relsync_engine::update::CancellationToken;
use serde_json::json;

use args::{AgentCommand, Cli, Command, OutputArgs};
use error::{CliError, Exit};
use interrupt::Interrupt;
use output::{Output, Stalled, error_value};

fn main() -> ExitCode {
    let command = Cli::parse().into_command();
    let output = Output::new(output_args(&command), stalled(&command));
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(source) => {
            let action = "start".to_owned();
            let exit = fail(&CliError::Local { action, source }, &output);
            output.finish(&CancellationToken::new());
            return exit.into();
        }
    };
    let interrupt = Interrupt::listen(&output, deadline(&command));
    let exit = runtime.block_on(run(command, &output, &interrupt));
    interrupt.set_ended();
    output.finish(interrupt.asked());
    terminal::restore();
    // A scan that was interrupted need not be waited for.
    runtime.shutdown_background();
    exit.into()
}

fn output_args(command: &Command) -> OutputArgs {
    match command {
        Command::Push(args) => args.update.output,
        Command::Plan(args) => args.output,
        Command::Status(args) => args.output,
        Command::Rollback(args) => args.output,
        Command::Reload(args) => args.output,
        Command::Confirm(args) => args.output,
        Command::Doctor(args) => args.output,
        Command::Agent(AgentCommand::Unload(args)) => args.output,
        Command::Trust(args) => args.output,
        Command::Snapshot(command) => command.output(),
        Command::Store(command) => command.output(),
        Command::Completions { .. } | Command::Man { .. } => OutputArgs::default(),
    }
}

/// The time that the command may take, if it has a limit.
fn deadline(command: &Command) -> Option<Duration> {
    let target = match command {
        Command::Push(args) => &args.update.target,
        Command::Plan(args) => &args.target,
        Command::Status(args) => &args.target,
        Command::Rollback(args) => &args.target,
        Command::Reload(args) => &args.target,
        Command::Confirm(args) => &args.target,
        Command::Doctor(args) => &args.target,
        Command::Agent(AgentCommand::Unload(args)) => &args.target,
        Command::Trust(_)
        | Command::Snapshot(_)
        | Command::Store(_)
        | Command::Completions { .. }
        | Command::Man { .. } => return None,
    };
    target.deadline.map(|span| span.0)
}

/// What the command does while its reader stalls.
fn stalled(command: &Command) -> Stalled {
    match command {
        Command::Trust(_)
        | Command::Snapshot(_)
        | Command::Store(_)
        | Command::Completions { .. }
        | Command::Man { .. } => Stalled::Waits,
        _ => Stalled::GoesOn,
    }
}

async fn run(command: Command, output: &Output, interrupt: &Interrupt) -> Exit {
    let ended = match command {
        // These two report failures, and end on Ctrl-C, in their own way.
        Command::Push(args) => Ok(push::run(args.update, args.dry_run, output, interrupt).await),
        Command::Plan(args) => Ok(push::run(*args, true, output, interrupt).await),
        Command::Status(args) => {
            or_interrupted(
                status::run(args, interrupt, output),
                interrupt,
                CliError::Interrupted,
            )
            .await
        }
        Command::Rollback(args) => {
            or_interrupted(
                rollback::run(args, interrupt, output),
                interrupt,
                CliError::InterruptedChange,
            )
            .await
        }
        Command::Reload(args) => {
            or_interrupted(
                reload::run(args, interrupt, output),
                interrupt,
                CliError::InterruptedChange,
            )
            .await
        }
        Command::Confirm(args) => {
            or_interrupted(
                rollback::confirm(args, interrupt, output),
                interrupt,
                CliError::InterruptedChange,
            )
            .await
        }
        Command::Doctor(args) => {
            or_interrupted(
                doctor::run(args, interrupt, output),
                interrupt,
                CliError::Interrupted,
            )
            .await
        }
        Command::Agent(AgentCommand::Unload(args)) => {
            or_interrupted(unload::run(args, output), interrupt, CliError::Interrupted).await
        }
        Command::Trust(args) => trust::run(&args, output),
        Command::Snapshot(command) => snapshot::run(command, output),
        Command::Store(command) => store::run(command, output),
        Command::Completions { shell } => {
            print_completions(shell, output);
            Ok(Exit::Done)
        }
        Command::Man { command } => print_manual(&command, output),
    };
    ended.unwrap_or_else(|error| fail(&error, output))
}

async fn or_interrupted(
    command: impl Future<Output = Result<Exit, CliError>>,
    interrupt: &Interrupt,
    told: CliError,
) -> Result<Exit, CliError> {
    tokio::select! {
        ended = command => ended,
        () = interrupt.wait() => Err(interrupt.told(told)),
    }
}

fn print_completions(shell: clap_complete::Shell, output: &Output) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "relsync", &mut script);
    output.raw(script);
}

fn print_manual(names: &[String], output: &Output) -> Result<Exit, CliError> {
    let mut root = Cli::command();
    root.build();
    let mut command = &root;
    for name in names {
        let found = command.find_subcommand(name);
        command = found.ok_or_else(|| CliError::NoSuchCommand { name: name.clone() })?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(|source| CliError::Local {
            action: "write the manual page".to_owned(),
            source,
        })?;
    output.raw(page);
    Ok(Exit::Done)
}

fn fail(error: &CliError, output: &Output) -> Exit {
    let explained = error.explain();
    output.problem(&explained);
    output.result(&json!({"outcome": "failed", "error": error_value(&explained)}));
    explained.exit
}
