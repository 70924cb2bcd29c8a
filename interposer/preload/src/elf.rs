//! A look through the dynamic symbol tables of the loaded objects, for the two things that the loader's own
//! functions cannot tell us: where our own file is, and where the real `dlsym` is when there is no `dlvsym`.

use core::ffi::{c_char, c_int, c_void};

use crate::libc::{bytes, dl_iterate_phdr};

// Facts of the ELF format (gABI) for 64-bit objects.
#[repr(C)]
struct ObjectInfo {
    base: usize,
    name: *const c_char,
    headers: *const ProgramHeader,
    header_count: u16,
}

#[repr(C)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    physical: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

#[repr(C)]
struct Dynamic {
    tag: i64,
    value: usize,
}

#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: usize,
    size: u64,
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_NULL: i64 = 0;
const DT_HASH: i64 = 4;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_GNU_HASH: i64 = 0x6fff_fef5;
const STT_FUNC: u8 = 2;

struct Search {
    wanted: &'static [u8],
    found: *mut c_void,
}

/// The address of the function `name` in the first loaded object other than ours that defines it, or null.
pub(crate) fn find_outside(name: &'static [u8]) -> *mut c_void {
    let mut search = Search { wanted: name, found: core::ptr::null_mut() };
    // SAFETY: the callback gets our Search back and keeps nothing.
    unsafe { dl_iterate_phdr(search_object, (&raw mut search).cast()) };
    search.found
}

struct Own {
    path: [u8; 4096],
    len: usize,
}

/// Writes the path that our own file was loaded from into `to`; its length, 0 when unknown or too long.
pub(crate) fn own_path(to: &mut [u8; 4096]) -> usize {
    let mut own = Own { path: [0; 4096], len: 0 };
    // SAFETY: the callback gets our Own back and keeps nothing.
    unsafe { dl_iterate_phdr(note_own, (&raw mut own).cast()) };
    to.copy_from_slice(&own.path);
    own.len
}

fn here() -> usize {
    own_path as fn(&mut [u8; 4096]) -> usize as usize
}

/// Whether `address` is in a loadable segment of the object.
///
/// # Safety
/// `info` comes from `dl_iterate_phdr`.
unsafe fn holds(info: &ObjectInfo, address: usize) -> bool {
    // SAFETY: by contract of `dl_iterate_phdr` there are that many headers.
    let headers = unsafe { core::slice::from_raw_parts(info.headers, usize::from(info.header_count)) };
    headers.iter().any(|h| {
        let start = info.base.wrapping_add(h.address as usize);
        h.kind == PT_LOAD && address >= start && address - start < h.memory_size as usize
    })
}

unsafe extern "C" fn note_own(info: *mut c_void, _: usize, data: *mut c_void) -> c_int {
    // SAFETY: `info` is what dl_iterate_phdr documents, `data` is the Own of `own_path`.
    unsafe {
        let info = &*info.cast::<ObjectInfo>();
        let own = &mut *data.cast::<Own>();
        if !holds(info, here()) || info.name.is_null() {
            return 0;
        }
        let name = bytes(info.name);
        if let Some(to) = own.path.get_mut(..name.len()) {
            to.copy_from_slice(name);
            own.len = name.len();
        }
    }
    1
}

unsafe extern "C" fn search_object(info: *mut c_void, _: usize, data: *mut c_void) -> c_int {
    // SAFETY: `info` is what dl_iterate_phdr documents, `data` is the Search of `find_outside`.
    unsafe {
        let info = &*info.cast::<ObjectInfo>();
        let search = &mut *data.cast::<Search>();
        if holds(info, here()) {
            return 0;
        }
        search.found = find_in(info, search.wanted);
        c_int::from(!search.found.is_null())
    }
}

/// # Safety
/// `info` comes from `dl_iterate_phdr`, so its dynamic section and tables are mapped.
unsafe fn find_in(info: &ObjectInfo, wanted: &[u8]) -> *mut c_void {
    let none = core::ptr::null_mut();
    // SAFETY: that many headers.
    let headers = unsafe { core::slice::from_raw_parts(info.headers, usize::from(info.header_count)) };
    let Some(dynamic) = headers.iter().find(|h| h.kind == PT_DYNAMIC) else { return none };
    let mut entry = info.base.wrapping_add(dynamic.address as usize) as *const Dynamic;
    let (mut strings, mut symbols, mut sysv, mut gnu) = (0_usize, 0_usize, 0_usize, 0_usize);
    // glibc writes absolute addresses over the section's offsets, musl and the vDSO do not.
    let absolute = |value: usize| if value < info.base { info.base.wrapping_add(value) } else { value };
    // SAFETY: the section ends with DT_NULL.
    unsafe {
        while (*entry).tag != DT_NULL {
            match (*entry).tag {
                DT_HASH => sysv = absolute((*entry).value),
                DT_STRTAB => strings = absolute((*entry).value),
                DT_SYMTAB => symbols = absolute((*entry).value),
                DT_GNU_HASH => gnu = absolute((*entry).value),
                _ => (),
            }
            entry = entry.add(1);
        }
    }
    if strings == 0 || symbols == 0 {
        return none;
    }
    // SAFETY: the tables of a loaded object are mapped and well-formed.
    let count = unsafe {
        match (sysv, gnu) {
            (0, 0) => 0,
            (0, gnu) => gnu_symbol_count(gnu as *const u32),
            (sysv, _) => *(sysv as *const u32).add(1) as usize,
        }
    };
    for i in 0..count {
        // SAFETY: `i` is below the table's length; names are zero-terminated in the string table.
        unsafe {
            let symbol = &*(symbols as *const Symbol).add(i);
            if symbol.section != 0
                && symbol.info & 0xf == STT_FUNC
                && bytes((strings + symbol.name as usize) as *const c_char) == wanted
            {
                return info.base.wrapping_add(symbol.value) as *mut c_void;
            }
        }
    }
    none
}

/// Symbols of an object that has the GNU hash table only: the end of its last chain.
///
/// # Safety
/// `table` is a well-formed GNU hash table.
unsafe fn gnu_symbol_count(table: *const u32) -> usize {
    // SAFETY: by contract; the layout is {buckets, first symbol, bloom words, shift, bloom, buckets, chains}.
    unsafe {
        let (buckets, first, bloom) = (*table as usize, *table.add(1) as usize, *table.add(2) as usize);
        let bucket_table = table.add(4 + bloom * 2);
        let chains = bucket_table.add(buckets);
        let mut last = 0;
        for i in 0..buckets {
            last = last.max(*bucket_table.add(i) as usize);
        }
        if last < first {
            return first;
        }
        while *chains.add(last - first) & 1 == 0 {
            last += 1;
        }
        last + 1
    }
}
