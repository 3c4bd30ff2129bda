//! The host keys that the user knows, and the decision about a server's key.
//!
//! Files are read in OpenSSH's format (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"): patterns,
//! negations, `[host]:port`, hashed names, `@cert-authority` and `@revoked`. A line that cannot be
//! read is skipped: it cannot make another line's key unknown. A revoked key is refused, whatever
//! other lines say. Only a host without any known key can be accepted as new, so an attacker gains
//! nothing from offering a key of another type.
//!
//! Accepting a key appends one line to a file, in one write. A crash leaves the file with or
//! without that line.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::{Algorithm, Certificate, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate};
use sha1::Sha1;

use super::error::{FileLine, HostKey, Place, SshError};
use super::secret::{Notice, Prompter};

/// The port whose hosts have names without a port in the files.
const SSH_PORT: u16 = 22;

/// The maximum size of a file of known hosts.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Where the known host keys are, and what happens with an unknown one.
#[derive(Debug, Clone, Default)]
pub struct KnownHosts {
    /// The files, in the order in which they are read. A file may be missing.
    pub files: Vec<PathBuf>,
    /// The name to look up instead of the host and port.
    pub alias: Option<String>,
    /// The file to which the key of a host without known keys is added. Without it, such a host is
    /// refused.
    pub accept_new: Option<PathBuf>,
}

impl KnownHosts {
    /// Reads the files, and keeps the lines about a place.
    pub(super) fn read(
        &self,
        place: &Place,
        prompter: Option<Arc<dyn Prompter>>,
    ) -> Result<KnownKeys, SshError> {
        let mut keys = KnownKeys {
            place: place.clone(),
            names: Names::new(place, self.alias.as_deref()),
            accept_new: self.accept_new.clone(),
            prompter,
            lines: Vec::new(),
        };
        for file in &self.files {
            let read = read_file(file).map_err(|source| SshError::KnownHosts {
                file: file.clone(),
                source,
            });
            if let Some(content) = read? {
                keys.add_file(file, &content);
            }
        }
        Ok(keys)
    }
}

/// Reads a file, if there is one.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut content)?;
    Ok(Some(content))
}

/// The names under which a host stands in the files.
#[derive(Debug)]
struct Names {
    /// The name with its port, unless that is the usual one.
    full: String,
    /// The name alone. A key that is known for it is good for every port.
    bare: Option<String>,
    /// The name that a certificate must have.
    principal: String,
}

impl Names {
    fn new(place: &Place, alias: Option<&str>) -> Self {
        let host = alias.unwrap_or(&place.host).to_lowercase();
        if alias.is_some() || place.port == SSH_PORT {
            return Self {
                full: host.clone(),
                bare: None,
                principal: host,
            };
        }
        Self {
            full: format!("[{host}]:{}", place.port),
            bare: Some(host.clone()),
            principal: host,
        }
    }
}

/// A line about the host.
#[derive(Debug)]
struct Line {
    at: FileLine,
    marker: Option<Marker>,
    key: PublicKey,
    /// Whether the line is about the host's port, and not only about the bare name.
    is_full: bool,
}

/// The keys that are known for one host.
pub(super) struct KnownKeys {
    place: Place,
    names: Names,
    accept_new: Option<PathBuf>,
    prompter: Option<Arc<dyn Prompter>>,
    lines: Vec<Line>,
}

