//! The source of a push's snapshot: a directory, or the store.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use relsync_engine::store::{
    Exclusion, ScanOptions, ScanReport, SnapshotMeta, SnapshotRecord, Store, StoreError, Tell,
};
use relsync_engine::tree::entry::Escaped;
use relsync_engine::tree::exclude::{Action, PatternError, Reason, Rules};
use relsync_engine::tree::manifest::Manifest;
use relsync_engine::update::{PathRule, Release};
use serde_json::json;

use crate::args::{ApplyArgs, SourceArgs, StoreArgs, TreeArgs};
use crate::error::CliError;
use crate::machine;
use crate::notes::some_of;
use crate::output::Output;
use crate::own_file;
use crate::report::short;
use crate::units::{Bytes, Count};

/// The default directory of the release.
const DEFAULT_LOCAL_PATH: &str = "./_rel";

/// The release to push.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The release.
    pub(crate) release: Release,
    /// The entries of the directory that are not part of it.
    pub(crate) exclusions: Vec<Exclusion>,
}

/// The release's directory, if one is pushed.
pub(crate) fn release_dir(args: &SourceArgs) -> Option<PathBuf> {
    match (&args.snapshot, &args.local_path) {
        (Some(_), _) => None,
        (None, Some(path)) => Some(path.clone()),
        (None, None) => Some(PathBuf::from(DEFAULT_LOCAL_PATH)),
    }
}

/// Opens the store.
pub(crate) fn open_store(args: &StoreArgs, output: &Output) -> Result<Store, CliError> {
    let store = Store::open_telling(&store_dir(args)?, tell(output))?;
    if store.rebuilt().is_some() {
        output.warning("the store's index was missing; relsync has rebuilt it from the segments");
    }
    Ok(store)
}

/// Says what the store waits for.
pub(crate) fn tell(output: &Output) -> Arc<Tell> {
    let output = output.clone();
    Arc::new(move |waiting| output.warning(&format!("waiting for {waiting}")))
}

/// The store's directory.
pub(crate) fn store_dir(args: &StoreArgs) -> Result<PathBuf, CliError> {
    match &args.store {
        Some(dir) => Ok(dir.clone()),
        None => machine::data_dir()
            .map(|dir| dir.join("store"))
            .ok_or(CliError::NoDataDir),
    }
}

/// The rules for which entries of a directory belong to its snapshot.
pub(crate) fn rules(args: &TreeArgs) -> Result<Rules, PatternError> {
    let mut rules = Rules::default()
        .keep_system_libs(!args.exclude_system_libs.unwrap_or(true))
        .keep_shared_libs(args.shared_libs);
    for pattern in &args.include {
        rules.push(Action::Include, pattern)?;
    }
    for pattern in &args.exclude {
        rules.push(Action::Exclude, pattern)?;
    }
    Ok(rules)
}

/// The rules for what is never deleted on a target.
pub(crate) fn protection(patterns: &[String]) -> Result<Rules, PatternError> {
    let mut rules = Rules::keep_all();
    for pattern in patterns {
        rules.push(Action::Exclude, pattern)?;
    }
    Ok(rules)
}

/// The rule for what a push may overwrite although relsync did not install it: the paths that the user
/// names, and those that the user includes beyond the defaults.
pub(crate) fn overwriting(apply: &ApplyArgs, tree: &TreeArgs) -> Result<PathRule, PatternError> {
    let named = protection(&apply.overwrite)?;
    let shared_libs = tree.shared_libs;
    let system_libs = !tree.exclude_system_libs.unwrap_or(true);
    let beyond = Rules::default()
        .keep_residue(true)
        .keep_shared_libs(!shared_libs)
        .keep_system_libs(!system_libs);
    Ok(PathRule::new(move |path| {
        named.leaves_out(path) || beyond.leaves_out(path)
    }))
}

