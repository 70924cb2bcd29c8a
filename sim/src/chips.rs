//! One node as policies see it: which chips are free, two to a module, and what is left of shared ones.

use std::collections::BTreeMap;

use crate::job::{Ask, Shape, Thousandths};

/// A node's chips. Chips `2n` and `2n + 1` are module `n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chips {
    /// A bit for each chip of which nothing is used.
    free: u64,
    /// What is left of shared chips, by number; a chip in `free` is not here.
    shared: BTreeMap<u32, u32>,
    all: u64,
    dual: bool,
}

/// What one pod holds on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// A bit for each whole chip.
    pub chips: u64,
    /// A part of one chip.
    pub share: Option<(u32, Thousandths)>,
}

/// The lower chips of modules.
const LOWER: u64 = 0x5555_5555_5555_5555;
const WHOLE: u32 = 1000;

impl Taken {
    /// Whether it holds exactly one chip of more than one module, as [`vnpu_driver::straddle`] defines it.
    pub const fn straddles(self) -> bool {
        self.halves() > 1
    }

    /// Modules of which it holds one chip.
    pub const fn halves(self) -> u32 {
        ((self.chips ^ (self.chips >> 1)) & LOWER).count_ones()
    }

    /// Whole chips that it occupies.
    pub const fn count(self) -> u32 {
        self.chips.count_ones()
    }
}

const fn lowest(bits: u64) -> u64 {
    bits & bits.wrapping_neg()
}

impl Chips {
    /// An empty node.
    pub fn new(shape: &Shape) -> Self {
        let all = if shape.chips >= 64 { u64::MAX } else { (1 << shape.chips) - 1 };
        Self { free: all, shared: BTreeMap::new(), all, dual: shape.dual }
    }

    /// Lower chips of modules of which both are free.
    const fn pairs(&self) -> u64 {
        self.free & (self.free >> 1) & LOWER
    }

    /// Chips of which nothing is used.
    pub const fn free(&self) -> u32 {
        self.free.count_ones()
    }

    /// Modules of which nothing is used.
    pub const fn whole(&self) -> u32 {
        self.pairs().count_ones()
    }

    /// Modules of which exactly one chip is free.
    pub const fn half(&self) -> u32 {
        self.free() - 2 * self.whole()
    }

    /// Whether nothing on it is used.
    pub const fn is_empty(&self) -> bool {
        self.free == self.all
    }

    /// Whether anything of a chip is used.
    pub const fn is_used(&self, chip: u32) -> bool {
        match 1_u64.checked_shl(chip) {
            Some(bit) => self.free & bit == 0,
            None => true,
        }
    }

    /// Everything that is free, in chips.
    pub fn free_amount(&self) -> f64 {
        f64::from(self.free()) + f64::from(self.shared.values().sum::<u32>()) / f64::from(WHOLE)
    }

    /// Chips of which anything is used.
    pub const fn occupied(&self) -> u32 {
        self.all.count_ones() - self.free()
    }

    /// How many more pods of a demand fit, even ones in whole modules.
    pub fn room(&self, ask: Ask) -> u32 {
        match ask {
            Ask::Chips(0) => 0,
            Ask::Chips(chips) if chips > 1 && self.dual => self.whole() / (chips / 2),
            Ask::Chips(_) | Ask::Share(_) => self.room_by_count(ask),
        }
    }

    /// The same where modules do not matter.
    pub fn room_by_count(&self, ask: Ask) -> u32 {
        match ask {
            Ask::Chips(chips) => self.free().checked_div(chips).unwrap_or_default(),
            Ask::Share(Thousandths(part)) => {
                let fit = |left: u32| left.checked_div(part).unwrap_or_default();
                self.free() * fit(WHOLE) + self.shared.values().map(|left| fit(*left)).sum::<u32>()
            }
        }
    }

    /// Half modules that so many pods of a demand add (or, negative, use up).
    pub fn halves_made(&self, ask: Ask, pods: u32) -> i64 {
        if ask != Ask::Chips(1) || !self.dual {
            return 0;
        }
        let (half, pods) = (i64::from(self.half()), i64::from(pods));
        if pods <= half { -pods } else { (pods - half) % 2 - half }
    }

    /// Takes chips for one pod as our drivers let it happen: whole modules for an even demand; one chip of a half
    /// module, where there is one, for a single chip.
    pub fn take(&mut self, ask: Ask) -> Option<Taken> {
        let Ask::Chips(chips) = ask else { return self.take_share(ask) };
        if self.room(ask) == 0 {
            return None;
        }
        let mut taken = 0;
        if chips == 1 {
            let pairs = self.pairs();
            let halves = self.free & !(pairs | (pairs << 1));
            taken = lowest(if self.dual && halves != 0 { halves } else { self.free });
        } else if self.dual {
            for _ in 0..chips / 2 {
                let module = lowest(self.pairs() & !taken);
                taken |= module | (module << 1);
            }
        } else {
            return self.take_by_count(ask);
        }
        self.free &= !taken;
        Some(Taken { chips: taken, share: None })
    }

