//! The changes of a plan, entry by entry, in words and as data.

use std::collections::BTreeMap;

use relsync_engine::pack::encode::{CodedPiece, PackSummary};
use relsync_engine::plan::conflicts::Conflict;
use relsync_engine::plan::installed::TargetTree;
use relsync_engine::plan::{Change, Source, Totals};
use relsync_engine::tree::entry::{Entry, EntryPath};
use relsync_engine::tree::manifest::Manifest;
use relsync_engine::update::Planned;
use serde_json::{Value, json};

use crate::units::Bytes;

/// What happens to one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// The entry is new.
    Create,
    /// The entry differs.
    Update,
    /// The entry is deleted.
    Delete,
}

/// One change of the target's tree.
#[derive(Debug)]
pub(crate) struct EntryChange<'a> {
    /// What happens.
    pub(crate) action: Action,
    /// To which path.
    pub(crate) path: &'a EntryPath,
    /// The new file's size.
    pub(crate) bytes: Option<u64>,
    /// Its index in the new manifest.
    pub(crate) entry: Option<usize>,
    /// What its content is copied from on the target.
    pub(crate) copied_from: Option<&'a EntryPath>,
    /// The conflict, if the change would overwrite what relsync did not install.
    pub(crate) conflict: Option<Conflict>,
}

/// Lists the changes of a plan in the order of their paths.
pub(crate) fn changes<'a>(planned: &'a Planned, new: &'a Manifest) -> Vec<EntryChange<'a>> {
    let held = planned.held();
    let mut changes: Vec<EntryChange<'a>> = Vec::new();
    for (index, (plan, entry)) in planned.plan.entries.iter().zip(new.entries()).enumerate() {
        let action = match plan.change {
            Change::Added => Action::Create,
            Change::Changed => Action::Update,
            Change::Unchanged => continue,
        };
        let copied_from = match plan.source {
            Some(Source::Copy { base }) => held.base(base).map(|base| &base.path),
            _ => None,
        };
        changes.push(EntryChange {
            action,
            path: &entry.path,
            bytes: entry.content().map(|(size, _)| size),
            entry: Some(index),
            copied_from,
            conflict: planned
                .conflicts
                .iter()
                .find(|it| it.entry == index)
                .copied(),
        });
    }
    let deleted = planned.plan.deletes.iter().filter_map(|at| held.base(*at));
    changes.extend(deleted.map(deletion));
    changes.sort_by(|a, b| a.path.cmp(b.path));
    changes
}

/// Lists how one manifest differs from another.
pub(crate) fn differences<'a>(old: &'a Manifest, new: &'a Manifest) -> Vec<EntryChange<'a>> {
    let mut changes: Vec<EntryChange<'a>> = Vec::new();
    for (index, entry) in new.entries().iter().enumerate() {
        let action = match old.get(entry.path.as_bytes()) {
            None => Action::Create,
            Some(before) if before.kind != entry.kind => Action::Update,
            Some(_) => continue,
        };
        changes.push(EntryChange {
            action,
            path: &entry.path,
            bytes: entry.content().map(|(size, _)| size),
            entry: Some(index),
            copied_from: None,
            conflict: None,
        });
    }
    let gone = old
        .entries()
        .iter()
        .filter(|entry| new.index_of(entry.path.as_bytes()).is_none());
    changes.extend(gone.map(deletion));
    changes.sort_by(|a, b| a.path.cmp(b.path));
    changes
}

fn deletion(entry: &Entry) -> EntryChange<'_> {
    EntryChange {
        action: Action::Delete,
        path: &entry.path,
        bytes: None,
        entry: None,
        copied_from: None,
        conflict: None,
    }
}

