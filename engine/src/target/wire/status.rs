//! What a target says of itself.

use super::WireError;
use super::fields::{Field, Fields, add};
use super::result::decode_module;
use super::words::{DRIFTS, GENERATION_STATES, PACK_OUTCOMES, word};
use crate::limits;
use crate::target::status::{
    Current, Drift, EarlierGeneration, Incoming, LastPack, Leftovers, PackEnd, TargetStatus, VmLife,
};

pub(super) fn decode_status(fields: Fields<'_>) -> Result<TargetStatus, WireError> {
    let mut status = TargetStatus::default();
    fields.each(|field| {
        match field.tag {
            1 => status.protocol = field.number()?,
            2 => status.otp_release = field.number()?,
            3 => status.erts = field.text(),
            4 => status.has_zstd = true,
            5 => status.embedded = true,
            6 => status.free_bytes = Some(field.at_most(limits::TARGET_DISK_BYTES)?),
            7 => status.writable = true,
            8 => status.current = Some(decode_current(field.nested())?),
            9 => add(
                &mut status.drift,
                decode_drift(field)?,
                "changed entries",
                limits::MANIFEST_ENTRIES,
            )?,
            10 => status.incoming = Some(decode_incoming(field.nested())?),
            11 => add(
                &mut status.damage,
                decode_damage(field.nested())?,
                "damaged files",
                limits::TARGET_NOTES,
            )?,
            12 => status.credit = field.number()?,
            13 => add(
                &mut status.earlier,
                decode_earlier(field.nested())?,
                "generations",
                limits::TARGET_LIST,
            )?,
            14 => status.recovered = Some(field.text()),
            43 => status.zlib = Some(field.array()?),
            42 => status.last_pack = Some(decode_last_pack(field.nested())?),
            37 => status.leftovers = decode_leftovers(field.nested())?,
            38 => status.vm = decode_vm(field.nested())?,
            25 => status.stale = field.number()?,
            26 => status.waiting = field.number()?,
            20 => add(
                &mut status.modules,
                decode_module(field.nested())?,
                "modules",
                limits::TARGET_LIST,
            )?,
            21 => add(
                &mut status.kept_bytes,
                decode_kept_bytes(field.nested())?,
                "generations",
                limits::TARGET_LIST,
            )?,
            22 => add(
                &mut status.mounts,
                field.path(),
                "mount points",
                limits::TARGET_LIST,
            )?,
            40 => status.runs = true,
            41 => status.release_root = Some(field.path()),
            34 => add(
                &mut status.boot_faults,
                field.text(),
                "faults",
                limits::TARGET_NOTES,
            )?,
            35 => add(
                &mut status.boot_warnings,
                field.text(),
                "warnings",
                limits::TARGET_NOTES,
            )?,
            36 => add(
                &mut status.boots,
                field.text(),
                "boot files",
                limits::TARGET_LIST,
            )?,
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
            4 => current.probation = field.word(GENERATION_STATES)?,
            5 => current.applied_at = field.at_most(limits::TARGET_CLOCK_S)?,
            6 => current.probation_ms = Some(field.at_most(limits::TARGET_MILLIS)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(current)
}

fn decode_drift(field: Field<'_>) -> Result<Drift, WireError> {
    let fields = field.nested();
    let kind = word(DRIFTS, fields.find_number(2)?).ok_or_else(|| field.malformed())?;
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

fn decode_earlier(fields: Fields<'_>) -> Result<EarlierGeneration, WireError> {
    let mut earlier = EarlierGeneration::default();
    fields.each(|field| {
        match field.tag {
            1 => earlier.generation = field.number()?,
            2 => earlier.manifest = Some(field.array()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(earlier)
}

fn decode_kept_bytes(fields: Fields<'_>) -> Result<(u64, u64), WireError> {
    let bytes = fields.find_number(2)?.min(limits::TARGET_DISK_BYTES);
    Ok((fields.find_number(1)?, bytes))
}

fn decode_last_pack(fields: Fields<'_>) -> Result<LastPack, WireError> {
    let mut last = LastPack {
        pack: [0; 32],
        generation: 0,
        end: PackEnd::Other,
        begun_ms: 0,
    };
    fields.each(|field| {
        match field.tag {
            1 => last.pack = field.array()?,
            2 => last.generation = field.number()?,
            3 => {
                last.end = word(PACK_OUTCOMES, field.number()?).unwrap_or(PackEnd::Other);
            }
            4 => last.begun_ms = field.number()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(last)
}

fn decode_leftovers(fields: Fields<'_>) -> Result<Leftovers, WireError> {
    let mut leftovers = Leftovers::default();
    fields.each(|field| {
        match field.tag {
            1 => leftovers.count = field.number()?,
            2 => add(
                &mut leftovers.tops,
                field.path(),
                "leftovers",
                limits::TARGET_LIST,
            )?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(leftovers)
}

fn decode_vm(fields: Fields<'_>) -> Result<VmLife, WireError> {
    let mut vm = VmLife::default();
    fields.each(|field| {
        match field.tag {
            1 => vm.creation = field.number()?,
            2 => vm.os_pid = field.number()?,
            3 => vm.boot = Some(field.path()),
            4 => vm.named = Some(field.text()),
            5 => vm.is_starting = true,
            _ => {}
        }
        Ok(())
    })?;
    Ok(vm)
}
