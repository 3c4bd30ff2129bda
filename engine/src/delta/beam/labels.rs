//! The numbering of labels, lines and all other indexes in code streams.
//!
//! A call names the function it goes to. A jump within a function is relative to the label that was
//! defined last. So a function that moved or grew keeps the bytes of its other parts. [`ToStream`]
//! and [`FromStream`] are each other's inverse, as long as both see the same instructions in the
//! same order.

use std::collections::HashMap;

use super::code::{Index, Renumber, Symbols, index_u32};
use super::module::Tables;
use super::opcode;
use super::tables::Matching;
use crate::delta::cursor::{Malformed, unzigzag, zigzag};

/// The matchings between the tables of a new module and those of its base.
#[derive(Debug, Default)]
pub(super) struct Matchings {
    pub(super) atoms: Matching,
    pub(super) imports: Matching,
    pub(super) funs: Matching,
    pub(super) literals: Matching,
    pub(super) types: Matching,
    pub(super) symbols: Matching,
}

impl Matchings {
    /// Matches all tables. The new module's functions may still be unknown.
    pub(super) fn new(base: &Tables<'_>, new: &Tables<'_>) -> Self {
        Self {
            atoms: Matching::new(base.atoms(), new.atoms()),
            imports: Matching::new(&base.import_keys(), &new.import_keys()),
            funs: Matching::new(&base.fun_keys(), &new.fun_keys()),
            literals: Matching::new(
                base.literals.as_deref().unwrap_or_default(),
                new.literals.as_deref().unwrap_or_default(),
            ),
            types: Matching::new(&base.types, &new.types),
            symbols: Matching::new(&base.symbol_keys(), &new.symbol_keys()),
        }
    }
}

// The codes of labels in code streams: no label, the label before the current function's
// `func_info`, and then even numbers for functions and odd ones for distances.
const NO_LABEL: u64 = 0;
const FUNCTION_CLAUSE: u64 = 1;
const FIRST_FUNCTION: u64 = 2;
const FIRST_DISTANCE: u64 = 3;

/// The state after the instructions walked so far.
#[derive(Debug, Default)]
struct Place {
    last_label: i64,
    /// The label before the current function's `func_info`; zero before the first function.
    function_clause: i64,
    max_line: i64,
}

impl Place {
    fn instruction(&mut self, opcode: u8) {
        if opcode == opcode::FUNC_INFO {
            self.function_clause = self.last_label;
        }
    }
}

/// A renumbering that writes code in the base's numbering.
pub(super) struct ToStream<'m> {
    matchings: &'m Matchings,
    functions: HashMap<i64, u64>,
    place: Place,
}

impl<'m> ToStream<'m> {
    pub(super) fn new(matchings: &'m Matchings, symbols: &Symbols) -> Result<Self, Malformed> {
        Ok(Self {
            matchings,
            functions: functions_by_label(matchings, symbols)?,
            place: Place::default(),
        })
    }

    fn label(&self, label: i64) -> u64 {
        if label == 0 {
            NO_LABEL
        } else if label == self.place.function_clause {
            FUNCTION_CLAUSE
        } else if let Some(function) = self.functions.get(&label) {
            FIRST_FUNCTION + 2 * function
        } else {
            FIRST_DISTANCE + 2 * zigzag(label - self.place.last_label - 1)
        }
    }

    fn line(&mut self, line: i64) -> u64 {
        let max = self.place.max_line;
        self.place.max_line = max.max(line);
        line_code(line, max).cast_unsigned()
    }
}

/// Codes a line index. Most are one more than the largest before.
fn line_code(line: i64, max: i64) -> i64 {
    if line == 0 {
        0
    } else if line <= max {
        2 + 2 * (max - line)
    } else {
        2 * (line - max) - 1
    }
}

/// Restores a line index: the inverse of [`line_code`].
fn line_from_code(code: i64, max: i64) -> i64 {
    if code == 0 {
        0
    } else if code & 1 == 0 {
        max - (code - 2) / 2
    } else {
        max + (code + 1) / 2
    }
}

impl Renumber for ToStream<'_> {
    fn instruction(&mut self, opcode: u8) -> Result<(), Malformed> {
        self.place.instruction(opcode);
        Ok(())
    }

    fn index(&mut self, kind: Index, value: u64) -> Result<u64, Malformed> {
        let number = i64::from(index_u32(value)?);
        match kind {
            Index::Atom => self.matchings.atoms.to_base_from_one(value),
            Index::Label => Ok(self.label(number)),
            Index::LabelDefinition => {
                let code = zigzag(number - self.place.last_label - 1);
                self.place.last_label = number;
                Ok(code)
            }
            Index::FunctionArity => Ok(value),
            Index::Line => Ok(self.line(number)),
            Index::Import => self.matchings.imports.to_base(value),
            Index::Fun => self.matchings.funs.to_base(value),
            Index::Literal => self.matchings.literals.to_base(value),
            Index::Type => self.matchings.types.to_base(value),
        }
    }
}

/// A renumbering that restores the module's own numbering.
pub(super) struct FromStream<'m> {
    matchings: &'m Matchings,
    labels: HashMap<u64, u64>,
    place: Place,
}

