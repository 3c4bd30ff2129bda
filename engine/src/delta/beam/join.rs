//! Joining: making a module from its streams.

use super::code::{self, Header, Symbols};
use super::compact_term::{self as term, TAG_UNSIGNED};
use super::debug_info;
use super::digest;
use super::iff::{ChunkId, Container, Wrap, be_len};
use super::labels::{FromStream, Matchings, RowLabels, defined_label};
use super::lines;
use super::module::{FunRow, FunctionRow, Tables, kind_of, push_entry, types};
use super::recipe::{ChunkRecipe, Recipe};
use super::tables::Matching;
use crate::delta::cursor::{Cursor, Malformed, unzigzag};
use crate::delta::inflate::Deflater;
use crate::delta::streams::Kind;

/// Makes a module from its streams, given the tables of its base.
///
/// `stream` returns the stream of a kind. The result also says whether something was deflated.
pub(crate) fn join<'s>(
    stream: impl Fn(Kind) -> &'s [u8],
    base: &Tables<'_>,
    deflater: &Deflater<'_>,
) -> Result<(Vec<u8>, bool), Malformed> {
    let recipe = Recipe::from_stream(stream(Kind::Recipe))?;
    let mut joiner = Joiner::new(&stream, &recipe, base)?;
    let mut other = Cursor::new(stream(Kind::Other));
    let mut stored: Vec<(ChunkId, Vec<u8>)> = Vec::with_capacity(recipe.chunks.len());
    for chunk in &recipe.chunks {
        let data = match kind_of(chunk.id) {
            Kind::Other => {
                let length = other.varint_len()?;
                other.take(length)?.to_vec()
            }
            kind if chunk.structured => joiner.chunk(kind, chunk, stream(kind))?,
            kind => stream(kind).to_vec(),
        };
        stored.push((chunk.id, chunk.wrap.store(data, deflater)?));
    }
    joiner.insert_md5(&mut stored)?;
    let file = Container::write(recipe.gzip, &stored, deflater)?;
    Ok((file, recipe.deflates()))
}

struct Joiner<'r, 's> {
    recipe: &'r Recipe,
    new: Tables<'s>,
    matchings: Matchings,
    labels: RowLabels,
    /// The rows of the fun table. Their labels are still codes.
    funs: Vec<(FunRow, u64)>,
    /// The code's header and its instructions as streamed.
    code: Option<(Header, &'s [u8])>,
}

impl<'r, 's> Joiner<'r, 's> {
    /// Restores the new module's tables, in the order in which they depend on each other.
    fn new(
        stream: &impl Fn(Kind) -> &'s [u8],
        recipe: &'r Recipe,
        base: &Tables<'_>,
    ) -> Result<Self, Malformed> {
        let structured = |kind| {
            let chunk = recipe
                .chunks
                .iter()
                .find(|chunk| kind_of(chunk.id) == kind)?;
            chunk.structured.then(|| stream(kind))
        };
        let mut new = Tables {
            long_atoms: recipe.long_atoms,
            ..Tables::default()
        };
        new.atoms = structured(Kind::Atoms).map(entries).transpose()?;
        new.literals = structured(Kind::Literals).map(entries).transpose()?;
        new.types = types(stream(Kind::Types)).unwrap_or_default();
        let atoms = Matching::new(base.atoms(), new.atoms());
        new.imports = structured(Kind::Imports)
            .map(|stream| imports(stream, &atoms))
            .transpose()?;
        let funs = structured(Kind::Funs)
            .map(|stream| funs(stream, &atoms, recipe.funs_have_md5))
            .transpose()?
            .unwrap_or_default();
        new.funs = Some(funs.iter().map(|(row, _)| *row).collect());
        let mut code = None;
        if let Some(stream) = structured(Kind::Code) {
            let mut cursor = Cursor::new(stream);
            let (header, differences) = Header::take(&mut cursor)?;
            new.symbols = Symbols::collect_with(
                cursor.rest(),
                &mut |atom| atoms.to_new_from_one(atom),
                &mut defined_label,
            )?;
            code = Some((
                header.with_counts(differences, &new.symbols)?,
                cursor.rest(),
            ));
        }
        let matchings = Matchings::new(base, &new);
        let labels = RowLabels::new(&matchings, &new.symbols)?;
        Ok(Self {
            recipe,
            new,
            matchings,
            labels,
            funs,
            code,
        })
    }

    /// Returns a structured chunk's data.
    fn chunk(
        &mut self,
        kind: Kind,
        chunk: &ChunkRecipe,
        stream: &[u8],
    ) -> Result<Vec<u8>, Malformed> {
        match kind {
            Kind::Atoms => self.atoms(),
            Kind::Imports => rows(self.new.imports.as_deref().unwrap_or_default()),
            Kind::Literals => self.literals(chunk.wrap),
            Kind::Code => self.code(),
            Kind::Exports | Kind::Locals => self.functions(stream),
            Kind::Funs => self.funs(),
            // The MD5 is inserted last, when everything else is complete.
            Kind::Attributes => Ok(stream.to_vec()),
            Kind::Lines => lines::from_stream(stream, self.new.symbols.line_count),
            Kind::DebugInfo | Kind::Documentation | Kind::Checker => {
                debug_info::from_stream(stream)
            }
            _ => Err(Malformed),
        }
    }

