//! Splitting a module into streams.

use super::code;
use super::debug_info;
use super::digest;
use super::iff::{Chunk, Container, Wrap};
use super::labels::{Matchings, RowLabels, ToStream};
use super::lines;
use super::module::{FunRow, FunctionRow, Tables, kind_of};
use super::recipe::{ChunkRecipe, Recipe};
use crate::delta::cursor::{Malformed, put_len, put_signed, put_varint};
use crate::delta::streams::{Kind, Streams};

/// The side of a delta that a module is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The module is the base. Its checksums are left out without checking whether they are right,
    /// because nobody restores it.
    Base,
    /// The module is new. Its checksums are left out if they follow from the rest.
    New,
}

/// Splits a module into streams, in the numbering of `base`.
pub(crate) fn split(
    container: &Container<'_>,
    tables: &Tables<'_>,
    base: &Tables<'_>,
    role: Role,
) -> Result<Streams, Malformed> {
    let matchings = Matchings::new(base, tables);
    let labels = RowLabels::new(&matchings, &tables.symbols)?;
    let md5 = match role {
        Role::Base => None,
        Role::New => Some(super::module_md5(container)),
    };
    let mut splitter = Splitter {
        tables,
        matchings,
        labels,
        vsn: cut_vsn(container, md5.as_ref()),
        funs_have_md5: funs_have_md5(tables, md5.as_ref()),
        streams: Streams::default(),
    };
    let mut recipe = Recipe {
        long_atoms: tables.long_atoms,
        vsn_is_md5: splitter.vsn.is_some(),
        funs_have_md5: splitter.funs_have_md5,
        gzip: container.gzip,
        chunks: Vec::with_capacity(container.chunks.len()),
    };
    for chunk in &container.chunks {
        let structured = splitter.chunk(chunk);
        recipe.chunks.push(ChunkRecipe {
            id: chunk.id,
            structured,
            wrap: chunk.wrap,
        });
    }
    splitter.streams[Kind::Recipe] = recipe.to_stream();
    Ok(splitter.streams)
}

/// Returns the attributes without the MD5, if it is the module's own MD5 or if that does not
/// matter.
fn cut_vsn(container: &Container<'_>, md5: Option<&digest::ModuleMd5>) -> Option<Vec<u8>> {
    let (cut, vsn) = digest::cut_vsn(container.data(*b"Attr")?)?;
    md5.is_none_or(|md5| *md5 == vsn).then_some(cut)
}

fn funs_have_md5(tables: &Tables<'_>, md5: Option<&digest::ModuleMd5>) -> bool {
    let funs = tables.funs.as_deref().unwrap_or_default();
    !funs.is_empty()
        && md5.is_none_or(|md5| funs.iter().all(|fun| fun[5] == digest::fun_checksum(md5)))
}

struct Splitter<'t> {
    tables: &'t Tables<'t>,
    matchings: Matchings,
    labels: RowLabels,
    vsn: Option<Vec<u8>>,
    funs_have_md5: bool,
    streams: Streams,
}

impl Splitter<'_> {
    /// Writes a chunk's stream. Returns whether the stream is the transformed chunk.
    fn chunk(&mut self, chunk: &Chunk<'_>) -> bool {
        let kind = kind_of(chunk.id);
        if kind == Kind::Other {
            let out = &mut self.streams[Kind::Other];
            put_len(out, chunk.data.len());
            out.extend_from_slice(&chunk.data);
            return false;
        }
        let structured = self.structured(kind, chunk);
        let is_structured = structured.is_some();
        self.streams[kind] = structured.unwrap_or_else(|| chunk.data.to_vec());
        is_structured
    }

    fn structured(&self, kind: Kind, chunk: &Chunk<'_>) -> Option<Vec<u8>> {
        let tables = self.tables;
        match kind {
            Kind::Atoms => tables.atoms.as_deref().map(entries),
            Kind::Imports => tables
                .imports
                .as_deref()
                .and_then(|rows| self.imports(rows).ok()),
            Kind::Literals => tables.literals.as_deref().map(entries),
            Kind::Code => self.code().ok(),
            Kind::Exports => tables
                .exports
                .as_deref()
                .and_then(|rows| self.functions(rows).ok()),
            Kind::Locals => tables
                .locals
                .as_deref()
                .and_then(|rows| self.functions(rows).ok()),
            Kind::Funs => tables.funs.as_deref().and_then(|rows| self.funs(rows).ok()),
            Kind::Attributes => self.vsn.clone(),
            Kind::Lines => lines::to_stream(&chunk.data, tables.symbols.line_count).ok(),
            // A compressed term's data starts after the version byte. Either way it is one term.
            Kind::DebugInfo | Kind::Documentation | Kind::Checker
                if !matches!(chunk.wrap, Wrap::Sized(_)) =>
            {
                debug_info::to_stream(&chunk.data).ok()
            }
            _ => None,
        }
    }

    fn imports(&self, rows: &[[u32; 3]]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::with_capacity(rows.len() * 5);
        for [module, function, arity] in rows {
            put_varint(&mut out, self.atom(*module)?);
            put_varint(&mut out, self.atom(*function)?);
            put_varint(&mut out, u64::from(*arity));
        }
        Ok(out)
    }

    fn code(&self) -> Result<Vec<u8>, Malformed> {
        let (header, instructions) = self.tables.code.ok_or(Malformed)?;
        let mut out = Vec::with_capacity(instructions.len());
        header.put(&self.tables.symbols, &mut out);
        let mut renumber = ToStream::new(&self.matchings, &self.tables.symbols)?;
        code::walk(instructions, &mut renumber, &mut out)?;
        Ok(out)
    }

    fn functions(&self, rows: &[FunctionRow]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::with_capacity(rows.len() * 4);
        for [name, arity, label] in rows {
            put_varint(&mut out, self.atom(*name)?);
            put_varint(&mut out, u64::from(*arity));
            put_varint(&mut out, self.labels.code((*name, *arity), *label));
        }
        Ok(out)
    }

    fn funs(&self, rows: &[FunRow]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::with_capacity(rows.len() * 6);
        for (place, [name, arity, label, index, free, checksum]) in (0_i64..).zip(rows) {
            put_varint(&mut out, self.atom(*name)?);
            put_varint(&mut out, u64::from(*arity));
            put_varint(&mut out, self.labels.code((*name, *arity), *label));
            put_signed(&mut out, i64::from(*index) - place);
            put_varint(&mut out, u64::from(*free));
            if !self.funs_have_md5 {
                out.extend_from_slice(&checksum.to_be_bytes());
            }
        }
        Ok(out)
    }

    fn atom(&self, index: u32) -> Result<u64, Malformed> {
        self.matchings.atoms.to_base_from_one(u64::from(index))
    }
}

fn entries(entries: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.iter().map(|entry| entry.len() + 2).sum());
    for entry in entries {
        put_len(&mut out, entry.len());
        out.extend_from_slice(entry);
    }
    out
}
