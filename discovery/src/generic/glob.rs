//! Driver files by their paths, with `*` for any characters of one name.

use std::path::{Component, Path, PathBuf};

use vnpu_driver::hardware::DriverMount;

use crate::rooted::{below, entries, resolve};

/// Mounts of what exists below the root, at the same paths. A link becomes a mount of what it leads to: CDI knows no
/// links, and loaders ask for them.
pub(crate) fn mounts(root: &Path, pattern: &Path) -> Vec<DriverMount> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.components() {
        let Component::Normal(part) = part else { continue };
        let part = part.to_string_lossy();
        found = found.iter().flat_map(|seen| step(root, seen, &part)).collect();
    }
    let exists = |seen: PathBuf| {
        let host_path = resolve(root, &below(root, &seen))?;
        Some(DriverMount { host_path, container_path: seen })
    };
    found.into_iter().filter_map(exists).collect()
}

fn step(root: &Path, seen: &Path, part: &str) -> Vec<PathBuf> {
    if !part.contains('*') {
        return vec![seen.join(part)];
    }
    let Some(directory) = resolve(root, &below(root, seen)) else { return Vec::new() };
    let names = entries(&directory);
    let names = names.iter().filter_map(|path| path.file_name()).filter_map(|name| name.to_str());
    names.filter(|name| matches(part, name)).map(|name| seen.join(name)).collect()
}

/// Whether `name` is `pattern` with something for every `*`. The first fit of each part from the left is as good as
/// any, the last part must end the name.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, name, fits) in [
            ("libacme.so", "libacme.so", true),
            ("libacme.so", "libacme.so.1", false),
            ("libacme*.so*", "libacme-ml.so.1.2", true),
            ("libacme*.so*", "libacme.so", true),
            ("libacme*.so*", "libother.so", false),
            ("*", "anything", true),
            ("*.so", ".so", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*ba", "aba", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