    fn atoms(&self) -> Result<Vec<u8>, Malformed> {
        let atoms = self.new.atoms();
        let count = i32::try_from(atoms.len()).map_err(|_| Malformed)?;
        let count = if self.recipe.long_atoms {
            -count
        } else {
            count
        };
        let mut out = count.to_be_bytes().to_vec();
        for atom in atoms {
            if self.recipe.long_atoms {
                term::put(
                    &mut out,
                    TAG_UNSIGNED,
                    crate::delta::cursor::len_u64(atom.len()),
                );
            } else {
                out.push(u8::try_from(atom.len()).map_err(|_| Malformed)?);
            }
            out.extend_from_slice(atom);
        }
        Ok(out)
    }

    fn literals(&self, wrap: Wrap) -> Result<Vec<u8>, Malformed> {
        let literals = self.new.literals.as_deref().unwrap_or_default();
        let mut out = if wrap == Wrap::Plain {
            vec![0; 4]
        } else {
            Vec::new()
        };
        out.extend_from_slice(&be_len(literals.len())?);
        for literal in literals {
            out.extend_from_slice(&be_len(literal.len())?);
            out.extend_from_slice(literal);
        }
        Ok(out)
    }

    fn code(&self) -> Result<Vec<u8>, Malformed> {
        let (header, instructions) = self.code.ok_or(Malformed)?;
        let mut out = Vec::with_capacity(instructions.len() + instructions.len() / 8);
        header.write(&mut out);
        let mut renumber = FromStream::new(&self.matchings, &self.new.symbols)?;
        code::walk(instructions, &mut renumber, &mut out)?;
        Ok(out)
    }

    fn functions(&self, stream: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut cursor = Cursor::new(stream);
        let mut functions: Vec<FunctionRow> = Vec::new();
        while !cursor.is_empty() {
            let name = atom(&mut cursor, &self.matchings.atoms)?;
            let arity = cursor.varint_u32()?;
            let label = self.labels.label((name, arity), cursor.varint()?)?;
            push_entry(&mut functions, [name, arity, label])?;
        }
        rows(&functions)
    }

    fn funs(&self) -> Result<Vec<u8>, Malformed> {
        let mut funs = Vec::with_capacity(self.funs.len());
        for ([name, arity, _, index, free, checksum], code) in &self.funs {
            let label = self.labels.label((*name, *arity), *code)?;
            funs.push([*name, *arity, label, *index, *free, *checksum]);
        }
        rows(&funs)
    }

    /// Completes the chunks that contain the module's MD5.
    fn insert_md5(&self, stored: &mut [(ChunkId, Vec<u8>)]) -> Result<(), Malformed> {
        if !self.recipe.vsn_is_md5 && !self.recipe.funs_have_md5 {
            return Ok(());
        }
        let md5 = digest::module_md5(|id| {
            stored
                .iter()
                .find(|(known, _)| *known == id)
                .map(|(_, data)| &data[..])
        });
        for (id, data) in stored {
            if id == b"Attr" && self.recipe.vsn_is_md5 {
                *data = digest::insert_vsn(data, &md5).ok_or(Malformed)?;
            } else if id == b"FunT" && self.recipe.funs_have_md5 {
                digest::set_fun_checksums(data, &md5).ok_or(Malformed)?;
            }
        }
        Ok(())
    }
}

fn entries(stream: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let mut cursor = Cursor::new(stream);
    let mut entries = Vec::new();
    while !cursor.is_empty() {
        let length = cursor.varint_len()?;
        push_entry(&mut entries, cursor.take(length)?)?;
    }
    Ok(entries)
}

fn atom(cursor: &mut Cursor<'_>, atoms: &Matching) -> Result<u32, Malformed> {
    code::index_u32(atoms.to_new_from_one(cursor.varint()?)?)
}

fn imports(stream: &[u8], atoms: &Matching) -> Result<Vec<[u32; 3]>, Malformed> {
    let mut cursor = Cursor::new(stream);
    let mut imports = Vec::new();
    while !cursor.is_empty() {
        let row = [
            atom(&mut cursor, atoms)?,
            atom(&mut cursor, atoms)?,
            cursor.varint_u32()?,
        ];
        push_entry(&mut imports, row)?;
    }
    Ok(imports)
}

/// Reads the rows of the fun table with the codes of their labels.
fn funs(
    stream: &[u8],
    atoms: &Matching,
    checksums_left_out: bool,
) -> Result<Vec<(FunRow, u64)>, Malformed> {
    let mut cursor = Cursor::new(stream);
    let mut funs = Vec::new();
    for place in 0_i64.. {
        if cursor.is_empty() {
            break;
        }
        let name = atom(&mut cursor, atoms)?;
        let arity = cursor.varint_u32()?;
        let label_code = cursor.varint()?;
        let index = u32::try_from(place + unzigzag(cursor.varint()?)).map_err(|_| Malformed)?;
        let free = cursor.varint_u32()?;
        let checksum = if checksums_left_out {
            0
        } else {
            cursor.be_u32()?
        };
        push_entry(
            &mut funs,
            ([name, arity, 0, index, free, checksum], label_code),
        )?;
    }
    Ok(funs)
}

fn rows<const N: usize>(rows: &[[u32; N]]) -> Result<Vec<u8>, Malformed> {
    let mut out = be_len(rows.len())?.to_vec();
    for field in rows.as_flattened() {
        out.extend_from_slice(&field.to_be_bytes());
    }
    Ok(out)
}
