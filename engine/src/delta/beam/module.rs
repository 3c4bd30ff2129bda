//! A module's tables, read from its chunks.

use std::borrow::Cow;

use super::code::{Header, Symbols};
use super::compact_term as term;
use super::iff::{self, ChunkId, Container, GzipWrap, Reading, Wrap};
use crate::delta::cursor::{Cursor, Malformed};
use crate::delta::inflate::{Deflated, Deflater};
use crate::delta::streams::Kind;
use crate::delta::zlib::Framing;

/// The chunks that the transform knows, and the kind of stream that each becomes.
pub(super) const CHUNK_KINDS: [(&ChunkId, Kind); 15] = [
    (b"AtU8", Kind::Atoms),
    (b"ImpT", Kind::Imports),
    (b"LitT", Kind::Literals),
    (b"Type", Kind::Types),
    (b"StrT", Kind::Strings),
    (b"Code", Kind::Code),
    (b"ExpT", Kind::Exports),
    (b"LocT", Kind::Locals),
    (b"FunT", Kind::Funs),
    (b"Attr", Kind::Attributes),
    (b"CInf", Kind::CompileInfo),
    (b"Line", Kind::Lines),
    (b"Dbgi", Kind::DebugInfo),
    (b"Docs", Kind::Documentation),
    (b"ExCk", Kind::Checker),
];

/// The maximum number of entries of a table, and of functions in the code. A module with more is
/// not taken apart. Otherwise a stream of a few bytes could make a decoder hold empty entries of
/// many times the streams' limit.
pub(super) const MAX_TABLE_ENTRIES: usize = 1 << 17;

/// Appends an entry to a table, if the table has room for it.
pub(super) fn push_entry<T>(table: &mut Vec<T>, entry: T) -> Result<(), Malformed> {
    if table.len() >= MAX_TABLE_ENTRIES {
        return Err(Malformed);
    }
    table.push(entry);
    Ok(())
}

/// Returns the kind of stream that a chunk becomes.
pub(super) fn kind_of(id: ChunkId) -> Kind {
    CHUNK_KINDS
        .iter()
        .find(|(known, _)| **known == id)
        .map_or(Kind::Other, |(_, kind)| *kind)
}

/// A row of the export and local tables: name, arity, label.
pub(super) type FunctionRow = [u32; 3];
/// A row of the fun table: name, arity, label, index, free variables, checksum.
pub(super) type FunRow = [u32; 6];

/// An unpacked BEAM file.
#[derive(Debug)]
pub(crate) struct Module<'a> {
    gzip: Option<GzipWrap>,
    /// The file without its gzip wrapper.
    form: Cow<'a, [u8]>,
    /// The deflated data in the gzip wrapper.
    deflated: &'a [u8],
    reading: Reading,
}

impl<'a> Module<'a> {
    /// Unpacks a file.
    pub(crate) fn unpack(file: &'a [u8], reading: Reading) -> Result<Self, Malformed> {
        Ok(match iff::unzip(file, reading)? {
            Some((wrap, gzip)) => Self {
                gzip: Some(wrap),
                form: Cow::Owned(gzip.content),
                deflated: gzip.deflated,
                reading,
            },
            None => Self {
                gzip: None,
                form: Cow::Borrowed(file),
                deflated: &[],
                reading,
            },
        })
    }

    /// Returns a deflater that knows the deflated data of this module. The module was read as
    /// [`Reading::Exact`].
    pub(crate) fn deflater<'m>(&'m self, container: &'m Container<'_>) -> Deflater<'m> {
        let mut deflater = Deflater::default();
        container.teach(&mut deflater);
        if let Some(GzipWrap { level, .. }) = self.gzip {
            deflater.learn(Deflated {
                content: &self.form,
                level,
                framing: Framing::Raw,
                deflated: self.deflated,
            });
        }
        deflater
    }

    /// Reads the chunks.
    pub(crate) fn container(&self) -> Result<Container<'_>, Malformed> {
        let container = Container::read(&self.form, self.reading)?;
        Ok(Container {
            gzip: self.gzip,
            ..container
        })
    }
}