impl EntryChange<'_> {
    /// The change in the words of relsync 2.
    pub(crate) fn sentence(&self, node: &str) -> String {
        let (verb, preposition) = match self.action {
            Action::Create => ("Creating", "on"),
            Action::Update => ("Updating", "on"),
            Action::Delete => ("Deleting", "from"),
        };
        format!("{verb} \"{}\" {preposition} {node}...", self.path)
    }

    /// The change in one line of a list, with how its content is coded if that is known.
    pub(crate) fn line(&self, coding: Option<&Coding<'_>>) -> String {
        let sign = match self.action {
            _ if self.conflict.is_some() => '!',
            Action::Create => '+',
            Action::Update => '~',
            Action::Delete => '-',
        };
        let mut line = format!("  {sign} {}", self.path);
        if let Some(bytes) = self.bytes {
            line.push_str(&format!("  {}", Bytes(bytes)));
        }
        if let Some(from) = self.copied_from {
            line.push_str(&format!("  copied from {from}"));
        }
        match self.conflict {
            Some(Conflict {
                is_allowed: true, ..
            }) => {
                line.push_str("  overwrites what relsync did not install");
            }
            Some(_) => line.push_str("  conflict: relsync did not install what is there"),
            None => {}
        }
        if let Some(coding) = coding {
            line.push_str(&format!(
                "  in {} ({})",
                Bytes(coding.coded_bytes),
                coding.words
            ));
            if let Some(base) = coding.base {
                line.push_str(&format!(" against {base}"));
            }
        }
        line
    }

    /// Whether there is nothing to say about how the file is sent: it is empty, or its share of the pack
    /// rounds to nothing.
    pub(crate) fn costs_nothing(&self, coding: Option<&Coding<'_>>) -> bool {
        match coding {
            Some(coding) => coding.coded_bytes == 0,
            None => self.bytes == Some(0),
        }
    }

    /// The change as data.
    pub(crate) fn value(&self, coding: Option<&Coding<'_>>) -> Value {
        let action = match self.action {
            Action::Create => "create",
            Action::Update => "update",
            Action::Delete => "delete",
        };
        let mut value = json!({
            "action": action,
            "path": self.path.to_string(),
            "bytes": self.bytes,
            "copied_from": self.copied_from.map(ToString::to_string),
        });
        if let Some(conflict) = self.conflict {
            value["conflict"] = json!(if conflict.is_allowed {
                "overwritten"
            } else {
                "refused"
            });
        }
        if let Some(coding) = coding {
            value["coding"] = json!(coding.words);
            value["base"] = json!(coding.base.map(ToString::to_string));
            value["coded_bytes"] = json!(coding.coded_bytes);
        }
        value
    }
}

/// How a file's content is coded in a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coding<'a> {
    /// Transforms and coders.
    pub(crate) words: String,
    /// The first base.
    pub(crate) base: Option<&'a EntryPath>,
    /// The bytes in the pack.
    pub(crate) coded_bytes: u64,
}

/// Sums up the pieces of a pack by the entries of the new manifest.
pub(crate) fn codings<'a>(
    pieces: &[CodedPiece],
    held: TargetTree<'a>,
) -> BTreeMap<usize, Coding<'a>> {
    let mut codings: BTreeMap<usize, Coding<'a>> = BTreeMap::new();
    for piece in pieces {
        let words = piece.how.to_string();
        let coding = codings.entry(piece.entry).or_insert_with(|| Coding {
            words: words.clone(),
            base: piece
                .base
                .filter(|_| piece.how.has_base)
                .and_then(|index| Some(&held.base(index)?.path)),
            coded_bytes: 0,
        });
        coding.coded_bytes += piece.how.bytes;
        if !coding.words.contains(&words) {
            coding.words.push_str(&format!("; {words}"));
        }
    }
    codings
}

/// The sizes of a pack's files; the figures of the files add up to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CodedTotals {
    /// The files' own size.
    content_bytes: u64,
    /// The bytes in the pack.
    coded_bytes: u64,
    /// About how large the files would be, compressed by themselves.
    plain_bytes: u64,
    /// The rest of the pack: the list of entries, the deletions, the checksums.
    other_bytes: u64,
}

impl CodedTotals {
    pub(crate) fn new(pack: &PackSummary) -> Self {
        let coded_bytes = pack.pieces.iter().map(|piece| piece.how.bytes).sum();
        Self {
            content_bytes: pack.pieces.iter().map(|piece| piece.content_bytes).sum(),
            coded_bytes,
            plain_bytes: pack.plain_bytes,
            other_bytes: pack.pack_bytes.saturating_sub(coded_bytes),
        }
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "{} of files take {}, and would take {} without what the target has; lists and checksums take {}",
            Bytes(self.content_bytes),
            Bytes(self.coded_bytes),
            Bytes(self.plain_bytes),
            Bytes(self.other_bytes)
        )
    }

    pub(crate) fn value(&self) -> Value {
        json!({
            "content_bytes": self.content_bytes,
            "coded_bytes": self.coded_bytes,
            "plain_bytes": self.plain_bytes,
            "other_bytes": self.other_bytes,
        })
    }
}

/// The figures of a plan as data.
pub(crate) fn totals_value(totals: &Totals) -> Value {
    json!({
        "entries": entries_value(totals),
        "content_bytes": totals.content_bytes,
    })
}

/// How many entries change and how.
pub(crate) fn entries_value(totals: &Totals) -> Value {
    json!({
        "added": totals.added,
        "changed": totals.changed,
        "removed": totals.removed,
        "kept": totals.kept,
    })
}

/// How many entries change and how, in words.
pub(crate) fn totals_line(totals: &Totals) -> String {
    format!(
        "{} added, {} changed, {} removed, {} kept; {} of content",
        totals.added,
        totals.changed,
        totals.removed,
        totals.kept,
        Bytes(totals.content_bytes)
    )
}
