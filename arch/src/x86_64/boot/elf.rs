//! An ELF kernel: where its segments go, and where it is entered.
//!
//! Follows the System V ABI (ELF-64), and for the note that names a PVH entry point
//! xen/include/public/elfnote.h. Every field is checked against what a kernel for this machine can
//! have, so that what is left is safe to load: linux-loader's ELF loader takes files for other
//! machines, and segments over the boot structures. File contents are handed in piece by piece.

use super::NotBootable;
use crate::x86_64::layout::{self, Region};

/// How an ELF file begins.
pub const MAGIC: [u8; 4] = *b"\x7fELF";

const HEADER_LEN: usize = 64;
const CLASS: usize = 4;
const CLASS_64: u8 = 2;
const DATA: usize = 5;
const LITTLE_ENDIAN: u8 = 1;
const TYPE: usize = 16;
const EXECUTABLE: u16 = 2;
const SHARED_OBJECT: u16 = 3;
const MACHINE: usize = 18;
const X86_64: u16 = 62;
const ENTRY: usize = 24;
const TABLE_OFFSET: usize = 32;
const TABLE_ENTRY_LEN: usize = 54;
const TABLE_ENTRIES: usize = 56;

const PROGRAM_HEADER_LEN: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Notes longer than this are none of a kernel's.
const NOTES_MAX: u64 = 1 << 20;

const NOTE_HEADER_LEN: usize = 12;
const XEN: &[u8] = b"Xen\0";
/// `XEN_ELFNOTE_PHYS32_ENTRY`
const PHYS32_ENTRY: u32 = 18;

/// An ELF header, as far as a boot loader needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The entry point.
    pub entry: u64,
    /// Where the program headers are, in bytes from the start of the file.
    pub table: Region,
}

/// A segment to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file it is.
    pub file: Region,
    /// Where in guest memory it goes. What `file` does not fill is zero.
    pub memory: Region,
}

/// Notes in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notes {
    /// Where in the file they are.
    pub file: Region,
    /// What their parts are aligned to, in bytes.
    align: usize,
}

/// What the program headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// What is to be loaded, at least one segment.
    pub segments: Vec<Segment>,
    /// Where a PVH entry point may be named.
    pub notes: Vec<Notes>,
}

impl Header {
    /// Reads the header at the start of a file.
    ///
    /// # Errors
    /// [`NotBootable`] when it is none of an x86-64 kernel.
    pub fn parse(head: &[u8]) -> Result<Header, NotBootable> {
        let truncated = NotBootable::OtherElf("it is cut off");
        let head = head.get(..HEADER_LEN).ok_or(truncated)?;
        let is_64 = (head[CLASS], head[DATA]) == (CLASS_64, LITTLE_ENDIAN);
        if !is_64 || u16_at(head, MACHINE) != X86_64 {
            return Err(NotBootable::OtherMachine);
        }
        if !matches!(u16_at(head, TYPE), EXECUTABLE | SHARED_OBJECT) {
            return Err(NotBootable::OtherElf("it is not linked"));
        }
        if usize::from(u16_at(head, TABLE_ENTRY_LEN)) != PROGRAM_HEADER_LEN {
            return Err(NotBootable::OtherElf("it has no program headers"));
        }
        let size = u64::from(u16_at(head, TABLE_ENTRIES)) * PROGRAM_HEADER_LEN as u64;
        let table = file_region(u64_at(head, TABLE_OFFSET), size)?;
        Ok(Header { entry: u64_at(head, ENTRY), table })
    }
}

impl Contents {
    /// Reads the program headers of [`Header::table`].
    ///
    /// # Errors
    /// [`NotBootable`] when they cannot be loaded on this machine.
    pub fn parse(table: &[u8]) -> Result<Contents, NotBootable> {
        let mut contents = Contents::default();
        for header in table.chunks_exact(PROGRAM_HEADER_LEN) {
            let file = file_region(u64_at(header, 8), u64_at(header, 32))?;
            match u32_at(header, 0) {
                PT_LOAD => contents.segments.extend(segment(file, header)?),
                PT_NOTE if file.size <= NOTES_MAX => {
                    let align = if u64_at(header, 48) == 8 { 8 } else { 4 };
                    contents.notes.push(Notes { file, align });
                }
                _ => {}
            }
        }
        if contents.segments.is_empty() {
            return Err(NotBootable::OtherElf("there is nothing to load"));
        }
        Ok(contents)
    }

