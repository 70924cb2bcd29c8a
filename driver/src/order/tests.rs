use proptest::prelude::*;

use super::*;
use crate::fixtures::{Around, dual};

fn cards(n: u32) -> BTreeMap<u32, Vec<u32>> {
    (0..n).map(|card| (card, vec![0, 1])).collect()
}

fn using(names: &[&str]) -> BTreeSet<DeviceName> {
    names.iter().map(|n| n.parse().unwrap()).collect()
}

#[test]
fn nothing_is_rewritten_without_need() {
    // Half module already first, full ones anywhere, nothing in use: the published order stays.
    assert_eq!(ordered_cards(&[2, 0, 1], &cards(3), &using(&[])), [2, 0, 1]);
    assert_eq!(ordered_cards(&[0, 1, 2], &cards(3), &using(&["chip-0-1"])), [0, 1, 2]);
    assert_eq!(ordered_cards(&[0, 1, 2], &cards(3), &using(&["module-0", "chip-1-0"])), [0, 1, 2]);
}

#[test]
fn a_half_module_moves_before_the_whole_one_that_would_be_broken() {
    assert_eq!(ordered_cards(&[0, 1, 2], &cards(3), &using(&["chip-2-0"])), [2, 0, 1]);
    assert_eq!(ordered_cards(&[2, 0, 1], &cards(3), &using(&["chip-1-0"])), [1, 2, 0]);
}

#[test]
fn a_lonely_die_counts_as_half() {
    let mut cards = cards(2);
    cards.insert(7, vec![1]);
    assert_eq!(ordered_cards(&[], &cards, &using(&[])), [7, 0, 1]);
}

#[test]
fn new_cards_come_last_and_vanished_ones_are_dropped() {
    assert_eq!(ordered_cards(&[5, 1, 1], &cards(3), &using(&[])), [1, 0, 2]);
}

#[test]
fn the_published_order_is_what_the_next_plan_keeps() {
    let mut around = Around::using(&["chip-1-0"]);
    let first = around.plan(&dual(3));
    around.order = published_order(&first);
    assert_eq!(around.order.values().collect::<Vec<_>>(), [&[1, 0, 2]]);
    around.in_use.clear();
    assert_eq!(around.plan(&dual(3)), first, "freeing the chip is no reason to write");
}

proptest! {
    #[test]
    fn the_order_is_a_permutation_that_breaks_nothing_needlessly(
        published in proptest::collection::vec(0u32..24, 0..30),
        used in proptest::collection::btree_set((0u32..20, 0u32..3), 0..30),
    ) {
        let cards = cards(20);
        let in_use: BTreeSet<DeviceName> = used
            .into_iter()
            .map(|(card, die)| if die == 2 { DeviceName::Module { card } } else { DeviceName::Chip { card, die } })
            .collect();
        let order = ordered_cards(&published, &cards, &in_use);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..20).collect::<Vec<_>>());
        let uses: Vec<ModuleUse> = order.iter().map(|c| module_use(*c, &[0, 1], &in_use)).collect();
        prop_assert!(!breaks_needlessly(&uses));
        prop_assert_eq!(ordered_cards(&order, &cards, &in_use), order, "asked again, it stays");
    }
}