impl KnownKeys {
    fn add_file(&mut self, file: &Path, content: &[u8]) {
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let at = FileLine {
                file: file.to_owned(),
                line: index + 1,
            };
            let text = String::from_utf8_lossy(line);
            let words: Vec<&str> = text.split_whitespace().collect();
            let has_marker = words.first().is_some_and(|word| word.starts_with('@'));
            let patterns = words.get(usize::from(has_marker)).copied();
            let Some(patterns) = patterns.filter(|_| !words[0].starts_with('#')) else {
                continue;
            };
            let [is_full, is_bare] = match patterns.parse() {
                Ok(patterns) => [
                    matches(&patterns, &self.names.full),
                    (self.names.bare.as_ref()).is_some_and(|bare| matches(&patterns, bare)),
                ],
                Err(_) => continue,
            };
            if !is_full && !is_bare {
                continue;
            }
            match words.join(" ").parse::<Entry>() {
                Ok(entry) => self.lines.push(Line {
                    at,
                    marker: entry.marker().copied(),
                    key: entry.public_key().clone(),
                    is_full,
                }),
                Err(_) => self.tell(&Notice::KnownHostsLine { at }),
            }
        }
    }

    fn tell(&self, notice: &Notice) {
        if let Some(prompter) = &self.prompter {
            prompter.tell(notice);
        }
    }

    /// Returns the types of host keys that the host accepts, those of the known keys first. A server
    /// with several keys then shows a known one.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let mut all = accepted_algorithms();
        let is_known = |algorithm: &Algorithm| {
            let mut plain = self.plain();
            plain.any(|line| is_same_type(&line.key.algorithm(), algorithm))
        };
        all.sort_by_key(|algorithm| !is_known(algorithm));
        all
    }

    /// Returns the types of host certificates that the host accepts: none if no authority is known.
    pub(super) fn certificate_algorithms(&self) -> Vec<Algorithm> {
        match self.marked(Marker::CertAuthority).next() {
            Some(_) => accepted_algorithms(),
            None => Vec::new(),
        }
    }

    fn marked(&self, marker: Marker) -> impl Iterator<Item = &Line> {
        self.lines
            .iter()
            .filter(move |line| line.marker == Some(marker))
    }

    fn plain(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.marker.is_none())
    }

    /// Decides about a server's key or certificate.
    pub(super) fn check(&self, shown: &PublicKeyOrCertificate) -> Result<(), SshError> {
        let key = shown.public_key();
        self.check_revoked(&key)?;
        if let Some(certificate) = shown.certificate() {
            let authority = PublicKey::new(certificate.signature_key().clone(), "");
            self.check_revoked(&authority)?;
            let is_known = self
                .marked(Marker::CertAuthority)
                .any(|line| line.key.key_data() == authority.key_data());
            if is_known {
                return self.check_certificate(certificate, &authority);
            }
        }
        // A key that is known for the host's port counts more than one for the bare name.
        if self.plain().any(|line| is_same_key(&line.key, &key)) {
            return Ok(());
        }
        let known = self
            .plain()
            .filter(|line| line.is_full)
            .find(|line| is_same_type(&line.key.algorithm(), &key.algorithm()));
        match known {
            Some(line) => Err(SshError::HostKeyChanged {
                place: self.place.clone(),
                key: show(&key),
                known: show(&line.key),
                at: line.at.clone(),
            }),
            None => self.meet(&key),
        }
    }

    /// Decides about a key of which nothing is known.
    fn meet(&self, key: &PublicKey) -> Result<(), SshError> {
        let others: Vec<FileLine> = self.plain().map(|line| line.at.clone()).collect();
        match &self.accept_new {
            Some(file) if others.is_empty() => {
                append(file, &self.names.full, key).map_err(|source| SshError::KnownHosts {
                    file: file.clone(),
                    source,
                })?;
                self.tell(&Notice::HostKeyAccepted {
                    place: self.place.clone(),
                    key: show(key),
                    file: file.clone(),
                });
                Ok(())
            }
            _ => Err(SshError::HostKeyUnknown {
                place: self.place.clone(),
                key: show(key),
                others,
            }),
        }
    }

    fn check_revoked(&self, key: &PublicKey) -> Result<(), SshError> {
        match self
            .marked(Marker::Revoked)
            .find(|line| is_same_key(&line.key, key))
        {
            None => Ok(()),
            Some(line) => Err(SshError::HostKeyRevoked {
                place: self.place.clone(),
                key: show(key),
                at: line.at.clone(),
            }),
        }
    }

    /// Checks a certificate of a known authority: what it is for, when, and for which host.
    fn check_certificate(
        &self,
        certificate: &Certificate,
        authority: &PublicKey,
    ) -> Result<(), SshError> {
        let fingerprint = authority.fingerprint(HashAlg::Sha256);
        let principals = certificate.valid_principals();
        let is_named = principals.is_empty()
            || (principals.iter()).any(|principal| is_like(principal, &self.names.principal));
        let what = if certificate.cert_type() != CertType::Host {
            "it is a certificate of a user"
        } else if !is_named {
            "it names other hosts"
        } else if certificate.critical_options().iter().next().is_some() {
            "it has conditions that relsync does not know"
        } else if certificate.validate([&fingerprint]).is_err() {
            "it has expired, is not valid yet, or its signature is wrong"
        } else {
            return Ok(());
        };
        Err(SshError::HostCertificate {
            place: self.place.clone(),
            what: what.to_owned(),
        })
    }
}

