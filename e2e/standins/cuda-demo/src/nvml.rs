//! What NVML says, for comparison with the driver and the machine.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;

use crate::api::Refused;
use crate::commands::say;

/// `nvmlMemory_t`.
#[repr(C)]
#[derive(Default)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
#[derive(Default)]
struct Memory2 {
    version: c_uint,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

/// `nvmlProcessInfo_t` of versions 2 and 3.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Process {
    pid: c_uint,
    bytes: u64,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// `nvmlProcessInfo_v1_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Process1 {
    pid: c_uint,
    bytes: u64,
}

/// `nvmlProcessUtilizationSample_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sample {
    pid: c_uint,
    stamp: u64,
    sm: c_uint,
    memory: c_uint,
    encoder: c_uint,
    decoder: c_uint,
}

/// `nvmlUtilization_t`.
#[repr(C)]
#[derive(Default)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

macro_rules! call {
    ($find:expr, $name:literal, ($($kind:ty),*), $($value:expr),*) => {{
        let function = $find($name);
        if function.is_null() {
            Err(Refused { function: concat!($name, " (not there)"), code: -1 })
        } else {
            // SAFETY: the address is the function of that name, whose signature is the one given here.
            let function: unsafe extern "C" fn($($kind),*) -> c_int = unsafe { std::mem::transmute(function) };
            // SAFETY: the arguments live over the call and are of the types that the function takes.
            match unsafe { function($($value),*) } {
                0 => Ok(()),
                code => Err(Refused { function: $name, code }),
            }
        }
    }};
}

type Symbol<'a> = &'a dyn Fn(&str) -> *mut c_void;

/// Says it all; the process's exit code.
pub fn run(find: Symbol) -> i32 {
    match tell(find) {
        Ok(()) => 0,
        Err(refused) => {
            say(&format!("failed function={} code={}", refused.function, refused.code));
            1
        }
    }
}

fn text<const N: usize>(bytes: &[u8; N]) -> String {
    CStr::from_bytes_until_nul(bytes).map(|text| text.to_string_lossy().replace(' ', "_")).unwrap_or_default()
}

fn tell(find: Symbol) -> Result<(), Refused> {
    call!(find, "nvmlInit_v2", (),)?;
    let (mut driver, mut count, mut cuda) = ([0u8; 80], 0, 0);
    call!(find, "nvmlSystemGetDriverVersion", (*mut u8, c_uint), driver.as_mut_ptr(), 80)?;
    call!(find, "nvmlSystemGetCudaDriverVersion_v2", (*mut c_int), &mut cuda)?;
    call!(find, "nvmlDeviceGetCount_v2", (*mut c_uint), &mut count)?;
    say(&format!("nvml driver={} cuda={cuda} count={count}", text(&driver)));
    for index in 0..count {
        let mut device = null_mut();
        call!(find, "nvmlDeviceGetHandleByIndex_v2", (c_uint, *mut *mut c_void), index, &mut device)?;
        one(find, index, device)?;
    }
    call!(find, "nvmlShutdown", (),)
}

fn one(find: Symbol, index: c_uint, device: *mut c_void) -> Result<(), Refused> {
    type D = *mut c_void;
    let (mut name, mut uuid, mut minor) = ([0u8; 96], [0u8; 96], 0);
    call!(find, "nvmlDeviceGetName", (D, *mut u8, c_uint), device, name.as_mut_ptr(), 96)?;
    call!(find, "nvmlDeviceGetUUID", (D, *mut u8, c_uint), device, uuid.as_mut_ptr(), 96)?;
    call!(find, "nvmlDeviceGetMinorNumber", (D, *mut c_uint), device, &mut minor)?;
    let (mut memory, mut memory2) =
        (Memory::default(), Memory2 { version: 0x0200_0028, ..Memory2::default() });
    call!(find, "nvmlDeviceGetMemoryInfo", (D, *mut Memory), device, &mut memory)?;
    call!(find, "nvmlDeviceGetMemoryInfo_v2", (D, *mut Memory2), device, &mut memory2)?;
    let mut rates = Utilization::default();
    call!(find, "nvmlDeviceGetUtilizationRates", (D, *mut Utilization), device, &mut rates)?;
    let mut by_uuid = null_mut();
    call!(
        find,
        "nvmlDeviceGetHandleByUUID",
        (*const c_char, *mut *mut c_void),
        uuid.as_ptr().cast(),
        &mut by_uuid
    )?;
    say(&format!(
        "gpu index={index} minor={minor} uuid={} total={} used={} free={} total2={} used2={} gpu={} memory={} \
         same_handle={} name={}",
        text(&uuid),
        memory.total,
        memory.used,
        memory.free,
        memory2.total,
        memory2.used,
        rates.gpu,
        rates.memory,
        by_uuid == device,
        text(&name)
    ));
    processes(find, index, device)?;
    utilization(find, index, device)
}

/// The list in all its versions, and what is said where there is too little room for it.
fn processes(find: Symbol, index: c_uint, device: *mut c_void) -> Result<(), Refused> {
    type D = *mut c_void;
    let (mut one, mut short) = ([Process::default(); 1], 1);
    let code = call!(
        find,
        "nvmlDeviceGetComputeRunningProcesses_v3",
        (D, *mut c_uint, *mut Process),
        device,
        &mut short,
        one.as_mut_ptr()
    )
    .err()
    .map_or(0, |refused| refused.code);
    let (mut third, mut count) = ([Process::default(); 32], 32);
    call!(
        find,
        "nvmlDeviceGetComputeRunningProcesses_v3",
        (D, *mut c_uint, *mut Process),
        device,
        &mut count,
        third.as_mut_ptr()
    )?;
    let (mut second, mut count2) = ([Process::default(); 32], 32);
    call!(
        find,
        "nvmlDeviceGetComputeRunningProcesses_v2",
        (D, *mut c_uint, *mut Process),
        device,
        &mut count2,
        second.as_mut_ptr()
    )?;
    let (mut first, mut count1) = ([Process1::default(); 32], 32);
    call!(
        find,
        "nvmlDeviceGetComputeRunningProcesses",
        (D, *mut c_uint, *mut Process1),
        device,
        &mut count1,
        first.as_mut_ptr()
    )?;
    say(&format!(
        "processes gpu={index} count={count} count2={count2} count1={count1} room1={short} code={code}"
    ));
    for place in 0..(count as usize).min(32) {
        let (third, second, first) = (third[place], second[place], first[place]);
        say(&format!(
            "process gpu={index} pid={} bytes={} pid2={} bytes2={} pid1={} bytes1={} instance={}",
            third.pid, third.bytes, second.pid, second.bytes, first.pid, first.bytes, third.gpu_instance
        ));
    }
    Ok(())
}

/// Samples of processes; that there are none is an answer, too.
fn utilization(find: Symbol, index: c_uint, device: *mut c_void) -> Result<(), Refused> {
    let (mut samples, mut count) = ([Sample::default(); 32], 32);
    let answer = call!(
        find,
        "nvmlDeviceGetProcessUtilization",
        (*mut c_void, *mut Sample, *mut c_uint, u64),
        device,
        samples.as_mut_ptr(),
        &mut count,
        0
    );
    match answer {
        Err(Refused { code: 6, .. }) => return Ok(()),
        other => other?,
    }
    for sample in samples.iter().take(count as usize) {
        say(&format!("sample gpu={index} pid={} sm={}", sample.pid, sample.sm));
    }
    Ok(())
}
