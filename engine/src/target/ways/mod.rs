//! The ways from an SSH server into a VM.
//!
//! | what the server is | the way |
//! |---|---|
//! | `relsyncd`, or another daemon that has its subsystem | [`Way::Subsystem`] |
//! | the daemon of another VM, which evaluates commands | [`Way::TakeOver`]: a command makes its channel one of a session |
//! | a server beside the VM, with a shell | [`Way::Node`]: through it to the VM's node; [`Way::Files`] if the release does not run: a throw-away VM speaks for its files |
//!
//! The host asks for the subsystem first. If the server refuses it, one command tells what runs
//! there ([`probe`]). All ways are channels of one connection, and end as the same [`Vm`].

mod files;
mod probe;
mod quote;
mod survey;
mod takeover;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, BufReader};
use tokio::time::timeout;

use crate::target::agent;
use crate::transport::erl::{self, ConnectError, Cookie, ErlTarget, NodeName};
use crate::transport::ssh::{Finish, SshConnection, SshError, SshStream};
use crate::transport::{StreamVm, Timing, Vm};
use probe::{Commands, Language};
use survey::Survey;

/// The name of the subsystem.
const SUBSYSTEM: &str = "relsync";

/// The text that a VM sends before its first frame.
const READY: &[u8] = b"relsync-ready\n";

/// The shortest limit for the start of a throw-away VM. A small board takes long.
const START: Duration = Duration::from_secs(60);

/// The maximum number of bytes of a command's answer.
const MAX_ANSWER_BYTES: usize = 512 * 1024;

/// The maximum number of bytes before a channel is ready for frames.
const MAX_PREFACE_BYTES: usize = 16 * 1024;

/// The maximum length of a text of the server in an error, in bytes.
const MAX_SAID: usize = 400;

/// A way into a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A session is a subsystem of the server.
    Subsystem,
    /// The server is a VM that evaluates commands, and one of them takes its channel over.
    TakeOver(Evaluator),
    /// The server is beside the VM, and leads to its node.
    Node,
    /// The server has a shell. The release does not run, and a throw-away VM speaks for its files.
    Files,
}

/// A VM that evaluates commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evaluator {
    language: Language,
    otp_release: u32,
}

/// The host's wishes for the VM behind the server.
#[derive(Debug, Clone)]
pub(super) struct Wishes<'a> {
    /// The release's root on the target, absolute.
    pub(super) destination: &'a [u8],
    /// The cookie of the release's node, if the user names one.
    pub(super) cookie: Option<&'a Cookie>,
    /// Whether only a VM that runs the release counts.
    pub(super) only_running: bool,
    /// The time limit of each step.
    pub(super) step: Duration,
    /// The times after which to tick and to give up.
    pub(super) timing: Timing,
}

/// The reasons why no way leads into a VM.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The server refuses a channel, or is lost.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// The server has neither the subsystem nor commands.
    #[error("the SSH server {server} has no subsystem relsync, and runs no commands")]
    NoWay {
        /// The server's identification.
        server: String,
    },
    /// The server ran a command, but neither a VM nor a shell answered.
    #[error("the SSH server {server} answers commands in a way that relsync does not know: {said}")]
    UnknownAnswer {
        /// The server's identification.
        server: String,
        /// The answer, shortened.
        said: String,
    },
    /// The server did not answer a command in time.
    #[error("the SSH server {server} did not answer a command within {} s", after.as_secs())]
    NoAnswer {
        /// The server's identification.
        server: String,
        /// The time limit.
        after: Duration,
    },
    /// The VM of the server is too old for the agent.
    #[error("the target runs OTP {release}, but relsync needs 23 or newer")]
    OldOtp {
        /// Its OTP release.
        release: u32,
    },
    /// The VM of the server did not let its channel be taken over.
    #[error("the VM behind the SSH server {server} does not give its channel to relsync: {said}")]
    NotTakenOver {
        /// The server's identification.
        server: String,
        /// The answer, shortened.
        said: String,
    },
    /// The release runs, but its VM is no node.
    #[error("the release runs there as process {os_pid}, but its VM is no distributed node")]
    NoNode {
        /// The VM's process id.
        os_pid: String,
    },
    /// Several VMs run the release.
    #[error("several VMs run the release there: processes {os_pids}")]
    SeveralVms {
        /// Their process ids.
        os_pids: String,
    },
    /// The release runs as a node that the host cannot reach through the server.
    #[error("the release runs there as process {os_pid}, but the host cannot reach its node")]
    Node {
        /// The VM's process id.
        os_pid: String,
        /// Why.
        #[source]
        source: ConnectError,
    },
    /// The VM has a name or a cookie that is not valid.
    #[error("the release runs there as process {os_pid}, but its {what} is not valid")]
    InvalidNode {
        /// The VM's process id.
        os_pid: String,
        /// The name, or the cookie.
        what: &'static str,
    },
    /// No VM runs the release.
    #[error("no VM runs the release there")]
    NotRunning,
    /// No VM runs, and there is nothing to start one with.
    #[error("no VM runs the release there, and neither it nor the machine has an Erlang to start")]
    NoErlang,
    /// No VM that could be started spoke.
    #[error("no VM runs the release there, and none that relsync started could speak: {said}")]
    NotStarted {
        /// The error output of the last one, shortened.
        said: String,
    },
}

