//! What may differ between a README and a cluster though both are right: what the cluster makes up by itself.

use regex::Regex;

/// Patterns, and what stands for whatever they match. Nothing else may differ.
const MASKS: &[(&str, &str)] = &[
    // The columns of a table are as wide as their contents; indentation stays.
    (r"(\S) {2,}", "$1  "),
    ("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID"),
    // What the API server appends to a `generateName`: five of these (apimachinery, pkg/util/rand).
    (r"-[bcdfghjklmnpqrstvwxz2456789]{5}\b", "-NAME"),
    // One policy has several bindings, which all refuse; the API server names any of them.
    ("with binding '[a-z-]+'", "with binding 'BINDING'"),
    // An age that is a column by itself, as kubectl's tables have it: a duration elsewhere is no age.
    ("  ([0-9]+[smhdy]){1,2}(  |$)", "  AGE$2"),
];

/// A line of output in which everything that may differ is the same.
pub(super) fn masked(line: &str) -> String {
    let mut masked = line.trim_end().to_owned();
    for (pattern, stands_for) in MASKS {
        // One that did not compile would hide nothing, and its test would fail.
        if let Ok(pattern) = Regex::new(pattern) {
            masked = pattern.replace_all(&masked, *stands_for).into_owned();
        }
    }
    masked
}
