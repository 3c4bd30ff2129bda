//! Authenticates the user: which proofs are tried, and in which order.
//!
//! A key is first offered without a signature. Only when the server takes it, its file is decrypted
//! or the user is asked for its passphrase. What was opened or asked for is kept in memory, so a
//! connection that is made again asks nobody.
//!
//! After a success nothing more may be tried on the handle: `russh` would wait for ever.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use russh::client::AuthResult;
use russh::keys::agent::AgentIdentity;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_encoding::Encode;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{HashAlg, PrivateKey, PublicKey, decode_secret_key};
use russh::{MethodKind, MethodSet, SendError, Signer};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::connect::Session;
use super::error::SshError;
use super::secret::{Notice, Question, Secret};
use super::target::{Identity, SshTarget};

/// The maximum size of a file with a key.
const MAX_KEY_BYTES: u64 = 1024 * 1024;

/// The number of times that the user may type a passphrase or a password.
const ATTEMPTS: usize = 3;

/// What was opened or asked for already.
#[derive(Default)]
pub(super) struct Kept {
    keys: Mutex<HashMap<PathBuf, Arc<PrivateKey>>>,
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
    Attempts {
        session,
        target,
        tried: Vec::new(),
        offered: None,
        rsa_hash: None,
    }
    .run()
    .await
}

struct Attempts<'a> {
    session: &'a mut Session,
    target: &'a SshTarget,
    /// What was tried, as errors tell it.
    tried: Vec<String>,
    /// The methods that the server takes, once it has told them.
    offered: Option<MethodSet>,
    /// The hash for RSA keys, once the server was asked.
    rsa_hash: Option<HashAlg>,
}

