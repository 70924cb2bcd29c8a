//! Rendezvous hashing: which of several equal domains a batch gets. Two controllers seldom meet in one domain, one
//! controller always gets the same, and when a domain goes only its own batches move.

use std::cmp::Reverse;

/// FNV-1a, 64 bits, of the bytes of `text`.
pub(crate) const fn digest(text: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        hash = (hash ^ *byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
        rest = tail;
    }
    hash
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): every bit of the input moves every bit of the output.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The weight of a domain for an owner: `mix(mix(fnv1a(owner)) ^ fnv1a(domain))`, with FNV-1a of 64 bits and the
/// finaliser of SplitMix64. The domain of the largest weight wins; this definition never changes.
pub fn weight(owner: &str, domain: &str) -> u64 {
    Owner::of(owner).weight(digest(domain.as_bytes()))
}

/// An owner, ready to weigh domains.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner(u64);

impl Owner {
    pub(crate) const fn of(owner: &str) -> Self {
        Self(mix(digest(owner.as_bytes())))
    }

    /// The weight of the domain whose name has this digest.
    pub(crate) const fn weight(self, domain: u64) -> u64 {
        mix(self.0 ^ domain)
    }
}

/// The leaf that a controller's pods prefer where nobody plans: the one of the largest [`weight`], the first by name
/// among equals. `None` without leaves.
///
/// ```
/// use vnpu_placement::preferred_leaf;
///
/// let leaves = ["leaf-1", "leaf-2", "leaf-3"];
/// let owner = "4f1a3f0e-0c9c-4f0e-9d0e-2f3b0f6d9a10";
/// assert_eq!(preferred_leaf(owner, leaves), preferred_leaf(owner, ["leaf-3", "leaf-1", "leaf-2"]));
/// ```
pub fn preferred_leaf<'a>(owner: &str, leaves: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let owner = Owner::of(owner);
    leaves.into_iter().max_by_key(|leaf| (owner.weight(digest(leaf.as_bytes())), Reverse(*leaf)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_that_is_documented() {
        assert_eq!(digest(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(digest(b"a"), 0xaf63_dc4c_8601_ec8c);
        // The first output of SplitMix64 from seed 0 is its finaliser of the golden gamma.
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0xe220_a839_7b1d_cdaf);
        assert_eq!(weight("a", "b"), mix(mix(digest(b"a")) ^ digest(b"b")));
    }

    #[test]
    fn owners_spread_evenly_and_move_little() {
        let leaves: Vec<String> = (0..8).map(|i| format!("leaf-{i}")).collect();
        let names = || leaves.iter().map(String::as_str);
        let (mut counts, mut moved) = ([0u32; 8], 0);
        for i in 0..8000 {
            let owner = format!("owner-{i}");
            let chosen = preferred_leaf(&owner, names()).unwrap();
            counts[chosen.strip_prefix("leaf-").unwrap().parse::<usize>().unwrap()] += 1;
            let fewer = preferred_leaf(&owner, names().filter(|leaf| *leaf != "leaf-5")).unwrap();
            moved += u32::from(fewer != chosen);
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!(moved, counts[5], "only what lay on the leaf that went");
    }
}
