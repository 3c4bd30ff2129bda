//! The command line: flags, their short forms, environment variables and help.
//!
//! Owns the shape of the command line only. `config` fills in from `relsync.toml` what the command
//! line leaves open. The command that takes a value knows its default and its meaning.
//!
//! **Compatibility.** Without a subcommand, the command is `push`. The flags of relsync 2, an Erlang
//! script, keep their names, letters and values.

use std::fmt;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use relsync_engine::target::ReloadMode;
use serde::Deserialize;

use crate::units::{Rate, Size, Span};

/// Puts a new version of an Erlang/OTP or Elixir release onto a running node.
///
/// Without a subcommand, relsync pushes.
#[derive(Debug, Parser)]
#[command(
    name = "relsync",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes:\n  \
                  0    done, or up to date\n  \
                  1    failed; the target is unchanged\n  \
                  2    wrong usage\n  \
                  3    rolled back\n  \
                  4    applied, but the VM must restart\n  \
                  5    the target cannot be reached, or refused the cookie\n  \
                  6    the target's file system failed between two releases\n  \
                  10   the store failed\n  \
                  130  interrupted\n\n\
                  Options can also be set in relsync.toml (same names, and profiles) and in RELSYNC_… variables. \
                  The command line wins over the environment, and the environment over relsync.toml."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    push: PushArgs,
}

impl Cli {
    /// The command that was asked for.
    pub(crate) fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Push(Box::new(self.push)))
    }
}

/// The commands of relsync.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring a target to the local release
    Push(Box<PushArgs>),
    /// Show what a push would do, without doing it
    Plan(Box<UpdateArgs>),
    /// Show what a target runs
    Status(StatusArgs),
    /// Return a target to an earlier generation
    Rollback(RollbackArgs),
    /// Make a target run the code of its installed files
    Reload(ReloadArgs),
    /// Confirm a target's newest generation, which ends its probation
    Confirm(ConfirmArgs),
    /// Take, list and compare snapshots in the local store
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Inspect, check and repair the local store
    #[command(subcommand)]
    Store(StoreCommand),
    /// Check whether a target can be reached and updated, and if not, why
    Doctor(DoctorArgs),
    /// Allow relsync to prove your cookie to a node that a relsync.toml names
    Trust(TrustArgs),
    /// Manage the agent in a target's VM
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of relsync, or of one of its commands
    Man {
        /// The command, like `status` or `snapshot create`
        command: Vec<String>,
    },
}

