//! What is written on nodes, as tables.

use serde_json::{Value, json};

use super::*;

/// Metadata of a node whose labels are managed as told: (label, value, managers).
fn node(labels: &[(&str, &str, &[&str])]) -> NodeSeen {
    let values: BTreeMap<&str, &str> = labels.iter().map(|(label, value, _)| (*label, *value)).collect();
    let entry = |(label, manager): (&str, &str)| {
        let operation = if manager == MANAGER { "Apply" } else { "Update" };
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": {".": {}, (format!("f:{label}")): {}}}}})
    };
    let managed: Vec<Value> = labels
        .iter()
        .flat_map(|(label, _, managers)| managers.iter().map(|manager| (*label, *manager)))
        .map(entry)
        .collect();
    let metadata = json!({"name": "n", "uid": "u", "labels": values, "managedFields": managed});
    NodeSeen::read(&serde_json::from_value(metadata).unwrap())
}

fn found(value: Option<&str>) -> Option<Found> {
    value.map(|value| Found { value: value.to_owned(), source: "the table".to_owned() })
}

fn place(leaf: Option<&str>, superpod: Option<&str>) -> Place {
    Place { leaf: leaf.map(str::to_owned), superpod: superpod.map(str::to_owned) }
}

#[test]
fn a_label_is_written_where_nobody_else_has_written_it() {
    const NONE: &[&str] = &[];
    const OURS: &[&str] = &[MANAGER];
    const THEIRS: &[&str] = &["kubectl-label"];
    const BOTH: &[&str] = &["kubectl-label", MANAGER];
    // (what is there, what was found, what is written, whether they disagree); None writes nothing.
    for (there, leaf, written, disagree) in [
        (None, None, None, false),
        (None, Some("a"), Some(Some("a")), false),
        (Some(("a", OURS)), Some("a"), None, false),
        (Some(("a", OURS)), Some("b"), Some(Some("b")), false),
        (Some(("a", OURS)), None, Some(None), false),
        (Some(("a", THEIRS)), Some("a"), None, false),
        (Some(("a", THEIRS)), Some("b"), None, true),
        (Some(("a", THEIRS)), None, None, false),
        (Some(("a", BOTH)), Some("a"), None, false),
        // Both wrote the same, and now the sources say something else: ours is given up, and theirs stays.
        (Some(("a", BOTH)), Some("b"), Some(None), true),
        (Some(("a", BOTH)), None, Some(None), false),
        // Managed fields were cleared: nobody is known to manage it, so somebody may.
        (Some(("a", NONE)), Some("a"), None, false),
        (Some(("a", NONE)), Some("b"), None, true),
    ] {
        let labels: Vec<_> = there.iter().map(|(value, managers)| (LEAF, *value, *managers)).collect();
        let resolved = Resolved { leaf: found(leaf), ..Resolved::default() };
        let decision = decide("n", &node(&labels), &resolved);
        let wanted = written.map(|value| place(value, None));
        assert_eq!(decision.write, wanted, "{there:?} {leaf:?}");
        assert_eq!(!decision.disagreements.is_empty(), disagree, "{there:?} {leaf:?}");
    }
}

#[test]
fn one_label_is_written_and_the_other_left_alone() {
    let seen = node(&[(LEAF, "leaf-9", &["ansible"]), (SUPERPOD, "old", &[MANAGER])]);
    let resolved =
        Resolved { leaf: found(Some("leaf-1")), superpod: found(Some("new")), disagreements: Vec::new() };
    let decision = decide("n", &seen, &resolved);
    assert_eq!(decision.write, Some(place(None, Some("new"))));
    assert_eq!(
        decision.disagreements,
        ["vnpu.dev/leaf of n is leaf-9, as ansible has written it and as it stays; the table says leaf-1"]
    );
    // What is ours stays in what is written as long as a source says so.
    let seen = node(&[(LEAF, "leaf-1", &[MANAGER])]);
    assert_eq!(decide("n", &seen, &resolved).write, Some(place(Some("leaf-1"), Some("new"))));
}

#[test]
fn our_own_labels_are_no_sources() {
    let seen = node(&[(LEAF, "a", &[MANAGER]), ("zone", "z", &["cloud"])]);
    assert_eq!(seen.labels.keys().collect::<Vec<_>>(), ["zone"]);
    assert_eq!(seen.written(), place(Some("a"), None));
}
