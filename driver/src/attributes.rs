//! The attributes of published devices: one set on every device of every vendor, because a CEL expression that
//! meets a missing key stops the scheduling of its pod on all nodes. Only the standard ones may be absent.

use std::collections::BTreeMap;

use crate::hardware::{Chip, Inventory};
use crate::planner::NodeLabels;
use crate::slices::{AttributeValue, MAX_ATTRIBUTE};

/// `resource.kubernetes.io/numaNode`, a number (KEP-6072).
pub const NUMA_NODE: &str = "resource.kubernetes.io/numaNode";
/// `resource.kubernetes.io/pciBusID`, extended BDF.
pub const PCI_BUS_ID: &str = "resource.kubernetes.io/pciBusID";
/// `resource.kubernetes.io/pcieRoot`, `pci<domain>:<bus>`.
pub const PCIE_ROOT: &str = "resource.kubernetes.io/pcieRoot";

/// Attributes as they are published.
pub type Attributes = BTreeMap<String, AttributeValue>;

/// The attributes of a chip or of a partition of one. A partition stands for no whole chip.
pub fn of_chip(chip: &Chip, inventory: &Inventory, labels: &NodeLabels) -> Attributes {
    let mut attributes = common(chip, inventory, labels);
    let (kind, chips) = if chip.traits.partition.is_some() { ("partition", 0) } else { ("chip", 1) };
    put(&mut attributes, "type", text(kind));
    put(&mut attributes, "chips", AttributeValue::Int(chips));
    put(&mut attributes, "uuid", text(chip.uuid.as_str()));
    if let Some(numa) = numa_node(chip) {
        put(&mut attributes, NUMA_NODE, AttributeValue::Int(numa));
    }
    if let Some(pci) = chip.pci {
        put(&mut attributes, PCI_BUS_ID, text(&pci.to_string()));
    }
    if let Some(root) = chip.pcie_root.as_deref().filter(|r| !r.is_empty()) {
        put(&mut attributes, PCIE_ROOT, text(root));
    }
    attributes
}

/// The attributes of a module; `first` is its die 0, `second` its die 1.
pub fn of_module(first: &Chip, second: &Chip, inventory: &Inventory, labels: &NodeLabels) -> Attributes {
    let mut attributes = common(first, inventory, labels);
    put(&mut attributes, "type", text("module"));
    put(&mut attributes, "chips", AttributeValue::Int(2));
    put(&mut attributes, "uuid", AttributeValue::Str(module_uuid(first.uuid.as_str())));
    let agreed = numa_node(first).filter(|numa| numa_node(second) == Some(*numa));
    if let Some(numa) = agreed {
        put(&mut attributes, NUMA_NODE, AttributeValue::Int(numa));
    }
    attributes
}

fn common(chip: &Chip, inventory: &Inventory, labels: &NodeLabels) -> Attributes {
    let mut attributes = Attributes::new();
    let dies = if chip.module.is_some() { 2 } else { 1 };
    put(&mut attributes, "vendor", text(&inventory.vendor.to_string()));
    put(&mut attributes, "model", text(&chip.model));
    put(&mut attributes, "productName", text(&chip.product_name));
    put(&mut attributes, "module", AttributeValue::Int(chip.module.map_or(-1, i64::from)));
    put(&mut attributes, "dies", AttributeValue::Int(dies));
    put(&mut attributes, "leaf", text(&labels.leaf));
    // A label is somebody's word for the whole cluster; without one the hardware's own number serves.
    let superpod = match inventory.superpod {
        Some(id) if labels.superpod.is_empty() => id.to_string(),
        _ => labels.superpod.clone(),
    };
    put(&mut attributes, "superpod", text(&superpod));
    let traits = &chip.traits;
    for (name, vendor) in [
        ("driverVersion", &inventory.driver_version),
        ("cudaVersion", &inventory.cuda_version),
        ("computeCapability", &traits.compute_capability),
    ] {
        put(&mut attributes, name, AttributeValue::Version(semantic_version(vendor)));
    }
    put(&mut attributes, "linkGroup", text(&traits.link_group));
    put(&mut attributes, "shareable", AttributeValue::Bool(traits.whole_only.is_none()));
    put(&mut attributes, "profile", text(traits.partition.as_ref().map_or("", |part| &part.profile)));
    attributes
}

