//! Policies by name, as the command line tells them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use vnpu_driver::id::InvalidId;
use vnpu_placement::Config;
use vnpu_placement::batch::Mode;

use crate::baselines::{
    DraFirstFit, Hami, KueueBestFit, LeastAllocated, MostAllocated, RandomNode, TiersAndHash,
};
use crate::job::Shape;
use crate::ours::{Ours, Settings};
use crate::policy::{Fifo, Policy};

/// A policy to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Any node, by lot.
    Random,
    /// Most free chips first.
    LeastAllocated,
    /// Most used chips first.
    MostAllocated,
    /// HAMi's public algorithm.
    Hami,
    /// Three tiers and a hash, on HAMi.
    TiersAndHash,
    /// Kueue's topology-aware best fit.
    KueueBestFit,
    /// Stock allocation of chips.
    DraFirstFit,
    /// The planner of this project.
    Ours(Settings),
}

/// Why a text names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no policy; one of {}, where @SECONDS is a patience", Choice::NAMES.join(", "))]
pub struct UnknownPolicy {
    name: String,
}

impl Choice {
    /// All names; those of the planner take a patience.
    pub const NAMES: [&'static str; 9] = [
        "random",
        "least-allocated",
        "most-allocated",
        "hami",
        "tiers-hash",
        "kueue-best-fit",
        "dra-first-fit",
        "ours[@SECONDS]",
        "one-per-node[@SECONDS]",
    ];

    /// The policy, ready to run on an empty cluster.
    ///
    /// # Errors
    /// When the planner refuses the cluster's names, which is a bug.
    pub fn policy(self, shape: &Shape, seed: u64) -> Result<Box<dyn Policy>, InvalidId> {
        Ok(match self {
            Self::Random => Box::new(Fifo::new(RandomNode::new(seed))),
            Self::LeastAllocated => Box::new(Fifo::new(LeastAllocated::new(seed))),
            Self::MostAllocated => Box::new(Fifo::new(MostAllocated::new(seed))),
            Self::Hami => Box::new(Fifo::new(Hami::new(seed, shape.dual))),
            Self::TiersAndHash => Box::new(Fifo::new(TiersAndHash::new(shape.dual))),
            Self::KueueBestFit => Box::new(Fifo::new(KueueBestFit)),
            Self::DraFirstFit => Box::new(Fifo::new(DraFirstFit::new(seed))),
            Self::Ours(settings) => Box::new(Ours::new(shape, settings, Config::default())?),
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::LeastAllocated => "least-allocated",
            Self::MostAllocated => "most-allocated",
            Self::Hami => "hami",
            Self::TiersAndHash => "tiers-hash",
            Self::KueueBestFit => "kueue-best-fit",
            Self::DraFirstFit => "dra-first-fit",
            Self::Ours(Settings { mode: Mode::OnePerNode, .. }) => "one-per-node",
            Self::Ours(_) => "ours",
        })?;
        match self {
            Self::Ours(settings) if !settings.patience.is_zero() => {
                write!(f, "@{}", settings.patience.as_secs())
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for Choice {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let unknown = || UnknownPolicy { name: name.to_owned() };
        let (plain, patience) = match name.split_once('@') {
            Some((plain, seconds)) => (plain, Some(seconds.parse().map_err(|_| unknown())?)),
            None => (name, None),
        };
        let settings = |mode| Settings { patience: Duration::from_secs(patience.unwrap_or_default()), mode };
        match (plain, patience) {
            ("ours", _) => Ok(Self::Ours(settings(Mode::Pack))),
            ("one-per-node", _) => Ok(Self::Ours(settings(Mode::OnePerNode))),
            ("random", None) => Ok(Self::Random),
            ("least-allocated", None) => Ok(Self::LeastAllocated),
            ("most-allocated", None) => Ok(Self::MostAllocated),
            ("hami", None) => Ok(Self::Hami),
            ("tiers-hash", None) => Ok(Self::TiersAndHash),
            ("kueue-best-fit", None) => Ok(Self::KueueBestFit),
            ("dra-first-fit", None) => Ok(Self::DraFirstFit),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            "random",
            "least-allocated",
            "most-allocated",
            "hami",
            "tiers-hash",
            "kueue-best-fit",
            "dra-first-fit",
            "ours",
            "ours@600",
            "one-per-node@1800",
        ] {
            assert_eq!(name.parse::<Choice>().unwrap().to_string(), name);
        }
        for name in ["", "best", "hami@5", "ours@", "ours@x"] {
            assert!(name.parse::<Choice>().is_err(), "{name}");
        }
    }
}
