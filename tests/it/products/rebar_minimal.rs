use relsync_tests::project::Tool;

const TOOL: Tool = Tool::RebarMinimal;

#[test]
fn change() {
    super::change(TOOL);
}

#[test]
fn new_application() {
    super::new_application(TOOL);
}

#[test]
fn version_bump_from_a_clean_build() {
    super::version_bump(TOOL, false);
}

#[test]
fn version_bump_from_an_incremental_build() {
    super::version_bump(TOOL, true);
}

#[test]
fn otp_patch() {
    super::otp_patch_comes_along(TOOL);
}

#[test]
fn restart() {
    super::restart(TOOL);
}

#[test]
fn rollback() {
    super::rollback(TOOL);
}

#[test]
fn rollback_after_restart() {
    super::rollback_after_restart(TOOL);
}

#[test]
fn reload_vm_after_a_change() {
    super::restart_into_change(TOOL);
}

#[test]
fn reload_vm_after_a_version_bump() {
    super::restart_into_bump_is_refused(TOOL);
}
