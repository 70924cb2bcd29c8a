//! What the two libraries are as files, of any architecture: what they need, export and run, since they get into every
//! process.

// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;

fn output(program: &str, arguments: &[&str], file: &PathBuf) -> String {
    let output = support::arch::binutil(program).args(arguments).arg(file).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn preload() -> PathBuf {
    support::libraries().join("libvnpu.so")
}

fn core() -> PathBuf {
    support::libraries().join("libvnpu_core.so")
}

fn exported(file: &PathBuf) -> BTreeSet<String> {
    output("nm", &["-D", "--defined-only"], file)
        .lines()
        .map(|line| line.split_whitespace().last().unwrap().to_owned())
        .collect()
}

/// Every hooked function: a new one is added here too, so that none is exported by accident.
const EXPORTS: [&str; 189] = [
    "aclmdlRICaptureBeginImpl",
    "aclmdlRIExecuteAsyncImpl",
    "aclmdlRIExecuteImpl",
    "aclrtDestroyStreamForceImpl",
    "aclrtDestroyStreamImpl",
    "aclrtFreeImpl",
    "aclrtFreePhysicalImpl",
    "aclrtFreeWithDevSyncImpl",
    "aclrtGetMemInfoImpl",
    "aclrtGetMemUsageInfoImpl",
    "aclrtLaunchKernelImpl",
    "aclrtLaunchKernelV2Impl",
    "aclrtLaunchKernelWithArgsArrayImpl",
    "aclrtLaunchKernelWithConfigImpl",
    "aclrtLaunchKernelWithHostArgsImpl",
    "aclrtMallocAlign32Impl",
    "aclrtMallocCachedImpl",
    "aclrtMallocForTaskSchedulerImpl",
    "aclrtMallocImpl",
    "aclrtMallocPhysicalImpl",
    "aclrtMallocWithCfgImpl",
    "aclrtMemAllocManagedImpl",
    "aclrtMemFreeManagedImpl",
    "aclrtMemPoolFreeAsyncImpl",
    "aclrtMemPoolMallocAsyncImpl",
    "aclrtResetDeviceForceImpl",
    "aclrtResetDeviceImpl",
    "aclrtSetDeviceImpl",
    "cuArray3DCreate",
    "cuArray3DCreate_v2",
    "cuArrayCreate",
    "cuArrayCreate_v2",
    "cuArrayDestroy",
    "cuCtxCreate",
    "cuCtxCreate_v2",
    "cuCtxCreate_v3",
    "cuCtxCreate_v4",
    "cuCtxDestroy",
    "cuCtxDestroy_v2",
    "cuCtxDetach",
    "cuCtxSynchronize",
    "cuCtxSynchronize_v2",
    "cuDeviceGetDefaultMemPool",
    "cuDeviceGetMemPool",
    "cuDeviceGraphMemTrim",
    "cuDevicePrimaryCtxRelease",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxReset",
    "cuDevicePrimaryCtxReset_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem",
    "cuDeviceTotalMem_v2",
    "cuEventSynchronize",
    "cuGetProcAddress",
    "cuGetProcAddress_v2",
    "cuGetProcAddress_v2_ptsz",
    "cuGraphAddMemAllocNode",
    "cuGraphAddMemFreeNode",
    "cuGraphAddNode",
    "cuGraphAddNode_v2",
    "cuGraphAddNode_v3",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiate",
    "cuGraphInstantiateWithFlags",
    "cuGraphInstantiateWithParams",
    "cuGraphInstantiateWithParams_ptsz",
    "cuGraphInstantiate_v2",
    "cuGraphLaunch",
    "cuGraphLaunch_ptsz",
    "cuGraphUpload",
    "cuGraphUpload_ptsz",
    "cuGreenCtxDestroy",
    "cuLaunch",
    "cuLaunchCooperativeKernel",
    "cuLaunchCooperativeKernelMultiDevice",
    "cuLaunchCooperativeKernel_ptsz",
    "cuLaunchGrid",
    "cuLaunchGridAsync",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cuLaunchKernelEx_ptsz",
    "cuLaunchKernel_ptsz",
    "cuMemAlloc",
    "cuMemAllocAsync",
    "cuMemAllocAsync_ptsz",
    "cuMemAllocFromPoolAsync",
    "cuMemAllocFromPoolAsync_ptsz",
    "cuMemAllocManaged",
    "cuMemAllocPitch",
    "cuMemAllocPitch_v2",
    "cuMemAlloc_v2",
    "cuMemCreate",
    "cuMemExportToShareableHandle",
    "cuMemFree",
    "cuMemFreeAsync",
    "cuMemFreeAsync_ptsz",
    "cuMemFree_v2",
    "cuMemGetDefaultMemPool",
    "cuMemGetInfo",
    "cuMemGetInfo_v2",
    "cuMemGetMemPool",
    "cuMemImportFromShareableHandle",
    "cuMemMap",
    "cuMemMapArrayAsync",
    "cuMemMapArrayAsync_ptsz",
    "cuMemPoolCreate",
    "cuMemPoolDestroy",
    "cuMemPoolTrimTo",
    "cuMemRelease",
    "cuMemRetainAllocationHandle",
    "cuMemUnmap",
    "cuMipmappedArrayCreate",
    "cuMipmappedArrayDestroy",
    "cuStreamBeginCapture",
    "cuStreamBeginCaptureToGraph",
    "cuStreamBeginCaptureToGraph_ptsz",
    "cuStreamBeginCapture_ptsz",
    "cuStreamBeginCapture_v2",
    "cuStreamBeginCapture_v2_ptsz",
    "cuStreamBeginRecaptureToGraph",
    "cuStreamBeginRecaptureToGraph_ptsz",
    "cuStreamDestroy",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamSynchronize_ptsz",
    "dcmi_get_device_hbm_info",
    "dcmi_get_device_memory_info_v3",
    "dcmi_get_device_resource_info",
    "dcmi_get_device_utilization_rate",
    "dlsym",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetComputeRunningProcesses_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses_v2",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses_v2",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetProcessUtilization",
    "nvmlDeviceGetUtilizationRates",
    "rtAicpuKernelLaunchExWithArgs",
    "rtAicpuKernelLaunchWithFlag",
    "rtDeviceReset",
    "rtDeviceResetForce",
    "rtDvppFree",
    "rtDvppMalloc",
    "rtDvppMallocWithFlag",
    "rtFree",
    "rtFreePhysical",
    "rtFreeWithDevSync",
    "rtGetMemUsageInfo",
    "rtKernelLaunch",
    "rtKernelLaunchWithFlag",
    "rtKernelLaunchWithFlagV2",
    "rtKernelLaunchWithHandleV2",
    "rtLaunchKernelByFuncHandleV3",
    "rtMalloc",
    "rtMallocCached",
    "rtMallocPhysical",
    "rtMemAlloc",
    "rtMemAllocManaged",
    "rtMemFreeManaged",
    "rtMemGetInfo",
    "rtMemGetInfoEx",
    "rtMemPoolFreeAsync",
    "rtMemPoolMallocAsync",
    "rtModelExecute",
    "rtModelExecuteSync",
    "rtSetDevice",
    "rtStreamBeginCapture",
    "rtStreamDestroy",
    "rtStreamDestroyForce",
    "rtsDeviceReset",
    "rtsFree",
    "rtsFreePhysical",
    "rtsLaunchKernelWithConfig",
    "rtsLaunchKernelWithDevArgs",
    "rtsLaunchKernelWithHostArgs",
    "rtsMalloc",
    "rtsMallocPhysical",
    "rtsMemGetInfo",
    "rtsModelExecute",
    "rtsModelExecuteAsync",
    "rtsSetDevice",
    "rtsStreamDestroy",
];

#[test]
fn the_preload_exports_the_hooked_functions_and_nothing_else() {
    assert_eq!(exported(&preload()), EXPORTS.iter().map(|s| (*s).to_owned()).collect());
    assert_eq!(exported(&core()), BTreeSet::from(["vnpu_core_entry".to_owned()]));
}

#[test]
fn the_preload_needs_no_library_and_has_no_constructor() {
    let dynamic = output("readelf", &["-dW"], &preload());
    for word in ["NEEDED", "INIT", "FINI", "VERNEED", "TEXTREL"] {
        assert!(!dynamic.contains(word), "{word} in\n{dynamic}");
    }
    let sections = output("readelf", &["-SW"], &preload());
    assert!(!sections.contains("init_array") && !sections.contains("ctors"), "{sections}");
}

#[test]
fn the_preload_refers_to_the_loader_weakly_and_to_few_functions_of_libc() {
    let undefined: BTreeSet<String> = output("nm", &["-D", "--undefined-only"], &preload())
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let allowed = [
        "U __errno_location",
        "U abort",
        "U access",
        "U dl_iterate_phdr",
        "U write",
        "w dlopen",
        "w dlvsym",
        "w secure_getenv",
    ];
    for symbol in &undefined {
        assert!(allowed.contains(&symbol.as_str()), "unexpected: {symbol}");
    }
    assert!(undefined.contains("w dlopen") && undefined.contains("w dlvsym"));
}

#[test]
fn the_core_needs_nothing_but_the_c_library() {
    let dynamic = output("readelf", &["-dW"], &core());
    let needed: Vec<&str> = dynamic
        .lines()
        .filter(|l| l.contains("(NEEDED)"))
        .filter_map(|l| l.split_once('[')?.1.strip_suffix(']'))
        .collect();
    let allowed = [
        "libc.so.6",
        "libgcc_s.so.1",
        "libpthread.so.0",
        "libdl.so.2",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    ];
    for library in needed {
        assert!(allowed.contains(&library), "unexpected: {library}");
    }
}

/// Images are older than the machine that builds: a symbol version that is newer than theirs would keep the back end
/// out, and then memory is refused. What is asked for weakly may be missing: the loader goes on without.
#[test]
fn the_core_loads_on_glibc_2_17() {
    let needs = output("readelf", &["-VW"], &core());
    let newer: Vec<&str> = needs
        .lines()
        .filter(|line| {
            let Some((_, version)) = line.split_once("Name: GLIBC_") else { return false };
            let number = version.split_whitespace().next().unwrap();
            let mut parts = number.split('.').map(|n| n.parse::<u32>().unwrap());
            (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) > (2, 17)
                && !version.contains("Flags: WEAK")
        })
        .collect();
    assert!(needs.contains("Name: GLIBC_2.") && newer.is_empty(), "{newer:?}");
}

/// Kernels of aarch64 with pages of 64 KiB load nothing that is laid out for smaller ones.
#[test]
fn both_can_be_loaded_by_a_kernel_with_the_largest_pages() {
    for file in [preload(), core()] {
        let largest = if output("readelf", &["-hW"], &file).contains("AArch64") { 0x1_0000 } else { 0x1000 };
        let headers = output("readelf", &["-lW"], &file);
        let loads: Vec<u64> = headers
            .lines()
            .filter(|line| line.trim_start().starts_with("LOAD"))
            .map(|line| u64::from_str_radix(line.split("0x").last().unwrap().trim(), 16).unwrap())
            .collect();
        assert!(!loads.is_empty() && loads.iter().all(|align| *align >= largest), "{loads:x?}");
    }
}

#[test]
fn no_step_of_ours_ends_a_process_in_what_is_shipped() {
    // The name of a step.
    let word = b"ReservePublished";
    let has =
        |file: &std::path::Path| std::fs::read(file).unwrap().windows(word.len()).any(|bytes| bytes == word);
    assert!(!has(&core()) && !has(&preload()));
    if support::arch::foreign().is_none() {
        assert!(has(&support::faulty_libraries().join("libvnpu_core.so")), "the tests' own has it");
    }
}