/// Adds a line to a file, and makes the file and its directory if they are missing.
fn append(path: &Path, name: &str, key: &PublicKey) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let text = PublicKey::new(key.key_data().clone(), "")
        .to_openssh()
        .map_err(io::Error::other)?;
    let mut line = format!("{name} {}\n", text.trim());
    if !ends_with_newline(&mut file)? {
        line.insert(0, '\n');
    }
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The types of host keys that are safe enough, most preferred first: not RSA with SHA-1.
fn accepted_algorithms() -> Vec<Algorithm> {
    let ecdsa = |curve| Algorithm::Ecdsa { curve };
    let rsa = |hash| Algorithm::Rsa { hash: Some(hash) };
    vec![
        Algorithm::Ed25519,
        ecdsa(EcdsaCurve::NistP256),
        ecdsa(EcdsaCurve::NistP384),
        ecdsa(EcdsaCurve::NistP521),
        rsa(HashAlg::Sha512),
        rsa(HashAlg::Sha256),
    ]
}

fn is_same_type(one: &Algorithm, other: &Algorithm) -> bool {
    let is_rsa = |algorithm: &Algorithm| matches!(algorithm, Algorithm::Rsa { .. });
    one == other || (is_rsa(one) && is_rsa(other))
}

fn is_same_key(one: &PublicKey, other: &PublicKey) -> bool {
    one.key_data() == other.key_data()
}

fn show(key: &PublicKey) -> HostKey {
    HostKey {
        kind: key.algorithm().to_string(),
        fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
    }
}

/// Whether a line's patterns name a host. One negated pattern that does, and they do not.
fn matches(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => {
            Hmac::<Sha1>::new_from_slice(salt).is_ok_and(|mut mac| {
                mac.update(name.as_bytes());
                mac.verify_slice(hash).is_ok()
            })
        }
        HostPatterns::Patterns(patterns) => {
            let mut is_named = false;
            for pattern in patterns {
                match pattern.strip_prefix('!') {
                    Some(negated) if is_like(negated, name) => return false,
                    Some(_) => {}
                    None => is_named |= is_like(pattern, name),
                }
            }
            is_named
        }
    }
}

/// Whether a pattern with `*` and `?` matches a name. Case does not count.
fn is_like(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    let name: Vec<char> = name.to_lowercase().chars().collect();
    // The place after the last star, and the end of what that star has taken.
    let mut star: Option<(usize, usize)> = None;
    let (mut at, mut matched) = (0, 0);
    while matched < name.len() {
        match pattern.get(at) {
            Some('*') => {
                at += 1;
                star = Some((at, matched));
            }
            Some(char) if *char == '?' || *char == name[matched] => {
                at += 1;
                matched += 1;
            }
            _ => match &mut star {
                Some((after, taken)) => {
                    *taken += 1;
                    (at, matched) = (*after, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|char| *char == '*')
}