impl EnterError {
    /// Whether waiting may help: the target may be restarting.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Ssh(error) => error.is_passing(),
            Self::Node { .. }
            | Self::NoAnswer { .. }
            | Self::NotRunning
            | Self::NotStarted { .. } => true,
            _ => false,
        }
    }
}

/// Enters a VM behind a server. The way that was found before is tried without asking again, and the
/// one that is found is kept in its place.
pub(super) async fn enter(
    connection: SshConnection,
    wishes: &Wishes<'_>,
    known: &mut Option<Way>,
) -> Result<Box<dyn Vm>, EnterError> {
    let connection = Arc::new(connection);
    if matches!(known, None | Some(Way::Subsystem)) {
        if let Some(stream) = connection.subsystem(SUBSYSTEM).await? {
            *known = Some(Way::Subsystem);
            return Ok(vm(BufReader::new(stream), connection, wishes));
        }
        *known = Some(probe(&connection, wishes).await?);
    }
    let entered = match known {
        Some(Way::TakeOver(evaluator)) => take_over(connection, *evaluator, wishes).await,
        _ => enter_from_shell(connection, wishes).await,
    };
    match entered {
        Ok((vm, way)) => {
            *known = Some(way);
            Ok(vm)
        }
        Err(error) => {
            *known = None;
            Err(error)
        }
    }
}

/// Asks what runs commands. A shell leads to [`Way::Node`] or [`Way::Files`], which is not known yet.
async fn probe(connection: &SshConnection, wishes: &Wishes<'_>) -> Result<Way, EnterError> {
    let answer = run(connection, probe::QUESTION, wishes).await?;
    match probe::answer(&answer.output, &answer.finish.errors) {
        Some(Commands::Vm {
            language,
            otp_release,
        }) => Ok(Way::TakeOver(Evaluator {
            language,
            otp_release,
        })),
        Some(Commands::Shell) => Ok(Way::Files),
        Some(Commands::Nothing) => Err(EnterError::NoWay {
            server: connection.server_id().to_owned(),
        }),
        None => Err(EnterError::UnknownAnswer {
            server: connection.server_id().to_owned(),
            said: said(&answer.output, &answer.finish),
        }),
    }
}

async fn take_over(
    connection: Arc<SshConnection>,
    evaluator: Evaluator,
    wishes: &Wishes<'_>,
) -> Result<(Box<dyn Vm>, Way), EnterError> {
    let release = evaluator.otp_release;
    let variant = agent::variant_for_otp_release(release).ok_or(EnterError::OldOtp { release })?;
    let command = takeover::command(evaluator.language, variant);
    let refused = |said| EnterError::NotTakenOver {
        server: connection.server_id().to_owned(),
        said,
    };
    let Some(command) = command else {
        return Err(refused("the agent lacks its own module".to_owned()));
    };
    let stream = exec(&connection, &command).await?;
    match await_ready(stream, wishes.step).await {
        Ok(stream) => Ok((vm(stream, connection, wishes), Way::TakeOver(evaluator))),
        Err(said) => Err(refused(said)),
    }
}

