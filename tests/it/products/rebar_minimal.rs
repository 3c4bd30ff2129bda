use relsync_tests::project::Tool;

const TOOL: Tool = Tool::RebarMinimal;

#[test]
fn change() {
    super::change(TOOL);
}

#[test]
fn restart() {
    super::restart(TOOL);
}
