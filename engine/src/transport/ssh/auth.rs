//! Authenticates the user: which proofs are tried, and in which order.
//!
//! | order | proof | unless |
//! |---|---|---|
//! | 1 | the files that the user named, by the agent if it holds the key | |
//! | 2 | the other keys of the agent | only keys of files are wanted |
//! | 3 | the usual files | |
//! | 4 | a password, or the answers to the server's questions | the server does not take it |
//!
//! A key is first offered without a signature. Only when the server takes it, its file is decrypted
//! or the user is asked for its passphrase. What was opened or asked for is kept in memory, so a
//! connection that is made again asks nobody.
//!
//! After a success nothing more may be tried on the handle: `russh` would wait for ever.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use russh::client::{AuthResult, KeyboardInteractiveAuthResponse, Prompt};
use russh::keys::agent::AgentIdentity;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey};
use russh::{MethodKind, MethodSet};
use tokio::time::sleep;

use super::agent::{Agent, AgentError, AgentSigner};
use super::connect::Session;
use super::error::{SshError, printable};
use super::key_file::{FileSigner, KeyFile, SignError};
use super::secret::{Notice, Question, Secret};
use super::target::{Identity, SshTarget};

/// The number of times that the user may type a password.
const PASSWORDS: usize = 3;

/// The maximum number of rounds and of questions in which a server may ask the user.
const MAX_QUESTIONS: usize = 10;

/// The maximum length of a server's question.
const QUESTION_CHARACTERS: usize = 200;

/// Keys that were opened, and passwords that were asked for: kept in memory only, and never shown.
#[derive(Default)]
pub struct Kept {
    /// Opened keys, by their files.
    pub(super) keys: Mutex<HashMap<PathBuf, Arc<PrivateKey>>>,
    /// Passwords that were right, by the target's name.
    passwords: Mutex<HashMap<String, Secret>>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

/// Authenticates the user on a fresh connection.
pub(super) async fn authenticate(
    session: &mut Session,
    target: &SshTarget,
) -> Result<(), SshError> {
    let agent = Agent::reach(target, session.agent_session_binding()).await;
    let attempts = Attempts {
        session,
        target,
        agent,
        seen: Vec::new(),
        tried: Vec::new(),
        offered: None,
        rsa_hash: None,
        locked: None,
        asking: Asking::default(),
    };
    attempts.run().await
}

struct Attempts<'a> {
    session: &'a mut Session,
    target: &'a SshTarget,
    agent: Option<Agent>,
    /// The plain keys that were tried.
    seen: Vec<KeyData>,
    /// The methods and keys that were tried, as errors tell them.
    tried: Vec<String>,
    /// The methods that the server takes, once it has told them.
    offered: Option<MethodSet>,
    /// The hash for RSA keys, once the server was asked.
    rsa_hash: Option<HashAlg>,
    /// Why a key was not used that the server takes.
    locked: Option<SshError>,
    asking: Asking,
}