/// A module's tables. A table that is absent or cannot be read is empty, and its chunk is carried
/// unchanged.
#[derive(Debug, Default)]
pub(crate) struct Tables<'a> {
    pub(super) atoms: Option<Vec<&'a [u8]>>,
    /// Whether the lengths of atoms are compact terms (since OTP 28).
    pub(super) long_atoms: bool,
    pub(super) imports: Option<Vec<[u32; 3]>>,
    pub(super) exports: Option<Vec<FunctionRow>>,
    pub(super) locals: Option<Vec<FunctionRow>>,
    pub(super) funs: Option<Vec<FunRow>>,
    pub(super) literals: Option<Vec<&'a [u8]>>,
    pub(super) types: Vec<&'a [u8]>,
    pub(super) code: Option<(Header, &'a [u8])>,
    pub(super) symbols: Symbols,
}

impl<'a> Tables<'a> {
    /// Reads the tables of a container.
    pub(crate) fn read(container: &'a Container<'_>) -> Self {
        let rows = |id| container.data(id).and_then(|data| rows(data).ok());
        let mut tables = Self {
            imports: rows(*b"ImpT"),
            exports: rows(*b"ExpT"),
            locals: rows(*b"LocT"),
            funs: container
                .data(*b"FunT")
                .and_then(|data| self::rows(data).ok()),
            types: container.data(*b"Type").and_then(types).unwrap_or_default(),
            ..Self::default()
        };
        if let Some((long, atoms)) = container.data(*b"AtU8").and_then(|data| atoms(data).ok()) {
            tables.atoms = Some(atoms);
            tables.long_atoms = long;
        }
        if let Some(chunk) = container.chunk(*b"LitT") {
            // If the table is not compressed, it starts with a zero instead of its inflated length.
            let data = match chunk.wrap {
                Wrap::Plain => chunk.data.strip_prefix(&[0; 4]),
                _ => Some(&*chunk.data),
            };
            tables.literals = data.and_then(|data| literals(data).ok());
        }
        if let Some((header, instructions)) = container
            .data(*b"Code")
            .and_then(|data| Header::read(data).ok())
            && let Ok(symbols) = Symbols::collect(instructions)
        {
            tables.code = Some((header, instructions));
            tables.symbols = symbols;
        }
        tables
    }

    pub(super) fn atoms(&self) -> &[&'a [u8]] {
        self.atoms.as_deref().unwrap_or_default()
    }

    /// Returns an atom's text; empty if there is no such atom.
    fn atom(&self, index: u32) -> &'a [u8] {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        index
            .checked_sub(1)
            .and_then(|index| self.atoms().get(index).copied())
            .unwrap_or_default()
    }

    /// Returns the key of each import: module, function, arity.
    pub(super) fn import_keys(&self) -> Vec<(&'a [u8], &'a [u8], u32)> {
        let imports = self.imports.as_deref().unwrap_or_default();
        imports
            .iter()
            .map(|[module, function, arity]| (self.atom(*module), self.atom(*function), *arity))
            .collect()
    }

    /// Returns the key of each exported function, name and arity, if both tables with these facts
    /// can be read.
    pub(super) fn export_keys(&self) -> Option<Vec<(&'a [u8], u32)>> {
        self.atoms.as_ref()?;
        let exports = self.exports.as_deref()?.iter();
        Some(
            exports
                .map(|[function, arity, _]| (self.atom(*function), *arity))
                .collect(),
        )
    }

    /// Returns the key of each fun: function and arity.
    pub(super) fn fun_keys(&self) -> Vec<(&'a [u8], u32)> {
        let funs = self.funs.as_deref().unwrap_or_default();
        funs.iter()
            .map(|[function, arity, ..]| (self.atom(*function), *arity))
            .collect()
    }

    /// Returns the key of each function: name and arity.
    pub(super) fn symbol_keys(&self) -> Vec<(&'a [u8], u32)> {
        self.symbols
            .names
            .iter()
            .map(|(name, arity)| (self.atom(*name), *arity))
            .collect()
    }
}

