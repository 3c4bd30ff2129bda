//! The code chunk: its instructions, with every index in the base's numbering.
//!
//! One walk serves all purposes. It reads instructions, passes each operand that is an index to a
//! [`Renumber`], and writes the instruction again with the new index. Its output has the same
//! syntax as its input. So the same walk collects labels, writes the stream and inverts it.
//!
//! Source: "The Code chunk" in The BEAM Book, and the compiler's `genop.tab` for the operands'
//! meaning.

use super::compact_term::{
    self as term, ALLOCATION_LIST, FLOAT_REGISTER, LIST, LITERAL, MAX_INDEX, TAG_ATOM,
    TAG_EXTENDED, TAG_LABEL, TAG_UNSIGNED, TYPED_REGISTER, Term,
};
use super::module::push_entry;
use super::opcode::{self, Unsigned};
use crate::delta::cursor::{Cursor, Malformed, put_signed, put_varint};

/// The bytes of the chunk before the first instruction, including the length field.
const HEADER_BYTES: usize = 20;
/// The value of the length field: the size of the four numbers that follow it.
const HEADER_LENGTH: u32 = 16;

/// The table or place that an index operand refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Index {
    Atom,
    Label,
    LabelDefinition,
    FunctionArity,
    Line,
    Import,
    Fun,
    Literal,
    Type,
}

/// A renumbering of the indexes of a walk.
pub(super) trait Renumber {
    /// Receives the number of the instruction whose operands follow.
    fn instruction(&mut self, opcode: u8) -> Result<(), Malformed>;
    /// Returns the index to write for the one read. The result is below 2^55.
    fn index(&mut self, kind: Index, value: u64) -> Result<u64, Malformed>;
}

/// The four numbers at the start of a code chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) max_opcode: u32,
    pub(super) labels: u32,
    pub(super) functions: u32,
}

impl Header {
    /// Splits a chunk into header and instructions.
    pub(super) fn read(chunk: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let mut cursor = Cursor::new(chunk);
        if cursor.be_u32()? != HEADER_LENGTH {
            return Err(Malformed);
        }
        let header = Self {
            version: cursor.be_u32()?,
            max_opcode: cursor.be_u32()?,
            labels: cursor.be_u32()?,
            functions: cursor.be_u32()?,
        };
        Ok((header, cursor.rest()))
    }

    /// Starts a chunk.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.reserve(HEADER_BYTES);
        for number in [
            HEADER_LENGTH,
            self.version,
            self.max_opcode,
            self.labels,
            self.functions,
        ] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }

    /// Starts a stream. The counts are written as differences from the counts that the instructions
    /// imply.
    pub(super) fn put(self, symbols: &Symbols, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.version));
        put_varint(out, u64::from(self.max_opcode));
        put_signed(out, i64::from(self.labels) - symbols.label_count);
        put_signed(out, i64::from(self.functions) - symbols.function_count());
    }

    /// Reads the start of a stream. The counts are still differences.
    pub(super) fn take(cursor: &mut Cursor<'_>) -> Result<(Self, [i64; 2]), Malformed> {
        let header = Self {
            version: cursor.varint_u32()?,
            max_opcode: cursor.varint_u32()?,
            labels: 0,
            functions: 0,
        };
        Ok((header, [cursor.signed()?, cursor.signed()?]))
    }

    /// Adds the differences to the counts that the instructions imply.
    pub(super) fn with_counts(
        self,
        differences: [i64; 2],
        symbols: &Symbols,
    ) -> Result<Self, Malformed> {
        let count = |implied: i64, difference: i64| {
            implied
                .checked_add(difference)
                .and_then(|sum| u32::try_from(sum).ok())
                .ok_or(Malformed)
        };
        Ok(Self {
            labels: count(symbols.label_count, differences[0])?,
            functions: count(symbols.function_count(), differences[1])?,
            ..self
        })
    }
}

/// Walks instructions and appends them, renumbered, to `out`.
pub(super) fn walk(
    instructions: &[u8],
    renumber: &mut impl Renumber,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let mut cursor = Cursor::new(instructions);
    while !cursor.is_empty() {
        let opcode = cursor.byte()?;
        let operands = opcode::operands(opcode).ok_or(Malformed)?;
        out.push(opcode);
        renumber.instruction(opcode)?;
        for position in 0..operands {
            let unsigned = opcode::unsigned(opcode, position);
            operand(&mut cursor, unsigned, renumber, out)?;
        }
    }
    Ok(())
}

fn operand(
    cursor: &mut Cursor<'_>,
    unsigned: Unsigned,
    renumber: &mut impl Renumber,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    match cursor.peek() {
        Some(LIST) => {
            cursor.byte()?;
            out.push(LIST);
            let count = term::read_unsigned(cursor)?;
            term::put(out, TAG_UNSIGNED, count);
            for _ in 0..count {
                element(cursor, renumber, out)?;
            }
            Ok(())
        }
        Some(first) if first & 7 == TAG_EXTENDED => element(cursor, renumber, out),
        Some(_) => simple(cursor, unsigned, renumber, out),
        None => Err(Malformed),
    }
}

