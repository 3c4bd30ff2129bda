//! The session's messages, host to agent and back (store-format.md, "Wire").
//!
//! Owns the bytes of every message: [`Request::encode`] builds what the host sends, [`Reply::decode`] parses what the agent
//! answers, [`parts`] and [`Assembler`] cut messages for a transport and join them again. Pure; does not send or interpret anything.
//!
//! **Invariants.** A reply is untrusted bytes: every length is checked before anything is allocated, an unknown tag is skipped,
//! an unknown message or number is an error, never a panic.

use crate::bytes::{ReadError, Reader, Writer};

/// The version of the protocol spoken here.
pub const PROTOCOL: u64 = 1;

/// Bytes of a message that travel in one part.
pub const MAX_PART_BYTES: usize = 32 * 1024;

/// The largest message of an agent: a manifest with everything around it.
pub const MAX_REPLY_BYTES: usize = 80 << 20;

/// Why bytes of the agent are no message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// The message's type is not known.
    #[error("message of unknown type {0:#04x}")]
    UnknownMessage(u8),
    /// A part or message is empty.
    #[error("an empty message")]
    Empty,
    /// A part begins with something else than 0 or 1.
    #[error("a part that begins with {0}")]
    BadPart(u8),
    /// The message grows beyond the limit.
    #[error("a message of over {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// A field lacks or has bytes it must not have.
    #[error("field {tag} of message {message:#04x} is malformed")]
    BadField {
        /// The message's type.
        message: u8,
        /// The field's tag.
        tag: u8,
    },
    /// A length or number is malformed.
    #[error("malformed message")]
    Bytes(#[from] ReadError),
}

/// How running code is brought to the new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReloadMode {
    /// Refuse if a process would be killed.
    #[default]
    Soft,
    /// Purge, whoever runs the old code.
    Hard,
    /// Leave code alone.
    None,
    /// Stop and start the applications concerned.
    Apps,
    /// Restart the VM.
    Vm,
}

/// What happens to a module's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleAction {
    /// The file is new.
    Added,
    /// The file changes.
    Changed,
    /// The file goes.
    Removed,
}

/// In which form a hooks module is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HooksKind {
    /// Object code.
    Beam,
    /// Source text.
    Source,
}

/// A message of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Opens the session.
    Hello {
        /// Who calls, as `user@machine`.
        host: String,
        /// The release's root on the target.
        destination: Vec<u8>,
        /// Where the tree is written if the destination is read-only.
        writable: Option<Vec<u8>>,
        /// Whether drift is looked for by hash.
        checksum: bool,
    },
    /// Asks for what the target holds.
    GetManifest {
        /// Whether to scan even if a manifest is installed.
        inventory: bool,
    },
    /// Brings the hooks module.
    Hooks {
        /// The form of `content`.
        kind: HooksKind,
        /// The module or file name.
        name: String,
        /// Object code or source.
        content: Vec<u8>,
        /// How long each hook may run, in milliseconds.
        timeout_ms: Option<u64>,
        /// Whether `presync` runs now, before anything is written.
        presync_now: bool,
    },
    /// Announces a pack.
    PackBegin {
        /// The pack's id.
        pack_id: [u8; 32],
        /// Its size in bytes.
        size: u64,
        /// Where the host will begin.
        offset: u64,
    },
    /// Bytes of the pack.
    PackData(Vec<u8>),
    /// Switches to the staged snapshot.
    Apply {
        /// How code is reloaded.
        reload: ReloadMode,
        /// Earlier generations to keep.
        keep: u64,
        /// How long the new generation is on probation, in milliseconds.
        confirm_timeout_ms: Option<u64>,
        /// The pack that was sent.
        pack_id: [u8; 32],
    },
    /// Returns to an earlier generation.
    Rollback {
        /// The generation, or the one before the current.
        generation: Option<u64>,
        /// A snapshot's id instead of a generation.
        snapshot: Option<[u8; 32]>,
        /// How code is reloaded.
        reload: ReloadMode,
    },
    /// Ends a probation.
    Confirm,
    /// Asks what reloading would do.
    PlanReload {
        /// How code would be reloaded.
        reload: ReloadMode,
        /// Path, action and MD5 of the new module.
        modules: Vec<(Vec<u8>, ModuleAction, Option<[u8; 16]>)>,
    },
    /// Asks for the target's state.
    Status {
        /// Whether every file is hashed.
        verify: bool,
    },
    /// Ends the session.
    Bye,
}

