//! The store's record of a snapshot beside its manifest, and the events that change it.
//!
//! This module is pure. An event is written to a segment before the index changes. Replaying all
//! events in the order of their sequence numbers gives the same snapshots and tags again.

use crate::bytes::{ReadError, Reader, Writer};
use crate::tree::id::{ManifestId, SnapshotId};

/// The maximum size of a name or a tag in bytes.
pub(crate) const NAME_BYTES: usize = 128;
/// The maximum size of a note in bytes.
pub(crate) const NOTE_BYTES: usize = 64 * 1024;

/// The limit of sequence numbers. It leaves room for more events than a store can ever have.
pub(crate) const MAX_SEQ: u64 = 1 << 62;
/// The maximum size of a target's name in bytes.
const TARGET_BYTES: usize = 4096;

const EVENT_TAKEN: u8 = 0;
const EVENT_SEEN: u8 = 1;
const EVENT_TAGGED: u8 = 2;
const EVENT_UNTAGGED: u8 = 3;
const EVENT_REMOVED: u8 = 4;
const EVENT_DESCRIBED: u8 = 5;
const EVENT_RUNS: u8 = 6;

/// The caller's description of a snapshot to be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The time now, nanoseconds since 1970. The next scan hashes again the files that changed
    /// shortly before.
    pub now_ns: i64,
    /// The snapshot that this one follows.
    pub parent: Option<SnapshotId>,
    /// A name for people; several snapshots may have the same.
    pub name: Option<String>,
    /// A note: any text.
    pub note: Option<String>,
}

/// One snapshot of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// The BLAKE3 of its manifest.
    pub id: SnapshotId,
    /// The SHA-256 of its manifest.
    pub manifest: ManifestId,
    /// The sequence number. It ascends with every event of the store, so later snapshots have
    /// larger ones.
    pub seq: u64,
    /// The time it was first taken, nanoseconds since 1970.
    pub time_ns: i64,
    /// The time a scanned tree last matched it, nanoseconds since 1970.
    pub seen_ns: i64,
    /// The snapshot it followed when it was taken.
    pub parent: Option<SnapshotId>,
    /// Its name.
    pub name: Option<String>,
    /// Its note.
    pub note: Option<String>,
    /// The tags that point to it, ascending.
    pub tags: Vec<String>,
    /// The number of its entries.
    pub entries: u64,
    /// The sum of the sizes of its files.
    pub content_bytes: u64,
}

/// An event in the life of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// The sequence number, which orders the events of a store.
    pub(crate) seq: u64,
    /// The time, nanoseconds since 1970.
    pub(crate) time_ns: i64,
    pub(crate) kind: EventKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// The snapshot was taken.
    Taken {
        parent: Option<SnapshotId>,
        name: Option<String>,
        note: Option<String>,
    },
    /// A scanned tree matched an older snapshot.
    Seen,
    /// A scanned tree matched an older snapshot, which got another name or note. An absent one
    /// stays as it was.
    Described {
        name: Option<String>,
        note: Option<String>,
    },
    /// A tag points to the snapshot, and no longer to any other.
    Tagged { tag: String },
    /// A tag was removed.
    Untagged { tag: String },
    /// The snapshot and its tags were removed.
    Removed,
    /// A target runs the snapshot, and no longer any other.
    Runs { target: String },
}

