use relsync_tests::project::Tool;

const TOOL: Tool = Tool::RebarProd;

#[test]
fn change() {
    super::change(TOOL);
}

#[test]
fn restart() {
    super::restart(TOOL);
}
