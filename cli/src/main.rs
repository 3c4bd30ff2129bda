//! The `relsync` command.
fn main() {}
