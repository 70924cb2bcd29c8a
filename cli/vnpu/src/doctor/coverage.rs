//! Which functions of the vendor's libraries take device memory or the chip's time, by their names, and which of those
//! we stand before. Pure: the names are an argument.

use std::collections::BTreeSet;

/// The vendor's libraries that are looked for, and whose they are.
pub(crate) const LIBRARIES: [(&str, Vendor); 8] = [
    ("libruntime.so", Vendor::Ascend),
    ("libacl_rt_impl.so", Vendor::Ascend),
    ("libascendcl_impl.so", Vendor::Ascend),
    ("libacl_rt.so", Vendor::Ascend),
    ("libascendcl.so", Vendor::Ascend),
    ("libcuda.so.1", Vendor::Nvidia),
    ("libdcmi.so", Vendor::Ascend),
    ("libnvidia-ml.so.1", Vendor::Nvidia),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vendor {
    Ascend,
    Nvidia,
}

/// What of one library concerns us.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Coverage {
    /// Functions that we hook.
    pub(crate) hooked: Vec<String>,
    /// Functions that seem to take device memory, and that we do not hook.
    pub(crate) allocations: Vec<String>,
    /// Functions that seem to give the chip work, and that we do not hook.
    pub(crate) launches: Vec<String>,
    /// Functions of management libraries that seem to tell of memory, processes or utilisation, and that we do not hook.
    pub(crate) questions: Vec<String>,
}

/// Judges the functions `theirs` of one library of `vendor` by `ours`.
pub(crate) fn coverage(vendor: Vendor, theirs: &BTreeSet<String>, ours: &BTreeSet<String>) -> Coverage {
    let mut out = Coverage::default();
    for name in theirs {
        if ours.contains(name) {
            out.hooked.push(name.clone());
            continue;
        }
        match (vendor, kind(vendor, name)) {
            (_, None) => (),
            // The public layer of CANN only calls the one below, of the same names with this ending; what has no
            // such function there ends in rt* calls.
            (Vendor::Ascend, Some(_)) if name.starts_with("acl") && !name.ends_with("Impl") => (),
            (_, Some(Kind::Allocation)) => out.allocations.push(name.clone()),
            (_, Some(Kind::Launch)) => out.launches.push(name.clone()),
            (_, Some(Kind::Question)) => out.questions.push(name.clone()),
        }
    }
    out
}

enum Kind {
    Allocation,
    Launch,
    Question,
}

/// What the name promises. Memory of the host, and functions that the host runs, are neither.
fn kind(vendor: Vendor, name: &str) -> Option<Kind> {
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    match vendor {
        Vendor::Ascend if name.starts_with("dcmi") => (name.starts_with("dcmi_get_device_")
            && has(&["memory_info", "hbm_info", "utilization_rate", "resource_info"]))
        .then_some(Kind::Question),
        Vendor::Nvidia if name.starts_with("nvml") => (name.starts_with("nvmlDeviceGet")
            && has(&["MemoryInfo", "RunningProcesses", "Utilization", "ProcessesUtilizationInfo"])
            && !has(&["Encoder", "Decoder", "Vgpu", "Jpg", "Ofa"]))
        .then_some(Kind::Question),
        Vendor::Ascend if !(name.starts_with("acl") || is_rt(name)) => None,
        Vendor::Nvidia if !name.starts_with("cu") => None,
        _ if has(&["HostFunc", "LaunchCallback", "MallocHost", "HostAlloc", "AllocHost", "HostMalloc"]) => {
            None
        }
        Vendor::Ascend
            if has(&["Free", "Attr", "Get", "Set", "Query", "Config", "Cfg"]) && !has(&["With"]) =>
        {
            None
        }
        Vendor::Ascend if has(&["Malloc", "MemAlloc"]) => Some(Kind::Allocation),
        Vendor::Ascend if has(&["KernelLaunch", "LaunchKernel", "FusionLaunch", "CmoTaskLaunch"]) => {
            Some(Kind::Launch)
        }
        Vendor::Ascend if has(&["ModelExecute", "aclmdlRIExecute", "aclmdlExecute", "aclopExec"]) => {
            Some(Kind::Launch)
        }
        Vendor::Nvidia if has(&["cuMemAlloc", "cuMemCreate", "ArrayCreate", "Array3DCreate"]) => {
            Some(Kind::Allocation)
        }
        Vendor::Nvidia if has(&["cuLaunch", "cuGraphLaunch"]) => Some(Kind::Launch),
        _ => None,
    }
}

/// `rtMalloc` and `rtsMalloc`, not `rtld_errno`.
fn is_rt(name: &str) -> bool {
    let rest = name.strip_prefix("rts").or_else(|| name.strip_prefix("rt"));
    rest.and_then(|r| r.chars().next()).is_some_and(|c| c.is_ascii_uppercase())
}

