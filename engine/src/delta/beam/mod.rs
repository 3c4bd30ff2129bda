//! The structural transform of BEAM files.
//!
//! [`split()`] takes a module apart into streams that hardly differ from those of its base.
//! [`join()`] makes the module from the streams again, given the same base. This module owns the
//! order in which parts depend on each other. Names (atoms) come first, then tables of names
//! (imports, funs), then code. The remaining tables refer to the code's labels, and the checksums
//! over everything come last. Neither function writes files or compresses. A chunk that is not
//! understood is carried unchanged. [`Malformed`] means that the file as a whole is not a BEAM file
//! that can be restored.
//!
//! Invariant: joining a file's streams gives that file, another file or an error, and never panics.
//! The encoder compares the result.
//!
//! [`Malformed`]: crate::delta::cursor::Malformed

mod code;
mod compact_term;
mod debug_info;
mod digest;
mod iff;
mod join;
mod labels;
mod lines;
mod module;
mod opcode;
mod origin;
mod recipe;
mod split;
mod tables;

pub(super) use iff::{Container, Reading};
pub(super) use join::join;
pub(super) use module::{Module, Tables};
pub(crate) use origin::BeamOrigin;
pub(super) use origin::origin;
pub(super) use split::{Role, split};

/// Computes the MD5 of a module's essential chunks, as stored.
pub(super) fn module_md5(container: &Container<'_>) -> [u8; 16] {
    digest::module_md5(|id| container.chunk(id).map(|chunk| chunk.stored))
}

/// Returns the names and arities of the functions that a module exports; returns `None` if the
/// module cannot be read.
pub(super) fn exports(file: &[u8]) -> Option<Vec<(String, u32)>> {
    let module = Module::unpack(file, Reading::Base).ok()?;
    let container = module.container().ok()?;
    let exports = Tables::read(&container).export_keys()?;
    let exports = exports.into_iter().map(|(name, arity)| {
        let name = std::str::from_utf8(name).ok()?;
        Some((name.to_owned(), arity))
    });
    exports.collect()
}

/// Returns the number of operands of an instruction.
#[cfg(test)]
pub(super) fn instruction_operands(opcode: u8) -> Option<u8> {
    opcode::operands(opcode)
}

/// Returns the chunks that a recipe carries unchanged.
#[cfg(test)]
pub(super) fn opaque_chunks(
    recipe: &[u8],
) -> Result<Vec<[u8; 4]>, crate::delta::cursor::Malformed> {
    let recipe = recipe::Recipe::from_stream(recipe)?;
    Ok(recipe
        .chunks
        .iter()
        .filter(|chunk| !chunk.structured)
        .map(|chunk| chunk.id)
        .collect())
}
