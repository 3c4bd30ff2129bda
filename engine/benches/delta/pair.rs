//! Pairs of releases: the files that changed between them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, scratch};

/// A changed file: its path, its old content (empty if there was none), and its new one.
pub(crate) struct Change {
    pub(crate) path: PathBuf,
    pub(crate) old: Vec<u8>,
    pub(crate) new: Vec<u8>,
}

/// What changed between two releases.
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) changes: Vec<Change>,
}

impl Pair {
    /// Finds the pairs whose names begin with one of `names`; all if there are none.
    pub(crate) fn all(names: &[String]) -> Result<Vec<Self>> {
        let made = scratch("delta-pairs");
        make_pairs(&made)?;
        let given = std::env::var_os("RELSYNC_PAIRS").map(PathBuf::from);
        let mut pairs = Vec::new();
        for root in std::iter::once(made).chain(given) {
            // Cargo runs benches in the package's directory, people call it from the workspace's.
            let from_workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&root);
            let root = if root.is_dir() { root } else { from_workspace };
            let mut directories = std::fs::read_dir(root)?
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<std::result::Result<Vec<_>, _>>()?;
            directories.sort();
            for directory in directories {
                let name = directory.file_name().unwrap_or_default().to_string_lossy();
                let is_wanted =
                    names.is_empty() || names.iter().any(|wanted| name.starts_with(wanted));
                if is_wanted && directory.join("new").is_dir() {
                    pairs.push(Self {
                        name: name.into_owned(),
                        changes: changes(&directory)?,
                    });
                }
            }
        }
        Ok(pairs)
    }

    /// Returns the size of the changed files.
    pub(crate) fn bytes(&self) -> usize {
        self.changes.iter().map(|change| change.new.len()).sum()
    }
}

/// Makes the pairs that need nothing but the installed OTP, once.
fn make_pairs(directory: &Path) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/delta/make_pairs.escript");
    let partial = directory.with_extension("partial");
    let _absent_at_first = std::fs::remove_dir_all(&partial);
    let status = Command::new("escript").arg(script).arg(&partial).status()?;
    if !status.success() {
        return Err("make_pairs.escript failed".into());
    }
    Ok(std::fs::rename(partial, directory)?)
}

fn changes(pair: &Path) -> Result<Vec<Change>> {
    let (old, new) = (files(&pair.join("old"))?, files(&pair.join("new"))?);
    let changes = new.into_iter().filter_map(|(path, new)| {
        let old = old.get(&path).cloned().unwrap_or_default();
        (old != new).then_some(Change { path, old, new })
    });
    Ok(changes.collect())
}

fn files(root: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.is_file() {
                files.insert(
                    path.strip_prefix(root)?.to_path_buf(),
                    std::fs::read(&path)?,
                );
            }
        }
    }
    Ok(files)
}
