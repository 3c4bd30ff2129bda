//! The end of an update, and errors.

use super::WireError;
use super::fields::{Fields, add};
use super::words::OUTCOMES;
use crate::limits;
use crate::target::apply::{ApplyResult, ModuleStatus, RemoteError};
use crate::target::words::{ErrorKind, HookFailure, ModuleState};

pub(super) fn decode_result(fields: Fields<'_>) -> Result<ApplyResult, WireError> {
    let mut result = ApplyResult::default();
    fields.each(|field| {
        match field.tag {
            1 => result.outcome = field.word(OUTCOMES)?,
            2 => result.generation = field.number()?,
            3 => add(
                &mut result.modules,
                decode_module(field.nested())?,
                "modules",
                limits::TARGET_LIST,
            )?,
            4 => add(
                &mut result.notes,
                field.text(),
                "notes",
                limits::TARGET_NOTES,
            )?,
            5 => result.downtime_us = field.number()?,
            6 => result.error = Some(decode_error(field.nested())?),
            7 => result.needs_restart = true,
            8 => result.probation_ms = Some(field.at_most(limits::TARGET_MILLIS)?),
            9 => result.snapshot = Some(field.array()?),
            15 => add(
                &mut result.ended_funs,
                field.text(),
                "modules",
                limits::TARGET_LIST,
            )?,
            16 => add(
                &mut result.restarted,
                field.text(),
                "applications",
                limits::TARGET_LIST,
            )?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(result)
}

pub(super) fn decode_module(fields: Fields<'_>) -> Result<ModuleStatus, WireError> {
    Ok(ModuleStatus {
        name: fields.find_text(1)?,
        status: ModuleState::from(fields.find_text(2)?.as_str()),
        detail: fields.find_text(3)?,
    })
}

pub(super) fn decode_error(fields: Fields<'_>) -> Result<RemoteError, WireError> {
    let path = fields.find_text(3)?;
    let hook = fields.find_text(4)?;
    Ok(RemoteError {
        kind: ErrorKind::from(fields.find_text(1)?.as_str()),
        message: fields.find_text(2)?,
        path: if path.is_empty() { None } else { Some(path) },
        hook: (!hook.is_empty()).then(|| HookFailure::from(hook.as_str())),
    })
}
