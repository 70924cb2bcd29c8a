//! Every way to take device memory.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use crate::api::{Api, Opaque, Refused, call};

/// How memory is taken.
pub const KINDS: [&str; 10] =
    ["alloc", "pitch", "managed", "async", "pool", "vmm", "mapped", "array", "array3d", "mipmap"];

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Location {
    pub kind: c_int,
    pub id: c_int,
}

/// `CUmemAllocationProp`.
#[repr(C)]
pub struct AllocationProperties {
    pub kind: c_int,
    pub handle_types: c_int,
    pub location: Location,
    pub metadata: *mut c_void,
    pub flags: [u8; 8],
}

impl AllocationProperties {
    /// Pinned memory of a device that can be shared by descriptor.
    pub fn of(device: c_int) -> Self {
        let location = Location { kind: 1, id: device };
        Self { kind: 1, handle_types: 1, location, metadata: null_mut(), flags: [0; 8] }
    }
}

/// `CUmemAccessDesc`.
#[repr(C)]
pub struct Access {
    pub location: Location,
    pub flags: c_int,
}

/// `CUmemPoolProps`.
#[repr(C)]
struct PoolProperties {
    kind: c_int,
    handle_types: c_int,
    location: Location,
    security: *mut c_void,
    most: usize,
    usage: u16,
    reserved: [u8; 54],
}

/// `CUDA_ARRAY_DESCRIPTOR`.
#[repr(C)]
struct ArrayDescriptor {
    width: usize,
    height: usize,
    format: c_int,
    channels: u32,
}

/// `CUDA_ARRAY3D_DESCRIPTOR`.
#[repr(C)]
struct Array3dDescriptor {
    width: usize,
    height: usize,
    depth: usize,
    format: c_int,
    channels: u32,
    flags: u32,
}

/// `CU_AD_FORMAT_UNSIGNED_INT8`.
const BYTES: c_int = 1;

/// Rows of arrays and pitched memory.
const ROW: usize = 4096;

impl Api {
    fn pool(&mut self) -> Result<Opaque, Refused> {
        if self.pool.is_null() {
            let properties = PoolProperties {
                kind: 1,
                handle_types: 0,
                location: Location { kind: 1, id: self.device },
                security: null_mut(),
                most: 0,
                usage: 0,
                reserved: [0; 54],
            };
            call!(
                self,
                "cuMemPoolCreate",
                (*mut Opaque, *const PoolProperties),
                &mut self.pool,
                &properties
            )?;
        }
        Ok(self.pool)
    }

    pub fn create_physical(&self, bytes: usize) -> Result<u64, Refused> {
        let (properties, mut handle) = (AllocationProperties::of(self.device), 0);
        call!(
            self,
            "cuMemCreate",
            (*mut u64, usize, *const AllocationProperties, u64),
            &mut handle,
            bytes,
            &properties,
            0
        )?;
        Ok(handle)
    }

    /// Reserves addresses, maps memory there and allows the device to use it.
    pub fn map_physical(&self, handle: u64, bytes: usize) -> Result<u64, Refused> {
        let mut address = 0;
        type U = u64;
        call!(self, "cuMemAddressReserve", (*mut U, usize, usize, U, U), &mut address, bytes, 0, 0, 0)?;
        call!(self, "cuMemMap", (u64, usize, usize, u64, u64), address, bytes, 0, handle, 0)?;
        let access = Access { location: Location { kind: 1, id: self.device }, flags: 3 };
        call!(self, "cuMemSetAccess", (u64, usize, *const Access, usize), address, bytes, &access, 1)?;
        Ok(address)
    }

    pub fn unmap(&self, address: u64, bytes: usize) -> Result<(), Refused> {
        call!(self, "cuMemUnmap", (u64, usize), address, bytes)?;
        call!(self, "cuMemAddressFree", (u64, usize), address, bytes)
    }

    /// Takes memory; what names it.
    pub fn allocate(&mut self, kind: &str, bytes: usize) -> Result<u64, Refused> {
        let mut address = 0u64;
        let mut array: Opaque = null_mut();
        match kind {
            "alloc" => call!(self, "cuMemAlloc", (*mut u64, usize), &mut address, bytes)?,
            "pitch" => {
                let mut pitch = 0usize;
                call!(
                    self,
                    "cuMemAllocPitch",
                    (*mut u64, *mut usize, usize, usize, u32),
                    &mut address,
                    &mut pitch,
                    ROW,
                    bytes / ROW,
                    4
                )?;
            }
            "managed" => call!(self, "cuMemAllocManaged", (*mut u64, usize, u32), &mut address, bytes, 1)?,
            "async" => {
                let stream = self.stream()?;
                call!(self, "cuMemAllocAsync", (*mut u64, usize, Opaque), &mut address, bytes, stream)?;
            }
            "pool" => {
                let (pool, stream) = (self.pool()?, self.stream()?);
                call!(
                    self,
                    "cuMemAllocFromPoolAsync",
                    (*mut u64, usize, Opaque, Opaque),
                    &mut address,
                    bytes,
                    pool,
                    stream
                )?;
            }
            "vmm" => address = self.create_physical(bytes)?,
            "mapped" => {
                let handle = self.create_physical(bytes)?;
                address = self.map_physical(handle, bytes)?;
                // The mapping holds the memory.
                call!(self, "cuMemRelease", (u64), handle)?;
            }
            "array" => {
                let (width, height) = (ROW, bytes / ROW);
                let descriptor = ArrayDescriptor { width, height, format: BYTES, channels: 1 };
                call!(self, "cuArrayCreate", (*mut Opaque, *const ArrayDescriptor), &mut array, &descriptor)?;
            }
            "array3d" => {
                let descriptor = deep(bytes);
                call!(
                    self,
                    "cuArray3DCreate",
                    (*mut Opaque, *const Array3dDescriptor),
                    &mut array,
                    &descriptor
                )?;
            }
            "mipmap" => {
                let descriptor = deep(bytes);
                call!(
                    self,
                    "cuMipmappedArrayCreate",
                    (*mut Opaque, *const Array3dDescriptor, u32),
                    &mut array,
                    &descriptor,
                    1
                )?;
            }
            _ => return Err(Refused { function: "unknown kind of allocation", code: -1 }),
        }
        Ok(if array.is_null() { address } else { array as u64 })
    }

    /// Gives it back.
    pub fn free(&mut self, kind: &str, address: u64, bytes: usize) -> Result<(), Refused> {
        match kind {
            "async" | "pool" => {
                let stream = self.stream()?;
                call!(self, "cuMemFreeAsync", (u64, Opaque), address, stream)
            }
            "vmm" => call!(self, "cuMemRelease", (u64), address),
            "mapped" => self.unmap(address, bytes),
            "array" | "array3d" => call!(self, "cuArrayDestroy", (Opaque), address as Opaque),
            "mipmap" => call!(self, "cuMipmappedArrayDestroy", (Opaque), address as Opaque),
            _ => call!(self, "cuMemFree", (u64), address),
        }
    }

    /// After frees in stream order: waits, so that the pool gives back what it does not need.
    pub fn settle(&mut self, kind: &str) -> Result<(), Refused> {
        if ["async", "pool"].contains(&kind) { call!(self, "cuCtxSynchronize", (),) } else { Ok(()) }
    }
}

fn deep(bytes: usize) -> Array3dDescriptor {
    let depth = bytes.div_ceil(ROW * 512).max(1);
    let height = (bytes / ROW / depth).max(1);
    Array3dDescriptor { width: ROW, height, depth, format: BYTES, channels: 1, flags: 0 }
}
