//! Notes on an update: on what takes effect later than its files, among others.
//!
//! Looks at the plan and at the content of changed configuration, and says which keys differ. The
//! notes are for people; nothing depends on them.

use std::collections::{BTreeMap, BTreeSet};

use relsync_engine::plan::{Change, PlannedEntry, Source};
use relsync_engine::store::{Exclusion, Store};
use relsync_engine::tree::entry::{Entry, Escaped, is_targets_own};
use relsync_engine::tree::exclude::Reason;
use relsync_engine::tree::id::Sha256;
use relsync_engine::tree::manifest::Manifest;
use relsync_engine::update::Planned;

use crate::terms::Term;

/// The largest configuration file whose keys are compared.
const MAX_CONFIG_BYTES: usize = 1 << 20;

/// How many names a note lists.
const SHOWN_NAMES: usize = 8;

/// The notes on an update.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Sentences.
    pub(crate) texts: Vec<String>,
}

/// A kind of configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConfigKind {
    SysConfig,
    VmArgs,
    App,
}

impl Notes {
    /// Looks at a plan for `new`, with what was left out of it.
    pub(crate) fn of(
        planned: &Planned,
        new: &Manifest,
        exclusions: &[Exclusion],
        store: &Store,
    ) -> Self {
        let mut notes = Self::default();
        notes.note_restart(planned, new);
        for (plan, entry) in planned.plan.entries.iter().zip(new.entries()) {
            notes.note_config(planned, plan, entry, store);
        }
        notes.note_overwritten(planned, new);
        notes.note_own(planned, new);
        notes.note_shared_libraries(planned, exclusions);
        notes.note_paths_left_out(planned);
        notes
    }

    /// Says that the target keeps its own file where the release has another.
    fn note_own(&mut self, planned: &Planned, new: &Manifest) {
        let mut entries = new.entries().iter().zip(&planned.plan.entries);
        let own = entries.find(|(entry, _)| is_targets_own(entry.path.as_bytes()));
        if let Some((entry, plan)) = own
            && plan.change == Change::Unchanged
            && planned
                .base
                .get(entry.path.as_bytes())
                .and_then(Entry::content)
                != entry.content()
        {
            self.texts.push(format!(
                "{} is left alone: the target keeps its own",
                entry.path
            ));
        }
    }

    fn note_overwritten(&mut self, planned: &Planned, new: &Manifest) {
        let allowed = planned.conflicts.iter().filter(|it| it.is_allowed);
        let paths: BTreeSet<String> = allowed
            .map(|it| new.entries()[it.entry].path.to_string())
            .collect();
        if !paths.is_empty() {
            self.texts.push(format!(
                "the update overwrites what relsync did not install: {}",
                some_of(&paths)
            ));
        }
    }

    fn note_restart(&mut self, planned: &Planned, new: &Manifest) {
        let causes = planned.plan.restart_causes(&planned.base, new);
        let causes: BTreeSet<String> = causes.iter().map(|it| Escaped(it).to_string()).collect();
        if !causes.is_empty() {
            self.texts
                .push(format!("needs VM restart: {}", some_of(&causes)));
        }
    }

    fn note_config(
        &mut self,
        planned: &Planned,
        plan: &PlannedEntry,
        entry: &Entry,
        store: &Store,
    ) {
        let path = entry.path.as_bytes();
        let Some(kind) = config_kind(path) else {
            return;
        };
        let Some(before) = entry_before(planned, plan, entry) else {
            return;
        };
        let (old, new) = (content(store, before), content(store, entry));
        let is_unreadable = new.as_deref().is_some_and(|new| sys_config(new).is_none());
        let keys = match (old, new) {
            (Some(old), Some(new)) => changed_keys(kind, &old, &new),
            _ => None,
        };
        match keys {
            Some(keys) if keys.is_empty() => {}
            Some(keys) => {
                let keys = some_of(&keys);
                self.texts.push(format!(
                    "{} takes effect at the next start: {keys}",
                    entry.path
                ));
            }
            // Nearly every application file changes with its version; only its environment is worth a note.
            None if kind == ConfigKind::App => {}
            None if kind == ConfigKind::SysConfig && is_unreadable => self.texts.push(format!(
                "{} takes effect at the next start, but relsync cannot read it as an Erlang term: a VM does not start with a syntax error in it",
                entry.path
            )),
            None => self
                .texts
                .push(format!("{} takes effect at the next start", entry.path)),
        }
    }