/// The options that say how to reach a target.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Target")]
pub(crate) struct TargetArgs {
    /// The node to update, as name@host; in mode ssh, the target as [USER@]HOST
    #[arg(short, long, value_name = "NODE", env = "RELSYNC_DESTINATION_NODE")]
    pub(crate) destination_node: Option<String>,
    /// The release's root directory on the target [default: /srv/erlang]
    #[arg(
        short = 'p',
        long,
        value_name = "DIR",
        env = "RELSYNC_DESTINATION_PATH"
    )]
    pub(crate) destination_path: Option<PathBuf>,
    /// Where to write if the destination is on a read-only filesystem
    #[arg(
        short = 'q',
        long,
        value_name = "DIR",
        env = "RELSYNC_DESTINATION_RW_PATH"
    )]
    pub(crate) destination_rw_path: Option<PathBuf>,
    /// The target's cookie; safer in the environment or in ~/.erlang.cookie [default: cookie]
    #[arg(short, long, env = "RELSYNC_COOKIE", hide_env_values = true)]
    pub(crate) cookie: Option<Secret>,
    /// Connect under this short node name instead of one that the target chooses
    #[arg(
        short,
        long,
        value_name = "NAME",
        env = "RELSYNC_SNAME",
        conflicts_with = "name"
    )]
    pub(crate) sname: Option<String>,
    /// Connect under this long node name instead of one that the target chooses
    #[arg(short, long, env = "RELSYNC_NAME")]
    pub(crate) name: Option<String>,
    /// How to reach the target [default: erl]
    #[arg(short = 'M', long, value_enum, env = "RELSYNC_MODE")]
    pub(crate) mode: Option<Mode>,
    /// The port in mode ssh [default: that of your configuration of ssh, else 2228]
    #[arg(short = 'P', long, env = "RELSYNC_PORT", help_heading = "SSH")]
    pub(crate) port: Option<u16>,
    /// The user to log in as in mode ssh [default: that of your configuration of ssh, else your own name]
    #[arg(short, long, env = "RELSYNC_USER", help_heading = "SSH")]
    pub(crate) user: Option<String>,
    /// A private key to log in with, tried before all others; may be repeated
    #[arg(
        long,
        value_name = "FILE",
        env = "RELSYNC_IDENTITY",
        help_heading = "SSH"
    )]
    pub(crate) identity: Vec<PathBuf>,
    /// Add the target's host key to your known hosts, if no key is known for it
    #[arg(
        long,
        env = "RELSYNC_ACCEPT_NEW_HOST_KEY",
        value_parser = BoolishValueParser::new(),
        help_heading = "SSH"
    )]
    pub(crate) accept_new_host_key: bool,
    /// Take the password from this file, which only you may be able to read, instead of RELSYNC_PASSWORD
    #[arg(
        long,
        value_name = "FILE",
        env = "RELSYNC_PASSWORD_FILE",
        help_heading = "SSH"
    )]
    pub(crate) password_file: Option<PathBuf>,
    /// Use this configuration of ssh instead of your own; `none` stands for an empty one
    #[arg(
        long,
        value_name = "FILE",
        env = "RELSYNC_SSH_CONFIG",
        help_heading = "SSH"
    )]
    pub(crate) ssh_config: Option<PathBuf>,
    /// Connect here instead of to the host in the node's name; a port is the node's own and sets EPMD aside
    #[arg(long, value_name = "HOST[:PORT]", env = "RELSYNC_ADDRESS")]
    pub(crate) address: Option<String>,
    /// The node's own port; relsync then does not ask EPMD
    #[arg(long, value_name = "PORT", env = "RELSYNC_DIST_PORT")]
    pub(crate) dist_port: Option<u16>,
    /// Reach the node and its EPMD through this SSH server, in mode erl
    #[arg(
        long,
        value_name = "[USER@]HOST[:PORT]",
        env = "RELSYNC_TUNNEL",
        help_heading = "SSH"
    )]
    pub(crate) tunnel: Option<String>,
    /// The port of the target's EPMD [default: 4369]
    #[arg(long, value_name = "PORT", env = "RELSYNC_EPMD_PORT")]
    pub(crate) epmd_port: Option<u16>,
    /// How long each step of connecting may take [default: 10s]
    #[arg(long, value_name = "TIME", env = "RELSYNC_TIMEOUT")]
    pub(crate) timeout: Option<Span>,
    /// How long the whole command may take; then it ends as with Ctrl-C, but with exit code 1, 3 or 5
    #[arg(long, value_name = "TIME", env = "RELSYNC_DEADLINE")]
    pub(crate) deadline: Option<Span>,
    /// Take options from this profile of relsync.toml
    #[arg(
        long,
        value_name = "NAME",
        env = "RELSYNC_PROFILE",
        help_heading = "Configuration"
    )]
    pub(crate) profile: Option<String>,
    /// Take options from this file instead of relsync.toml, whoever it belongs to
    #[arg(
        long,
        value_name = "FILE",
        env = "RELSYNC_CONFIG",
        help_heading = "Configuration"
    )]
    pub(crate) config: Option<PathBuf>,
    #[arg(skip)]
    pub(crate) from_file: FromFile,
}

/// The parts of the way to a target that a `relsync.toml` named, and not the user.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FromFile {
    /// The node.
    pub(crate) node: bool,
    /// The port of mode ssh.
    pub(crate) port: bool,
    /// The address.
    pub(crate) address: bool,
    /// The node's own port.
    pub(crate) dist_port: bool,
    /// The port of EPMD.
    pub(crate) epmd_port: bool,
    /// The server of the tunnel.
    pub(crate) tunnel: bool,
}

/// The hooks that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HooksArg {
    /// A module's name or a file.
    pub(crate) name: String,
    /// The directory that the name is relative to; empty for the working directory.
    pub(crate) dir: PathBuf,
    /// Whether the user named it, or a file that the user named.
    pub(crate) by_user: bool,
}

