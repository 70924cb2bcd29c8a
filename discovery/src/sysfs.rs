//! NUMA node and PCIe root of a PCI device, from the kernel's `/sys`.

use std::fs;
use std::path::Path;

use vnpu_driver::hardware::PciAddress;

/// The NUMA node, where the kernel knows one (-1 means that it does not).
pub(crate) fn numa_node(sys_root: &Path, address: PciAddress) -> Option<i64> {
    let file = sys_root.join("bus/pci/devices").join(address.to_string()).join("numa_node");
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|node: &i64| *node >= 0)
}

/// The PCIe root complex, `pci<domain>:<bus>`: the part after `devices` of where the device's link leads.
pub(crate) fn pcie_root(sys_root: &Path, address: PciAddress) -> Option<String> {
    let link = fs::read_link(sys_root.join("bus/pci/devices").join(address.to_string())).ok()?;
    link.components()
        .filter_map(|part| part.as_os_str().to_str())
        .find(|part| {
            part.strip_prefix("pci").and_then(|rest| rest.split_once(':')).is_some_and(|(domain, bus)| {
                domain.len() >= 4
                    && bus.len() == 2
                    && domain.chars().chain(bus.chars()).all(|c| c.is_ascii_hexdigit())
            })
        })
        .map(str::to_owned)
}
