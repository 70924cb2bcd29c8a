//! The template against a library that a test plays: copy these with it.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use vnpu_driver::hardware::{Health, Inventory};

use super::{Acme, Template};
use crate::backend::Backend;
use crate::promises;

/// A card's answers: serial, memory, health.
type Card = (Result<String, i32>, u64, u32);

/// The cards, and whether the health of card 0 hangs.
type State = (BTreeMap<u32, Card>, bool);

/// The library.
#[derive(Clone, Default)]
struct Played(Arc<(Mutex<State>, Condvar)>);

impl Played {
    fn with(cards: u32) -> Self {
        let played = Self::default();
        played.change(|cards_of| {
            *cards_of = (0..cards).map(|card| (card, (Ok(format!("ACME-{card}")), 1024, 0))).collect()
        });
        played
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<u32, Card>)) {
        change(&mut self.0.0.lock().unwrap().0);
    }

    fn hang(&self, hangs: bool) {
        self.0.0.lock().unwrap().1 = hangs;
        self.0.1.notify_all();
    }

    fn card(&self, card: u32) -> Result<Card, i32> {
        self.0.0.lock().unwrap().0.get(&card).cloned().ok_or(-8)
    }
}

impl Acme for Played {
    fn cards(&self) -> Result<Vec<u32>, i32> {
        Ok(self.0.0.lock().unwrap().0.keys().copied().collect())
    }
    fn serial(&self, card: u32) -> Result<String, i32> {
        self.card(card)?.0
    }
    fn memory(&self, card: u32) -> Result<u64, i32> {
        Ok(self.card(card)?.1)
    }
    fn health(&self, card: u32) -> Result<u32, i32> {
        let mut state = self.0.0.lock().unwrap();
        while state.1 && card == 0 {
            state = self.0.1.wait(state).unwrap();
        }
        drop(state);
        Ok(self.card(card)?.2)
    }
}

fn template(library: Played, dev: &Path, deadline: Duration) -> Template<Played> {
    Template::new(library, "acme".parse().unwrap(), dev.to_owned(), deadline)
}

fn names(inventory: &Inventory) -> Vec<String> {
    inventory.chips.iter().map(|chip| chip.name().to_string()).collect()
}

fn reasons(inventory: &Inventory) -> Vec<&str> {
    inventory.problems.iter().map(|problem| problem.reason.as_str()).collect()
}

#[test]
fn all_promises_are_kept_on_healthy_hardware() {
    let dev = tempfile::tempdir().unwrap();
    for card in 0..3 {
        symlink("/dev/null", dev.path().join(format!("acme{card}"))).unwrap();
    }
    promises::keep(&template(Played::with(3), dev.path(), Duration::from_secs(30)));
}

#[test]
fn a_card_that_cannot_be_used_is_named_and_one_that_was_seen_stays() {
    let played = Played::with(4);
    let template = template(played.clone(), Path::new("/dev"), Duration::from_secs(30));
    let before = template.discover().unwrap();
    played.change(|cards| {
        cards.insert(0, (Err(-5), 1024, 0));
        cards.remove(&1);
        cards.insert(2, (Ok("ACME-2".to_owned()), 0, 0));
        cards.insert(3, (Ok("ACME-3".to_owned()), 1024, 7));
    });
    let inventory = template.discover().unwrap();
    assert_eq!(names(&inventory), ["chip-0-0", "chip-3-0"]);
    assert_eq!(reasons(&inventory), ["vendor_call_failed", "zero_memory"]);
    assert_eq!(inventory.chips[0].uuid, before.chips[0].uuid);
    assert!(matches!(&inventory.chips[0].health, Health::Unknown(why) if why.contains("acme_serial")));
    assert_eq!(inventory.chips[1].health, Health::fault("error-7", "error 7"));
}

#[test]
fn two_cards_never_have_one_identity() {
    let played = Played::with(2);
    played.change(|cards| {
        cards.insert(1, (Ok("ACME-0".to_owned()), 1024, 0));
    });
    let inventory = template(played, Path::new("/dev"), Duration::from_secs(30)).discover().unwrap();
    assert_eq!((names(&inventory), reasons(&inventory)), (vec![], vec!["duplicate_uuid"]));
}

#[test]
fn a_call_that_hangs_is_given_up_and_the_others_are_asked() {
    let played = Played::with(2);
    let template = template(played.clone(), Path::new("/dev"), Duration::from_millis(200));
    played.hang(true);
    let inventory = template.discover().unwrap();
    assert_eq!(names(&inventory), ["chip-0-0", "chip-1-0"]);
    assert!(matches!(&inventory.chips[0].health, Health::Unknown(why) if why.contains("does not return")));
    assert_eq!(inventory.chips[1].health, Health::Healthy);
    played.hang(false);
}