impl From<String> for HooksArg {
    fn from(name: String) -> Self {
        Self {
            name,
            dir: PathBuf::new(),
            by_user: true,
        }
    }
}

/// The options that say how results are shown.
#[derive(Debug, Default, Clone, Copy, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Print one JSON object per line, the result last
    #[arg(long, env = "RELSYNC_JSON", value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,
    /// Show every entry and module
    #[arg(short, long, env = "RELSYNC_VERBOSE", value_parser = BoolishValueParser::new())]
    pub(crate) verbose: bool,
}

/// The option that says where snapshots are kept.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreArgs {
    /// The object store [default: in the user's data directory]
    #[arg(long, value_name = "DIR", env = "RELSYNC_STORE")]
    pub(crate) store: Option<PathBuf>,
}

/// The options of every command on the local store.
#[derive(Debug, Default, Args)]
pub(crate) struct LocalArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Take options from this file instead of relsync.toml, whoever it belongs to
    #[arg(
        long,
        value_name = "FILE",
        env = "RELSYNC_CONFIG",
        help_heading = "Configuration"
    )]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The options that say which entries of a directory belong to its snapshot.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Entries")]
pub(crate) struct TreeArgs {
    /// Leave out Erlang's own applications (lib/kernel-…, lib/ssl-…) [default: true]
    #[arg(
        short = 'E',
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        env = "RELSYNC_EXCLUDE_SYSTEM_LIBS"
    )]
    pub(crate) exclude_system_libs: Option<bool>,
    /// Synchronise shared libraries (*.so) too
    #[arg(long, env = "RELSYNC_SHARED_LIBS", value_parser = BoolishValueParser::new())]
    pub(crate) shared_libs: bool,
    /// Leave out what matches this pattern, as in .gitignore; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Keep what matches this pattern, whatever --exclude and the defaults say; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
}

/// The options of `push` and `plan`.
#[derive(Debug, Default, Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) tree: TreeArgs,
    #[command(flatten)]
    pub(crate) apply: ApplyArgs,
    #[command(flatten)]
    pub(crate) link: LinkArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Show for each file from which base, in which coding and in how many bytes it is sent
    #[arg(long, help_heading = "Output")]
    pub(crate) explain: bool,
}

/// The options that say what is pushed.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Source")]
pub(crate) struct SourceArgs {
    /// The release to push [default: ./_rel]
    #[arg(short, long, value_name = "DIR", env = "RELSYNC_LOCAL_PATH")]
    pub(crate) local_path: Option<PathBuf>,
    /// Push this snapshot of the store (its id, the start of its id, its name or a tag) instead of a directory
    #[arg(long, value_name = "ID", conflicts_with = "local_path")]
    pub(crate) snapshot: Option<String>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// The options that say how the target is changed.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Update")]
pub(crate) struct ApplyArgs {
    /// The hooks: the name of a module, a .beam file or an .erl file
    #[arg(short = 'H', long, value_name = "MODULE", env = "RELSYNC_HOOKS")]
    pub(crate) hooks: Option<HooksArg>,
    /// How long each hook may run; 0 means no limit [default: 5m]
    #[arg(long, value_name = "TIME", env = "RELSYNC_HOOK_TIMEOUT")]
    pub(crate) hook_timeout: Option<Span>,
    /// When the presync hook runs [default: auto: late, or early if the destination cannot be written before]
    #[arg(long, value_enum, value_name = "WHEN", env = "RELSYNC_PRESYNC")]
    pub(crate) presync: Option<PresyncTime>,
    /// How running code is replaced [default: soft, which refuses to kill processes]
    #[arg(long, value_enum, value_name = "HOW", env = "RELSYNC_RELOAD")]
    pub(crate) reload: Option<Reload>,
    #[command(flatten)]
    pub(crate) restart: RestartArgs,
    /// Roll back unless the host can reconnect within this time after the update
    #[arg(long, value_name = "TIME", env = "RELSYNC_CONFIRM_TIMEOUT")]
    pub(crate) confirm_timeout: Option<Span>,
    /// How many earlier generations the target keeps for a rollback [default: 2]
    #[arg(long, value_name = "COUNT", env = "RELSYNC_KEEP")]
    pub(crate) keep: Option<u32>,
    /// How many bytes the earlier generations may take; the newest of them always stays
    #[arg(long, value_name = "SIZE", env = "RELSYNC_KEEP_BYTES")]
    pub(crate) keep_bytes: Option<Size>,
    /// Find changed files on the target by their hash instead of by size and time
    #[arg(long, env = "RELSYNC_CHECKSUM", value_parser = BoolishValueParser::new())]
    pub(crate) checksum: bool,
    /// Install the release in a directory that the target's VM runs nothing from yet
    #[arg(long, env = "RELSYNC_NEW_DESTINATION", value_parser = BoolishValueParser::new())]
    pub(crate) new_destination: bool,
    /// Overwrite what matches this pattern on the target although relsync did not install it; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) overwrite: Vec<String>,
    /// At the first push to a target, delete what is there and not in the release
    #[arg(long, env = "RELSYNC_DELETE", value_parser = BoolishValueParser::new())]
    pub(crate) delete: bool,
    /// Never delete what matches this pattern on the target; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) protect: Vec<String>,
    /// Refuse to delete more entries than this
    #[arg(long, value_name = "COUNT", env = "RELSYNC_MAX_DELETE")]
    pub(crate) max_delete: Option<u64>,
}

/// The options that say how a VM comes back after a restart.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Update")]
pub(crate) struct RestartArgs {
    /// The command that starts the VM again on the target after --reload vm, if the VM cannot restart itself; `none` if a supervisor does
    #[arg(
        long,
        value_name = "COMMAND",
        env = "RELSYNC_RESTART_COMMAND",
        hide_env_values = true
    )]
    pub(crate) restart_command: Option<String>,
    /// Start the VM with this command, also if it does not run, and go back if it does not come up: as --reload vm --restart-command COMMAND
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["restart_command", "reload"])]
    pub(crate) start: Option<String>,
    /// How long the VM may take to come back after --reload vm [default: 60s]
    #[arg(long, value_name = "TIME", env = "RELSYNC_RESTART_TIMEOUT")]
    pub(crate) restart_timeout: Option<Span>,
}

