//! The SSH transport against real servers: OpenSSH's and OTP's.

mod bad_servers;
mod channels;
mod host_keys;
mod login;
mod loss;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use relsync_engine::transport::ssh::{
    Identity, Notice, Prompter, Question, Secret, SshConnection, SshError, SshTarget, connect,
};
use relsync_tests::sshd::{OtpDaemon, Sshd, user};

use super::block_on;

/// A target at a port of this machine, with one key and one file of known hosts.
fn target(port: u16, key: PathBuf, known_hosts: PathBuf) -> SshTarget {
    let mut target = SshTarget::new(&user(), "127.0.0.1");
    target.port = port;
    target.known_hosts.files = vec![known_hosts];
    target.credentials.identities = vec![named(key)];
    target
}

fn named(file: PathBuf) -> Identity {
    Identity {
        file,
        is_named: true,
    }
}

pub(crate) fn at_sshd(sshd: &Sshd) -> SshTarget {
    target(sshd.port(), sshd.key(), sshd.known_hosts("ed25519"))
}

pub(crate) fn at_otp(daemon: &OtpDaemon) -> SshTarget {
    target(daemon.port(), daemon.key(), daemon.known_hosts())
}

async fn connected(target: &SshTarget) -> SshConnection {
    match connect(target).await {
        Ok(connection) => connection,
        Err(error) => panic!("{error}: {error:?}"),
    }
}

async fn refused(target: &SshTarget) -> SshError {
    match connect(target).await {
        Ok(connection) => panic!("{connection:?}"),
        Err(error) => error,
    }
}

/// A person who gives prepared answers.
#[derive(Debug, Default)]
struct Person {
    answers: Mutex<VecDeque<&'static str>>,
    asked: Mutex<Vec<Question>>,
    told: Mutex<Vec<Notice>>,
}

impl Person {
    fn with(answers: &[&'static str]) -> Arc<Self> {
        Arc::new(Self {
            answers: Mutex::new(answers.iter().copied().collect()),
            ..Self::default()
        })
    }

    fn questions(&self) -> usize {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    fn told(&self) -> Vec<Notice> {
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Prompter for Person {
    fn ask(&self, question: &Question) -> Option<Secret> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push(question.clone());
        let answer = self
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()?;
        Some(Secret::new(answer.to_owned()))
    }

    fn tell(&self, notice: &Notice) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.push(notice.clone());
    }
}
