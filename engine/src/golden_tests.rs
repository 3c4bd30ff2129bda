//! Golden vectors, which the agent's tests read too.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the vectors of a kind are.
pub(crate) fn golden_dir(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/data/golden")
        .join(kind)
}

/// Compares with a golden file, or writes it when `RELSYNC_BLESS=1`.
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
