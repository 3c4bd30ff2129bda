//! The OTP release that a module was compiled for.
//!
//! Two facts tell it: the version of the compiler, which is in the module, and the module's newest
//! instruction. The instruction alone decides whether a VM can load the module. A compiler that
//! does not use its newest instructions makes modules that earlier releases can load.

use super::iff::{self, Container, Reading};
use crate::delta::cursor::Cursor;

/// The last instruction of each release.
const LAST_OPCODES: [(u64, u32); 7] = [
    (23, 170),
    (24, 176),
    (25, 180),
    (26, 182),
    (27, 183),
    (28, 184),
    (29, 191),
];

/// The first release whose atom tables have a negative count.
const LONG_ATOMS_OTP: u64 = 28;

/// The origin of a module, and the releases that can load it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BeamOrigin {
    /// The release whose compiler made it. If that is unknown, the first release that could have
    /// made it.
    pub compiled_by: u64,
    /// The first release whose VM can load it.
    pub needs: u64,
}

/// Returns the origin of a BEAM file; `None` if the bytes are not a BEAM file.
pub(in crate::delta) fn origin(file: &[u8]) -> Option<BeamOrigin> {
    let unzipped = iff::unzip(file, Reading::Base).ok()?;
    let form = unzipped.as_ref().map_or(file, |(_, gzip)| &gzip.content);
    let container = Container::read(form, Reading::Compressed).ok()?;
    let needs = opcode_release(container.data(*b"Code")?)?;
    let has_long_atoms = container
        .data(*b"AtU8")
        .and_then(|atoms| atoms.first())
        .is_some_and(|first| first & 0x80 != 0);
    let needs = if has_long_atoms {
        needs.max(LONG_ATOMS_OTP)
    } else {
        needs
    };
    let compiler = container.data(*b"CInf").and_then(compiler_release);
    Some(BeamOrigin {
        compiled_by: compiler.map_or(needs, |release| release.max(needs)),
        needs,
    })
}

/// Returns the first release that has the newest instruction of a code chunk.
fn opcode_release(code: &[u8]) -> Option<u64> {
    let mut header = Cursor::new(code.get(8..)?);
    let last = u32::from_be_bytes(header.array().ok()?);
    let known = LAST_OPCODES.iter().find(|(_, opcode)| last <= *opcode);
    Some(known.map_or(
        LAST_OPCODES[LAST_OPCODES.len() - 1].0 + 1,
        |(release, _)| *release,
    ))
}

/// Returns the release of the compiler whose version is in the compile information.
fn compiler_release(info: &[u8]) -> Option<u64> {
    // The atom `version`, followed by a string, in the external term format.
    const KEY: &[u8] = b"\x07version\x6b";
    let at = info.windows(KEY.len()).position(|window| window == KEY)?;
    let mut cursor = Cursor::new(&info[at + KEY.len()..]);
    let length = usize::from(u16::from_be_bytes(cursor.array().ok()?));
    let version = std::str::from_utf8(cursor.take(length).ok()?).ok()?;
    let mut numbers = version.split('.').map(str::parse::<u64>);
    let major = numbers.next()?.ok()?;
    let minor = numbers.next().and_then(Result::ok).unwrap_or_default();
    match (major, minor) {
        (7, 6..) => Some(23),
        (8, ..=1) => Some(24),
        (8, 2) => Some(25),
        (8, ..=4) => Some(26),
        (8, _) => Some(27),
        (9.., _) => major.checked_add(19),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::inflate::Deflater;

    /// A module with a given newest instruction, compiler and kind of atom table.
    fn module(opcode: u32, compiler: Option<&str>, has_long_atoms: bool) -> Vec<u8> {
        let mut code = [0; 8].to_vec();
        code.extend_from_slice(&opcode.to_be_bytes());
        code.extend_from_slice(&[0; 8]);
        let count: i32 = if has_long_atoms { -1 } else { 1 };
        let mut atoms = count.to_be_bytes().to_vec();
        atoms.extend_from_slice(if has_long_atoms { b"\x10m" } else { b"\x01m" });
        let mut chunks = vec![(*b"AtU8", atoms), (*b"Code", code)];
        if let Some(version) = compiler {
            let mut info = b"\x83l\0\0\0\x01h\x02w\x07version\x6b\0".to_vec();
            info.push(u8::try_from(version.len()).expect("a short version"));
            info.extend_from_slice(version.as_bytes());
            info.extend_from_slice(b"jj");
            chunks.push((*b"CInf", info));
        }
        Container::write(None, &chunks, &Deflater::default()).expect("a file")
    }

    #[test]
    fn compiler_and_instructions_tell_the_release() {
        let table = [
            (169, Some("7.6.6"), false, 23, 23),
            (171, Some("8.1.1"), false, 24, 24),
            (169, Some("8.2.3"), false, 25, 23),
            (182, Some("8.4.2"), false, 26, 26),
            (182, Some("8.6.1"), false, 27, 26),
            (171, Some("8.6.1"), false, 27, 24),
            (181, Some("9.0.1"), true, 28, 28),
            (182, Some("10.0.6"), true, 29, 28),
            (182, None, false, 26, 26),
            (182, Some("unknown"), true, 28, 28),
            (9999, Some("12.1"), true, 31, 30),
            (u32::MAX, None, false, 30, 30),
        ];
        for (opcode, compiler, has_long_atoms, compiled_by, needs) in table {
            let found = origin(&module(opcode, compiler, has_long_atoms));
            let expected = BeamOrigin { compiled_by, needs };
            assert_eq!(found, Some(expected), "{opcode} {compiler:?}");
        }
        for other in [&b""[..], b"FOR1", b"FOR1\0\0\0\x04BEAM", b"\x1f\x8b"] {
            assert_eq!(origin(other), None, "{other:?}");
        }
    }
}
