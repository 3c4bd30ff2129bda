//! The agent's answers.

use super::WireError;
use super::fields::{Field, Fields, add};
use super::result::{decode_error, decode_result};
use super::status::decode_status;
use super::words::{MANIFEST_SOURCES, PLACES, PlaceKind, STANDINGS, StandingKind, word};
use crate::limits;
use crate::plan::conflicts::Standing;
use crate::target::apply::{ApplyResult, RemoteError};
use crate::target::found::{Found, FoundDirectory};
use crate::target::place::Place;
use crate::target::status::TargetStatus;
use crate::target::words::Step;

/// A message of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The target has no agent of ours cached.
    WantsAgent {
        /// The target's OTP release.
        otp_release: u64,
    },
    /// Another session holds the target, or the target goes back by itself.
    Busy {
        /// The holder, as that session named itself.
        holder: String,
        /// Whether a probation ran out and the target goes back.
        returning: bool,
    },
    /// The target has not loaded the agent.
    WantsLoading {
        /// The target's OTP release.
        otp_release: u64,
    },
    /// The agent cannot run on the target.
    Lacks {
        /// The application of Erlang/OTP that neither the release nor its OTP has.
        application: String,
    },
    /// Answers `Hello`.
    Hello(Box<TargetStatus>),
    /// Answers `GetManifest`.
    Manifest {
        /// Whether the manifest comes of a scan.
        inventory: bool,
        /// The manifest, zlib-compressed.
        compressed: Vec<u8>,
        /// The manifest's size in bytes.
        size: u64,
        /// The paths that are neither file, directory nor link, or that the agent cannot read.
        left_out: Vec<Vec<u8>>,
    },
    /// The host may send more bytes of the pack.
    Credit {
        /// The number of bytes.
        bytes: u64,
    },
    /// The pack is complete and verified.
    Staged {
        /// The number of files staged.
        files: u64,
        /// The bytes of those files.
        bytes: u64,
    },
    /// A hook printed something.
    Output {
        /// The text that the hook printed.
        text: String,
    },
    /// The agent begins a step.
    Step {
        /// The step.
        step: Step,
    },
    /// The end of an `Apply`, `Rollback`, `Reload`, `Confirm` or `PlanReload`.
    Result(Box<ApplyResult>),
    /// A request failed and changed nothing.
    Error(RemoteError),
    /// Answers `Status`.
    Status(Box<TargetStatus>),
    /// Answers `Look`.
    Found(Box<Found>),
    /// Answers `Claim`: what stands at some of the paths, by their number.
    Taken(Vec<(u64, Standing)>),
    /// Answers `Probe`.
    Place(Place),
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
                text: decode_output(fields)?,
            }),
            0x86 => Ok(Self::Step {
                step: Step::from(fields.find_text(1)?.as_str()),
            }),
            0x87 => Ok(Self::Result(Box::new(decode_result(fields)?))),
            0x88 => Ok(Self::Error(decode_error(fields)?)),
            0x89 => Ok(Self::Status(Box::new(decode_status(fields)?))),
            0x8a => Ok(Self::Found(Box::new(decode_found(fields)?))),
            0x8b => decode_taken(fields),
            0x8c => decode_place(fields).map(Self::Place),
            other => Err(WireError::UnknownMessage(other)),
        }
    }
}

fn decode_boot(fields: Fields<'_>) -> Result<Reply, WireError> {
    let mut reply = Reply::Busy {
        holder: String::new(),
        returning: false,
    };
    fields.each(|field| {
        match field.tag {
            1 => {
                reply = Reply::WantsAgent {
                    otp_release: field.number()?,
                }
            }
            2 | 5 => {
                reply = Reply::Busy {
                    holder: field.text(),
                    returning: field.tag == 5,
                }
            }
            4 => {
                reply = Reply::WantsLoading {
                    otp_release: field.number()?,
                }
            }
            3 => {
                reply = Reply::Lacks {
                    application: field.text(),
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(reply)
}

/// A hook's output is longer than other texts. The session bounds all of it together.
fn decode_output(fields: Fields<'_>) -> Result<String, WireError> {
    let text = fields.find(1)?;
    Ok(text.map_or_else(String::new, |field| {
        String::from_utf8_lossy(field.value).into_owned()
    }))
}

fn decode_manifest(fields: Fields<'_>) -> Result<Reply, WireError> {
    let (mut inventory, mut compressed, mut size, mut left_out) =
        (false, Vec::new(), 0, Vec::new());
    fields.each(|field| {
        match field.tag {
            1 => inventory = field.word(MANIFEST_SOURCES)?,
            2 => compressed = field.value.to_vec(),
            3 => size = field.number()?,
            4 => add(
                &mut left_out,
                field.path(),
                "paths that were left out",
                limits::TARGET_LIST,
            )?,
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

fn decode_taken(fields: Fields<'_>) -> Result<Reply, WireError> {
    let mut found = Vec::new();
    fields.each(|field| {
        if field.tag == 1 {
            add(
                &mut found,
                decode_standing(field)?,
                "paths",
                limits::MANIFEST_ENTRIES,
            )?;
        }
        Ok(())
    })?;
    Ok(Reply::Taken(found))
}

fn decode_place(fields: Fields<'_>) -> Result<Place, WireError> {
    let malformed = WireError::BadField {
        message: fields.message,
        tag: 1,
    };
    let state = word(PLACES, fields.find_number(1)?).ok_or(malformed)?;
    Ok(match state {
        PlaceKind::Writable => Place::Writable,
        PlaceKind::Absent => Place::Absent,
        PlaceKind::Refused => Place::Refused {
            path: fields.find(2)?.map(Field::path).unwrap_or_default(),
            reason: fields.find_text(3)?,
        },
    })
}

fn decode_standing(field: Field<'_>) -> Result<(u64, Standing), WireError> {
    let fields = field.nested();
    let content = fields.find(3)?;
    let kind = word(STANDINGS, fields.find_number(2)?).ok_or_else(|| field.malformed())?;
    let standing = match kind {
        StandingKind::File => Standing::File(content.map(Field::array).transpose()?),
        StandingKind::Dir => Standing::Dir,
        StandingKind::Symlink => Standing::Symlink(content.map(Field::path).unwrap_or_default()),
        StandingKind::Other => Standing::Other,
    };
    Ok((fields.find_number(1)?, standing))
}

fn decode_found(fields: Fields<'_>) -> Result<Found, WireError> {
    let mut found = Found::default();
    fields.each(|field| {
        match field.tag {
            1 => add(
                &mut found.directories,
                decode_directory(field.nested())?,
                "directories",
                limits::BOOT_SCRIPT_ITEMS,
            )?,
            2 => add(
                &mut found.lacking,
                field.number()?,
                "libraries",
                limits::TARGET_LIST,
            )?,
            3 => add(
                &mut found.config_faults,
                field.text(),
                "faults",
                limits::TARGET_NOTES,
            )?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(found)
}

fn decode_directory(fields: Fields<'_>) -> Result<FoundDirectory, WireError> {
    let mut directory = FoundDirectory::default();
    fields.each(|field| {
        match field.tag {
            1 => directory.missing = true,
            2 => directory.path = Some(field.path()),
            3 => directory.unknown = true,
            _ => {}
        }
        Ok(())
    })?;
    Ok(directory)
}
