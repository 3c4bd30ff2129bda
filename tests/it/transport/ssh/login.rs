//! How users get in, and why not.

use std::sync::Arc;

use relsync_engine::transport::ssh::{Credentials, Secret, SshError, SshTarget};
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::sshd::{Agent, OtpDaemon, Sshd, keygen, make_key, public_key, set_mode};

use super::{Person, at_otp, at_sshd, block_on, connected, named, refused};

/// A target that only takes this user's password, with a daemon's other settings.
fn with_password(daemon: &OtpDaemon, password: Option<&str>) -> SshTarget {
    let mut target = at_otp(daemon);
    target.user = "nerves".to_owned();
    target.credentials = Credentials {
        password: password.map(|text| Secret::new(text.to_owned())),
        ..Credentials::default()
    };
    target
}

fn is_refused(error: &SshError, tries: &[&str], offers: &[&str]) {
    let SshError::NotAuthenticated { tried, offered, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(tried.len(), tries.len(), "{tried:?}");
    for (tried, expected) in tried.iter().zip(tries) {
        assert!(tried.contains(expected), "{tried} has no {expected}");
    }
    assert_eq!(offered, offers);
}

#[test]
fn keys_of_every_type_let_in() {
    let (sshd, node) = (Sshd::start(), Node::start(NodeOptions::default()));
    let daemon = OtpDaemon::start(&node, "{exec, disabled}");
    block_on(async {
        for kind in ["ed25519", "ecdsa", "rsa"] {
            let file = sshd.dir().join(format!("user_{kind}"));
            make_key(&file, kind, "");
            sshd.allow(&public_key(&file), "");
            daemon.allow(&public_key(&file));
            for mut target in [at_sshd(&sshd), at_otp(&daemon)] {
                target.credentials.identities = vec![named(file.clone())];
                connected(&target).await.close().await;
            }
        }
    });
}

#[test]
fn a_passphrase_is_asked_once_and_only_for_a_key_that_is_taken() {
    let sshd = Sshd::start();
    let (good, bad) = (sshd.dir().join("good"), sshd.dir().join("bad"));
    make_key(&good, "ed25519", "open sesame");
    make_key(&bad, "ed25519", "never asked");
    sshd.allow(&public_key(&good), "");
    let mut target = at_sshd(&sshd);
    target.credentials.identities = vec![named(bad), named(good)];
    block_on(async {
        let error = refused(&target).await;
        let SshError::KeyLocked { file } = &error else {
            panic!("{error:?}")
        };
        assert!(file.ends_with("good"), "{file:?}");
        let person = Person::with(&["wrong", "open sesame"]);
        target.credentials.prompter = Some(person.clone());
        connected(&target).await.close().await;
        connected(&target.clone()).await.close().await;
        assert_eq!(person.questions(), 2);
        target.credentials = Credentials {
            identities: target.credentials.identities.clone(),
            prompter: Some(Person::with(&["a", "b", "c"])),
            ..Credentials::default()
        };
        let error = refused(&target).await;
        assert!(
            matches!(error, SshError::WrongPassphrase { .. }),
            "{error:?}"
        );
        assert!(!format!("{target:?}").contains("sesame"));
    });
}

#[test]
fn a_wrong_key_or_user_is_told_with_what_was_tried() {
    let (sshd, node) = (Sshd::start(), Node::start(NodeOptions::default()));
    let daemon = OtpDaemon::start(&node, "{auth_methods, \"publickey\"}");
    let wrong = sshd.dir().join("wrong");
    make_key(&wrong, "ed25519", "");
    block_on(async {
        let mut target = at_otp(&daemon);
        target.credentials.identities = vec![named(wrong.clone())];
        is_refused(&refused(&target).await, &["wrong (SHA256:"], &["publickey"]);
        let mut target = at_sshd(&sshd);
        target.user = "nobody-of-this-name".to_owned();
        let error = refused(&target).await;
        assert!(
            error
                .to_string()
                .contains("does not let nobody-of-this-name in"),
            "{error}"
        );
        // Without any key, the server is asked what it takes.
        target.credentials = Credentials::default();
        let error = refused(&target).await;
        assert!(
            error.to_string().contains("the server offers publickey"),
            "{error}"
        );
    });
}

#[test]
fn files_that_are_no_usable_keys_are_told() {
    let sshd = Sshd::start();
    let mut target = at_sshd(&sshd);
    let key = sshd.key();
    let public = key.with_extension("pub");
    let open = sshd.dir().join("open");
    make_key(&open, "ed25519", "");
    set_mode(&open, 0o644);
    set_mode(&public, 0o600);
    block_on(async {
        let mut with = async |file| {
            target.credentials.identities = vec![named(file)];
            refused(&target).await
        };
        let error = with(sshd.dir().join("missing")).await;
        assert!(matches!(error, SshError::KeyUnreadable { .. }), "{error:?}");
        let error = with(sshd.dir().to_owned()).await;
        assert!(matches!(error, SshError::KeyUnreadable { .. }), "{error:?}");
        let error = with(open).await;
        assert!(
            matches!(error, SshError::KeyOpenToOthers { mode: 0o644, .. }),
            "{error:?}"
        );
        let error = with(public).await;
        assert!(matches!(error, SshError::KeyInvalid { .. }), "{error:?}");
        // Usual files are passed over.
        for identity in &mut target.credentials.identities {
            identity.is_named = false;
        }
        target.credentials.identities.push(named(key));
        connected(&target).await.close().await;
    });
}

#[test]
fn keys_and_certificates_of_an_agent_let_in() {
    let (sshd, agent) = (Sshd::start(), Agent::start());
    let mut target = at_sshd(&sshd);
    target.credentials.identities.clear();
    target.credentials.agent = Some(agent.socket());
    let authority = sshd.dir().join("authority");
    make_key(&authority, "ed25519", "");
    sshd.allow(&public_key(&authority), "cert-authority");
    let user = sshd.dir().join("user");
    make_key(&user, "ed25519", "");
    block_on(async {
        let error = refused(&target).await;
        assert!(
            matches!(error, SshError::NotAuthenticated { .. }),
            "{error:?}"
        );
        agent.add(&user);
        is_refused(&refused(&target).await, &["key of the agent"], &offers());
        let signer = authority.display().to_string();
        keygen(&["-s", &signer, "-I", "test", "-n", &target.user], &user);
        // A certificate beside a file is tried before its key.
        target.credentials.identities = vec![named(user.clone())];
        connected(&target).await.close().await;
        target.credentials.identities.clear();
        agent.add(&user);
        connected(&target).await.close().await;
        // The agent signs for a file whose passphrase nobody knows.
        let locked = sshd.dir().join("locked");
        make_key(&locked, "ed25519", "");
        sshd.allow(&public_key(&locked), "");
        agent.add(&locked);
        keygen(&["-p", "-N", "forgotten", "-f"], &locked);
        target.credentials.identities = vec![named(locked)];
        target.credentials.identities_only = true;
        connected(&target).await.close().await;
        // An agent that is gone is no error.
        drop(agent);
        target.credentials.identities = vec![named(sshd.key())];
        connected(&target).await.close().await;
    });
}

/// What the tests' `sshd` takes.
fn offers() -> [&'static str; 3] {
    ["publickey", "password", "keyboard-interactive"]
}

#[test]
fn a_password_is_given_or_asked_for_once() {
    let node = Node::start(NodeOptions::default());
    let daemon = OtpDaemon::start(
        &node,
        "{user_passwords, [{\"nerves\", \"right\"}]}, {auth_methods, \"publickey,password\"}",
    );
    block_on(async {
        connected(&with_password(&daemon, Some("right")))
            .await
            .close()
            .await;
        let error = refused(&with_password(&daemon, Some("wrong"))).await;
        is_refused(&error, &["a password"], &["publickey", "password"]);
        assert!(!format!("{error:?} {error}").contains("wrong"));
        let error = refused(&with_password(&daemon, None)).await;
        is_refused(&error, &[], &["publickey", "password"]);
        let mut target = with_password(&daemon, None);
        let person = Person::with(&["wrong", "right"]);
        target.credentials.prompter = Some(person.clone());
        connected(&target).await.close().await;
        connected(&target).await.close().await;
        assert_eq!(person.questions(), 2);
        assert!(!format!("{target:?}").contains("right"));
    });
}

#[test]
fn questions_of_the_server_are_answered_if_it_takes_nothing_else() {
    let node = Node::start(NodeOptions::default());
    let daemon = OtpDaemon::start(
        &node,
        "{user_passwords, [{\"nerves\", \"right\"}]}, {auth_methods, \"keyboard-interactive\"}",
    );
    block_on(async {
        connected(&with_password(&daemon, Some("right")))
            .await
            .close()
            .await;
        let error = refused(&with_password(&daemon, Some("wrong"))).await;
        assert!(
            matches!(error, SshError::NotAuthenticated { .. }),
            "{error:?}"
        );
        let mut target = with_password(&daemon, None);
        let person: Arc<Person> = Person::with(&["right"]);
        target.credentials.prompter = Some(person.clone());
        connected(&target).await.close().await;
        connected(&target).await.close().await;
        assert_eq!(person.questions(), 1);
    });
}

#[test]
fn a_jump_host_leads_to_a_server_behind_it() {
    let (sshd, node) = (Sshd::start(), Node::start(NodeOptions::default()));
    let daemon = OtpDaemon::start(&node, "{exec, disabled}");
    let mut target = at_otp(&daemon);
    block_on(async {
        let direct = connected(&target).await.counters().sent_bytes;
        target.jump = Some(Box::new(at_sshd(&sshd)));
        let connection = connected(&target).await;
        assert!(connection.server_id().contains("Erlang"));
        let counters = connection.counters();
        assert!(
            counters.sent_bytes > direct + 1_000,
            "both connections count: {direct}, {counters:?}"
        );
        let stream = connection.subsystem("echo").await.expect("an answer");
        let finish = {
            use tokio::io::AsyncWriteExt;
            let mut stream = stream.expect("a subsystem");
            stream.shutdown().await.expect("an end");
            stream.finish().await
        };
        assert_eq!(finish.status, Some(0));
        connection.close().await;
        target.jump = Some(Box::new(SshTarget {
            port: 1,
            ..at_sshd(&sshd)
        }));
        let error = refused(&target).await;
        let SshError::Jump { source, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(matches!(**source, SshError::Refused { .. }), "{source:?}");
    });
}