    fn note_shared_libraries(&mut self, planned: &Planned, exclusions: &[Exclusion]) {
        let is_shared = |exclusion: &&Exclusion| exclusion.reason == Reason::SharedLibrary;
        let differing: BTreeSet<String> = exclusions
            .iter()
            .filter(is_shared)
            .filter(|exclusion| {
                let on_target = planned.base.get(&exclusion.path).and_then(Entry::content);
                on_target.is_some() && on_target != exclusion.content
            })
            .map(|exclusion| Escaped(&exclusion.path).to_string())
            .collect();
        if !differing.is_empty() {
            let names = some_of(&differing);
            self.texts.push(format!(
                "shared libraries differ and are not synchronised without --shared-libs: {names}"
            ));
        }
    }

    fn note_paths_left_out(&mut self, planned: &Planned) {
        if !planned.left_out.is_empty() {
            let paths: BTreeSet<String> = planned
                .left_out
                .iter()
                .map(|path| Escaped(path).to_string())
                .collect();
            self.texts.push(format!(
                "the target left out what is neither file, directory nor link: {}",
                some_of(&paths)
            ));
        }
    }
}

/// The entry on the target that this one changes or follows.
fn entry_before<'a>(planned: &'a Planned, plan: &PlannedEntry, entry: &Entry) -> Option<&'a Entry> {
    match (plan.change, plan.source) {
        (Change::Unchanged, _) | (_, None | Some(Source::Keep)) => None,
        (Change::Changed, _) => planned.base.get(entry.path.as_bytes()),
        (Change::Added, Some(Source::Send { base: Some(base) })) => planned.held().base(base),
        (Change::Added, _) => None,
    }
}

fn content(store: &Store, entry: &Entry) -> Option<String> {
    let (_, sha256): (u64, Sha256) = entry.content()?;
    let reader = store.content(&sha256).ok()??;
    String::from_utf8(reader.read_all(MAX_CONFIG_BYTES).ok()?).ok()
}

fn config_kind(path: &[u8]) -> Option<ConfigKind> {
    let mut components = path.rsplit(|byte| *byte == b'/');
    let name = components.next()?;
    match components.next() {
        Some(b"ebin") if name.ends_with(b".app") => Some(ConfigKind::App),
        Some(_) if !path.starts_with(b"releases/") => None,
        Some(_) if name == b"sys.config" => Some(ConfigKind::SysConfig),
        Some(_) if name == b"vm.args" => Some(ConfigKind::VmArgs),
        _ => None,
    }
}

/// The keys that differ between two versions of a configuration; `None` if one cannot be read.
fn changed_keys(kind: ConfigKind, old: &str, new: &str) -> Option<BTreeSet<String>> {
    let read = |source: &str| match kind {
        ConfigKind::SysConfig => sys_config(source),
        ConfigKind::App => app_environment(source),
        ConfigKind::VmArgs => Some(vm_args(source)),
    };
    let (old, new) = (read(old)?, read(new)?);
    let keys = old.keys().chain(new.keys());
    Some(
        keys.filter(|key| old.get(*key) != new.get(*key))
            .cloned()
            .collect(),
    )
}

fn sys_config(source: &str) -> Option<BTreeMap<String, Term>> {
    let mut keys = BTreeMap::new();
    for app in Term::parse(source)?.elements() {
        let Some([name, env]) = app.tuple() else {
            continue;
        };
        add_pairs(&mut keys, &format!("{}.", name.text()?), env);
    }
    Some(keys)
}