impl RestartArgs {
    /// Returns the command that starts the VM.
    pub(crate) fn command(&self) -> Option<String> {
        self.start.clone().or_else(|| self.restart_command.clone())
    }

    /// Returns how code is replaced, if the options for that say this.
    pub(crate) fn reload(&self, asked: Option<Reload>) -> Reload {
        match self.start {
            Some(_) => Reload::Vm,
            None => asked.unwrap_or(Reload::Soft),
        }
    }
}

/// The options that say how the link is used.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Link")]
pub(crate) struct LinkArgs {
    /// Send at most this many bytes per second, written as for rsync: 11k, 2M
    #[arg(long, value_name = "RATE", env = "RELSYNC_BWLIMIT")]
    pub(crate) bwlimit: Option<Rate>,
    /// The link's rate: `plan` estimates the time with it, and relsync searches harder for a small update if it is low
    #[arg(long, value_name = "RATE", env = "RELSYNC_LINK_RATE")]
    pub(crate) link_rate: Option<Rate>,
    /// How often to reconnect when the link is lost [default: 3]
    #[arg(long, value_name = "COUNT", env = "RELSYNC_RETRIES")]
    pub(crate) retries: Option<u32>,
}

impl LinkArgs {
    /// Returns the most that the link carries in a second, if an option says so.
    pub(crate) fn bytes_per_s(&self) -> Option<u64> {
        let rates = [self.link_rate, self.bwlimit].into_iter().flatten();
        rates.map(|rate| rate.0).filter(|rate| *rate > 0).min()
    }
}

/// The arguments of `push`.
#[derive(Debug, Default, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    pub(crate) update: UpdateArgs,
    /// Show what would be done, and stop
    #[arg(long, help_heading = "Update")]
    pub(crate) dry_run: bool,
}

/// The arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Hash every installed file
    #[arg(long, help_heading = None)]
    pub(crate) checksum: bool,
}

