use relsync_tests::project::Tool;

const TOOL: Tool = Tool::Plain;

#[test]
fn change() {
    super::change(TOOL);
}

#[test]
fn new_application() {
    super::new_application(TOOL);
}

#[test]
fn otp_patch() {
    super::otp_patch_changes_nothing(TOOL);
}

#[test]
fn restart() {
    super::restart(TOOL);
}