fn app_environment(source: &str) -> Option<BTreeMap<String, Term>> {
    let term = Term::parse(source)?;
    let [_application, _name, properties] = term.tuple()?;
    let mut keys = BTreeMap::new();
    for property in properties.elements() {
        if let Some([key, env]) = property.tuple()
            && key.text() == Some("env")
        {
            add_pairs(&mut keys, "", env);
        }
    }
    Some(keys)
}

fn add_pairs(keys: &mut BTreeMap<String, Term>, prefix: &str, env: &Term) {
    for pair in env.elements() {
        if let Some([key, value]) = pair.tuple()
            && let Some(key) = key.text()
        {
            keys.insert(format!("{prefix}{key}"), value.clone());
        }
    }
}

/// The lines of a `vm.args` by their flag; several lines of one flag count as one.
fn vm_args(source: &str) -> BTreeMap<String, Term> {
    let mut flags: BTreeMap<String, Vec<Term>> = BTreeMap::new();
    let lines = source.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let flag = line.split_whitespace().next().unwrap_or(line);
        // The cookie's flag may be named, its value is never shown.
        flags
            .entry(flag.to_owned())
            .or_default()
            .push(Term::Text(line.to_owned()));
    }
    flags
        .into_iter()
        .map(|(flag, lines)| (flag, Term::List(lines)))
        .collect()
}

/// The first names of a list, and how many more there are.
pub(crate) fn some_of(names: &BTreeSet<String>) -> String {
    let shown: Vec<&str> = names.iter().take(SHOWN_NAMES).map(String::as_str).collect();
    let mut text = shown.join(", ");
    if names.len() > SHOWN_NAMES {
        text.push_str(&format!(" and {} more", names.len() - SHOWN_NAMES));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(kind: ConfigKind, old: &str, new: &str) -> Option<Vec<String>> {
        changed_keys(kind, old, new).map(|keys| keys.into_iter().collect())
    }

    #[test]
    fn the_keys_that_differ_are_named() {
        let found = keys(
            ConfigKind::SysConfig,
            "[{app, [{a, 1}, {b, [2]}, {gone, x}]}, \"other.config\"].",
            "[{app, [{a,1}, {b, [3]}]}, {new_app, [{c, 1}]}, \"other.config\"].",
        );
        assert_eq!(
            found.as_deref(),
            Some(&["app.b", "app.gone", "new_app.c"].map(str::to_owned)[..])
        );
        let found = keys(
            ConfigKind::App,
            "{application, app, [{vsn, \"1\"}, {env, [{port, 80}, {x, 1}]}]}.",
            "{application, app, [{vsn, \"2\"}, {env, [{port, 81}, {x, 1}]}]}.",
        );
        assert_eq!(found.as_deref(), Some(&["port".to_owned()][..]));
        let found = keys(
            ConfigKind::VmArgs,
            "-setcookie a\n+K true\n# x\n",
            "-setcookie b\n\n+K true\n",
        );
        assert_eq!(found.as_deref(), Some(&["-setcookie".to_owned()][..]));
        assert_eq!(keys(ConfigKind::SysConfig, "[].", "not erlang"), None);
    }

    #[test]
    fn configuration_is_known_by_its_path() {
        let table = [
            ("releases/1.0/sys.config", Some(ConfigKind::SysConfig)),
            ("releases/1.0/vm.args", Some(ConfigKind::VmArgs)),
            ("lib/app-1.0/ebin/app.app", Some(ConfigKind::App)),
            ("lib/app-1.0/priv/sys.config", None),
            ("sys.config", None),
            ("lib/app-1.0/app.app", None),
            ("releases/1.0/start.boot", None),
        ];
        for (path, kind) in table {
            assert_eq!(config_kind(path.as_bytes()), kind, "{path}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let names: BTreeSet<String> = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(some_of(&names), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }
}