/// The arguments of `rollback`.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The generation's number, or the snapshot's id [default: the previous generation]
    #[arg(long, value_name = "ID|GENERATION", help_heading = None)]
    pub(crate) to: Option<String>,
    /// How running code is replaced [default: soft, which refuses to kill processes]
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        env = "RELSYNC_RELOAD",
        help_heading = None
    )]
    pub(crate) reload: Option<Reload>,
    #[command(flatten)]
    pub(crate) restart: RestartArgs,
    /// The hooks: the name of a module, a .beam file or an .erl file
    #[arg(short = 'H', long, value_name = "MODULE", env = "RELSYNC_HOOKS", help_heading = None)]
    pub(crate) hooks: Option<HooksArg>,
    /// How long each hook may run; 0 means no limit [default: 5m]
    #[arg(long, value_name = "TIME", env = "RELSYNC_HOOK_TIMEOUT", help_heading = None)]
    pub(crate) hook_timeout: Option<Span>,
}

/// The arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Accept a destination that the target's VM runs nothing from yet
    #[arg(long, env = "RELSYNC_NEW_DESTINATION", value_parser = BoolishValueParser::new(), help_heading = None)]
    pub(crate) new_destination: bool,
}

/// The arguments of `reload`.
#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The hooks: the name of a module, a .beam file or an .erl file
    #[arg(
        short = 'H',
        long,
        value_name = "MODULE",
        env = "RELSYNC_HOOKS",
        help_heading = None
    )]
    pub(crate) hooks: Option<HooksArg>,
    /// How long each hook may run; 0 means no limit [default: 5m]
    #[arg(
        long,
        value_name = "TIME",
        env = "RELSYNC_HOOK_TIMEOUT",
        help_heading = None
    )]
    pub(crate) hook_timeout: Option<Span>,
    /// How running code is replaced: soft, hard or apps [default: soft, which refuses to kill processes]
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        env = "RELSYNC_RELOAD",
        help_heading = None
    )]
    pub(crate) reload: Option<Reload>,
}

/// The arguments of `confirm`.
#[derive(Debug, Args)]
pub(crate) struct ConfirmArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The arguments of `trust`. No environment variable stands for any of them: what is trusted is said
/// in so many words.
#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// The node, as name@host [default: the one that relsync.toml names]
    pub(crate) node: Option<String>,
    /// The address that relsync.toml names for it
    #[arg(long, value_name = "HOST[:PORT]", requires = "node")]
    pub(crate) address: Option<String>,
    /// The node's own port that relsync.toml names for it
    #[arg(long, value_name = "PORT", requires = "node")]
    pub(crate) dist_port: Option<u16>,
    /// The port of its EPMD that relsync.toml names for it
    #[arg(long, value_name = "PORT", requires = "node")]
    pub(crate) epmd_port: Option<u16>,
    /// The SSH server that relsync.toml names for it
    #[arg(long, value_name = "[USER@]HOST[:PORT]", requires = "node")]
    pub(crate) tunnel: Option<String>,
    /// Take the node from this profile of relsync.toml
    #[arg(
        long,
        value_name = "NAME",
        env = "RELSYNC_PROFILE",
        conflicts_with = "node"
    )]
    pub(crate) profile: Option<String>,
    /// Take the node from this file instead of relsync.toml, whoever it belongs to
    #[arg(long, value_name = "FILE", env = "RELSYNC_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The commands on the agent.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Remove the agent's modules from a target's VM, where they stay between sessions
    Unload(ConfirmArgs),
}

