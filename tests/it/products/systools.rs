//! The releases that OTP's own `systools` makes, with other OTP releases than the machine's.

use relsync_tests::project::Tool;

/// Runs a test with each of these OTP releases, if it is available.
fn with_each(cell: impl Fn(Tool)) {
    for release in [27, 29] {
        cell(Tool::Systools(release));
    }
}

#[test]
fn change() {
    with_each(super::change);
}

#[test]
fn new_application() {
    with_each(super::new_application);
}

#[test]
fn version_bump_from_a_clean_build() {
    with_each(|tool| super::version_bump(tool, false));
}

#[test]
fn version_bump_from_an_incremental_build() {
    with_each(|tool| super::version_bump(tool, true));
}

#[test]
fn otp_patch() {
    with_each(super::otp_patch_comes_along);
}

#[test]
fn restart() {
    with_each(super::restart);
}

#[test]
fn rollback() {
    with_each(super::rollback);
}

#[test]
fn rollback_after_restart() {
    with_each(super::rollback_after_restart);
}

#[test]
fn reload_vm_after_a_change() {
    with_each(super::restart_into_change);
}

#[test]
fn reload_vm_after_a_version_bump() {
    with_each(super::restart_into_bump_is_refused);
}