impl Event {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u64(self.seq);
        writer.u64(self.time_ns.cast_unsigned());
        match &self.kind {
            EventKind::Taken { parent, name, note } => {
                writer.u8(EVENT_TAKEN);
                writer.blob(parent.as_ref().map_or(&[], |id| &id.0[..]));
                writer.blob(name.as_deref().unwrap_or_default().as_bytes());
                writer.blob(note.as_deref().unwrap_or_default().as_bytes());
            }
            EventKind::Seen => writer.u8(EVENT_SEEN),
            EventKind::Described { name, note } => {
                writer.u8(EVENT_DESCRIBED);
                writer.blob(name.as_deref().unwrap_or_default().as_bytes());
                writer.blob(note.as_deref().unwrap_or_default().as_bytes());
            }
            EventKind::Tagged { tag } => {
                writer.u8(EVENT_TAGGED);
                writer.blob(tag.as_bytes());
            }
            EventKind::Untagged { tag } => {
                writer.u8(EVENT_UNTAGGED);
                writer.blob(tag.as_bytes());
            }
            EventKind::Removed => writer.u8(EVENT_REMOVED),
            EventKind::Runs { target } => {
                writer.u8(EVENT_RUNS);
                writer.blob(target.as_bytes());
            }
        }
        writer.into_vec()
    }

    /// Returns `None` if the bytes are not an event that this relsync knows.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let seq = reader.u64().ok().filter(|seq| *seq < MAX_SEQ)?;
        let time_ns = reader.u64().ok()?.cast_signed();
        let kind = match reader.u8().ok()? {
            EVENT_TAKEN => EventKind::Taken {
                parent: match reader.blob(32).ok()? {
                    [] => None,
                    parent => Some(SnapshotId(parent.try_into().ok()?)),
                },
                name: name(reader.blob(NAME_BYTES))?,
                note: text(reader.blob(NOTE_BYTES))?,
            },
            EVENT_SEEN => EventKind::Seen,
            EVENT_DESCRIBED => EventKind::Described {
                name: name(reader.blob(NAME_BYTES))?,
                note: text(reader.blob(NOTE_BYTES))?,
            },
            EVENT_TAGGED => EventKind::Tagged {
                tag: name(reader.blob(NAME_BYTES))??,
            },
            EVENT_UNTAGGED => EventKind::Untagged {
                tag: name(reader.blob(NAME_BYTES))??,
            },
            EVENT_REMOVED => EventKind::Removed,
            EVENT_RUNS => EventKind::Runs {
                target: text(reader.blob(TARGET_BYTES))??,
            },
            _ => return None,
        };
        reader.finish().ok()?;
        Some(Self { seq, time_ns, kind })
    }
}

/// Reads text. The inner `None` means empty text.
fn text(bytes: Result<&[u8], ReadError>) -> Option<Option<String>> {
    let text = std::str::from_utf8(bytes.ok()?).ok()?;
    Some((!text.is_empty()).then(|| text.to_owned()))
}

/// Reads a name or a tag that a user could have given. The inner `None` means that there is none.
fn name(bytes: Result<&[u8], ReadError>) -> Option<Option<String>> {
    let name = text(bytes)?;
    name.as_deref().is_none_or(is_valid_name).then_some(name)
}

/// Tells whether text can be a snapshot's name or tag. A command line must not mistake it for
/// something else, and it must not garble a terminal.
pub(crate) fn is_valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES
        && name != "latest"
        && SnapshotId::from_hex(name).is_none()
        && !name.starts_with('-')
        && !name
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || is_invisible(c))
}

/// Tells whether a character is invisible, or changes the direction of the text around it.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option;
    use proptest::prelude::*;

    fn any_kind() -> impl Strategy<Value = EventKind> {
        let tag = || "[a-z0-9.]{1,20}";
        prop_oneof![
            (
                option::of(any::<[u8; 32]>()),
                option::of(tag()),
                option::of("\\PC{1,40}")
            )
                .prop_map(|(parent, name, note)| EventKind::Taken {
                    parent: parent.map(SnapshotId),
                    name,
                    note,
                }),
            Just(EventKind::Seen),
            (option::of(tag()), option::of("\\PC{1,40}"))
                .prop_map(|(name, note)| EventKind::Described { name, note }),
            tag().prop_map(|tag| EventKind::Tagged { tag }),
            tag().prop_map(|tag| EventKind::Untagged { tag }),
            Just(EventKind::Removed),
            "[a-z@./]{1,20}".prop_map(|target| EventKind::Runs { target }),
        ]
    }

    proptest! {
        #[test]
        fn events_come_back(seq in 0..MAX_SEQ, time_ns: i64, kind in any_kind()) {
            let event = Event { seq, time_ns, kind };
            let bytes = event.encode();
            prop_assert_eq!(Event::decode(&bytes), Some(event));
            for length in 0..bytes.len() {
                prop_assert_eq!(Event::decode(&bytes[..length]), None);
            }
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = Event::decode(&bytes);
        }
    }

    #[test]
    fn names() {
        let long = "x".repeat(129);
        let id = "0a".repeat(32);
        for (name, valid) in [
            ("v1.2", true),
            ("größe", true),
            ("", false),
            ("latest", false),
            ("-x", false),
            ("a b", false),
            ("a\x1b", false),
            ("a\u{202e}b", false),
            (&long, false),
            (&id, false),
            (&id[1..], true),
        ] {
            assert_eq!(is_valid_name(name), valid, "{name:?}");
        }
    }
}