/// The commands on snapshots.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Take a snapshot of a directory
    Create {
        /// The directory
        dir: PathBuf,
        /// A name for the snapshot
        #[arg(long)]
        name: Option<String>,
        /// A remark for people
        #[arg(long)]
        note: Option<String>,
        #[command(flatten)]
        tree: TreeArgs,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// List the snapshots, newest first, by when each was first taken
    List {
        #[command(flatten)]
        local: LocalArgs,
    },
    /// List the entries of a snapshot
    Show {
        /// Its id, the start of its id, its name or a tag, or `latest`: the one that was last taken, or last found unchanged
        snapshot: String,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// List the differences between two snapshots
    Diff {
        /// The earlier snapshot: its id, the start of its id, its name or a tag, or `latest`
        old: String,
        /// The later snapshot, named in the same way
        new: String,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Give a snapshot a tag; an existing tag moves to it
    Tag {
        /// Its id, the start of its id, its name or a tag, or `latest`
        snapshot: String,
        /// The tag
        tag: String,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Forget a snapshot; `store gc` frees its space
    Rm {
        /// Its id, the start of its id, its name or a tag, or `latest`
        snapshot: String,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Write a snapshot's entries into a new directory
    Export {
        /// Its id, the start of its id, its name or a tag, or `latest`
        snapshot: String,
        /// The directory; it must be empty or not exist
        dir: PathBuf,
        /// Keep set-user-ID, set-group-ID and sticky bits, which are left out otherwise
        #[arg(long)]
        as_is: bool,
        #[command(flatten)]
        local: LocalArgs,
    },
}

/// The commands on the store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Show what the store holds
    Stats {
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Check the store for damage
    Check {
        /// Read and hash all content
        #[arg(long)]
        read_data: bool,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Rebuild the store's index from its segments
    Repair {
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Delete what no snapshot needs; with rules, forget snapshots first
    Gc {
        #[command(flatten)]
        keep: RetentionArgs,
        /// Show what would be forgotten and freed
        #[arg(short = 'n', long)]
        dry_run: bool,
        #[command(flatten)]
        local: LocalArgs,
    },
}

/// The rules for which snapshots are kept. A snapshot that no rule keeps is forgotten; without any
/// rule, all are kept.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Keep")]
pub(crate) struct RetentionArgs {
    /// Keep the last N snapshots, by when each was last seen
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) keep_last: u32,
    /// Keep the last snapshot of each of the last N days (UTC) that have one
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) keep_daily: u32,
    /// Keep the last snapshot of each of the last N weeks that have one
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) keep_weekly: u32,
    /// Keep the last snapshot of each of the last N months that have one
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) keep_monthly: u32,
    /// Keep the snapshot with this tag; may be given several times
    #[arg(long, value_name = "TAG")]
    pub(crate) keep_tag: Vec<String>,
}

/// A cookie; never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The ways to reach a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Erlang's distribution protocol
    Erl,
    /// SSH
    Ssh,
}

/// The ways to replace running code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reload {
    /// Refuse if a process would be killed
    Soft,
    /// Kill processes that run old code
    Hard,
    /// Leave running code alone
    None,
    /// Stop and start the applications concerned
    Apps,
    /// Restart the VM
    Vm,
}

impl From<Reload> for ReloadMode {
    fn from(reload: Reload) -> Self {
        match reload {
            Reload::Soft => Self::Soft,
            Reload::Hard => Self::Hard,
            Reload::None => Self::None,
            Reload::Apps => Self::Apps,
            Reload::Vm => Self::Vm,
        }
    }
}

