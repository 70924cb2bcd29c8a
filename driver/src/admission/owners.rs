//! Who manages a claim's specification (`metadata.managedFields`) after an update that changed nothing of it: who did
//! before. The API server notes managers before admission puts the stored lists back, so a plain apply of the same file
//! would take rewritten lists away from whoever applied them server-side, and be in his way the next time.

use serde_json::{Map, Value, json};

/// The key of the specification in a manager's fields.
const SPECIFICATION: &str = "f:spec";

/// The managers as they are to be, of a claim whose stored specification was put in; `None` where they are right.
/// Who applies the specification keeps it, by force too: only those who update it never get it by that.
pub(super) fn settled(object: &Value, old: &Value) -> Option<Vec<Value>> {
    let (new, old) = (entries(object)?, entries(old)?);
    let before = |entry: &Value| old.iter().find(|o| same_manager(o, entry));
    let updates = |entry: &Value| entry.get("operation").is_some_and(|o| o == "Update");
    let took = |entry: &Value| !within(specification(entry), before(entry).and_then(specification));
    if !new.iter().any(|entry| updates(entry) && took(entry)) {
        return None;
    }
    let mut settled: Vec<Value> = new.iter().filter_map(|entry| as_before(entry, before(entry))).collect();
    let lost = old.iter().filter(|o| !new.iter().any(|entry| same_manager(o, entry)));
    settled.extend(lost.filter_map(|entry| with(entry, json!({SPECIFICATION: specification(entry)?}))));
    Some(settled)
}

fn entries(object: &Value) -> Option<&Vec<Value>> {
    object.pointer("/metadata/managedFields")?.as_array()
}

fn specification(entry: &Value) -> Option<&Value> {
    entry.get("fieldsV1")?.get(SPECIFICATION)
}

fn same_manager(a: &Value, b: &Value) -> bool {
    ["manager", "operation", "apiVersion", "subresource"].iter().all(|key| a.get(key) == b.get(key))
}

/// Whether all fields of `part` are in `whole`.
fn within(part: Option<&Value>, whole: Option<&Value>) -> bool {
    let Some(part) = part.and_then(Value::as_object) else { return true };
    let Some(whole) = whole else { return part.is_empty() };
    part.iter().all(|(key, value)| whole.get(key).is_some_and(|there| within(Some(value), Some(there))))
}

/// What a manager has now, but of the specification what he had before; `None` when nothing is left.
fn as_before(entry: &Value, before: Option<&Value>) -> Option<Value> {
    let mut fields: Map<String, Value> = entry.get("fieldsV1")?.as_object()?.clone();
    fields.remove(SPECIFICATION);
    if let Some(specification) = before.and_then(specification) {
        fields.insert(SPECIFICATION.to_owned(), specification.clone());
    }
    if fields.is_empty() { None } else { with(entry, fields.into()) }
}

fn with(entry: &Value, fields: Value) -> Option<Value> {
    let mut entry = entry.clone();
    *entry.get_mut("fieldsV1")? = fields;
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, fields: &Value) -> Value {
        json!({
            "manager": manager, "operation": operation, "apiVersion": "resource.k8s.io/v1",
            "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1", "fieldsV1": fields,
        })
    }

    fn spec(lists: &[&str]) -> Value {
        let lists: Map<String, Value> = lists.iter().map(|name| (format!("f:{name}"), json!({}))).collect();
        json!({SPECIFICATION: {"f:devices": lists}})
    }

    fn after(new: &[Value], old: &[Value]) -> Option<Vec<Value>> {
        let object = |entries: &[Value]| json!({"metadata": {"managedFields": entries}});
        settled(&object(new), &object(old))
    }

    #[test]
    fn an_update_that_changes_nothing_takes_nothing() {
        let applier = entry("kubectl", "Apply", &spec(&["requests"]));
        let mut labelled = json!({"f:metadata": {"f:labels": {"f:a": {}}}});
        let with_labels = entry("plain", "Update", &labelled);
        labelled[SPECIFICATION] = spec(&["requests"])[SPECIFICATION].clone();
        let thief = entry("plain", "Update", &labelled);
        let settled = after(&[thief], std::slice::from_ref(&applier));
        assert_eq!(settled, Some(vec![with_labels, applier.clone()]));
        let only = entry("plain", "Update", &spec(&["requests"]));
        assert_eq!(after(&[only], std::slice::from_ref(&applier)), Some(vec![applier.clone()]));
        // What the applier still has beside, he keeps.
        let rest = entry("kubectl", "Apply", &spec(&["config"]));
        let both = entry("kubectl", "Apply", &spec(&["config", "requests"]));
        let thief = entry("replace", "Update", &spec(&["requests"]));
        assert_eq!(after(&[rest, thief], std::slice::from_ref(&both)), Some(vec![both]));
    }

    #[test]
    fn who_applies_or_managed_it_before_is_left_alone() {
        let creator = entry("plain", "Update", &spec(&["requests"]));
        let applier = entry("kubectl", "Apply", &spec(&["requests"]));
        assert_eq!(after(std::slice::from_ref(&applier), std::slice::from_ref(&creator)), None, "by force");
        assert_eq!(after(std::slice::from_ref(&creator), std::slice::from_ref(&creator)), None);
        let object = json!({"metadata": {}});
        assert_eq!(settled(&object, &object), None);
    }
}
