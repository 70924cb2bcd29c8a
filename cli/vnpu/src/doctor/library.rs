//! What a shared library offers and asks for, by its dynamic tables. A file is judged, never loaded: it may be of
//! another machine, and its constructors are nobody's business here.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use object::elf::{FileHeader64, Machine, VersionIndex};
use object::read::elf::{ElfFile, FileHeader};
use object::{Endianness, Object, ObjectSymbol};

/// A library that was read.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) path: PathBuf,
    /// The file behind the links: its name often says a version.
    pub(crate) file: PathBuf,
    machine: Machine,
    /// Functions and variables that it defines for others.
    pub(crate) exports: BTreeSet<String>,
    /// The newest version of the C library that it asks for.
    pub(crate) needs_glibc: Option<Glibc>,
    /// The newest version of the C library that it is.
    pub(crate) is_glibc: Option<Glibc>,
}

/// A version of the GNU C library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Glibc(pub(crate) u32, pub(crate) u32);

impl fmt::Display for Glibc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Glibc {
    /// From `2.31`, or from the name of a version such as `GLIBC_2.2.5`; `None` for `GLIBC_PRIVATE`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("GLIBC_").unwrap_or(text).split('.').map(str::parse);
        Some(Self(parts.next()?.ok()?, parts.next()?.ok()?))
    }
}

/// Larger files are no vendor's library.
const LARGEST: u64 = 1 << 30;
/// More versions than any library has.
const VERSIONS: u16 = 1000;

impl Library {
    /// Reads the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let file = fs::canonicalize(path).map_err(|e| e.to_string())?;
        let mut bytes = Vec::new();
        let opened = File::open(&file).map_err(|e| e.to_string())?;
        opened.take(LARGEST).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        let elf = ElfFile::<FileHeader64<Endianness>>::parse(bytes.as_slice())
            .map_err(|e| format!("it is no 64-bit library ({e})"))?;
        let mut exports = BTreeSet::new();
        for symbol in elf.dynamic_symbols().filter(|s| s.is_definition() && s.is_global()) {
            exports.extend(symbol.name().ok().filter(|name| !name.is_empty()).map(str::to_owned));
        }
        let endian = elf.endian();
        let (mut needs_glibc, mut is_glibc) = (None, None);
        if let Ok(Some(versions)) = elf.elf_section_table().versions(endian, bytes.as_slice()) {
            // 0 and 1 stand for "local" and "none".
            for index in 2..VERSIONS {
                let Ok(version) = versions.version(VersionIndex(index)) else { break };
                let Some(version) = version else { continue };
                let name = std::str::from_utf8(version.name()).ok();
                let Some(glibc) = name.filter(|n| n.starts_with("GLIBC_")).and_then(Glibc::parse) else {
                    continue;
                };
                let place = if version.file().is_some() { &mut needs_glibc } else { &mut is_glibc };
                *place = (*place).max(Some(glibc));
            }
        }
        let machine = elf.elf_header().e_machine(endian);
        Ok(Self { path: path.to_owned(), file, machine, exports, needs_glibc, is_glibc })
    }

    /// Whether one process can have both.
    pub(crate) fn goes_with(&self, other: &Self) -> bool {
        self.machine == other.machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let parse = |text| Glibc::parse(text);
        assert_eq!(parse("GLIBC_2.2.5"), Some(Glibc(2, 2)));
        assert!(parse("GLIBC_2.4") < parse("2.17") && parse("2.17") < parse("2.36"));
        for none in ["GLIBC_PRIVATE", "", "2", "GLIBC_2.x"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    #[test]
    fn this_machines_own_c_library_tells_its_version_and_its_functions() {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let path =
            maps.lines().find_map(|l| l.split_whitespace().last().filter(|p| p.ends_with("libc.so.6")));
        let libc = Library::read(Path::new(path.unwrap())).unwrap();
        assert!(libc.exports.contains("malloc") && libc.is_glibc > Some(Glibc(2, 17)), "{:?}", libc.is_glibc);
        let own = Library::read(Path::new("/proc/self/exe")).unwrap();
        assert!(own.needs_glibc.is_some() && own.needs_glibc <= libc.is_glibc && own.goes_with(&libc));
    }

    #[test]
    fn what_is_no_library_is_told_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        for bytes in [&b""[..], b"hello", b"\x7fELF\x02\x01\x01", &[0x7f; 4096]] {
            fs::write(&file, bytes).unwrap();
            assert!(Library::read(&file).unwrap_err().contains("no 64-bit library"));
        }
        // Cut and with rubbish in it: an answer, whichever.
        let whole = fs::read("/proc/self/exe").unwrap();
        for size in [64, 1000, whole.len() / 2] {
            fs::write(&file, &whole[..size]).unwrap();
            let _ = Library::read(&file);
        }
        assert!(Library::read(Path::new("/nonexistent")).is_err());
    }
}