impl<'m> FromStream<'m> {
    pub(super) fn new(matchings: &'m Matchings, symbols: &Symbols) -> Result<Self, Malformed> {
        Ok(Self {
            matchings,
            labels: labels_by_function(matchings, symbols)?,
            place: Place::default(),
        })
    }

    fn label(&self, code: u64) -> Result<u64, Malformed> {
        match code {
            NO_LABEL => Ok(0),
            FUNCTION_CLAUSE => Ok(self.place.function_clause.cast_unsigned()),
            _ if code & 1 == 0 => self
                .labels
                .get(&((code - FIRST_FUNCTION) / 2))
                .copied()
                .ok_or(Malformed),
            _ => number(self.place.last_label + 1 + unzigzag((code - FIRST_DISTANCE) / 2)),
        }
    }
}

/// Returns the label that a label definition's code stands for, given the label before.
pub(super) fn defined_label(last: i64, code: u64) -> Result<u64, Malformed> {
    number(last + 1 + unzigzag(code))
}

fn number(value: i64) -> Result<u64, Malformed> {
    u32::try_from(value).map(u64::from).map_err(|_| Malformed)
}

impl Renumber for FromStream<'_> {
    fn instruction(&mut self, opcode: u8) -> Result<(), Malformed> {
        self.place.instruction(opcode);
        Ok(())
    }

    fn index(&mut self, kind: Index, value: u64) -> Result<u64, Malformed> {
        match kind {
            Index::Atom => self.matchings.atoms.to_new_from_one(value),
            Index::Label => self.label(value),
            Index::LabelDefinition => {
                let label = defined_label(self.place.last_label, value)?;
                self.place.last_label = label.cast_signed();
                Ok(label)
            }
            Index::FunctionArity => Ok(value),
            Index::Line => {
                let line = number(line_from_code(value.cast_signed(), self.place.max_line))?;
                self.place.max_line = self.place.max_line.max(line.cast_signed());
                Ok(line)
            }
            Index::Import => self.matchings.imports.to_new(value),
            Index::Fun => self.matchings.funs.to_new(value),
            Index::Literal => self.matchings.literals.to_new(value),
            Index::Type => self.matchings.types.to_new(value),
        }
    }
}

fn functions_by_label(
    matchings: &Matchings,
    symbols: &Symbols,
) -> Result<HashMap<i64, u64>, Malformed> {
    let mut functions = HashMap::with_capacity(symbols.entries.len());
    for (function, entry) in (0..).zip(&symbols.entries) {
        if let Some(label) = entry {
            functions.insert(i64::from(*label), matchings.symbols.to_base(function)?);
        }
    }
    Ok(functions)
}

fn labels_by_function(
    matchings: &Matchings,
    symbols: &Symbols,
) -> Result<HashMap<u64, u64>, Malformed> {
    let mut labels = HashMap::with_capacity(symbols.entries.len());
    for (function, entry) in (0..).zip(&symbols.entries) {
        if let Some(label) = entry {
            labels.insert(matchings.symbols.to_base(function)?, u64::from(*label));
        }
    }
    Ok(labels)
}

/// The codes for labels in the export, local and fun tables.
///
/// A row's label is nearly always the entry of the function that the row names. Its code is then
/// zero.
pub(super) struct RowLabels {
    by_name: HashMap<(u32, u32), u32>,
    functions: HashMap<i64, u64>,
    labels: HashMap<u64, u64>,
}

impl RowLabels {
    pub(super) fn new(matchings: &Matchings, symbols: &Symbols) -> Result<Self, Malformed> {
        let mut by_name = HashMap::with_capacity(symbols.names.len());
        for (name, entry) in symbols.names.iter().zip(&symbols.entries) {
            if let Some(label) = entry {
                by_name.insert(*name, *label);
            }
        }
        Ok(Self {
            by_name,
            functions: functions_by_label(matchings, symbols)?,
            labels: labels_by_function(matchings, symbols)?,
        })
    }

    pub(super) fn code(&self, name: (u32, u32), label: u32) -> u64 {
        if self.by_name.get(&name) == Some(&label) {
            return 0;
        }
        match self.functions.get(&i64::from(label)) {
            Some(function) => 1 + 2 * function,
            None => 2 + 2 * u64::from(label),
        }
    }

    pub(super) fn label(&self, name: (u32, u32), code: u64) -> Result<u32, Malformed> {
        let label = match code.checked_sub(1) {
            None => return self.by_name.get(&name).copied().ok_or(Malformed),
            Some(function) if function & 1 == 0 => {
                *self.labels.get(&(function / 2)).ok_or(Malformed)?
            }
            Some(label) => label / 2,
        };
        index_u32(label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_codes_come_back() {
        for max in 0..5 {
            for line in 0..10 {
                let code = line_code(line, max);
                assert_eq!(
                    line_from_code(code, max),
                    line,
                    "line {line} after {max} is {code}"
                );
            }
            assert_eq!(line_code(max + 1, max), 1);
        }
    }
}
