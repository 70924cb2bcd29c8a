//! The rules that CDI readers apply (`cdi/SPEC.md` and `pkg/cdi` of the reference library), checked before a
//! file is written: a file that one reader refuses makes every device in it unusable.

use std::collections::BTreeSet;

use crate::error::Invalid;
use crate::spec::{ContainerEdits, Device, DeviceNode, Hook, Mount, Spec, VERSION_0_5, VERSION_0_6};

const HOOK_NAMES: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// `kind=device`, the name that the kubelet hands to the runtime.
pub fn qualified_name(kind: &str, device: &str) -> String {
    format!("{kind}={device}")
}

/// Checks `spec` against the rules of the specification.
///
/// # Errors
/// The first rule that is broken, with the text that breaks it.
pub fn validate(spec: &Spec) -> Result<(), Invalid> {
    version(spec)?;
    kind(&spec.kind)?;
    if spec.devices.is_empty() {
        return Err(Invalid::new("spec", &spec.kind, "it must define at least one device"));
    }
    let mut names = BTreeSet::new();
    for device in &spec.devices {
        one_device(device)?;
        if !names.insert(device.name.as_str()) {
            return Err(Invalid::new("device name", &device.name, "it must be unique in the file"));
        }
    }
    edits(&spec.container_edits)
}

fn version(spec: &Spec) -> Result<(), Invalid> {
    let known = [VERSION_0_5, VERSION_0_6];
    if !known.contains(&spec.cdi_version.as_str()) {
        return Err(Invalid::new("version", &spec.cdi_version, "this writer makes 0.5.0 and 0.6.0"));
    }
    if spec.cdi_version == VERSION_0_5 && spec.minimum_version() == VERSION_0_6 {
        return Err(Invalid::new("version", &spec.cdi_version, "annotations and dotted classes need 0.6.0"));
    }
    Ok(())
}

fn kind(kind: &str) -> Result<(), Invalid> {
    let Some((vendor, class)) = kind.split_once('/') else {
        return Err(Invalid::new("kind", kind, "it must be vendor/class"));
    };
    let part = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    if part(vendor) && part(class) {
        Ok(())
    } else {
        Err(Invalid::new(
            "kind",
            kind,
            "vendor and class start with a letter, end with a letter or digit, and have letters, digits, '_', '-', '.' between",
        ))
    }
}

fn one_device(device: &Device) -> Result<(), Invalid> {
    let name = device.name.as_str();
    let ends = |c: char| c.is_ascii_alphanumeric();
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':');
    if !(name.starts_with(ends) && name.ends_with(ends) && name.bytes().all(inner)) {
        return Err(Invalid::new(
            "device name",
            name,
            "it starts and ends with a letter or digit and has letters, digits, '_', '-', '.', ':' between",
        ));
    }
    if device.container_edits.is_empty() {
        return Err(Invalid::new("device", name, "its edits must not be empty"));
    }
    edits(&device.container_edits)
}

fn edits(edits: &ContainerEdits) -> Result<(), Invalid> {
    edits.env.iter().try_for_each(|e| env(e))?;
    edits.device_nodes.iter().try_for_each(node)?;
    edits.mounts.iter().try_for_each(mount)?;
    edits.hooks.iter().try_for_each(hook)
}

fn env(env: &str) -> Result<(), Invalid> {
    match env.split_once('=') {
        Some((key, _)) if !key.is_empty() && !env.contains('\0') => Ok(()),
        _ => Err(Invalid::new("environment variable", env, "it must be KEY=value")),
    }
}

fn absolute(what: &'static str, path: &str) -> Result<(), Invalid> {
    let steps_back = path.split('/').any(|part| part == "..");
    if path.starts_with('/') && path.len() > 1 && !steps_back && !path.contains('\0') {
        Ok(())
    } else {
        Err(Invalid::new(what, path, "it must be an absolute path without '..'"))
    }
}

fn node(node: &DeviceNode) -> Result<(), Invalid> {
    absolute("device node", &node.path)?;
    if let Some(host) = &node.host_path {
        absolute("device node", host)?;
    }
    if let Some(kind) = &node.kind
        && !["b", "c", "u", "p"].contains(&kind.as_str())
    {
        return Err(Invalid::new("device node type", kind, "it must be b, c, u or p"));
    }
    if let Some(permissions) = &node.permissions
        && !permissions.chars().all(|c| matches!(c, 'r' | 'w' | 'm'))
    {
        return Err(Invalid::new("device node permissions", permissions, "only r, w and m are known"));
    }
    Ok(())
}

fn mount(mount: &Mount) -> Result<(), Invalid> {
    absolute("mount", &mount.host_path)?;
    absolute("mount", &mount.container_path)
}

fn hook(hook: &Hook) -> Result<(), Invalid> {
    if !HOOK_NAMES.contains(&hook.hook_name.as_str()) {
        return Err(Invalid::new("hook name", &hook.hook_name, "it must be one of the OCI hooks"));
    }
    absolute("hook", &hook.path)?;
    hook.env.iter().try_for_each(|e| env(e))
}