impl Request {
    /// Returns the message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello {
                host,
                destination,
                writable,
                checksum,
            } => Message::new(0x01)
                .number(1, PROTOCOL)
                .bytes(2, host.as_bytes())
                .bytes(3, destination)
                .optional_bytes(4, writable.as_deref())
                .flag(5, *checksum)
                .finish(),
            Self::GetManifest { inventory } => Message::new(0x02).flag(1, *inventory).finish(),
            Self::Hooks {
                kind,
                name,
                content,
                timeout_ms,
                presync_now,
            } => Message::new(0x03)
                .number(1, u64::from(*kind == HooksKind::Source))
                .bytes(2, name.as_bytes())
                .bytes(3, content)
                .optional_number(4, *timeout_ms)
                .flag(5, *presync_now)
                .finish(),
            Self::PackBegin {
                pack_id,
                size,
                offset,
            } => Message::new(0x04)
                .bytes(1, pack_id)
                .number(2, *size)
                .number(3, *offset)
                .finish(),
            Self::PackData(bytes) => Message::new(0x05).bytes(1, bytes).finish(),
            Self::Apply {
                reload,
                keep,
                confirm_timeout_ms,
                pack_id,
            } => Message::new(0x06)
                .number(1, reload_number(*reload))
                .number(2, *keep)
                .optional_number(3, *confirm_timeout_ms)
                .bytes(4, pack_id)
                .finish(),
            Self::Rollback {
                generation,
                snapshot,
                reload,
            } => Message::new(0x07)
                .optional_number(1, *generation)
                .optional_bytes(2, snapshot.as_ref().map(<[u8; 32]>::as_slice))
                .number(3, reload_number(*reload))
                .finish(),
            Self::Confirm => Message::new(0x08).finish(),
            Self::PlanReload { reload, modules } => {
                let mut message = Message::new(0x09).number(1, reload_number(*reload));
                for (path, action, md5) in modules {
                    let action = match action {
                        ModuleAction::Added => 0,
                        ModuleAction::Changed => 1,
                        ModuleAction::Removed => 2,
                    };
                    let md5 = md5.as_ref().map(<[u8; 16]>::as_slice);
                    message = message.nested(
                        2,
                        Message::fields()
                            .bytes(1, path)
                            .number(2, action)
                            .optional_bytes(3, md5),
                    );
                }
                message.finish()
            }
            Self::Status { verify } => Message::new(0x0a).flag(1, *verify).finish(),
            Self::Bye => Message::new(0x0f).finish(),
        }
    }
}

fn reload_number(mode: ReloadMode) -> u64 {
    match mode {
        ReloadMode::Soft => 0,
        ReloadMode::Hard => 1,
        ReloadMode::None => 2,
        ReloadMode::Apps => 3,
        ReloadMode::Vm => 4,
    }
}

/// A message under construction; fields are added in the order of their tags.
struct Message(Writer);

impl Message {
    fn new(kind: u8) -> Self {
        let mut writer = Writer::new();
        writer.u8(kind);
        Self(writer)
    }

    fn fields() -> Self {
        Self(Writer::new())
    }

    fn bytes(mut self, tag: u8, value: &[u8]) -> Self {
        self.0.u8(tag);
        self.0.blob(value);
        self
    }

    fn optional_bytes(self, tag: u8, value: Option<&[u8]>) -> Self {
        match value {
            Some(value) => self.bytes(tag, value),
            None => self,
        }
    }

    fn number(self, tag: u8, value: u64) -> Self {
        let mut number = Writer::new();
        number.varint(value);
        self.bytes(tag, &number.into_vec())
    }

    fn optional_number(self, tag: u8, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.number(tag, value),
            None => self,
        }
    }

    fn flag(self, tag: u8, value: bool) -> Self {
        if value { self.bytes(tag, &[]) } else { self }
    }

    fn nested(self, tag: u8, value: Self) -> Self {
        let value = value.finish();
        self.bytes(tag, &value)
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_vec()
    }
}