    /// Whether a segment has an entry point at `address`.
    ///
    /// # Errors
    /// [`NotBootable`] when none has.
    pub fn check_entry(&self, address: u64) -> Result<(), NotBootable> {
        let code = |segment: &Segment| Region { size: segment.file.size, ..segment.memory };
        let entry = Region { base: address, size: 1 };
        if address < u64::MAX && self.segments.iter().any(|segment| code(segment).overlaps(&entry))
        {
            return Ok(());
        }
        Err(NotBootable::OtherElf("its entry point is outside of what is loaded"))
    }
}

/// The segment that a program header describes; `None` if it takes no memory.
fn segment(file: Region, header: &[u8]) -> Result<Option<Segment>, NotBootable> {
    let memory = Region { base: u64_at(header, 24), size: u64_at(header, 40) };
    if memory.size == 0 {
        return Ok(None);
    }
    if file.size > memory.size || memory.base.checked_add(memory.size).is_none() {
        return Err(NotBootable::OtherElf("a segment is impossible"));
    }
    if memory.base < layout::HIGH_RAM {
        return Err(NotBootable::OtherElf("a segment lies below 1 MiB"));
    }
    Ok(Some(Segment { file, memory }))
}

impl Notes {
    /// The PVH entry point that these notes name; `bytes` are those of `file`.
    pub fn pvh_entry(&self, bytes: &[u8]) -> Option<u32> {
        let mut rest = bytes;
        loop {
            let header = rest.get(..NOTE_HEADER_LEN)?;
            let name_len = usize::try_from(u32_at(header, 0)).ok()?;
            let value_len = usize::try_from(u32_at(header, 4)).ok()?;
            let value_at =
                NOTE_HEADER_LEN.checked_add(name_len)?.checked_next_multiple_of(self.align)?;
            let value_end = value_at.checked_add(value_len)?;
            let name = rest.get(NOTE_HEADER_LEN..)?.get(..name_len)?;
            let value = rest.get(value_at..value_end)?;
            if name == XEN && u32_at(header, 8) == PHYS32_ENTRY {
                return value.first_chunk().map(|address| u32::from_le_bytes(*address));
            }
            rest = rest.get(value_end.checked_next_multiple_of(self.align)?..)?;
        }
    }
}

fn file_region(base: u64, size: u64) -> Result<Region, NotBootable> {
    base.checked_add(size).ok_or(NotBootable::OtherElf("its parts are nowhere"))?;
    Ok(Region { base, size })
}