async fn enter_from_shell(
    connection: Arc<SshConnection>,
    wishes: &Wishes<'_>,
) -> Result<(Box<dyn Vm>, Way), EnterError> {
    let answer = run(&connection, &survey::command(wishes.destination), wishes).await?;
    // The output may hold the cookie.
    let survey = Survey::read(&answer.output).ok_or_else(|| EnterError::UnknownAnswer {
        server: connection.server_id().to_owned(),
        said: said(b"", &answer.finish),
    })?;
    let running: Vec<_> = survey.running().collect();
    match running[..] {
        [] if wishes.only_running => Err(EnterError::NotRunning),
        [] => enter_files(connection, &survey, wishes).await,
        [vm] => enter_node(connection, &survey, vm, wishes).await,
        _ => Err(EnterError::SeveralVms {
            os_pids: running
                .iter()
                .map(|vm| shorten(&vm.os_pid))
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// Joins the node of a VM, through the server.
async fn enter_node(
    connection: Arc<SshConnection>,
    survey: &Survey,
    vm: &survey::Vm,
    wishes: &Wishes<'_>,
) -> Result<(Box<dyn Vm>, Way), EnterError> {
    let os_pid = shorten(&vm.os_pid);
    let Some(name) = survey.node_name(vm) else {
        return Err(EnterError::NoNode { os_pid });
    };
    let invalid = |what| EnterError::InvalidNode {
        os_pid: os_pid.clone(),
        what,
    };
    let node = NodeName::parse(&name).map_err(|_| invalid("name"))?;
    let cookie = match (wishes.cookie, survey.cookie(vm)) {
        (Some(named), _) => named.clone(),
        (None, Some(found)) => Cookie::new(found).map_err(|_| invalid("cookie"))?,
        (None, None) => return Err(invalid("cookie")),
    };
    let mut target = ErlTarget::new(node, cookie);
    target.connect_timeout = wishes.step;
    target.timing = wishes.timing;
    target.epmd_port = vm.epmd_port.unwrap_or(target.epmd_port);
    match erl::connect_through(&target, connection).await {
        Ok(joined) => Ok((Box::new(joined), Way::Node)),
        Err(source) => Err(EnterError::Node { os_pid, source }),
    }
}

/// Starts a throw-away VM.
async fn enter_files(
    connection: Arc<SshConnection>,
    survey: &Survey,
    wishes: &Wishes<'_>,
) -> Result<(Box<dyn Vm>, Way), EnterError> {
    let mut failed = EnterError::NoErlang;
    for candidate in files::candidates(survey) {
        let stream = exec(&connection, &candidate.command()).await?;
        match await_ready(stream, wishes.step.max(START)).await {
            Ok(stream) => return Ok((vm(stream, connection, wishes), Way::Files)),
            Err(said) => failed = EnterError::NotStarted { said },
        }
    }
    Err(failed)
}

fn vm(
    stream: BufReader<SshStream>,
    connection: Arc<SshConnection>,
    wishes: &Wishes<'_>,
) -> Box<dyn Vm> {
    let meter = connection.meter();
    let (reader, writer) = tokio::io::split(stream);
    let below = Box::new(connection);
    Box::new(StreamVm::new(reader, writer, wishes.timing, meter, below))
}

async fn exec(connection: &SshConnection, command: &str) -> Result<SshStream, EnterError> {
    let stream = connection.exec(command.as_bytes()).await?;
    stream.ok_or_else(|| EnterError::NoWay {
        server: connection.server_id().to_owned(),
    })
}

/// Waits for [`READY`]. If it does not come, returns what came instead.
async fn await_ready(stream: SshStream, limit: Duration) -> Result<BufReader<SshStream>, String> {
    let mut stream = BufReader::new(stream);
    let mut preface = Vec::new();
    let waiting = async {
        while !preface.ends_with(READY) && preface.len() < MAX_PREFACE_BYTES {
            match stream.read_u8().await {
                Ok(byte) => preface.push(byte),
                Err(_) => return false,
            }
        }
        preface.ends_with(READY)
    };
    let is_ready = timeout(limit, waiting).await.unwrap_or(false);
    if is_ready {
        return Ok(stream);
    }
    let stream = stream.into_inner();
    // The error output comes beside the output.
    let finish = match timeout(limit, stream.finish()).await {
        Ok(finish) => finish,
        Err(_) => return Err(format!("no answer within {} s", limit.as_secs())),
    };
    Err(said(&preface, &finish))
}

struct Answer {
    output: Vec<u8>,
    finish: Finish,
}

/// Runs a command to its end.
async fn run(
    connection: &SshConnection,
    command: &str,
    wishes: &Wishes<'_>,
) -> Result<Answer, EnterError> {
    let mut stream = exec(connection, command).await?;
    let running = async {
        let mut output = Vec::new();
        let mut part = (&mut stream).take(MAX_ANSWER_BYTES as u64);
        part.read_to_end(&mut output).await?;
        Ok::<_, io::Error>(output)
    };
    let late = |_| EnterError::NoAnswer {
        server: connection.server_id().to_owned(),
        after: wishes.step,
    };
    let output = timeout(wishes.step, running).await.map_err(late)?;
    let finish = timeout(wishes.step, stream.finish()).await.map_err(late)?;
    // A lost connection shows at the next channel.
    let output = output.unwrap_or_default();
    Ok(Answer { output, finish })
}

/// Returns what a program said, shortened and in one line. Errors say more.
fn said(output: &[u8], finish: &Finish) -> String {
    let (output, errors) = (output.trim_ascii(), finish.errors.trim_ascii());
    let said = if errors.is_empty() { output } else { errors };
    match (said.is_empty(), finish.status) {
        (true, Some(status)) => format!("nothing, with exit status {status}"),
        (true, None) => "nothing".to_owned(),
        (false, _) => shorten(&String::from_utf8_lossy(said)),
    }
}

fn shorten(text: &str) -> String {
    let mut end = text.len().min(MAX_SAID);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end]
        .chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect()
}
