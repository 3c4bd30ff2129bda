//! The operand counts of BEAM instructions, and the meaning of their operands.
//!
//! The table is the compiler's generic instruction set (`genop.tab`). It only ever grows, and
//! numbers are never reused, so one table serves OTP 23 to 29. A number beyond the table makes a
//! code chunk opaque, not wrong.

/// The highest known instruction number (OTP 29).
pub(super) const MAX_OPCODE: u8 = 191;

pub(super) const LABEL: u8 = 1;
pub(super) const FUNC_INFO: u8 = 2;
pub(super) const LINE: u8 = 153;

/// The number of operands of each instruction, from instruction 1.
#[rustfmt::skip]
const OPERANDS: [u8; MAX_OPCODE as usize] = [
    1, 3, 0, 2, 3, 2, 2, 3, 2, 4, 5, 2, 3, 2, 3, 2, 1, 1, 0, 0, 0, 0, 2, 1, 1, 2, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
    4, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 1, 2, 1, 2, 3, 3, 3, 3, 3, 2, 1, 1,
    0, 1, 1, 3, 2, 2, 2, 5, 5, 5, 4, 2, 1, 1, 2, 2, 5, 5, 5, 2, 1, 0, 1, 2, 2, 4, 4, 4, 4, 3, 1, 2, 1, 1, 1, 2,
    6, 3, 5, 1, 2, 2, 3, 5, 7, 7, 7, 5, 3, 2, 2, 5, 6, 2, 2, 2, 2, 1, 3, 4, 0, 8, 6, 2, 6, 5, 4, 5, 4, 5, 4, 3,
    3, 3, 3, 3, 0, 1, 1, 7, 1, 5, 5, 2, 3, 3, 4, 0, 0, 2, 2, 2, 3, 4, 3, 2, 2, 4, 3, 1, 2, 1, 1, 1, 6, 3, 0, 1,
    5, 3, 2, 4, 6, 2, 4, 3, 6, 3, 5,
];

/// The meaning of an *unsigned* operand, which depends on the instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsigned {
    /// A plain number: an arity, a size, a register count.
    Number,
    /// The number of the label defined here.
    LabelDefinition,
    /// The arity in `func_info`.
    FunctionArity,
    /// An index into the line table.
    Line,
    /// An index into the import table.
    Import,
    /// An index into the fun table.
    Fun,
}

/// Returns the number of operands of an instruction.
pub(super) fn operands(opcode: u8) -> Option<u8> {
    let index = usize::from(opcode).checked_sub(1)?;
    OPERANDS.get(index).copied()
}

/// Returns the meaning of the unsigned operand at `position` of an instruction.
pub(super) fn unsigned(opcode: u8, position: u8) -> Unsigned {
    match (opcode, position) {
        (LABEL, 0) => Unsigned::LabelDefinition,
        (FUNC_INFO, 2) => Unsigned::FunctionArity,
        // line, executable_line, debug_line
        (LINE | 183, 0) | (184, 1) => Unsigned::Line,
        // bif0; call_ext, call_ext_last, call_ext_only, bif1, bif2, bif3; gc_bif1, gc_bif2, gc_bif3
        (9, 0) | (7 | 8 | 78 | 10 | 11 | 185, 1) | (124 | 125 | 152, 2) => Unsigned::Import,
        // make_fun2, make_fun3, call_fun2
        (103 | 171 | 178, 0) => Unsigned::Fun,
        _ => Unsigned::Number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operand_counts_match_the_instruction_set() {
        // opcode, operands (genop.tab)
        for (opcode, count) in [
            (1, Some(1)),
            (2, Some(3)),
            (78, Some(2)),
            (125, Some(6)),
            (153, Some(1)),
            (177, Some(6)),
            (181, Some(5)),
            (184, Some(4)),
            (191, Some(5)),
            (0, None),
            (192, None),
        ] {
            assert_eq!(operands(opcode), count, "opcode {opcode}");
        }
    }
}