/// Where the layer below the public one lies, which tells the generation of CANN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layering {
    /// A library of its own before `libruntime.so`, as in CANN 8.5 to 9.1.
    Outside,
    /// In `libruntime.so`, as from CANN 9.2 on.
    Inside,
    /// In `libascendcl_impl.so`, as before CANN 8.5.
    Old,
}

impl Layering {
    /// By the library that has it; `None` for one that it cannot be in.
    pub(crate) fn of(library: &str) -> Option<Self> {
        match library {
            "libacl_rt_impl.so" => Some(Self::Outside),
            "libruntime.so" => Some(Self::Inside),
            "libascendcl_impl.so" => Some(Self::Old),
            _ => None,
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Outside => "aclrt*Impl outside libruntime.so (CANN 8.5 to 9.1)",
            Self::Inside => "aclrt*Impl inside libruntime.so (CANN 9.2 and later)",
            Self::Old => "aclrt*Impl in libascendcl_impl.so (before CANN 8.5)",
        }
    }
}

/// A function that every generation has in that layer.
pub(crate) const LAYER_MARK: &str = "aclrtMallocImpl";

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn device_memory_and_launches_of_ascend_are_told_from_the_rest() {
        let theirs = [
            "rtMalloc",
            "rtsMallocNew",
            "rtMallocHost",
            "rtMallocHostSharedMemory",
            "rtMemAllocManaged",
            "rtKernelLaunch",
            "rtsLaunchHostFunc",
            "rtFusionLaunch",
            "rtsModelExecuteNew",
            "rtFree",
            "rtMallocConfigSet",
            "rtMallocWithNewCfg",
            "rtld_errno",
            "aclrtMalloc",
            "aclrtMallocNewImpl",
            "aclopExecuteV2",
            "malloc",
            "rtMemFreeManaged",
            "rtGetKernelLaunchTime",
        ];
        let found =
            coverage(Vendor::Ascend, &names(&theirs), &names(&["rtMalloc", "rtKernelLaunch", "dlsym"]));
        assert_eq!(found.hooked, ["rtKernelLaunch", "rtMalloc"]);
        let allocations = ["aclrtMallocNewImpl", "rtMallocWithNewCfg", "rtMemAllocManaged", "rtsMallocNew"];
        assert_eq!(found.allocations, allocations);
        assert_eq!(found.launches, ["rtFusionLaunch", "rtsModelExecuteNew"]);
    }

    #[test]
    fn questions_of_management_libraries_are_told_from_the_rest() {
        let found = coverage(
            Vendor::Nvidia,
            &names(&[
                "nvmlInit_v2",
                "nvmlDeviceGetMemoryInfo",
                "nvmlDeviceGetProcessesUtilizationInfo",
                "nvmlDeviceGetEncoderUtilization",
            ]),
            &names(&["nvmlDeviceGetMemoryInfo"]),
        );
        assert_eq!(
            (found.hooked.len(), found.questions),
            (1, vec!["nvmlDeviceGetProcessesUtilizationInfo".to_owned()])
        );
        let found = coverage(
            Vendor::Ascend,
            &names(&[
                "dcmi_init",
                "dcmi_get_device_hbm_info",
                "dcmi_get_device_memory_info_v3",
                "dcmi_get_card_list",
            ]),
            &names(&["dcmi_get_device_hbm_info"]),
        );
        assert_eq!(
            (found.hooked.len(), found.questions),
            (1, vec!["dcmi_get_device_memory_info_v3".to_owned()])
        );
    }

    #[test]
    fn device_memory_and_launches_of_cuda_are_told_from_the_rest() {
        let theirs = [
            "cuMemAlloc_v2",
            "cuMemAllocHost_v2",
            "cuMemHostAlloc",
            "cuMemFree_v2",
            "cuLaunchKernel",
            "cuLaunchHostFunc",
            "cuGraphLaunch_ptsz",
            "cuArray3DCreate_v2",
            "cuMemCreate",
            "cuInit",
            "cudbgApiInit",
            "cuMipmappedArrayCreate",
        ];
        let found = coverage(Vendor::Nvidia, &names(&theirs), &names(&["cuLaunchKernel"]));
        assert_eq!(found.hooked, ["cuLaunchKernel"]);
        let allocations = ["cuArray3DCreate_v2", "cuMemAlloc_v2", "cuMemCreate", "cuMipmappedArrayCreate"];
        assert_eq!(
            (found.allocations, found.launches),
            (allocations.map(str::to_owned).to_vec(), vec!["cuGraphLaunch_ptsz".to_owned()])
        );
    }
}