fn atoms(data: &[u8]) -> Result<(bool, Vec<&[u8]>), Malformed> {
    let mut cursor = Cursor::new(data);
    let count = cursor.be_u32()?.cast_signed();
    let long = count < 0;
    let mut atoms = Vec::new();
    for _ in 0..count.unsigned_abs() {
        let length = if long {
            usize::try_from(term::read_unsigned(&mut cursor)?).map_err(|_| Malformed)?
        } else {
            usize::from(cursor.byte()?)
        };
        push_entry(&mut atoms, cursor.take(length)?)?;
    }
    if cursor.is_empty() {
        Ok((long, atoms))
    } else {
        Err(Malformed)
    }
}

fn rows<const N: usize>(data: &[u8]) -> Result<Vec<[u32; N]>, Malformed> {
    let mut cursor = Cursor::new(data);
    let count = cursor.be_len()?;
    if count > MAX_TABLE_ENTRIES
        || cursor.rest().len() != count.checked_mul(4 * N).ok_or(Malformed)?
    {
        return Err(Malformed);
    }
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let mut row = [0; N];
        for field in &mut row {
            *field = cursor.be_u32()?;
        }
        rows.push(row);
    }
    Ok(rows)
}

fn literals(data: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let mut cursor = Cursor::new(data);
    let count = cursor.be_u32()?;
    let mut literals = Vec::new();
    for _ in 0..count {
        let length = cursor.be_len()?;
        push_entry(&mut literals, cursor.take(length)?)?;
    }
    if cursor.is_empty() {
        Ok(literals)
    } else {
        Err(Malformed)
    }
}

/// The bits of a type that announce more bytes: eight for the lower bound, eight for the upper
/// bound, one for the unit.
///
/// The bits moved between versions of the table. The right variant is the one that consumes the
/// table exactly.
const TYPE_VARIANTS: [[u16; 3]; 4] = [
    [0x2000, 0x4000, 0x8000],
    [0x1000, 0x2000, 0x4000],
    [0x0800, 0x1000, 0x2000],
    [0, 0, 0],
];
/// The last version in which each type has both bounds.
const FIXED_TYPES_VERSION: u32 = 1;
const FIXED_TYPE_BYTES: usize = 18;

/// Splits a type table (`beam_types:encode_ext/1` of the compiler) into its entries.
pub(super) fn types(data: &[u8]) -> Option<Vec<&[u8]>> {
    let mut cursor = Cursor::new(data);
    let version = cursor.be_u32().ok()?;
    let count = cursor.be_len().ok()?;
    if count > MAX_TABLE_ENTRIES {
        return None;
    }
    let entries = cursor.rest();
    if version <= FIXED_TYPES_VERSION && Some(entries.len()) == count.checked_mul(FIXED_TYPE_BYTES)
    {
        return Some(entries.chunks_exact(FIXED_TYPE_BYTES).collect());
    }
    TYPE_VARIANTS
        .iter()
        .find_map(|bits| variable_types(entries, count, *bits))
}

fn variable_types(
    entries: &[u8],
    count: usize,
    [lower, upper, unit]: [u16; 3],
) -> Option<Vec<&[u8]>> {
    let mut cursor = Cursor::new(entries);
    let mut types = Vec::new();
    for _ in 0..count {
        let mut ahead = cursor.clone();
        let flags = ahead.be_u16().ok()?;
        let mut length = 2;
        for (bit, bytes) in [(lower, 8), (upper, 8), (unit, 1)] {
            if flags & bit != 0 {
                length += bytes;
            }
        }
        types.push(cursor.take(length).ok()?);
    }
    cursor.is_empty().then_some(types)
}
