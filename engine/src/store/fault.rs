//! The places where a test may kill the process: before each step that changes a file of the store.

/// Marks a step. Does nothing, except in tests.
#[cfg(not(test))]
pub(crate) fn step(_name: &str) {}

#[cfg(test)]
pub(crate) use armed::{arm, step};

#[cfg(test)]
mod armed {
    use std::sync::atomic::{AtomicI64, Ordering};

    /// The steps that are left until the process is killed. Negative: it is not.
    static LEFT: AtomicI64 = AtomicI64::new(-1);

    /// Kills this process before its step of this number, counted from 0.
    pub(crate) fn arm(steps: i64) {
        LEFT.store(steps, Ordering::SeqCst);
    }

    /// Kills the process as SIGKILL does, if this is the step.
    pub(crate) fn step(_name: &str) {
        if LEFT.load(Ordering::SeqCst) >= 0 && LEFT.fetch_sub(1, Ordering::SeqCst) == 0 {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
            std::process::abort();
        }
    }
}