/// Whether a tree looks like a part of a release (its `lib`, an application, its `releases`), not like
/// a whole one.
pub(crate) fn is_inside_release(tree: &Manifest) -> bool {
    let paths = || tree.entries().iter().map(|entry| entry.path.as_bytes());
    let is_root = paths().any(|path| matches!(path, b"lib" | b"releases"));
    let is_part = |path: &[u8]| {
        let mut components = path.rsplit(|byte| *byte == b'/');
        let name = components.next().unwrap_or_default();
        let dirs: Vec<&[u8]> = components.collect();
        match dirs.as_slice() {
            [] => name.ends_with(b".app") || name == b"start_erl.data",
            [b"ebin"] | [b"ebin", _] => name.ends_with(b".app"),
            [_] => name.ends_with(b".boot"),
            _ => false,
        }
    };
    !is_root && paths().any(is_part)
}

/// Takes a snapshot of a directory and says what is left out.
pub(crate) fn take(
    store: &Store,
    dir: &Path,
    rules: Rules,
    meta: SnapshotMeta,
    output: &Output,
) -> Result<(SnapshotRecord, Manifest, ScanReport), CliError> {
    let options = ScanOptions {
        rules: store.left_out_of(dir, rules),
        rehash_all: false,
    };
    let taken = store.take_snapshot(dir, &options, &meta, &|_| {})?;
    say_exclusions(&taken.2.exclusions, output);
    Ok(taken)
}

/// The snapshot of a push: of the directory, or the one that was named.
pub(crate) fn snapshot(
    store: &Store,
    args: &SourceArgs,
    rules: Rules,
    output: &Output,
) -> Result<Snapshot, CliError> {
    if let Some(spec) = &args.snapshot {
        let id = store.get(spec)?.id;
        let manifest = store
            .manifest(&id)?
            .ok_or(StoreError::MissingManifest { id })?;
        store.check_contents(&manifest)?;
        return Ok(Snapshot {
            release: Release::new(manifest),
            exclusions: Vec::new(),
        });
    }
    let dir = release_dir(args).unwrap_or_default();
    if args.local_path.is_none() {
        own_file::check_dir(&dir).map_err(CliError::Release)?;
    }
    let meta = SnapshotMeta {
        now_ns: machine::now_ns(),
        parent: None,
        name: None,
        note: None,
    };
    let (record, manifest, report) = take(store, &dir, rules, meta.clone(), output)?;
    output.line(&format!(
        "Snapshot {} of {}: {} files, {}",
        short(&record.id.to_string()),
        dir.display(),
        report.files,
        Bytes(report.content_bytes)
    ));
    Ok(Snapshot {
        release: Release::of_dir(dir, manifest, &report.exclusions, meta),
        exclusions: report.exclusions,
    })
}

