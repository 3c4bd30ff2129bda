//! The cache of the stats and hashes of one directory's files.
//!
//! This module is pure. The cache is one value per directory, as Git's index is one file. Reading
//! thousands of rows one by one would cost more than the scan that the cache saves. It is only a
//! cache: if its bytes cannot be read, it counts as empty, and the next scan takes longer.

use std::cmp::Ordering;

use crate::bytes::{ReadError, Reader, Writer};
use crate::limits;
use crate::tree::id::Sha256;
use crate::tree::scan::FileStat;

const VERSION: u8 = 1;
/// The size of the shortest entry: path of one byte, flags, size, two times, inode, hash.
const SHORTEST_ENTRY_BYTES: usize = 2 + 1 + 1 + 8 + 8 + 1 + 32;

/// The facts known about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CachedFile {
    /// The path, relative to the directory.
    pub(crate) path: Vec<u8>,
    pub(crate) stat: FileStat,
    pub(crate) sha256: Sha256,
    /// Whether the store has the content. It does not have that of files that the rules left out.
    pub(crate) is_stored: bool,
}

/// Encodes files that ascend by path.
pub(super) fn encode(files: &[CachedFile]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(files.len() * 128 + 16);
    writer.u8(VERSION);
    writer.length(files.len());
    for file in files {
        writer.blob(&file.path);
        writer.u8(file.is_stored.into());
        writer.varint(file.stat.size);
        writer.u64(file.stat.mtime_ns.cast_unsigned());
        writer.u64(file.stat.ctime_ns.cast_unsigned());
        writer.varint(file.stat.inode);
        writer.bytes(file.sha256.as_bytes());
    }
    let crc = crc32fast::hash(writer.as_slice());
    writer.u32(crc);
    writer.into_vec()
}

/// Decodes files. A damaged cache counts as empty.
pub(super) fn decode(bytes: &[u8]) -> Vec<CachedFile> {
    let Some((bytes, crc)) = bytes.split_last_chunk::<4>() else {
        return Vec::new();
    };
    if u32::from_be_bytes(*crc) != crc32fast::hash(bytes) {
        return Vec::new();
    }
    read_files(Reader::new(bytes)).unwrap_or_default()
}

fn read_files(mut reader: Reader<'_>) -> Result<Vec<CachedFile>, ReadError> {
    if reader.u8()? != VERSION {
        return Ok(Vec::new());
    }
    let count = reader.length(reader.remaining() / SHORTEST_ENTRY_BYTES)?;
    let mut files = Vec::with_capacity(count);
    for _ in 0..count {
        let path = reader.blob(limits::PATH_BYTES)?.to_vec();
        if path.is_empty() {
            return Ok(Vec::new());
        }
        files.push(CachedFile {
            path,
            is_stored: reader.u8()? != 0,
            stat: FileStat {
                size: reader.varint()?,
                mtime_ns: reader.u64()?.cast_signed(),
                ctime_ns: reader.u64()?.cast_signed(),
                inode: reader.varint()?,
            },
            sha256: Sha256(reader.array()?),
        });
    }
    reader.finish()?;
    Ok(files)
}

/// A lookup of files in ascending order of their paths. It is faster than a search for each.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    files: std::iter::Peekable<std::slice::Iter<'a, CachedFile>>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(files: &'a [CachedFile]) -> Self {
        Self {
            files: files.iter().peekable(),
        }
    }

    /// Finds a file that is unchanged. Paths must ascend from call to call.
    pub(crate) fn unchanged(&mut self, path: &[u8], stat: &FileStat) -> Option<&'a CachedFile> {
        while let Some(file) = self.files.peek() {
            match file.path.as_slice().cmp(path) {
                Ordering::Less => {
                    self.files.next();
                }
                Ordering::Equal => return self.files.next().filter(|file| file.stat == *stat),
                Ordering::Greater => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_file() -> impl Strategy<Value = CachedFile> {
        (
            prop::collection::vec(any::<u8>(), 1..20),
            any::<(u64, i64, i64, u64, [u8; 32], bool)>(),
        )
            .prop_map(
                |(path, (size, mtime_ns, ctime_ns, inode, sha256, is_stored))| CachedFile {
                    path,
                    stat: FileStat {
                        size,
                        mtime_ns,
                        ctime_ns,
                        inode,
                    },
                    sha256: Sha256(sha256),
                    is_stored,
                },
            )
    }

    #[test]
    fn what_nobody_writes_is_an_empty_cache() {
        let file = |path: &[u8]| CachedFile {
            path: path.to_vec(),
            stat: FileStat {
                size: 0,
                mtime_ns: 0,
                ctime_ns: 0,
                inode: 0,
            },
            sha256: Sha256([0; 32]),
            is_stored: true,
        };
        assert_eq!(decode(&encode(&[file(b"a"), file(b"")])), vec![]);
        let sealed = encode(&[file(b"a")]);
        let longer = [&sealed[..sealed.len() - 4], b"more"].concat();
        let longer = [&longer[..], &crc32fast::hash(&longer).to_be_bytes()].concat();
        assert_eq!(decode(&longer), vec![]);
    }

    proptest! {
        #[test]
        fn files_come_back(files in prop::collection::vec(any_file(), 0..20)) {
            prop_assert_eq!(decode(&encode(&files)), files);
        }

        #[test]
        fn damage_empties_the_cache(files in prop::collection::vec(any_file(), 1..5), at: prop::sample::Index, bit in 0_u8..8) {
            let mut bytes = encode(&files);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(decode(&bytes), vec![]);
            prop_assert_eq!(decode(&bytes[..at]), vec![]);
        }

        #[test]
        fn the_cursor_finds_what_a_search_finds(mut files in prop::collection::vec(any_file(), 0..20), mut asked in prop::collection::vec(any_file(), 0..20)) {
            files.sort_by(|a, b| a.path.cmp(&b.path));
            files.dedup_by(|a, b| a.path == b.path);
            asked.extend(files.iter().cloned());
            asked.sort_by(|a, b| a.path.cmp(&b.path));
            asked.dedup_by(|a, b| a.path == b.path);
            let mut cursor = Cursor::new(&files);
            for file in &asked {
                let expected = files.iter().find(|known| known.path == file.path && known.stat == file.stat);
                prop_assert_eq!(cursor.unchanged(&file.path, &file.stat), expected);
            }
        }
    }
}
