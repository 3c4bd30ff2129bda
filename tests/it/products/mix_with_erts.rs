use relsync_tests::project::Tool;

const TOOL: Tool = Tool::MixWithErts;

#[test]
fn restart() {
    super::restart(TOOL);
}