fn say_exclusions(exclusions: &[Exclusion], output: &Output) {
    let of = |reason: &Reason| {
        exclusions
            .iter()
            .filter(|exclusion| exclusion.reason == *reason)
            .count()
    };
    let shared = of(&Reason::SharedLibrary);
    if shared > 0 {
        output.line(&format!(
            "Leaving out {} (--shared-libs includes them)",
            Count(shared, "shared library")
        ));
    }
    let named = |reason: Reason| {
        let left_out = exclusions
            .iter()
            .filter(|exclusion| exclusion.reason == reason);
        let paths: BTreeSet<String> = left_out.map(|it| Escaped(&it.path).to_string()).collect();
        (!paths.is_empty()).then(|| some_of(&paths))
    };
    if let Some(paths) = named(Reason::Residue) {
        output.line(&format!(
            "Leaving out files that running or packing the release left in it: {paths} (--include GLOB includes them)"
        ));
    }
    if let Some(path) = named(Reason::Store) {
        output.line(&format!("Leaving out relsync's own store: {path}"));
    }
    for exclusion in exclusions {
        let path = Escaped(&exclusion.path).to_string();
        let reason = exclusion.reason.to_string();
        output.detail(&format!("  left out: {path} ({reason})"));
        output.event("left_out", &json!({"path": path, "reason": reason}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_win_over_excludes_and_defaults() {
        let args = TreeArgs {
            exclude: vec!["*.log".to_owned(), "priv/nif.so".to_owned()],
            include: vec!["keep.log".to_owned(), "*.so".to_owned()],
            ..TreeArgs::default()
        };
        let rules = rules(&args).expect("sound patterns");
        let table = [
            ("a.log", true),
            ("keep.log", false),
            ("lib/x/priv/nif.so", false),
            ("lib/kernel-9.0", true),
            ("lib/kernel-9.0/ebin/kernel.beam", true),
            ("lib/app-1.0/ebin/app.beam", false),
        ];
        for (path, left_out) in table {
            assert_eq!(rules.leaves_out(path.as_bytes()), left_out, "{path}");
        }
        let all = TreeArgs {
            exclude_system_libs: Some(false),
            shared_libs: true,
            ..TreeArgs::default()
        };
        let rules = super::rules(&all).expect("no patterns");
        assert!(!rules.leaves_out(b"lib/kernel-9.0/ebin/kernel.beam"));
        assert!(!rules.leaves_out(b"a.so"));
    }

    #[test]
    fn protection_reaches_into_directories() {
        let rules = protection(&["/db/".to_owned(), "*.key".to_owned()]).expect("sound patterns");
        let table = [
            ("db", true),
            ("db/a/b", true),
            ("x/db/a", false),
            ("etc/tls.key", true),
            ("lib/kernel-9.0/x.so", false),
        ];
        for (path, protected) in table {
            assert_eq!(rules.leaves_out(path.as_bytes()), protected, "{path}");
        }
        assert!(protection(&["[".to_owned()]).is_err());
    }

    #[test]
    fn what_the_user_wants_beyond_the_defaults_may_be_overwritten() {
        let apply = ApplyArgs {
            overwrite: vec!["etc/*.conf".to_owned()],
            ..ApplyArgs::default()
        };
        let plain = overwriting(&apply, &TreeArgs::default()).expect("sound patterns");
        let wide = TreeArgs {
            exclude_system_libs: Some(false),
            shared_libs: true,
            ..TreeArgs::default()
        };
        let wide = overwriting(&apply, &wide).expect("sound patterns");
        let table = [
            ("etc/app.conf", true, true),
            ("etc/app.data", false, false),
            ("lib/kernel-9.0/ebin/kernel.beam", false, true),
            ("lib/app-1.0/priv/nif.so", false, true),
            ("lib/app-1.0/ebin/app.beam", false, false),
            ("log/x", false, false),
        ];
        for (path, by_default, wanted) in table {
            assert_eq!(plain.holds(path.as_bytes()), by_default, "{path}");
            assert_eq!(wide.holds(path.as_bytes()), wanted, "{path}");
        }
    }

    #[test]
    fn a_part_of_a_release_is_told_from_a_whole_one() {
        let table: [(&[&str], bool); 7] = [
            (&["lib/a-1/ebin/a.app", "releases/1/start.boot"], false),
            (&["lib/a-1/ebin/a.app"], false),
            (&["a-1/ebin/a.app", "b-1/ebin/b.app"], true),
            (&["ebin/a.app", "priv/x"], true),
            (&["a.app", "a.beam"], true),
            (&["1/start.boot", "start_erl.data"], true),
            (&["www/index.html", "bin/run"], false),
        ];
        for (paths, expected) in table {
            let dir = tempfile::tempdir().expect("a directory");
            let root = dir.path().join("rel");
            for path in paths {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
                std::fs::write(path, "x").expect("a file");
            }
            let store = Store::open(&dir.path().join("store")).expect("a store");
            let meta = SnapshotMeta {
                now_ns: 1,
                parent: None,
                name: None,
                note: None,
            };
            let options = ScanOptions {
                rules: Rules::default(),
                rehash_all: false,
            };
            let taken = store.take_snapshot(&root, &options, &meta, &|_| {});
            let (_, manifest, _) = taken.expect("a snapshot");
            assert_eq!(is_inside_release(&manifest), expected, "{paths:?}");
        }
    }

    #[test]
    fn a_named_snapshot_sets_aside_the_directory() {
        let mut args = SourceArgs::default();
        assert_eq!(release_dir(&args), Some("./_rel".into()));
        args.local_path = Some("rel".into());
        assert_eq!(release_dir(&args), Some("rel".into()));
        args.snapshot = Some("latest".to_owned());
        assert_eq!(release_dir(&args), None);
    }
}