/// The times at which the presync hook can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PresyncTime {
    /// Before relsync writes anything
    Early,
    /// When all new files are staged
    Late,
    /// Late, or early if the destination cannot be written before
    Auto,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(words: &[&str]) -> Result<Command, clap::Error> {
        let words = std::iter::once("relsync").chain(words.iter().copied());
        Cli::try_parse_from(words).map(Cli::into_command)
    }

    fn push(words: &[&str]) -> PushArgs {
        match parse(words) {
            Ok(Command::Push(args)) => *args,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn command_lines_of_the_original_work_unchanged() {
        let short = [
            "-d",
            "app@host",
            "-p",
            "/opt/app",
            "-q",
            "/rw",
            "-l",
            "./_rel/app",
            "-H",
            "my_hooks",
            "-E",
            "false",
            "-c",
            "secret",
            "-s",
            "me",
            "-M",
            "erl",
        ];
        let long = [
            "--destination-node",
            "app@host",
            "--destination-path",
            "/opt/app",
            "--destination-rw-path",
            "/rw",
            "--local-path",
            "./_rel/app",
            "--hooks",
            "my_hooks",
            "--exclude-system-libs",
            "false",
            "--cookie",
            "secret",
            "--sname",
            "me",
            "--mode",
            "erl",
        ];
        let with_equals = [
            "--destination-node=app@host",
            "--destination-path=/opt/app",
            "--destination-rw-path=/rw",
            "--local-path=./_rel/app",
            "--hooks=my_hooks",
            "--exclude-system-libs=false",
            "--cookie=secret",
            "--sname=me",
            "--mode=erl",
        ];
        for words in [&short[..], &long[..], &with_equals[..]] {
            let update = push(words).update;
            let target = &update.target;
            assert_eq!(target.destination_node.as_deref(), Some("app@host"));
            assert_eq!(target.destination_path, Some("/opt/app".into()));
            assert_eq!(target.destination_rw_path, Some("/rw".into()));
            assert_eq!(update.source.local_path, Some("./_rel/app".into()));
            let hooks = HooksArg::from("my_hooks".to_owned());
            assert_eq!(update.apply.hooks, Some(hooks));
            assert_eq!(update.tree.exclude_system_libs, Some(false));
            assert_eq!(target.cookie, Some(Secret("secret".to_owned())));
            assert_eq!(target.sname.as_deref(), Some("me"));
            assert_eq!(target.mode, Some(Mode::Erl));
        }
        let ssh = push(&["-d", "app@host", "-M", "ssh", "-P", "2228", "-u", "root"])
            .update
            .target;
        assert_eq!(ssh.mode, Some(Mode::Ssh));
        assert_eq!((ssh.port, ssh.user.as_deref()), (Some(2228), Some("root")));
        let long_name = push(&["-d", "app@h.example.org", "-n", "me@x.example.org"]);
        let name = long_name.update.target.name;
        assert_eq!(name.as_deref(), Some("me@x.example.org"));
    }

    #[test]
    fn the_switch_for_system_libraries_needs_no_value() {
        let table: &[(&[&str], Option<bool>)] = &[
            (&[], None),
            (&["-E"], Some(true)),
            (&["-E", "true"], Some(true)),
            (&["-E", "no"], Some(false)),
            (&["-E", "-d", "app@host"], Some(true)),
        ];
        for (words, expected) in table {
            let tree = push(words).update.tree;
            assert_eq!(tree.exclude_system_libs, *expected, "{words:?}");
        }
    }

    #[test]
    fn push_may_be_named() {
        let args = push(&["push", "-d", "app@host", "--dry-run"]);
        assert!(args.dry_run);
        assert!(matches!(
            parse(&["plan", "-d", "a@b"]),
            Ok(Command::Plan(_))
        ));
        assert!(matches!(
            parse(&["status", "-d", "a@b"]),
            Ok(Command::Status(_))
        ));
    }

    #[test]
    fn a_limit_bounds_the_link_s_rate() {
        let table: &[(&[&str], Option<u64>)] = &[
            (&[], None),
            (&["--link-rate", "2MB"], Some(2_000_000)),
            (&["--bwlimit", "11k"], Some(11 << 10)),
            (&["--link-rate", "2MB", "--bwlimit", "11k"], Some(11 << 10)),
            (&["--link-rate", "1kB", "--bwlimit", "11k"], Some(1000)),
            (&["--link-rate", "1kB", "--bwlimit", "0"], Some(1000)),
            (&["--link-rate", "0"], None),
        ];
        for (words, expected) in table {
            assert_eq!(
                push(words).update.link.bytes_per_s(),
                *expected,
                "{words:?}"
            );
        }
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        let table: &[(&[&str], ErrorKind)] = &[
            (&["--no-such-option"], ErrorKind::UnknownArgument),
            (&["no-such-command"], ErrorKind::InvalidSubcommand),
            (&["-M", "ftp"], ErrorKind::InvalidValue),
            (&["--bwlimit", "fast"], ErrorKind::ValueValidation),
            (&["--hook-timeout", "soon"], ErrorKind::ValueValidation),
            (&["--reload", "maybe"], ErrorKind::InvalidValue),
            (&["--dist-port", "65536"], ErrorKind::ValueValidation),
            (&["-s", "a", "-n", "b@c.d"], ErrorKind::ArgumentConflict),
            (&["-l", "x", "--snapshot", "y"], ErrorKind::ArgumentConflict),
            (&["-d"], ErrorKind::InvalidValue),
        ];
        for (words, kind) in table {
            let error = parse(words).expect_err("a refusal");
            assert_eq!(error.kind(), *kind, "{words:?}");
            assert_eq!(error.exit_code(), 2, "{words:?}");
        }
    }

    #[test]
    fn the_cookie_does_not_show() {
        let args = push(&["-c", "very-secret"]);
        assert!(!format!("{args:?}").contains("very-secret"));
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("RELSYNC_COOKIE"), "{help}");
    }
}
