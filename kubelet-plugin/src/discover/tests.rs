use super::*;

fn waits(vendors: &[(&str, First)]) -> Option<String> {
    waits_for(
        &vendors.iter().map(|(vendor, first)| ((*vendor).to_owned(), first.clone())).collect::<Vec<_>>(),
    )
}

#[test]
fn a_node_is_ready_with_one_vendor_and_names_those_that_keep_it_from_that() {
    let missing = |vendor: &str| First::Missing(format!("no library of {vendor}"));
    let failed = || First::Failed("it does not answer".to_owned());
    for (ascend, nvidia, expected) in [
        (First::Seen, First::Seen, None),
        (First::Seen, missing("N"), None),
        (missing("A"), First::Seen, None),
        (First::Seen, failed(), Some("nvidia: it does not answer")),
        (missing("A"), failed(), Some("nvidia: it does not answer")),
        (
            failed(),
            First::Waiting,
            Some("ascend: it does not answer; nvidia: the first look at the hardware has not ended"),
        ),
        (
            missing("A"),
            missing("N"),
            Some("no vendor's library is on this node: ascend: no library of A; nvidia: no library of N"),
        ),
    ] {
        let vendors = [("ascend", ascend), ("nvidia", nvidia)];
        assert_eq!(waits(&vendors).as_deref(), expected, "{vendors:?}");
    }
}