/// A message of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The target has no agent of ours cached.
    WantsAgent {
        /// Its OTP release.
        otp_release: u64,
    },
    /// Another session holds the target.
    Busy {
        /// Who, as that session named itself.
        holder: String,
    },
    /// Answers `Hello`.
    Hello(Box<TargetStatus>),
    /// Answers `GetManifest`.
    Manifest {
        /// Whether this comes of a scan.
        inventory: bool,
        /// The manifest, zlib-compressed.
        compressed: Vec<u8>,
        /// Its size in bytes.
        size: u64,
        /// Paths that are neither file, directory nor link, or cannot be read.
        left_out: Vec<Vec<u8>>,
    },
    /// More bytes of the pack may be sent.
    Credit {
        /// How many.
        bytes: u64,
    },
    /// The pack is complete and verified.
    Staged {
        /// Files staged.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A hook printed something.
    Output {
        /// What it printed.
        text: String,
    },
    /// The agent begins a step.
    Step {
        /// Which: `presync`, `switch`, `reload`, …
        step: String,
    },
    /// The end of an `Apply`, `Rollback`, `Confirm` or `PlanReload`.
    Result(Box<ApplyResult>),
    /// A request failed and changed nothing.
    Error(RemoteError),
    /// Answers `Status`.
    Status(Box<TargetStatus>),
}

/// What a target says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetStatus {
    /// The protocol it speaks.
    pub protocol: u64,
    /// Its OTP release.
    pub otp_release: u64,
    /// The version of its runtime system.
    pub erts: String,
    /// Whether OTP's own `zstd` is there.
    pub has_zstd: bool,
    /// Whether code is loaded at boot only.
    pub embedded: bool,
    /// Free bytes where the state is kept, if known.
    pub free_bytes: Option<u64>,
    /// Whether the state directory can be written.
    pub writable: bool,
    /// What is installed.
    pub current: Option<Current>,
    /// Entries of the installed manifest that no longer match.
    pub drift: Vec<Drift>,
    /// What is there of an interrupted pack.
    pub incoming: Option<Incoming>,
    /// Damaged files of the state directory, and how they are repaired.
    pub damage: Vec<(String, String)>,
    /// How many bytes of a pack may be under way.
    pub credit: u64,
    /// The generations that can be restored without the host.
    pub kept: Vec<u64>,
    /// What an interrupted switch led to, if one was found.
    pub recovered: Option<String>,
    /// Modules whose running code is not that of their file.
    pub modules: Vec<ModuleStatus>,
}

/// The installed generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Current {
    /// Its number.
    pub generation: u64,
    /// The snapshot's id.
    pub snapshot: [u8; 32],
    /// The manifest's SHA-256.
    pub manifest: [u8; 32],
    /// Whether it waits to be confirmed.
    pub probation: bool,
    /// When it was applied, in seconds since 1970 by the target's clock.
    pub applied_at: u64,
}

/// An entry that changed behind relsync's back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drift {
    /// Its index in the installed manifest.
    pub index: u64,
    /// What is wrong with it.
    pub kind: DriftKind,
}

/// How an entry differs from what was installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriftKind {
    /// It is gone.
    Missing,
    /// Its content or kind changed.
    Changed,
    /// Only its permissions changed.
    Mode,
}

/// A pack of which the target has a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Incoming {
    /// The pack's id.
    pub pack_id: [u8; 32],
    /// How many of its bytes are there and verified.
    pub verified: u64,
}

/// How an `Apply` or `Rollback` ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApplyResult {
    /// What the target runs now.
    pub outcome: Outcome,
    /// The generation it is at.
    pub generation: u64,
    /// What became of each module.
    pub modules: Vec<ModuleStatus>,
    /// Things the user should know.
    pub notes: Vec<String>,
    /// From the first hook or rename to the last, in microseconds.
    pub downtime_us: u64,
    /// Why it was rolled back.
    pub error: Option<RemoteError>,
    /// Whether part of the update takes effect only when the VM restarts.
    pub needs_restart: bool,
    /// How long the probation lasts, in milliseconds.
    pub probation_ms: Option<u64>,
    /// The installed snapshot's id.
    pub snapshot: Option<[u8; 32]>,
}

/// What the target runs after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    /// The new generation.
    #[default]
    Applied,
    /// The one before, after the new one failed.
    RolledBack,
    /// What it ran before: nothing was to be done.
    Unchanged,
}

/// What became of a module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModuleStatus {
    /// The module's name.
    pub name: String,
    /// `reload`, `load`, `notloaded`, …
    pub status: String,
    /// Anything more, perhaps empty.
    pub detail: String,
}

/// An error of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemoteError {
    /// One of the kinds of store-format.md.
    pub kind: String,
    /// A sentence.
    pub message: String,
    /// The path it is about.
    pub path: Option<String>,
}