/// Copies an operand that is not a list.
fn element(
    cursor: &mut Cursor<'_>,
    renumber: &mut impl Renumber,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    match cursor.peek() {
        Some(kind @ (FLOAT_REGISTER | LITERAL)) => {
            cursor.byte()?;
            out.push(kind);
            let value = term::read_unsigned(cursor)?;
            let value = if kind == LITERAL {
                renumber.index(Index::Literal, value)?
            } else {
                value
            };
            term::put(out, TAG_UNSIGNED, value);
            Ok(())
        }
        Some(ALLOCATION_LIST) => {
            cursor.byte()?;
            out.push(ALLOCATION_LIST);
            let count = term::read_unsigned(cursor)?;
            term::put(out, TAG_UNSIGNED, count);
            for _ in 0..count {
                for _ in 0..2 {
                    term::put(out, TAG_UNSIGNED, term::read_unsigned(cursor)?);
                }
            }
            Ok(())
        }
        Some(TYPED_REGISTER) => {
            cursor.byte()?;
            out.push(TYPED_REGISTER);
            simple(cursor, Unsigned::Number, renumber, out)?;
            let value = renumber.index(Index::Type, term::read_unsigned(cursor)?)?;
            term::put(out, TAG_UNSIGNED, value);
            Ok(())
        }
        Some(_) => simple(cursor, Unsigned::Number, renumber, out),
        None => Err(Malformed),
    }
}

/// Copies an operand that is neither a list nor extended.
fn simple(
    cursor: &mut Cursor<'_>,
    unsigned: Unsigned,
    renumber: &mut impl Renumber,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let start = cursor.clone();
    let Term { tag, value } = term::read(cursor)?;
    let kind = match tag {
        TAG_ATOM => Some(Index::Atom),
        TAG_LABEL => Some(Index::Label),
        TAG_UNSIGNED => match unsigned {
            Unsigned::Number => None,
            Unsigned::LabelDefinition => Some(Index::LabelDefinition),
            Unsigned::FunctionArity => Some(Index::FunctionArity),
            Unsigned::Line => Some(Index::Line),
            Unsigned::Import => Some(Index::Import),
            Unsigned::Fun => Some(Index::Fun),
        },
        _ => None,
    };
    match kind {
        Some(kind) => term::put(out, tag, renumber.index(kind, value.ok_or(Malformed)?)?),
        None => out.extend_from_slice(&start.rest()[..cursor.position() - start.position()]),
    }
    Ok(())
}

/// The functions of a module, in the order of their code, and the labels they start at.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    /// Name (an atom index) and arity of each function.
    pub(super) names: Vec<(u32, u32)>,
    /// The label after each `func_info`. Calls go to it.
    pub(super) entries: Vec<Option<u32>>,
    /// One more than the highest label defined.
    pub(super) label_count: i64,
    /// Number of `line` instructions.
    pub(super) line_count: i64,
}

impl Symbols {
    /// Collects the symbols of instructions in the chunk's own numbering.
    pub(super) fn collect(instructions: &[u8]) -> Result<Self, Malformed> {
        Self::collect_with(instructions, &mut Ok, &mut |_, label| Ok(label))
    }

    /// Collects the symbols of instructions whose atoms and label definitions are renumbered.
    ///
    /// `label` gets the label that was defined last, and the operand that defines the next one.
    pub(super) fn collect_with(
        instructions: &[u8],
        atom: &mut dyn FnMut(u64) -> Result<u64, Malformed>,
        label: &mut dyn FnMut(i64, u64) -> Result<u64, Malformed>,
    ) -> Result<Self, Malformed> {
        let mut collector = Collector {
            symbols: Self {
                label_count: 1,
                ..Self::default()
            },
            atom,
            label,
            opcode: 0,
            previous: 0,
            last_label: 0,
            name: None,
        };
        let mut discarded = Vec::with_capacity(instructions.len());
        walk(instructions, &mut collector, &mut discarded)?;
        Ok(collector.symbols)
    }

    fn function_count(&self) -> i64 {
        crate::delta::cursor::len_i64(self.names.len())
    }
}

struct Collector<'f> {
    symbols: Symbols,
    atom: &'f mut dyn FnMut(u64) -> Result<u64, Malformed>,
    label: &'f mut dyn FnMut(i64, u64) -> Result<u64, Malformed>,
    opcode: u8,
    previous: u8,
    last_label: i64,
    name: Option<u32>,
}

impl Renumber for Collector<'_> {
    fn instruction(&mut self, opcode: u8) -> Result<(), Malformed> {
        self.previous = self.opcode;
        self.opcode = opcode;
        self.name = None;
        self.symbols.line_count += i64::from(opcode == opcode::LINE);
        Ok(())
    }

    fn index(&mut self, kind: Index, value: u64) -> Result<u64, Malformed> {
        match kind {
            // The last atom of func_info is the function's name.
            Index::Atom if self.opcode == opcode::FUNC_INFO => {
                self.name = Some(index_u32((self.atom)(value)?)?)
            }
            Index::FunctionArity => {
                let function = (self.name.ok_or(Malformed)?, index_u32(value)?);
                push_entry(&mut self.symbols.names, function)?;
                self.symbols.entries.push(None);
            }
            Index::LabelDefinition => {
                let label = index_u32((self.label)(self.last_label, value)?)?;
                self.last_label = i64::from(label);
                self.symbols.label_count = self.symbols.label_count.max(self.last_label + 1);
                if self.previous == opcode::FUNC_INFO
                    && let Some(entry) = self.symbols.entries.last_mut()
                {
                    *entry = Some(label);
                }
            }
            _ => {}
        }
        Ok(value)
    }
}

/// Narrows an index. Refuses one that no table can hold.
pub(super) fn index_u32(value: u64) -> Result<u32, Malformed> {
    if value < MAX_INDEX {
        u32::try_from(value).map_err(|_| Malformed)
    } else {
        Err(Malformed)
    }
}
