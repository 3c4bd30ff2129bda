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
                key: Box::new(show(&key)),
                known: Box::new(show(&line.key)),
                at: line.at.clone(),
            }),
            None => self.meet(&key),
        }
    }

    /// Decides about a key of which nothing is known.
    fn meet(&self, key: &PublicKey) -> Result<(), SshError> {
        // Another server of the same host, on the usual port, has keys of its own.
        let others = self.plain().filter(|line| line.is_full);
        let others: Vec<FileLine> = others.map(|line| line.at.clone()).collect();
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
                key: Box::new(show(key)),
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

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMf7cpVuwy+pfAjKbOtmKi5Qzqcp3zZ5f1UihnCV7ppU";
    const OTHER: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILg/z0ZgxMP9lRcb1X4wd4wOGt8mR0p6u/EeibhjQuum";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBLIe/8sk51zru1Eh4H1X7CTrATXbaJpFar18Wkzgx/jY4Ix5dPgk2nfPM3Eca35oTRbf3tenrQSCq4sXFk6HQQw=";
    /// `[board]:2228`
    const HASHED: &str = "|1|7lgA6rYAdqfBN7lgm7Js4Pp0FWQ=|9sxCcRoK5nzSVoGybhNLp2LNthY=";
    const CERTIFICATE: &str = "ssh-ed25519-cert-v01@openssh.com ";
    /// Certificates of [`KEY`] by [`OTHER`], until 2099.
    const FOR_BOARD: &str = "AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIHwdjM28pf0czXWuVz9xQjBu/bVkjy8kURML/5ER3h7GAAAAIMf7cpVuwy+pfAjKbOtmKi5Qzqcp3zZ5f1UihnCV7ppUAAAAAAAAAAAAAAACAAAABHRlc3QAAAASAAAABWJvYXJkAAAABW90aGVyAAAAAF4L4QAAAAAA8qUjgAAAAAAAAAAAAAAAAAAAADMAAAALc3NoLWVkMjU1MTkAAAAguD/PRmDEw/2VFxvVfjB3jA4a3yZHSnq78R6JuGNC66YAAABTAAAAC3NzaC1lZDI1NTE5AAAAQGR63D8SLN72hCUtz2j2nv23Bjnp4qbAVHYv8z87BO/td2rr0HHSa5iGAl6dhIqP4PQZaskJOfsNyhvDgrYOUw8=";
    const FOR_OTHERS: &str = "AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIEcTOdBvpma+OtbBLXGNa2NTXCZ8OjXf0neVHYFg7fONAAAAIMf7cpVuwy+pfAjKbOtmKi5Qzqcp3zZ5f1UihnCV7ppUAAAAAAAAAAAAAAACAAAABHRlc3QAAAAJAAAABW90aGVyAAAAAF4L4QAAAAAA8qUjgAAAAAAAAAAAAAAAAAAAADMAAAALc3NoLWVkMjU1MTkAAAAguD/PRmDEw/2VFxvVfjB3jA4a3yZHSnq78R6JuGNC66YAAABTAAAAC3NzaC1lZDI1NTE5AAAAQB7EMcHLkjSEgqnsmPm1G29r1wEHw42ToIvIlh72jQ7292+w7thOuqhqepqeUpJk4UWHAEnSu6nwB/5VSdTGYQE=";
    const OF_A_USER: &str = "AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAII98HDA7DdQnieEpIiD7eUgf9DcBb/nk7XasFI8akg7qAAAAIMf7cpVuwy+pfAjKbOtmKi5Qzqcp3zZ5f1UihnCV7ppUAAAAAAAAAAAAAAABAAAABHRlc3QAAAAJAAAABWJvYXJkAAAAAF4L4QAAAAAA8qUjgAAAAAAAAACCAAAAFXBlcm1pdC1YMTEtZm9yd2FyZGluZwAAAAAAAAAXcGVybWl0LWFnZW50LWZvcndhcmRpbmcAAAAAAAAAFnBlcm1pdC1wb3J0LWZvcndhcmRpbmcAAAAAAAAACnBlcm1pdC1wdHkAAAAAAAAADnBlcm1pdC11c2VyLXJjAAAAAAAAAAAAAAAzAAAAC3NzaC1lZDI1NTE5AAAAILg/z0ZgxMP9lRcb1X4wd4wOGt8mR0p6u/EeibhjQuumAAAAUwAAAAtzc2gtZWQyNTUxOQAAAEBNjA10KbStl55371oPvAkggKu4Tzo5CR8W/xVTMSOf+m9JHVi4DFzje9SGJnVPB3b6NMC3HTxhc55DSlI8en0M";
    const CONDITIONAL: &str = "AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIFevR0BtXI1W+6NDBHMX1wYIjjsoMURlPpzRsenlD4TNAAAAIMf7cpVuwy+pfAjKbOtmKi5Qzqcp3zZ5f1UihnCV7ppUAAAAAAAAAAAAAAACAAAABHRlc3QAAAAJAAAABWJvYXJkAAAAAF4L4QAAAAAA8qUjgAAAABAAAAADb2RkAAAABQAAAAExAAAAAAAAAAAAAAAzAAAAC3NzaC1lZDI1NTE5AAAAILg/z0ZgxMP9lRcb1X4wd4wOGt8mR0p6u/EeibhjQuumAAAAUwAAAAtzc2gtZWQyNTUxOQAAAEBB6rPoFuPPYT7rv0Xh+liUt/XBMXlR7JjuA+9bg9ujo5gGagToUb1CeRsYsjySLv66pYsv5BptJZURNaYRMD0J";
    /// This one is valid only in January 2020.
    const EXPIRED: &str = "AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIASMr0+7y4EwxCe23vSVMaiJ1mWo7pbFycaEC42acd3NAAAAIMf7cpVuwy+pfAjKbOtmKi5Qzqcp3zZ5f1UihnCV7ppUAAAAAAAAAAAAAAACAAAABHRlc3QAAAAJAAAABWJvYXJkAAAAAF4L4QAAAAAAXjS/gAAAAAAAAAAAAAAAAAAAADMAAAALc3NoLWVkMjU1MTkAAAAguD/PRmDEw/2VFxvVfjB3jA4a3yZHSnq78R6JuGNC66YAAABTAAAAC3NzaC1lZDI1NTE5AAAAQBw/ZzgpZra675hhko8WaUEdf6G+ZwNV1+Qvm4VjeRuj+0SI3TAXj3RCo/BK7naQc0ntFPumb9g0VlH8e7KyfQY=";

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).expect("a key")
    }

    fn board() -> Place {
        Place {
            host: "Board".to_owned(),
            port: 2228,
        }
    }

    /// Checks a key or a certificate against a file of these lines.
    fn check(lines: &str, shown: &str) -> Result<(), SshError> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("known");
        std::fs::write(&file, lines).expect("a file");
        let missing = dir.path().join("missing");
        let known = KnownHosts {
            files: vec![missing, file],
            ..KnownHosts::default()
        };
        known.read(&board(), None)?.check(&parse(shown))
    }

    fn parse(shown: &str) -> PublicKeyOrCertificate {
        if shown.contains("-cert-") {
            Certificate::from_openssh(shown)
                .expect("a certificate")
                .into()
        } else {
            key(shown).into()
        }
    }

    /// The first word of an error's name, or `ok`.
    fn verdict(result: &Result<(), SshError>) -> &'static str {
        match result {
            Ok(()) => "ok",
            Err(SshError::HostKeyUnknown { .. }) => "unknown",
            Err(SshError::HostKeyChanged { .. }) => "changed",
            Err(SshError::HostKeyRevoked { .. }) => "revoked",
            Err(SshError::HostCertificate { .. }) => "certificate",
            Err(_) => "other",
        }
    }

    #[test]
    fn lines_decide_about_a_key_as_they_do_for_openssh() {
        let table = [
            (String::new(), "unknown"),
            (
                format!("# {KEY}\n\n[board]:2228 {KEY} a comment # more\n"),
                "ok",
            ),
            (format!("\t[board]:2228\t{KEY}"), "ok"),
            (format!("[BOARD]:2228 {KEY}"), "ok"),
            (format!("board {KEY}"), "ok"),
            (format!("[board]:22 {KEY}"), "unknown"),
            (format!("{HASHED} {KEY}"), "ok"),
            (format!("{HASHED} {OTHER}"), "changed"),
            (format!("elsewhere,[board]:2228 {KEY}"), "ok"),
            (format!("[*]:2228 {KEY}"), "ok"),
            (format!("[b?ard]:22* {KEY}"), "ok"),
            (format!("*,![board]:2228 {KEY}"), "ok"),
            (format!("[*]:*,![board]:2228 {KEY}"), "unknown"),
            (format!("[board]:2228 {OTHER}"), "changed"),
            (format!("[board]:2228 {OTHER}\n[board]:2228 {KEY}"), "ok"),
            (format!("board {OTHER}"), "unknown"),
            (format!("[board]:2228 {ECDSA}"), "unknown"),
            (format!("[board]:2228 {KEY}\n@revoked * {KEY}"), "revoked"),
            (
                format!("[board]:2228 {KEY}\n@revoked elsewhere {KEY}"),
                "ok",
            ),
            (format!("@cert-authority * {KEY}"), "unknown"),
            (
                format!("[board]:2228 ssh-odd AAAA\n[board]:2228\n[board]:2228 {KEY}"),
                "ok",
            ),
            (format!("@odd * {OTHER}\n\u{0}\n[board]:2228 {KEY}"), "ok"),
        ];
        for (lines, expected) in table {
            let result = check(&lines, KEY);
            assert_eq!(verdict(&result), expected, "{lines:?}: {result:?}");
        }
    }

    #[test]
    fn a_certificate_counts_by_its_authority_and_its_content() {
        let trusted = format!("@cert-authority *,[*]:* {OTHER}");
        let table = [
            (trusted.clone(), FOR_BOARD, "ok"),
            (trusted.clone(), FOR_OTHERS, "certificate"),
            (trusted.clone(), OF_A_USER, "certificate"),
            (trusted.clone(), CONDITIONAL, "certificate"),
            (trusted.clone(), EXPIRED, "certificate"),
            (
                format!("{trusted}\n@revoked * {OTHER}"),
                FOR_BOARD,
                "revoked",
            ),
            (format!("{trusted}\n@revoked * {KEY}"), FOR_BOARD, "revoked"),
            (format!("@cert-authority * {ECDSA}"), FOR_BOARD, "unknown"),
            // An authority that nobody knows leaves the key itself.
            (format!("[board]:2228 {KEY}"), FOR_OTHERS, "ok"),
        ];
        for (lines, shown, expected) in table {
            let result = check(&lines, &format!("{CERTIFICATE}{shown}"));
            assert_eq!(verdict(&result), expected, "{lines:?}: {result:?}");
        }
        let mut forged = FOR_BOARD.to_owned();
        forged.replace_range(forged.len() - 8.., "AAAAAAA=");
        let result = check(&trusted, &format!("{CERTIFICATE}{forged}"));
        assert_eq!(verdict(&result), "certificate", "{result:?}");
    }

    #[test]
    fn a_changed_key_is_told_with_both_fingerprints_and_the_line() {
        let error = check(&format!("# one\n[board]:2228 {OTHER}\n"), KEY).expect_err("changed");
        let SshError::HostKeyChanged {
            key: shown,
            known,
            at,
            ..
        } = &error
        else {
            panic!("{error:?}")
        };
        let fingerprint = |text| key(text).fingerprint(HashAlg::Sha256).to_string();
        assert_eq!(shown.fingerprint, fingerprint(KEY));
        assert_eq!(known.fingerprint, fingerprint(OTHER));
        assert_eq!((at.line, shown.kind.as_str()), (2, "ssh-ed25519"));
        let text = error.to_string();
        assert!(
            text.contains(&shown.fingerprint) && text.contains(":2 says"),
            "{text}"
        );
    }

    #[test]
    fn the_types_of_known_keys_come_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("known");
        std::fs::write(&file, format!("board {ECDSA}\n")).expect("a file");
        let known = KnownHosts {
            files: vec![file],
            ..KnownHosts::default()
        };
        let keys = known.read(&board(), None).expect("keys");
        let algorithms = keys.algorithms();
        assert_eq!(algorithms[0], key(ECDSA).algorithm());
        assert_eq!(algorithms.len(), accepted_algorithms().len());
        assert!(keys.certificate_algorithms().is_empty());
        assert!(!algorithms.contains(&Algorithm::Rsa { hash: None }));
    }

    #[test]
    fn a_new_key_is_added_once_and_never_beside_another() {
        use std::os::unix::fs::MetadataExt;

        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("ssh/known");
        let known = KnownHosts {
            files: vec![file.clone()],
            accept_new: Some(file.clone()),
            ..KnownHosts::default()
        };
        let check = |text: &str| {
            let keys = known.read(&board(), None).expect("keys");
            verdict(&keys.check(&parse(text)))
        };
        assert_eq!(check(KEY), "ok");
        let content = || std::fs::read_to_string(&file).expect("a file");
        assert_eq!(content(), format!("[board]:2228 {KEY}\n"));
        let mode = |path: &Path| std::fs::metadata(path).expect("metadata").mode() & 0o777;
        assert_eq!((mode(&file), mode(&dir.path().join("ssh"))), (0o600, 0o700));
        assert_eq!(check(KEY), "ok");
        assert_eq!((check(OTHER), check(ECDSA)), ("changed", "unknown"));
        assert_eq!(content().lines().count(), 1);
        // Another server of the same host is no reason, and a last line may lack its end.
        std::fs::write(&file, format!("board {OTHER}")).expect("a file");
        assert_eq!(check(KEY), "ok");
        assert_eq!(content(), format!("board {OTHER}\n[board]:2228 {KEY}\n"));
    }

    #[test]
    fn an_alias_stands_for_the_host_and_its_port() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("known");
        std::fs::write(&file, format!("device-7 {KEY}\n")).expect("a file");
        let known = KnownHosts {
            files: vec![file],
            alias: Some("device-7".to_owned()),
            accept_new: None,
        };
        let keys = known.read(&board(), None).expect("keys");
        assert_eq!(verdict(&keys.check(&parse(KEY))), "ok");
    }

    #[test]
    fn patterns_match_like_a_shell_does() {
        let table = [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcb", false),
            ("a?c", "ac", false),
            ("**b*", "aab", true),
            ("", "a", false),
            ("*.lan", "BOARD.LAN", true),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(is_like(pattern, name), expected, "{pattern} {name}");
        }
    }
}
