//! What OTP's own `systools` makes, with other releases of OTP than the machine's.

use relsync_tests::project::Tool;

/// One after the other, where these releases of OTP can be had.
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
fn restart() {
    with_each(super::restart);
}
