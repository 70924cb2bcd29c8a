//! Memory of another process by a handle of 64 bytes. The exporter is charged.

use std::ffi::{c_int, c_uint};

use standin_protocol::{Reply, Request};

use crate::memory::{Block, Kind};
use crate::process::process;
use crate::status::{
    Answer, INVALID_CONTEXT, INVALID_DEVICE, INVALID_HANDLE, INVALID_VALUE, UNKNOWN, code, put,
};

/// `CUipcMemHandle`. The first bytes are the driver's key, the GPU and the process, the rest is zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemoryHandle([u8; 64]);

impl MemoryHandle {
    fn new(key: u64, gpu: u32, pid: u32) -> Self {
        let mut bytes = [0; 64];
        let words = [key, u64::from(gpu), u64::from(pid)];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        Self(bytes)
    }

    fn word(&self, place: usize) -> u64 {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(self.0.iter().skip(8 * place)) {
            *to = *from;
        }
        u64::from_le_bytes(bytes)
    }
}

fn export(address: u64) -> Answer<MemoryHandle> {
    let mut process = process()?;
    let (_, block) = process.memory.around(address).ok_or(INVALID_VALUE)?;
    let address = match block {
        Block { kind: Kind::Plain, taken: Some(taken), .. } => taken,
        _ => return Err(INVALID_VALUE),
    };
    let gpu = process.number(block.device)?;
    let Reply::Key(key) = process.ask(&Request::Export { address })? else { return Err(UNKNOWN) };
    Ok(MemoryHandle::new(key, gpu, std::process::id()))
}

fn import(handle: &MemoryHandle) -> Answer<u64> {
    let mut process = process()?;
    let (context, _) = process.current()?;
    // A process does not open its own memory.
    if handle.word(2) == u64::from(std::process::id()) {
        return Err(INVALID_CONTEXT);
    }
    let gpu = u32::try_from(handle.word(1)).map_err(|_| INVALID_HANDLE)?;
    let device = process.devices.iter().position(|device| device.number == gpu).ok_or(INVALID_DEVICE)?;
    let Reply::Address { bytes, .. } = process.ask(&Request::Import { key: handle.word(0) })? else {
        return Err(INVALID_HANDLE);
    };
    let at = process.memory.own_address(bytes);
    let block = Block { context, device, bytes, taken: None, kind: Kind::Imported };
    process.memory.blocks.insert(at, block);
    Ok(at)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuIpcGetMemHandle(handle: *mut MemoryHandle, address: u64) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(export(address).and_then(|made| unsafe { put(handle, made) }))
}

/// `flags`: 1, access from other devices when it is needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuIpcOpenMemHandle_v2(to: *mut u64, handle: MemoryHandle, flags: c_uint) -> c_int {
    if to.is_null() || flags != 1 {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's out-pointer.
    code(import(&handle).and_then(|address| unsafe { put(to, address) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuIpcOpenMemHandle(to: *mut u64, handle: MemoryHandle, flags: c_uint) -> c_int {
    // SAFETY: same contract.
    unsafe { cuIpcOpenMemHandle_v2(to, handle, flags) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuIpcCloseMemHandle(address: u64) -> c_int {
    code(process().and_then(|mut process| match process.memory.blocks.get(&address) {
        Some(block) if block.kind == Kind::Imported => {
            process.memory.blocks.remove(&address);
            Ok(())
        }
        _ => Err(INVALID_VALUE),
    }))
}
