//! Servers whose host key is known, unknown, changed, or signed by an authority.

use std::fs;

use relsync_engine::transport::ssh::{Notice, SshError};
use relsync_tests::sshd::{Sshd, keygen, make_key, public_key};

use super::{Person, at_sshd, block_on, connected, refused};

#[test]
fn an_unknown_key_is_told_and_accepted_only_when_asked() {
    let sshd = Sshd::start();
    let mut target = at_sshd(&sshd);
    let file = sshd.dir().join("new/known");
    target.known_hosts.files = vec![file.clone()];
    let person = Person::with(&[]);
    target.credentials.prompter = Some(person.clone());
    let shown = keygen(&["-l", "-f"], &sshd.host_key("ed25519"));
    block_on(async {
        let error = refused(&target).await;
        let SshError::HostKeyUnknown { key, others, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(shown.contains(&key.fingerprint), "{shown}: {key}");
        assert!(others.is_empty() && !file.exists());
        target.known_hosts.accept_new = Some(file.clone());
        connected(&target).await.close().await;
        let told = person.told();
        assert!(
            matches!(&told[..], [Notice::HostKeyAccepted { .. }]),
            "{told:?}"
        );
        let known = fs::read_to_string(&file).expect("a file");
        let key = public_key(&sshd.host_key("ed25519"));
        assert_eq!(known, format!("[127.0.0.1]:{} {key}\n", sshd.port()));
        target.known_hosts.accept_new = None;
        connected(&target).await.close().await;
    });
}

#[test]
fn a_changed_or_revoked_key_is_refused_even_when_new_ones_are_accepted() {
    let (sshd, other) = (Sshd::start(), Sshd::start());
    let mut target = at_sshd(&sshd);
    let file = sshd.dir().join("wrong");
    let key = public_key(&other.host_key("ed25519"));
    fs::write(&file, format!("\n[127.0.0.1]:{} {key}\n", sshd.port())).expect("a file");
    target.known_hosts.files = vec![file.clone()];
    target.known_hosts.accept_new = Some(file.clone());
    block_on(async {
        let error = refused(&target).await;
        let SshError::HostKeyChanged { at, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((at.line, &at.file), (2, &file));
        let before = fs::read_to_string(&file).expect("a file");
        fs::write(
            &file,
            format!(
                "{before}@revoked * {}\n",
                public_key(&sshd.host_key("ed25519"))
            ),
        )
        .expect("a file");
        let error = refused(&target).await;
        assert!(
            matches!(error, SshError::HostKeyRevoked { .. }),
            "{error:?}"
        );
    });
}

#[test]
fn the_known_one_of_several_keys_is_asked_for() {
    let sshd = Sshd::with(&["ed25519", "ecdsa", "rsa"], "", "");
    block_on(async {
        for kind in ["rsa", "ecdsa", "ed25519"] {
            let mut target = at_sshd(&sshd);
            target.known_hosts.files = vec![sshd.known_hosts(kind)];
            connected(&target).await.close().await;
        }
    });
}

#[test]
fn a_certificate_of_a_known_authority_is_as_good_as_a_known_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = dir.path().join("authority");
    make_key(&authority, "ed25519", "");
    let host = dir.path().join("host");
    make_key(&host, "ed25519", "");
    let signer = authority.display().to_string();
    keygen(
        &["-s", &signer, "-I", "test", "-h", "-n", "127.0.0.1"],
        &host,
    );
    let config = format!("HostKey {0}\nHostCertificate {0}-cert.pub", host.display());
    let sshd = Sshd::with(&[], &config, "");
    let file = dir.path().join("known");
    let mut target = super::target(sshd.port(), sshd.key(), file.clone());
    block_on(async {
        fs::write(
            &file,
            format!("@cert-authority * {}\n", public_key(&authority)),
        )
        .expect("a file");
        // Patterns about the bare name hold for its ports.
        connected(&target).await.close().await;
        target.host = "localhost".to_owned();
        let error = refused(&target).await;
        assert!(
            matches!(error, SshError::HostCertificate { .. }),
            "{error:?}"
        );
    });
}