impl Reply {
    /// Parses one whole message.
    pub fn decode(message: &[u8]) -> Result<Self, WireError> {
        let (&kind, fields) = message.split_first().ok_or(WireError::Empty)?;
        let fields = Fields {
            message: kind,
            bytes: fields,
        };
        match kind {
            0x80 => decode_boot(fields),
            0x81 => Ok(Self::Hello(Box::new(decode_status(fields)?))),
            0x82 => decode_manifest(fields),
            0x83 => Ok(Self::Credit {
                bytes: fields.find_number(1)?,
            }),
            0x84 => Ok(Self::Staged {
                files: fields.find_number(1)?,
                bytes: fields.find_number(2)?,
            }),
            0x85 => Ok(Self::Output {
                text: fields.find_text(1)?,
            }),
            0x86 => Ok(Self::Step {
                step: fields.find_text(1)?,
            }),
            0x87 => Ok(Self::Result(Box::new(decode_result(fields)?))),
            0x88 => Ok(Self::Error(decode_error(fields)?)),
            0x89 => Ok(Self::Status(Box::new(decode_status(fields)?))),
            other => Err(WireError::UnknownMessage(other)),
        }
    }
}

fn decode_boot(fields: Fields<'_>) -> Result<Reply, WireError> {
    let mut reply = Reply::Busy {
        holder: String::new(),
    };
    fields.each(|field| {
        match field.tag {
            1 => {
                reply = Reply::WantsAgent {
                    otp_release: field.number()?,
                }
            }
            2 => {
                reply = Reply::Busy {
                    holder: field.text(),
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(reply)
}

fn decode_manifest(fields: Fields<'_>) -> Result<Reply, WireError> {
    let (mut inventory, mut compressed, mut size, mut left_out) =
        (false, Vec::new(), 0, Vec::new());
    fields.each(|field| {
        match field.tag {
            1 => inventory = field.number()? != 0,
            2 => compressed = field.value.to_vec(),
            3 => size = field.number()?,
            4 => left_out.push(field.value.to_vec()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(Reply::Manifest {
        inventory,
        compressed,
        size,
        left_out,
    })
}

fn decode_status(fields: Fields<'_>) -> Result<TargetStatus, WireError> {
    let mut status = TargetStatus::default();
    fields.each(|field| {
        match field.tag {
            1 => status.protocol = field.number()?,
            2 => status.otp_release = field.number()?,
            3 => status.erts = field.text(),
            4 => status.has_zstd = true,
            5 => status.embedded = true,
            6 => status.free_bytes = Some(field.number()?),
            7 => status.writable = true,
            8 => status.current = Some(decode_current(field.nested())?),
            9 => status.drift.push(decode_drift(field)?),
            10 => status.incoming = Some(decode_incoming(field.nested())?),
            11 => status.damage.push(decode_damage(field.nested())?),
            12 => status.credit = field.number()?,
            13 => status.kept.push(field.number()?),
            14 => status.recovered = Some(field.text()),
            20 => status.modules.push(decode_module(field.nested())?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(status)
}

fn decode_current(fields: Fields<'_>) -> Result<Current, WireError> {
    let mut current = Current::default();
    fields.each(|field| {
        match field.tag {
            1 => current.generation = field.number()?,
            2 => current.snapshot = field.array()?,
            3 => current.manifest = field.array()?,
            4 => current.probation = field.number()? != 0,
            5 => current.applied_at = field.number()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(current)
}

fn decode_drift(field: Field<'_>) -> Result<Drift, WireError> {
    let fields = field.nested();
    let kind = match fields.find_number(2)? {
        0 => DriftKind::Missing,
        1 => DriftKind::Changed,
        2 => DriftKind::Mode,
        _ => return Err(field.malformed()),
    };
    Ok(Drift {
        index: fields.find_number(1)?,
        kind,
    })
}

fn decode_incoming(fields: Fields<'_>) -> Result<Incoming, WireError> {
    let mut incoming = Incoming::default();
    fields.each(|field| {
        match field.tag {
            1 => incoming.pack_id = field.array()?,
            2 => incoming.verified = field.number()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(incoming)
}

fn decode_damage(fields: Fields<'_>) -> Result<(String, String), WireError> {
    Ok((fields.find_text(1)?, fields.find_text(2)?))
}

fn decode_module(fields: Fields<'_>) -> Result<ModuleStatus, WireError> {
    Ok(ModuleStatus {
        name: fields.find_text(1)?,
        status: fields.find_text(2)?,
        detail: fields.find_text(3)?,
    })
}

fn decode_error(fields: Fields<'_>) -> Result<RemoteError, WireError> {
    let path = fields.find_text(3)?;
    Ok(RemoteError {
        kind: fields.find_text(1)?,
        message: fields.find_text(2)?,
        path: if path.is_empty() { None } else { Some(path) },
    })
}

fn decode_result(fields: Fields<'_>) -> Result<ApplyResult, WireError> {
    let mut result = ApplyResult::default();
    fields.each(|field| {
        match field.tag {
            1 => {
                result.outcome = match field.number()? {
                    0 => Outcome::Applied,
                    1 => Outcome::RolledBack,
                    2 => Outcome::Unchanged,
                    _ => return Err(field.malformed()),
                }
            }
            2 => result.generation = field.number()?,
            3 => result.modules.push(decode_module(field.nested())?),
            4 => result.notes.push(field.text()),
            5 => result.downtime_us = field.number()?,
            6 => result.error = Some(decode_error(field.nested())?),
            7 => result.needs_restart = true,
            8 => result.probation_ms = Some(field.number()?),
            9 => result.snapshot = Some(field.array()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(result)
}

/// The fields of a message that is being parsed.
#[derive(Clone, Copy)]
struct Fields<'a> {
    message: u8,
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    fn each(
        self,
        mut visit: impl FnMut(Field<'a>) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        let mut reader = Reader::new(self.bytes);
        while !reader.is_empty() {
            let tag = reader.u8()?;
            let value = reader.blob(MAX_REPLY_BYTES)?;
            visit(Field {
                message: self.message,
                tag,
                value,
            })?;
        }
        Ok(())
    }

    fn find(self, tag: u8) -> Result<Option<Field<'a>>, WireError> {
        let mut found = None;
        self.each(|field| {
            if field.tag == tag {
                found = Some(field);
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn find_number(self, tag: u8) -> Result<u64, WireError> {
        self.find(tag)?.map_or(Ok(0), Field::number)
    }

    fn find_text(self, tag: u8) -> Result<String, WireError> {
        Ok(self.find(tag)?.map(Field::text).unwrap_or_default())
    }
}

#[derive(Clone, Copy)]
struct Field<'a> {
    message: u8,
    tag: u8,
    value: &'a [u8],
}

impl<'a> Field<'a> {
    fn malformed(self) -> WireError {
        WireError::BadField {
            message: self.message,
            tag: self.tag,
        }
    }

    fn number(self) -> Result<u64, WireError> {
        let mut reader = Reader::new(self.value);
        let number = reader.varint()?;
        if reader.is_empty() {
            Ok(number)
        } else {
            Err(self.malformed())
        }
    }

    fn text(self) -> String {
        String::from_utf8_lossy(self.value).into_owned()
    }

    fn array<const N: usize>(self) -> Result<[u8; N], WireError> {
        self.value.try_into().map_err(|_| self.malformed())
    }

    fn nested(self) -> Fields<'a> {
        Fields {
            message: self.message,
            bytes: self.value,
        }
    }
}

/// Cuts a message into the parts that a transport carries one by one.
pub fn parts(message: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let count = message.len().div_ceil(MAX_PART_BYTES).max(1);
    (0..count).map(move |index| {
        let start = index * MAX_PART_BYTES;
        let end = message.len().min(start + MAX_PART_BYTES);
        let mut part = Vec::with_capacity(1 + end - start);
        part.push(u8::from(index + 1 < count));
        part.extend_from_slice(&message[start..end]);
        part
    })
}

/// Joins the parts of one message after the other.
#[derive(Debug, Default)]
pub struct Assembler {
    pending: Vec<u8>,
}

impl Assembler {
    /// Takes a part; returns the message it completes, if it does.
    pub fn add(&mut self, part: &[u8]) -> Result<Option<Vec<u8>>, WireError> {
        let (&flag, bytes) = part.split_first().ok_or(WireError::Empty)?;
        if self.pending.len() + bytes.len() > MAX_REPLY_BYTES {
            return Err(WireError::TooLarge {
                limit: MAX_REPLY_BYTES,
            });
        }
        self.pending.extend_from_slice(bytes);
        match flag {
            0 => Ok(Some(std::mem::take(&mut self.pending))),
            1 => Ok(None),
            other => Err(WireError::BadPart(other)),
        }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