    /// Takes the first free chips, whatever their modules.
    pub fn take_by_count(&mut self, ask: Ask) -> Option<Taken> {
        let Ask::Chips(chips) = ask else { return self.take_share(ask) };
        if chips > self.free() {
            return None;
        }
        let mut taken = 0;
        for _ in 0..chips {
            taken |= lowest(self.free & !taken);
        }
        self.free &= !taken;
        Some(Taken { chips: taken, share: None })
    }

    /// A part of the shared chip that has least left, else of the first free one.
    fn take_share(&mut self, ask: Ask) -> Option<Taken> {
        let Ask::Share(part) = ask else { return None };
        let fitting = self.shared.iter().filter(|(_, left)| **left >= part.0);
        let chip = match fitting.min_by_key(|(chip, left)| (**left, **chip)) {
            Some((chip, _)) => *chip,
            None => self.take(Ask::Chips(1))?.chips.trailing_zeros(),
        };
        let left = self.shared.get(&chip).copied().unwrap_or(WHOLE);
        self.shared.insert(chip, left.checked_sub(part.0)?);
        Some(Taken { chips: 0, share: Some((chip, part)) })
    }

    /// Takes exactly this; `false` when it is not free.
    pub fn occupy(&mut self, taken: Taken) -> bool {
        if self.free & taken.chips != taken.chips {
            return false;
        }
        self.free &= !taken.chips;
        let Some((chip, part)) = taken.share else { return true };
        let bit = 1_u64.checked_shl(chip).unwrap_or_default();
        let left = match self.shared.get(&chip) {
            Some(left) => *left,
            None if self.free & bit != 0 => WHOLE,
            None => return false,
        };
        let Some(left) = left.checked_sub(part.0) else { return false };
        self.free &= !bit;
        self.shared.insert(chip, left);
        true
    }

    /// Gives back what a pod held.
    pub fn give(&mut self, taken: Taken) {
        self.free |= taken.chips;
        if let Some((chip, part)) = taken.share {
            let left = self.shared.get(&chip).copied().unwrap_or_default() + part.0;
            if left >= WHOLE {
                self.shared.remove(&chip);
                self.free |= 1_u64.checked_shl(chip).unwrap_or_default();
            } else {
                self.shared.insert(chip, left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_demands_take_whole_modules_and_single_chips_fill_half_ones() {
        let mut node = Chips::new(&Shape::BANK);
        let one = node.take(Ask::Chips(1)).unwrap();
        assert_eq!((one.chips, node.whole(), node.half()), (1, 7, 1));
        let two = node.take(Ask::Chips(2)).unwrap();
        assert_eq!((two.chips, two.straddles()), (0b1100, false));
        assert_eq!(node.take(Ask::Chips(1)).unwrap().chips, 0b10);
        assert_eq!(node.room(Ask::Chips(8)), 1);
        assert_eq!(node.room(Ask::Chips(1)), 12);
        node.give(one);
        assert_eq!((node.room_by_count(Ask::Chips(2)), node.room(Ask::Chips(2))), (6, 6));
        let straddling = node.take_by_count(Ask::Chips(2)).unwrap();
        assert_eq!((straddling.chips, straddling.straddles()), (0b1_0001, true));
        assert!(!Taken { chips: 0b111, share: None }.straddles());
    }

    #[test]
    fn halves_made_are_counted() {
        let mut node = Chips::new(&Shape::BANK);
        assert_eq!([1, 2, 3].map(|pods| node.halves_made(Ask::Chips(1), pods)), [1, 0, 1]);
        node.take(Ask::Chips(1)).unwrap();
        assert_eq!([1, 2, 3].map(|pods| node.halves_made(Ask::Chips(1), pods)), [-1, 0, -1]);
        assert_eq!(node.halves_made(Ask::Chips(4), 1), 0);
    }

    #[test]
    fn shares_fill_a_chip_before_the_next() {
        let share = |part| Ask::Share(Thousandths(part));
        let mut node = Chips::new(&Shape { nodes: 1, chips: 2, dual: false, per_leaf: 1 });
        let first = node.take(share(600)).unwrap();
        assert_eq!(node.take(share(300)).unwrap().share, Some((0, Thousandths(300))));
        assert_eq!(node.take(share(300)).unwrap().share, Some((1, Thousandths(300))));
        assert_eq!((node.free(), node.room(share(500)), node.occupied()), (0, 1, 2));
        let held = node.clone();
        node.give(first);
        assert_eq!(node.room(share(600)), 2);
        assert!(node.occupy(first));
        assert_eq!(node, held);
        assert!(!node.occupy(first));
    }
}
