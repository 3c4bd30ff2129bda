//! Private keys in files, and the signatures made with them.
//!
//! A file is decrypted, and the user asked for its passphrase, only when a signature is needed.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::agent::AgentIdentity;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_encoding::Encode;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{Certificate, HashAlg, PrivateKey, PublicKey, decode_secret_key};
use russh::{SendError, Signer};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::auth::{Asking, lock, on_thread};
use super::error::SshError;
use super::secret::Question;
use super::target::{Identity, SshTarget};

/// The maximum size of a file with a key.
const MAX_KEY_BYTES: u64 = 1024 * 1024;

/// The number of times that the user may type a passphrase.
const ATTEMPTS: usize = 3;

/// A file with a private key, of which the public key is known.
pub(super) struct KeyFile {
    file: PathBuf,
    pub(super) public: PublicKey,
    /// The certificate of the key, if there is one beside it.
    pub(super) certificate: Option<Certificate>,
    content: KeyContent,
}

enum KeyContent {
    Open(Arc<PrivateKey>),
    Encrypted(Zeroizing<String>),
}

impl KeyFile {
    /// Reads a key's file. Returns none if a file is missing that the user did not name.
    pub(super) async fn open(
        identity: &Identity,
        target: &SshTarget,
    ) -> Result<Option<Self>, SshError> {
        let kept = lock(&target.credentials.kept.keys)
            .get(&identity.file)
            .cloned();
        let identity = identity.clone();
        on_thread(move || Self::read(&identity, kept))
            .await
            .unwrap_or(Ok(None))
    }

    fn read(identity: &Identity, kept: Option<Arc<PrivateKey>>) -> Result<Option<Self>, SshError> {
        let Identity { file, is_named } = identity;
        let (public, content) = if let Some(key) = kept {
            (key.public_key().clone(), KeyContent::Open(key))
        } else {
            let text = match read_key(file) {
                Err(SshError::KeyUnreadable { source, .. })
                    if !is_named && source.kind() == io::ErrorKind::NotFound =>
                {
                    return Ok(None);
                }
                text => text?,
            };
            match decode_secret_key(&text, None) {
                Ok(key) => {
                    let key = Arc::new(key);
                    (key.public_key().clone(), KeyContent::Open(key))
                }
                Err(error) => {
                    let public = public_part(file, &text, &error)?;
                    (public, KeyContent::Encrypted(text))
                }
            }
        };
        let certificate = Certificate::read_file(&beside(file, "-cert.pub"))
            .ok()
            .filter(|certificate| certificate.public_key() == public.key_data());
        Ok(Some(Self {
            file: file.clone(),
            public,
            certificate,
            content,
        }))
    }
}

fn read_key(file: &Path) -> Result<Zeroizing<String>, SshError> {
    let unreadable = |source| SshError::KeyUnreadable {
        file: file.to_owned(),
        source,
    };
    // A FIFO is opened at once, though nobody writes to it.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(file)
        .map_err(unreadable)?;
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
    let beside = beside(file, ".pub");
    PublicKey::read_openssh_file(&beside).map_err(|_| SshError::KeyInvalid {
        file: file.to_owned(),
        what: format!(
            "it is encrypted in an old format, and there is no public key in {}",
            beside.display()
        ),
    })
}

/// Returns the path with a suffix to its name.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Signs with a key of a file, and opens the key when it is needed.
pub(super) struct FileSigner<'a> {
    pub(super) key: &'a mut KeyFile,
    pub(super) target: &'a SshTarget,
    pub(super) asking: &'a Asking,
}

/// The reasons why there is no signature.
pub(super) enum SignError {
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

impl FileSigner<'_> {
    async fn unlocked(&mut self) -> Result<Arc<PrivateKey>, SshError> {
        let text = match &self.key.content {
            KeyContent::Open(key) => return Ok(key.clone()),
            KeyContent::Encrypted(text) => text.clone(),
        };
        let file = self.key.file.clone();
        for attempt in 0..ATTEMPTS {
            let question = Question::Passphrase {
                file: file.clone(),
                is_again: attempt > 0,
            };
            let Some(passphrase) = self.asking.ask(self.target, question).await else {
                return Err(SshError::KeyLocked { file });
            };
            let text = text.clone();
            let decode = move || decode_secret_key(&text, Some(passphrase.expose()));
            if let Some(Ok(key)) = on_thread(decode).await {
                let key = Arc::new(key);
                lock(&self.target.credentials.kept.keys).insert(file, key.clone());
                self.key.content = KeyContent::Open(key.clone());
                return Ok(key);
            }
        }
        Err(SshError::WrongPassphrase { file })
    }
}

impl Signer for FileSigner<'_> {
    type Error = SignError;

    /// Returns the data with the signature after it.
    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        hash: Option<HashAlg>,
        mut data: Vec<u8>,
    ) -> Result<Vec<u8>, SignError> {
        let failed = |error| SignError::Key(Box::new(error));
        let key = self.unlocked().await.map_err(failed)?;
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
