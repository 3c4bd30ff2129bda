//! What a target says of itself.

use super::WireError;
use super::fields::{Field, Fields};
use super::result::decode_module;
use super::words::{DRIFTS, GENERATION_STATES, PACK_OUTCOMES, word};
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
            6 => status.free_bytes = Some(field.number()?),
            7 => status.writable = true,
            8 => status.current = Some(decode_current(field.nested())?),
            9 => status.drift.push(decode_drift(field)?),
            10 => status.incoming = Some(decode_incoming(field.nested())?),
            11 => status.damage.push(decode_damage(field.nested())?),
            12 => status.credit = field.number()?,
            13 => status.earlier.push(decode_earlier(field.nested())?),
            14 => status.recovered = Some(field.text()),
            43 => status.zlib = Some(field.array()?),
            42 => status.last_pack = Some(decode_last_pack(field.nested())?),
            37 => status.leftovers = decode_leftovers(field.nested())?,
            38 => status.vm = decode_vm(field.nested())?,
            25 => status.stale = field.number()?,
            26 => status.waiting = field.number()?,
            20 => status.modules.push(decode_module(field.nested())?),
            21 => status.kept_bytes.push(decode_kept_bytes(field.nested())?),
            22 => status.mounts.push(field.value.to_vec()),
            40 => status.runs = true,
            41 => status.release_root = Some(field.value.to_vec()),
            34 => status.boot_faults.push(field.text()),
            35 => status.boot_warnings.push(field.text()),
            36 => status.boots.push(field.text()),
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
            5 => current.applied_at = field.number()?,
            6 => current.probation_ms = Some(field.number()?),
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
    Ok((fields.find_number(1)?, fields.find_number(2)?))
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
            2 => leftovers.tops.push(field.value.to_vec()),
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
            3 => vm.boot = Some(field.value.to_vec()),
            4 => vm.named = Some(field.text()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(vm)
}
