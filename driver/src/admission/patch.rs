//! JSON patches (RFC 6902) as admission answers with them: the three operations that are needed, and paths.

use serde::Serialize;
use serde_json::Value;

/// One operation of a JSON patch.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// Sets a member that may not exist, or puts an element into a list.
    Add {
        /// JSON pointer (RFC 6901).
        path: String,
        /// The value.
        value: Value,
    },
    /// Sets what exists.
    Replace {
        /// JSON pointer.
        path: String,
        /// The value.
        value: Value,
    },
    /// Takes away what exists.
    Remove {
        /// JSON pointer.
        path: String,
    },
}

impl Operation {
    /// Sets `key` of the object at `path` (which must exist in `object` when the patch is applied), by the operation
    /// that fits what is there.
    pub(crate) fn set(object: &Value, path: &str, key: &str, value: Value) -> Self {
        let there = object.pointer(path).and_then(|o| o.get(key)).is_some();
        let path = format!("{path}/{}", escaped(key));
        if there { Self::Replace { path, value } } else { Self::Add { path, value } }
    }
}

/// A key as a part of a JSON pointer.
pub(crate) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The operations that set annotations of `object`.
pub(crate) fn annotate(object: &Value, key: &str, value: &str) -> Operation {
    if object.pointer("/metadata/annotations").is_some_and(Value::is_object) {
        return Operation::set(object, "/metadata/annotations", key, Value::from(value));
    }
    let mut annotations = serde_json::Map::new();
    annotations.insert(key.to_owned(), Value::from(value));
    Operation::Add { path: "/metadata/annotations".to_owned(), value: Value::Object(annotations) }
}
