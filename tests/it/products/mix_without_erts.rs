use relsync_tests::project::Tool;

const TOOL: Tool = Tool::MixWithoutErts;

#[test]
fn otp_patch() {
    super::otp_patch_is_refused(TOOL);
}

#[test]
fn restart() {
    super::restart(TOOL);
}
