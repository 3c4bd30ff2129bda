use relsync_tests::project::Tool;

const TOOL: Tool = Tool::RebarProd;

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
    super::otp_patch_comes_along(TOOL);
}

#[test]
fn restart() {
    super::restart(TOOL);
}
