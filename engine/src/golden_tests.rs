//! Golden vectors, which the agent's tests read too.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the directory with the vectors of one kind.
pub(crate) fn golden_dir(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/data/golden")
        .join(kind)
}

/// Compares bytes with a golden file. With `RELSYNC_BLESS=1`, it writes the file instead.
pub(crate) fn check_golden(kind: &str, name: &str, bytes: &[u8]) {
    let file = golden_dir(kind).join(name);
    if std::env::var_os("RELSYNC_BLESS").is_some() {
        fs::create_dir_all(golden_dir(kind)).expect("directory");
        fs::write(&file, bytes).expect("write");
    }
    let golden = fs::read(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(
        golden == bytes,
        "{name} differs; RELSYNC_BLESS=1 rewrites it"
    );
}