fn put(attributes: &mut Attributes, name: &str, value: AttributeValue) {
    attributes.insert(name.to_owned(), value);
}

/// Linux writes -1 where it does not know.
fn numa_node(chip: &Chip) -> Option<i64> {
    chip.numa_node.filter(|numa| *numa >= 0)
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::Str(attribute_text(value))
}

/// `value` as a string attribute: without control characters and outer spaces, cut to 64 bytes between
/// characters.
pub fn attribute_text(value: &str) -> String {
    let clean: String = value.chars().filter(|c| !c.is_control()).collect();
    cut(clean.trim()).trim_end().to_owned()
}

fn cut(value: &str) -> &str {
    let mut end = value.len().min(MAX_ATTRIBUTE);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value.get(..end).unwrap_or_default()
}

/// A module's identity: `M-` and die 0's. One too long for an attribute keeps its beginning and gets a hash of
/// the whole, so that two modules never share an identity by cutting.
pub fn module_uuid(die: &str) -> String {
    const PREFIX: &str = "M-";
    if PREFIX.len() + die.len() <= MAX_ATTRIBUTE {
        return format!("{PREFIX}{die}");
    }
    let head: String = die.chars().take(MAX_ATTRIBUTE - PREFIX.len() - 17).collect();
    format!("{PREFIX}{head}-{:016x}", fnv1a(die.as_bytes()))
}

/// FNV-1a, 64 bits: stable for ever, and good enough against accidents.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A vendor's version as the API's semantic version: three numbers without leading zeros, the rest behind
/// `-`; `0.0.0` when unknown. `535.104.05` becomes `535.104.5`, `25.0.rc1` becomes `25.0.0-rc1`.
pub fn semantic_version(vendor: &str) -> String {
    let vendor = vendor.trim().trim_start_matches(['v', 'V']);
    let mut rest = vendor;
    let mut numbers = [0u64; 3];
    for (position, number) in numbers.iter_mut().enumerate() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (head, tail) = rest.split_at(digits);
        // A component such as `0rc1` is no number, and one that no integer holds is only text.
        let ends = tail.is_empty() || tail.starts_with(['.', '-', '+', '_', ' ']);
        let Some(value) = head.parse().ok().filter(|_| ends) else { break };
        *number = value;
        rest = tail;
        if position < 2 {
            let Some(next) = tail.strip_prefix('.') else { break };
            if !next.starts_with(|c: char| c.is_ascii_digit()) {
                rest = next;
                break;
            }
            rest = next;
        }
    }
    let [major, minor, patch] = numbers;
    let release = format!("{major}.{minor}.{patch}");
    let mut version = release;
    let mut separator = '-';
    let parts = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').map(|p| p.trim_matches('-'));
    for part in parts.filter(|part| !part.is_empty()) {
        // One byte for the separator, and one for the letter that an oversized number gets.
        let room = MAX_ATTRIBUTE.saturating_sub(version.len() + 2);
        let part = part.get(..part.len().min(room)).unwrap_or_default().trim_end_matches('-');
        if part.is_empty() {
            break;
        }
        version.push(separator);
        version.push_str(&identifier(part));
        separator = '.';
    }
    version
}

/// A part of a pre-release: a number loses its leading zeros, and one that readers with 64-bit integers could
/// not take becomes text.
fn identifier(part: &str) -> String {
    if !part.bytes().all(|b| b.is_ascii_digit()) {
        return part.to_owned();
    }
    match part.parse::<u64>() {
        Ok(number) => number.to_string(),
        Err(_) => format!("n{part}"),
    }
}

#[cfg(test)]
mod tests;
