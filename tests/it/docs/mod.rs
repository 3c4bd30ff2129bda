//! The promises of the documents, tested with the real command and real nodes.

mod hooks;
mod json;
mod picture;
mod schema;
mod tutorial;

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the path of a file in the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).expect(name)
}
