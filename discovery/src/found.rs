//! Chips of one pass before they are compared with each other: what was seen, what is only remembered, and the rule
//! that no two devices have one identity.

use std::collections::BTreeMap;

use vnpu_driver::hardware::{Chip, Health, Problem};

/// Whether two chips have in common what only one may have.
pub(crate) type Same = fn(&Chip, &Chip) -> bool;

/// Something that two devices must not share.
pub(crate) struct Identity {
    /// What is wrong when they do, for people.
    pub(crate) what: &'static str,
    /// The same as a stable word.
    pub(crate) reason: &'static str,
    /// What to do.
    pub(crate) remedy: &'static str,
    /// Whether they do.
    pub(crate) same: Same,
}

/// Why a device cannot be used: a question has no answer (the vendor's own kind of reason), or an answer is no good.
pub(crate) enum Flaw<U> {
    Unanswered(U),
    Unusable { message: String, reason: &'static str },
}

impl<U> From<U> for Flaw<U> {
    fn from(unanswered: U) -> Self {
        Self::Unanswered(unanswered)
    }
}

/// Chips by the places in which the vendor's library has them.
pub(crate) struct Found<P> {
    fresh: BTreeMap<P, Chip>,
    carried: BTreeMap<P, Chip>,
}

impl<P> Default for Found<P> {
    fn default() -> Self {
        Self { fresh: BTreeMap::new(), carried: BTreeMap::new() }
    }
}

impl<P: Copy + Ord> Found<P> {
    /// Takes a chip that was seen.
    pub(crate) fn see(&mut self, place: P, chip: Chip) {
        self.fresh.insert(place, chip);
    }

    /// Keeps a chip that was seen before and of which nothing is known now but this.
    pub(crate) fn carry(&mut self, place: P, known: &BTreeMap<P, Chip>, health: &Health) {
        if let Some(chip) = known.get(&place) {
            self.carried.insert(place, Chip { health: health.clone(), ..chip.clone() });
        }
    }

    /// Makes identities unique. Among chips that claim one identity, the one that had it in the last pass keeps
    /// it; otherwise nobody has it, because no guess about hardware is safe. A carried chip gives way to a fresh.
    pub(crate) fn settle(
        mut self,
        before: &BTreeMap<P, Chip>,
        identities: &[Identity],
        object: impl Fn(P) -> String,
        problems: &mut Vec<Problem>,
    ) -> BTreeMap<P, Chip> {
        for Identity { what, reason, remedy, same } in identities {
            let fresh = self.fresh.clone();
            self.carried.retain(|_, chip| !fresh.values().any(|other| same(chip, other)));
            for (place, chip) in &fresh {
                let twins: Vec<P> = fresh.iter().filter(|(_, c)| same(chip, c)).map(|(p, _)| *p).collect();
                // Each group once, at its first member.
                if twins.len() < 2 || twins.first() != Some(place) {
                    continue;
                }
                let keeps: Vec<P> = twins
                    .iter()
                    .filter(|twin| before.get(twin).is_some_and(|old| same(old, chip)))
                    .copied()
                    .collect();
                let keeper = if keeps.len() == 1 { keeps.first() } else { None };
                self.fresh.retain(|place, _| !twins.contains(place) || Some(place) == keeper);
                let names: Vec<String> = twins.iter().map(|twin| object(*twin)).collect();
                problems.push(Problem {
                    object: names.join(", "),
                    message: format!("{what}: they cannot be told apart, {remedy}"),
                    reason: (*reason).to_owned(),
                });
            }
        }
        self.carried.into_iter().chain(self.fresh).collect()
    }
}
