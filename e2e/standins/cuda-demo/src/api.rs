//! The driver's functions behind one face.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

/// Finds a driver function by the name that programs write; null when it is not there.
pub trait Find {
    /// The function's address.
    fn find(&self, name: &str) -> *mut c_void;
}

/// A call that did not return 0.
#[derive(Debug)]
pub struct Refused {
    pub function: &'static str,
    pub code: c_int,
}

/// Free and all bytes.
pub struct Memory {
    pub free: usize,
    pub total: usize,
}

/// Device memory, a stream, ...: what the driver names by an opaque pointer.
pub type Opaque = *mut c_void;

/// The functions.
pub struct Api {
    find: Box<dyn Find>,
    /// The current device, by the driver's number.
    pub device: c_int,
    /// A stream of the program's own; null before it is needed.
    pub stream: Opaque,
    /// A pool, likewise.
    pub pool: Opaque,
}

/// Calls a driver function; its signature is given at the call.
macro_rules! call {
    ($api:expr, $name:literal, ($($kind:ty),*), $($value:expr),*) => {{
        let function = $api.address($name);
        if function.is_null() {
            Err($crate::api::Refused { function: concat!($name, " (not there)"), code: -1 })
        } else {
            // SAFETY: the address is the driver's function of that name, whose signature is the one given here.
            let function: unsafe extern "C" fn($($kind),*) -> std::ffi::c_int =
                unsafe { std::mem::transmute(function) };
            // SAFETY: the arguments live over the call and are of the types that the function takes.
            match unsafe { function($($value),*) } {
                0 => Ok(()),
                code => Err($crate::api::Refused { function: $name, code }),
            }
        }
    }};
}
pub(crate) use call;

impl Api {
    pub fn new(find: Box<dyn Find>) -> Self {
        Self { find, device: 0, stream: null_mut(), pool: null_mut() }
    }

    pub fn address(&self, name: &str) -> Opaque {
        self.find.find(name)
    }

    pub fn init(&self) -> Result<(), Refused> {
        call!(self, "cuInit", (u32), 0)
    }

    pub fn version(&self) -> Result<c_int, Refused> {
        let mut version = 0;
        call!(self, "cuDriverGetVersion", (*mut c_int), &mut version)?;
        Ok(version)
    }

    pub fn device_count(&self) -> Result<c_int, Refused> {
        let mut count = 0;
        call!(self, "cuDeviceGetCount", (*mut c_int), &mut count)?;
        Ok(count)
    }

    /// Makes the primary context of a device the thread's.
    pub fn set_device(&mut self, ordinal: c_int) -> Result<(), Refused> {
        let mut context = null_mut();
        call!(self, "cuDeviceGet", (*mut c_int, c_int), &mut self.device, ordinal)?;
        call!(self, "cuDevicePrimaryCtxRetain", (*mut Opaque, c_int), &mut context, self.device)?;
        call!(self, "cuCtxSetCurrent", (Opaque), context)
    }

    pub fn name(&self, device: c_int) -> Result<String, Refused> {
        let mut text = [0u8; 96];
        call!(self, "cuDeviceGetName", (*mut u8, c_int, c_int), text.as_mut_ptr(), 96, device)?;
        Ok(text.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect())
    }

    pub fn uuid(&self, device: c_int) -> Result<String, Refused> {
        let mut uuid = [0u8; 16];
        call!(self, "cuDeviceGetUuid", (*mut [u8; 16], c_int), &mut uuid, device)?;
        let hex: Vec<String> = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        let part = |from: usize, to: usize| hex[from..to].concat();
        Ok(format!("GPU-{}-{}-{}-{}-{}", part(0, 4), part(4, 6), part(6, 8), part(8, 10), part(10, 16)))
    }

    pub fn total(&self, device: c_int) -> Result<usize, Refused> {
        let mut total = 0;
        call!(self, "cuDeviceTotalMem", (*mut usize, c_int), &mut total, device)?;
        Ok(total)
    }

    pub fn memory(&self) -> Result<Memory, Refused> {
        let mut memory = Memory { free: 0, total: 0 };
        let (free, total) = (&mut memory.free, &mut memory.total);
        call!(self, "cuMemGetInfo", (*mut usize, *mut usize), free, total)?;
        Ok(memory)
    }

    pub fn new_stream(&self) -> Result<Opaque, Refused> {
        let mut stream = null_mut();
        // 1: does not wait for the legacy stream.
        call!(self, "cuStreamCreate", (*mut Opaque, u32), &mut stream, 1)?;
        Ok(stream)
    }

    /// The program's own stream.
    pub fn stream(&mut self) -> Result<Opaque, Refused> {
        if self.stream.is_null() {
            self.stream = self.new_stream()?;
        }
        Ok(self.stream)
    }

    /// Puts a kernel that takes so long into a stream. In the stand-in driver a function handle is a duration.
    pub fn launch(&self, nanos: u64, stream: Opaque) -> Result<(), Refused> {
        let function = nanos as usize as Opaque;
        type U = u32;
        type P = *mut Opaque;
        call!(
            self,
            "cuLaunchKernel",
            (Opaque, U, U, U, U, U, U, U, Opaque, P, P),
            function,
            1,
            1,
            1,
            32,
            1,
            1,
            0,
            stream,
            null_mut(),
            null_mut()
        )
    }

    pub fn synchronize(&self, stream: Opaque) -> Result<(), Refused> {
        call!(self, "cuStreamSynchronize", (Opaque), stream)
    }
}