impl Attempts<'_> {
    async fn run(mut self) -> Result<(), SshError> {
        if self.try_files().await? {
            return Ok(());
        }
        if self.offered.is_none() && self.try_none().await? {
            return Ok(());
        }
        let offered = self.offered.as_deref().unwrap_or_default();
        Err(SshError::NotAuthenticated {
            place: self.target.place(),
            user: self.target.user.clone(),
            tried: self.tried,
            offered: offered
                .iter()
                .map(|method| <&str>::from(method).to_owned())
                .collect(),
        })
    }

    /// Whether the server may take this method.
    fn takes(&self, method: MethodKind) -> bool {
        let offered = self.offered.as_deref();
        offered.is_none_or(|offered| offered.contains(&method))
    }

    async fn try_none(&mut self) -> Result<bool, SshError> {
        let user = self.target.user.clone();
        let attempt = self.session.authenticate_none(user);
        let result = within(self.target, &AtomicBool::new(false), attempt).await?;
        self.judge(result.ok())
    }

    async fn try_files(&mut self) -> Result<bool, SshError> {
        for identity in &self.target.credentials.identities {
            if !self.takes(MethodKind::PublicKey) {
                return Ok(false);
            }
            let key = match KeyFile::open(identity, self.target).await {
                Ok(Some(key)) => key,
                Ok(None) => continue,
                Err(error) if identity.is_named => return Err(error),
                Err(error) => {
                    self.skip(&error).await;
                    continue;
                }
            };
            if self.try_key(key).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn skip(&self, error: &SshError) {
        let reason = error.to_string();
        tell(self.target, Notice::KeySkipped { reason }).await;
    }

    async fn try_key(&mut self, key: KeyFile) -> Result<bool, SshError> {
        let hash = match key.public.algorithm().is_rsa() {
            true => Some(self.rsa_hash().await),
            false => None,
        };
        self.tried.push(format!(
            "publickey {} ({})",
            key.file.display(),
            key.public.algorithm()
        ));
        let public = key.public.clone();
        let is_asking = Arc::new(AtomicBool::new(false));
        let mut signer = FileSigner {
            key,
            target: self.target.clone(),
            is_asking: is_asking.clone(),
        };
        let attempt = self.session.authenticate_publickey_with(
            self.target.user.clone(),
            public,
            hash,
            &mut signer,
        );
        match within(self.target, &is_asking, attempt).await? {
            Ok(result) => self.judge(Some(result)),
            Err(SignError::Gone) => self.judge(None),
            Err(SignError::Key(error)) if signer.key.is_named => Err(*error),
            Err(SignError::Key(error)) => {
                self.skip(&error).await;
                Ok(false)
            }
        }
    }

    /// Returns the hash with which an RSA key signs: never SHA-1.
    async fn rsa_hash(&mut self) -> HashAlg {
        if let Some(hash) = self.rsa_hash {
            return hash;
        }
        let best = self.session.best_supported_rsa_hash().await;
        let hash = best.ok().flatten().flatten().unwrap_or(HashAlg::Sha512);
        self.rsa_hash = Some(hash);
        hash
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

/// Runs an attempt within the time limit. The time in which a person is asked does not count.
async fn within<T>(
    target: &SshTarget,
    is_asking: &AtomicBool,
    attempt: impl Future<Output = T>,
) -> Result<T, SshError> {
    let mut attempt = std::pin::pin!(attempt);
    let mut was_asking = false;
    loop {
        tokio::select! {
            result = &mut attempt => return Ok(result),
            () = sleep(target.connect_timeout) => {
                let is_asking = is_asking.load(Ordering::Relaxed);
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

/// Asks the user in a thread that may block. Returns none if nobody answers.
async fn ask(target: &SshTarget, question: Question) -> Option<Secret> {
    let prompter = target.credentials.prompter.clone()?;
    on_thread(move || prompter.ask(&question)).await.flatten()
}

async fn tell(target: &SshTarget, notice: Notice) {
    if let Some(prompter) = target.credentials.prompter.clone() {
        on_thread(move || prompter.tell(&notice)).await;
    }
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// A file with a private key, of which the public key is known.
struct KeyFile {
    file: PathBuf,
    is_named: bool,
    public: PublicKey,
    content: KeyContent,
}

enum KeyContent {
    Open(Arc<PrivateKey>),
    Encrypted(Zeroizing<String>),
}

impl KeyFile {
    /// Reads a key's file. Returns none if a file is missing that the user did not name.
    async fn open(identity: &Identity, target: &SshTarget) -> Result<Option<Self>, SshError> {
        let kept = lock(&target.credentials.kept.keys)
            .get(&identity.file)
            .cloned();
        if let Some(key) = kept {
            return Ok(Some(Self {
                file: identity.file.clone(),
                is_named: identity.is_named,
                public: key.public_key().clone(),
                content: KeyContent::Open(key),
            }));
        }
        let Identity { file, is_named } = identity.clone();
        let path = file.clone();
        let text = match on_thread(move || read_key(&path)).await {
            Some(Ok(text)) => text,
            Some(Err(SshError::KeyUnreadable { source, .. }))
                if !is_named && source.kind() == io::ErrorKind::NotFound =>
            {
                return Ok(None);
            }
            Some(Err(error)) => return Err(error),
            None => return Ok(None),
        };
        let (public, content) = match decode_secret_key(&text, None) {
            Ok(key) => {
                let key = Arc::new(key);
                (key.public_key().clone(), KeyContent::Open(key))
            }
            Err(error) => {
                let public = public_part(&file, &text, &error)?;
                (public, KeyContent::Encrypted(text))
            }
        };
        Ok(Some(Self {
            file,
            is_named,
            public,
            content,
        }))
    }
}

fn read_key(file: &Path) -> Result<Zeroizing<String>, SshError> {
    let unreadable = |source| SshError::KeyUnreadable {
        file: file.to_owned(),
        source,
    };
    let handle = File::open(file).map_err(unreadable)?;
    let metadata = handle.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("it is not a regular file")));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 && metadata.uid() == rustix::process::geteuid().as_raw() {
        return Err(SshError::KeyOpenToOthers {
            file: file.to_owned(),
            mode,
        });
    }
    let mut text = Zeroizing::new(String::new());
    handle
        .take(MAX_KEY_BYTES)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    Ok(text)
}

/// Returns the public key of a file that cannot be decoded without a passphrase. It stands in the
/// file itself, or in the file beside it.
fn public_part(file: &Path, text: &str, error: &russh::keys::Error) -> Result<PublicKey, SshError> {
    let is_encrypted = matches!(error, russh::keys::Error::KeyIsEncrypted)
        || text.contains("ENCRYPTED")
        || PrivateKey::from_openssh(text).is_ok_and(|key| key.is_encrypted());
    if !is_encrypted {
        return Err(SshError::KeyInvalid {
            file: file.to_owned(),
            what: error.to_string().to_lowercase(),
        });
    }
    if let Ok(key) = PrivateKey::from_openssh(text) {
        return Ok(key.public_key().clone());
    }
    let mut beside = file.as_os_str().to_owned();
    beside.push(".pub");
    PublicKey::read_openssh_file(&beside).map_err(|_| SshError::KeyInvalid {
        file: file.to_owned(),
        what: format!(
            "it is encrypted in an old format, and there is no public key in {}",
            Path::new(&beside).display()
        ),
    })
}

/// Signs with a key of a file, and opens the key when it is needed.
struct FileSigner {
    key: KeyFile,
    target: SshTarget,
    is_asking: Arc<AtomicBool>,
}

/// The reasons why there is no signature.
enum SignError {
    /// The connection is gone.
    Gone,
    /// The key cannot be used.
    Key(Box<SshError>),
}

impl From<SendError> for SignError {
    fn from(_: SendError) -> Self {
        Self::Gone
    }
}

impl FileSigner {
    async fn unlocked(&mut self) -> Result<Arc<PrivateKey>, SshError> {
        let text = match &self.key.content {
            KeyContent::Open(key) => return Ok(key.clone()),
            KeyContent::Encrypted(text) => text.clone(),
        };
        let file = self.key.file.clone();
        for _ in 0..ATTEMPTS {
            let question = Question::Passphrase { file: file.clone() };
            self.is_asking.store(true, Ordering::Relaxed);
            let answer = ask(&self.target, question).await;
            let Some(passphrase) = answer else {
                return Err(SshError::KeyLocked { file });
            };
            let text = text.clone();
            let decode = move || decode_secret_key(&text, Some(passphrase.expose()));
            let decoded = on_thread(decode).await;
            self.is_asking.store(false, Ordering::Relaxed);
            if let Some(Ok(key)) = decoded {
                let key = Arc::new(key);
                lock(&self.target.credentials.kept.keys).insert(file, key.clone());
                self.key.content = KeyContent::Open(key.clone());
                return Ok(key);
            }
        }
        Err(SshError::WrongPassphrase { file })
    }
}

impl Signer for FileSigner {
    type Error = SignError;

    /// Returns the data with the signature after it.
    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        hash: Option<HashAlg>,
        mut data: Vec<u8>,
    ) -> Result<Vec<u8>, SignError> {
        let failed = |error| SignError::Key(Box::new(error));
        let unlocked = self.unlocked().await;
        self.is_asking.store(false, Ordering::Relaxed);
        let key = unlocked.map_err(failed)?;
        let signed = match key.key_data() {
            KeypairData::Rsa(pair) => (pair, hash).try_sign(&data),
            pair => pair.try_sign(&data),
        };
        let invalid = |what: String| {
            failed(SshError::KeyInvalid {
                file: self.key.file.clone(),
                what,
            })
        };
        let signature = signed.map_err(|error| invalid(error.to_string()))?;
        signature
            .encode_prefixed(&mut data)
            .map_err(|error| invalid(error.to_string()))?;
        Ok(data)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