/// The field at `at` of a header that is known to hold it.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn head(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut head = vec![0; HEADER_LEN];
        head[..4].copy_from_slice(&MAGIC);
        (head[CLASS], head[DATA]) = (CLASS_64, LITTLE_ENDIAN);
        (head[TYPE], head[MACHINE]) = (2, 62);
        head[ENTRY..][..8].copy_from_slice(&(16 * MIB).to_le_bytes());
        head[TABLE_OFFSET] = 64;
        (head[TABLE_ENTRY_LEN], head[TABLE_ENTRIES]) = (56, 3);
        change(&mut head);
        head
    }

    /// A program header: type, file offset, physical address, size in the file and in memory.
    fn program_header(kind: u32, fields: [u64; 4], align: u64) -> Vec<u8> {
        let [offset, address, file, memory] = fields;
        let mut header = [kind, 5].map(u32::to_le_bytes).concat();
        for field in [offset, !address, address, file, memory, align] {
            header.extend(field.to_le_bytes());
        }
        header
    }

    fn load(fields: [u64; 4]) -> Vec<u8> {
        program_header(PT_LOAD, fields, 4096)
    }

    fn note(name: &[u8], kind: u32, value: &[u8], align: usize) -> Vec<u8> {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let mut note = [len(name), len(value), kind.to_le_bytes()].concat();
        for part in [name, value] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(align), 0);
        }
        note
    }

    fn notes(align: usize) -> Notes {
        Notes { file: Region { base: 0, size: 0 }, align }
    }

    #[test]
    fn the_header_tells_the_entry_and_the_table() {
        let header = Header::parse(&head(|_| {})).unwrap();
        let table = Region { base: 64, size: 3 * 56 };
        assert_eq!(header, Header { entry: 16 * MIB, table });
    }

    #[test]
    fn other_elf_files_are_refused() {
        let parse = |change: fn(&mut [u8])| Header::parse(&head(change)).unwrap_err();
        assert_eq!(parse(|head| head[CLASS] = 1), NotBootable::OtherMachine);
        assert_eq!(parse(|head| head[DATA] = 2), NotBootable::OtherMachine);
        assert_eq!(parse(|head| head[MACHINE] = 183), NotBootable::OtherMachine);
        for change in [
            (|head| head[TYPE] = 1) as fn(&mut [u8]),
            |head| head[TABLE_ENTRY_LEN] = 32,
            |head| head[TABLE_OFFSET..][..8].fill(0xff),
        ] {
            assert!(matches!(parse(change), NotBootable::OtherElf(_)));
        }
        assert!(matches!(Header::parse(&MAGIC), Err(NotBootable::OtherElf(_))));
    }

    #[test]
    fn segments_and_notes_are_found_and_the_rest_is_not() {
        let table = [
            load([0x1000, 16 * MIB, 0x2000, 0x2000]),
            load([0x3000, 32 * MIB, 0x10, 0x5000]),
            load([0x3000, 0, 0, 0]),
            program_header(PT_NOTE, [0x4000, 0, 0x40, 0x40], 8),
            program_header(6, [0, 0, u64::MAX, 0], 0),
        ];
        let contents = Contents::parse(&table[..4].concat()).unwrap();
        let segment = |file: [u64; 2], memory: [u64; 2]| Segment {
            file: Region { base: file[0], size: file[1] },
            memory: Region { base: memory[0], size: memory[1] },
        };
        assert_eq!(
            contents.segments,
            [
                segment([0x1000, 0x2000], [16 * MIB, 0x2000]),
                segment([0x3000, 0x10], [32 * MIB, 0x5000]),
            ]
        );
        let file = Region { base: 0x4000, size: 0x40 };
        assert_eq!(contents.notes, [Notes { file, align: 8 }]);
        for entry in [16 * MIB, 16 * MIB + 0x1fff, 32 * MIB] {
            assert_eq!(contents.check_entry(entry), Ok(()));
        }
        for entry in [0, 16 * MIB - 1, 16 * MIB + 0x2000, 32 * MIB + 0x10, u64::MAX] {
            assert!(contents.check_entry(entry).is_err());
        }
    }

    #[test]
    fn segments_that_cannot_be_loaded_are_refused() {
        for fields in [
            [0, 0x7000, 0x1000, 0x1000],
            [0, 16 * MIB, 0x2000, 0x1000],
            [0, u64::MAX - 0xfff, 0x10, 0x1000],
            [u64::MAX, 16 * MIB, 0x10, 0x1000],
        ] {
            assert!(Contents::parse(&load(fields)).is_err(), "{fields:x?}");
        }
        assert!(Contents::parse(&[]).is_err());
    }

    #[test]
    fn the_pvh_entry_is_found_among_the_notes() {
        for align in [4, 8] {
            let wanted = note(b"Xen\0", 18, &0x0123_4567_u32.to_le_bytes(), align);
            let others = [
                note(b"GNU\0", 18, &[1; 20], align),
                note(b"Xen\0", 6, b"linux\0", align),
                note(b"", 18, b"", align),
            ]
            .concat();
            let all = [others.clone(), wanted].concat();
            assert_eq!(notes(align).pvh_entry(&all), Some(0x0123_4567));
            assert_eq!(notes(align).pvh_entry(&others), None);
            for end in 0..all.len() {
                let cut = notes(align).pvh_entry(&all[..end]);
                assert!(cut.is_none() || end + align > all.len());
            }
        }
        assert_eq!(notes(4).pvh_entry(&note(b"Xen\0", 18, &[1, 2], 4)), None);
        assert_eq!(notes(4).pvh_entry(&[0xff; 64]), None);
    }
}