impl Attempts<'_> {
    async fn run(mut self) -> Result<(), SshError> {
        let is_in = self.try_files(true).await?
            || self.try_others().await?
            || self.try_none().await?
            || self.try_password().await?
            || self.try_questions().await?;
        if is_in {
            return Ok(());
        }
        if let Some(locked) = self.locked {
            return Err(locked);
        }
        let offered = self.offered.as_deref().unwrap_or_default();
        let offered = offered.iter().map(|method| <&str>::from(method).to_owned());
        Err(SshError::NotAuthenticated {
            place: self.target.place(),
            user: self.target.user.clone(),
            tried: self.tried,
            offered: offered.collect(),
        })
    }

    /// Whether the server may take this method.
    fn takes(&self, method: MethodKind) -> bool {
        let offered = self.offered.as_deref();
        offered.is_none_or(|offered| offered.contains(&method))
    }

    /// Learns what the server takes, if no attempt has told yet.
    async fn try_none(&mut self) -> Result<bool, SshError> {
        if self.offered.is_some() {
            return Ok(false);
        }
        let attempt = self.session.authenticate_none(self.target.user.clone());
        let result = within(self.target, &self.asking, attempt).await?;
        self.judge(result.ok())
    }

    async fn try_others(&mut self) -> Result<bool, SshError> {
        let with_agent = !self.target.credentials.identities_only;
        Ok((with_agent && self.try_agent().await?) || self.try_files(false).await?)
    }

    async fn try_files(&mut self, is_named: bool) -> Result<bool, SshError> {
        let identities = &self.target.credentials.identities;
        for identity in identities.iter().filter(|it| it.is_named == is_named) {
            if !self.takes(MethodKind::PublicKey) {
                return Ok(false);
            }
            let is_in = match KeyFile::open(identity, self.target).await {
                Ok(Some(key)) => self.try_file(identity, key).await,
                Ok(None) => Ok(false),
                Err(error) => Err(error),
            };
            match is_in {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) if is_named || !is_of_a_key(&error) => return Err(error),
                Err(error) => {
                    let reason = error.to_string();
                    if matches!(error, SshError::KeyLocked { .. }) {
                        self.locked.get_or_insert(error);
                    }
                    tell(self.target, Notice::KeySkipped { reason }).await;
                }
            }
        }
        Ok(false)
    }

    /// Tries a file's certificate, and then its key.
    async fn try_file(&mut self, identity: &Identity, mut key: KeyFile) -> Result<bool, SshError> {
        let name = identity.file.display().to_string();
        let hash = self.hash_for(&key.public).await;
        if let Some(certificate) = key.certificate.clone() {
            self.note(&format!("certificate of {name}"), &key.public);
            let mut signer = FileSigner {
                key: &mut key,
                target: self.target,
                asking: &self.asking,
            };
            let user = self.target.user.clone();
            let attempt =
                self.session
                    .authenticate_certificate_with(user, certificate, hash, &mut signer);
            let result = within(self.target, &self.asking, attempt).await?;
            if self.judge_signed(result)? {
                return Ok(true);
            }
        }
        if self.seen.contains(key.public.key_data()) {
            return Ok(false);
        }
        self.seen.push(key.public.key_data().clone());
        self.note(&format!("key {name}"), &key.public);
        let user = self.target.user.clone();
        let public = key.public.clone();
        if let Some(agent) = &mut self.agent
            && agent.holds(public.key_data())
        {
            let asking = &self.asking;
            let mut signer = AgentSigner { agent, asking };
            let attempt = self.session.authenticate_publickey_with(
                user.clone(),
                public.clone(),
                hash,
                &mut signer,
            );
            let result = within(self.target, asking, attempt).await?;
            if !matches!(result, Err(AgentError::Refused)) {
                return self.judge(result.ok());
            }
        }
        let mut signer = FileSigner {
            key: &mut key,
            target: self.target,
            asking: &self.asking,
        };
        let attempt = self
            .session
            .authenticate_publickey_with(user, public, hash, &mut signer);
        let result = within(self.target, &self.asking, attempt).await?;
        self.judge_signed(result)
    }

    async fn try_agent(&mut self) -> Result<bool, SshError> {
        let Some(mut agent) = self.agent.take() else {
            return Ok(false);
        };
        for identity in agent.keys.clone() {
            if !self.takes(MethodKind::PublicKey) {
                break;
            }
            if self.try_agents(&mut agent, identity).await? {
                return Ok(true);
            }
        }
        self.agent = Some(agent);
        Ok(false)
    }

    /// Tries a key of the agent.
    async fn try_agents(
        &mut self,
        agent: &mut Agent,
        identity: AgentIdentity,
    ) -> Result<bool, SshError> {
        let user = self.target.user.clone();
        let public = identity.public_key().into_owned();
        let hash = self.hash_for(&public).await;
        let asking = &self.asking;
        let result = match identity {
            AgentIdentity::PublicKey { key, .. } => {
                if self.seen.contains(key.key_data()) {
                    return Ok(false);
                }
                self.seen.push(key.key_data().clone());
                let mut signer = AgentSigner { agent, asking };
                let attempt =
                    self.session
                        .authenticate_publickey_with(user, key, hash, &mut signer);
                within(self.target, asking, attempt).await?
            }
            AgentIdentity::Certificate { certificate, .. } => {
                let mut signer = AgentSigner { agent, asking };
                let attempt = self.session.authenticate_certificate_with(
                    user,
                    certificate,
                    hash,
                    &mut signer,
                );
                within(self.target, asking, attempt).await?
            }
        };
        self.note("key of the agent", &public);
        match result {
            Err(AgentError::Refused) => {
                let fingerprint = public.fingerprint(HashAlg::Sha256);
                let reason = format!("the agent does not sign with its key {fingerprint}");
                tell(self.target, Notice::KeySkipped { reason }).await;
                Ok(false)
            }
            result => self.judge(result.ok()),
        }
    }

    async fn try_password(&mut self) -> Result<bool, SshError> {
        let given = self.given_password();
        for attempt in 0..PASSWORDS {
            if !self.takes(MethodKind::Password) {
                return Ok(false);
            }
            let password = match &given {
                Some(given) if attempt == 0 => Some(given.clone()),
                Some(_) => None,
                None => {
                    let question = Question::Password {
                        user: self.target.user.clone(),
                        place: self.target.place(),
                        is_again: attempt > 0,
                    };
                    self.asking.ask(self.target, question).await
                }
            };
            let Some(password) = password else {
                return Ok(false);
            };
            if attempt == 0 {
                self.tried.push("a password".to_owned());
            }
            let user = self.target.user.clone();
            let attempt = self
                .session
                .authenticate_password(user, password.expose().to_owned());
            let result = within(self.target, &self.asking, attempt).await?;
            if self.judge(result.ok())? {
                self.keep_password(password);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The password that was right before, or that came with the target.
    fn given_password(&self) -> Option<Secret> {
        let credentials = &self.target.credentials;
        let kept = lock(&credentials.kept.passwords)
            .get(&self.target.to_string())
            .cloned();
        kept.or_else(|| credentials.password.clone())
    }

    fn keep_password(&self, password: Secret) {
        let kept = &self.target.credentials.kept.passwords;
        lock(kept).insert(self.target.to_string(), password);
    }

    /// Answers the server's own questions (RFC 4256).
    async fn try_questions(&mut self) -> Result<bool, SshError> {
        let credentials = &self.target.credentials;
        let can_answer = credentials.password.is_some() || credentials.prompter.is_some();
        // A server that takes a password has got it already.
        let takes_password = self.offered.is_some() && self.takes(MethodKind::Password);
        if !can_answer || takes_password || !self.takes(MethodKind::KeyboardInteractive) {
            return Ok(false);
        }
        self.tried.push("keyboard-interactive".to_owned());
        let user = self.target.user.clone();
        let start = self
            .session
            .authenticate_keyboard_interactive_start(user, None::<String>);
        let mut response = within(self.target, &self.asking, start).await?;
        let mut password = None;
        for _ in 0..MAX_QUESTIONS {
            let prompts = match response {
                Ok(KeyboardInteractiveAuthResponse::Success) => {
                    if let Some(password) = password {
                        self.keep_password(password);
                    }
                    return Ok(true);
                }
                Ok(KeyboardInteractiveAuthResponse::Failure {
                    remaining_methods,
                    partial_success,
                }) => {
                    return self.judge(Some(AuthResult::Failure {
                        remaining_methods,
                        partial_success,
                    }));
                }
                Ok(KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. }) => prompts,
                Err(_) => return self.judge(None),
            };
            let Some(answers) = self.answers(&prompts).await else {
                return Ok(false);
            };
            if let ([answer], [Prompt { echo: false, .. }]) = (&answers[..], &prompts[..]) {
                password = Some(answer.clone());
            }
            let answers = answers.iter().map(|it| it.expose().to_owned()).collect();
            let respond = self
                .session
                .authenticate_keyboard_interactive_respond(answers);
            response = within(self.target, &self.asking, respond).await?;
        }
        Ok(false)
    }

    /// Returns the answers to a server's questions. A given password answers the only question that
    /// is not to be seen.
    async fn answers(&self, prompts: &[Prompt]) -> Option<Vec<Secret>> {
        if prompts.len() > MAX_QUESTIONS {
            return None;
        }
        let given = self.given_password();
        let mut answers = Vec::new();
        for Prompt { prompt, echo } in prompts {
            let answer = match &given {
                Some(password) if prompts.len() == 1 && !echo => password.clone(),
                _ => {
                    let question = Question::Servers {
                        place: self.target.place(),
                        text: printable(prompt.as_bytes(), QUESTION_CHARACTERS),
                        is_visible: *echo,
                    };
                    self.asking.ask(self.target, question).await?
                }
            };
            answers.push(answer);
        }
        Some(answers)
    }

    /// Notes a key that was tried, for errors.
    fn note(&mut self, what: &str, key: &PublicKey) {
        let fingerprint = key.fingerprint(HashAlg::Sha256);
        self.tried.push(format!("{what} ({fingerprint})"));
    }

    /// Returns the hash with which a key signs, if it is an RSA key: never SHA-1.
    async fn hash_for(&mut self, key: &PublicKey) -> Option<HashAlg> {
        if !matches!(key.algorithm(), Algorithm::Rsa { .. }) {
            return None;
        }
        if self.rsa_hash.is_none() {
            let best = self.session.best_supported_rsa_hash().await;
            let best = best.ok().flatten().flatten();
            self.rsa_hash = Some(best.unwrap_or(HashAlg::Sha512));
        }
        self.rsa_hash
    }

    fn judge_signed(&mut self, result: Result<AuthResult, SignError>) -> Result<bool, SshError> {
        match result {
            Ok(result) => self.judge(Some(result)),
            Err(SignError::Gone) => self.judge(None),
            Err(SignError::Key(error)) => Err(*error),
        }
    }

    /// Takes in the server's answer. Returns whether the user is in.
    fn judge(&mut self, result: Option<AuthResult>) -> Result<bool, SshError> {
        match result {
            Some(AuthResult::Success) => Ok(true),
            // `russh` reports the end of the connection as a failure that leaves no method.
            Some(AuthResult::Failure {
                remaining_methods, ..
            }) if !(remaining_methods.is_empty() && self.session.is_closed()) => {
                self.offered = Some(remaining_methods);
                Ok(false)
            }
            _ => Err(SshError::AuthenticationCut {
                place: self.target.place(),
                user: self.target.user.clone(),
                tried: std::mem::take(&mut self.tried),
            }),
        }
    }
}

/// Whether an error concerns one key, so that another one may do.
fn is_of_a_key(error: &SshError) -> bool {
    matches!(
        error,
        SshError::KeyLocked { .. }
            | SshError::WrongPassphrase { .. }
            | SshError::KeyUnreadable { .. }
            | SshError::KeyOpenToOthers { .. }
            | SshError::KeyInvalid { .. }
    )
}

/// Whether a person is being asked. The time limit of the server's answer does not count then.
#[derive(Debug, Default)]
pub(super) struct Asking(AtomicBool);

impl Asking {
    /// Asks the user in a thread that may block. Returns none if nobody answers.
    pub(super) async fn ask(&self, target: &SshTarget, question: Question) -> Option<Secret> {
        let prompter = target.credentials.prompter.clone()?;
        self.during(on_thread(move || prompter.ask(&question)))
            .await
            .flatten()
    }

    /// Waits for what takes a person's time.
    pub(super) async fn during<T>(&self, waiting: impl Future<Output = T>) -> T {
        self.0.store(true, Ordering::Relaxed);
        let result = waiting.await;
        self.0.store(false, Ordering::Relaxed);
        result
    }
}

/// Runs an attempt within the time limit. The time in which a person is asked does not count.
async fn within<T>(
    target: &SshTarget,
    asking: &Asking,
    attempt: impl Future<Output = T>,
) -> Result<T, SshError> {
    let mut attempt = std::pin::pin!(attempt);
    let mut was_asking = false;
    loop {
        tokio::select! {
            result = &mut attempt => return Ok(result),
            () = sleep(target.connect_timeout) => {
                let is_asking = asking.0.load(Ordering::Relaxed);
                if !is_asking && !was_asking {
                    return Err(SshError::AuthenticationTimeout {
                        place: target.place(),
                        user: target.user.clone(),
                        timeout: target.connect_timeout,
                    });
                }
                // The server gets its whole time after the answer.
                was_asking = is_asking;
            }
        }
    }
}

async fn tell(target: &SshTarget, notice: Notice) {
    if let Some(prompter) = target.credentials.prompter.clone() {
        on_thread(move || prompter.tell(&notice)).await;
    }
}

/// Runs what may block. Returns none only if it panicked.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
