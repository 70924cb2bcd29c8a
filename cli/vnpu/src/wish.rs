//! What a run asks for, and what it gets of a chip beside those that are there already. Pure: who is there is an
//! argument.

use std::fmt;

use serde::Serialize;
use vnpu_driver::hardware::Chip;
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_driver::share::{ChipShare, ComputeMode, OnFailure, Overhead};

use crate::error::RunError;

/// What was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish {
    pub(crate) memory: Option<Bytes>,
    pub(crate) cores: Option<Percent>,
    pub(crate) mode: Option<ComputeMode>,
    /// 0 to 10.
    pub(crate) priority: u8,
}

/// What another run has of a chip.
#[derive(Debug, Clone)]
pub(crate) struct Neighbour {
    pub(crate) name: String,
    /// The process that runs it, where that is known.
    pub(crate) pid: Option<u32>,
    pub(crate) chip: DeviceUuid,
    pub(crate) memory: Bytes,
    pub(crate) cores: Percent,
    pub(crate) mode: ComputeMode,
}

/// Memory comes in the pages of large allocations: a smaller rest could not be used.
const PAGE: u64 = 2 << 20;

impl Wish {
    /// Whether it makes sense, whatever chip there is.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        if let Some(Percent(cores)) = self.cores
            && !(1..=100).contains(&cores)
        {
            return Err(RunError::Cores { wanted: cores });
        }
        match (self.memory, self.cores, self.mode) {
            (Some(Bytes(0)), _, _) => Err(RunError::NoMemory),
            (_, Some(_), Some(ComputeMode::BestEffort)) => Err(RunError::CoresOfBestEffort),
            (_, None, Some(mode @ (ComputeMode::Hard | ComputeMode::Elastic))) => {
                Err(RunError::ModeWithoutCores { mode: Word(mode) })
            }
            (None, None, _) => Err(RunError::NothingAsked),
            _ => Ok(()),
        }
    }

    /// The share of `chip`, on which `others` are; those of other chips do not count.
    ///
    /// Without memory it is as many percent of the memory as of the compute. Without cores it has no share of the
    /// compute: it gets what those with one leave. Memory is never promised twice. Compute of hard runs is not
    /// either; an elastic run takes its chance.
    pub(crate) fn grant(&self, chip: &Chip, others: &[Neighbour]) -> Result<ChipShare, RunError> {
        self.check()?;
        let others: Vec<&Neighbour> = others.iter().filter(|n| n.chip == chip.uuid).collect();
        let memory = match (self.memory, self.cores) {
            (Some(memory), _) => memory,
            (None, Some(Percent(cores))) => {
                Bytes((u128::from(chip.memory.0) * u128::from(cores) / 100) as u64 / PAGE * PAGE)
            }
            (None, None) => return Err(RunError::NothingAsked),
        };
        let mode = self.mode.unwrap_or(match self.cores {
            Some(_) => ComputeMode::Hard,
            None => ComputeMode::BestEffort,
        });
        let name = || chip.uuid.to_string();
        if memory > chip.memory {
            return Err(RunError::TooMuchMemory { wanted: memory, chip: name(), has: chip.memory });
        }
        let promised = others.iter().fold(0_u64, |sum, n| sum.saturating_add(n.memory.0));
        let left = Bytes(chip.memory.0.saturating_sub(promised));
        if memory > left {
            return Err(RunError::MemoryPromised {
                asked: match self.memory {
                    Some(_) => format!("--memory {memory}"),
                    None => format!("{memory} (as many percent of the memory as --cores says)"),
                },
                chip: name(),
                left,
                has: chip.memory,
                others: list(&others),
            });
        }
        if let (Some(Percent(cores)), ComputeMode::Hard) = (self.cores, mode) {
            let with_share = others.iter().filter(|n| n.mode != ComputeMode::BestEffort);
            let promised = with_share.fold(0_u32, |sum, n| sum.saturating_add(n.cores.0));
            let left = 100_u32.saturating_sub(promised);
            if cores > left {
                let others = list(&others);
                return Err(RunError::CoresPromised { wanted: cores, chip: name(), left, others });
            }
        }
        Ok(ChipShare {
            uuid: chip.uuid.clone(),
            phys_id: chip.phys_id,
            memory,
            cores: self.cores.unwrap_or(Percent::FULL),
            mode,
            priority: self.priority,
            on_failure: OnFailure::Closed,
            overhead: Overhead::Charge,
        })
    }
}

fn list(others: &[&Neighbour]) -> String {
    others.iter().map(|n| format!("\n  {n}")).collect()
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(pid) = self.pid {
            write!(f, " (process {pid})")?;
        }
        write!(f, ": {}", self.memory)?;
        match self.mode {
            ComputeMode::BestEffort => f.write_str(", no share of the compute"),
            mode => write!(f, ", {} percent {}", self.cores, Word(mode)),
        }
    }
}

/// A compute mode as options and tables write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Word(pub(crate) ComputeMode);

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self.0 {
            ComputeMode::Hard => "hard",
            ComputeMode::Elastic => "elastic",
            ComputeMode::BestEffort => "best-effort",
        })
    }
}

#[cfg(test)]
mod tests {
    use vnpu_driver::hardware::{Health, Traits};

    use super::*;

    fn chip() -> Chip {
        Chip {
            card: 0,
            die: 0,
            uuid: DeviceUuid::new("A").unwrap(),
            module: None,
            model: "910B".to_owned(),
            product_name: String::new(),
            memory: Bytes::gib(64),
            phys_id: 3,
            pci: None,
            numa_node: None,
            pcie_root: None,
            health: Health::Healthy,
            traits: Traits::default(),
        }
    }

    fn wish(memory: Option<u64>, cores: Option<u32>, mode: Option<ComputeMode>) -> Wish {
        Wish { memory: memory.map(Bytes::gib), cores: cores.map(Percent), mode, priority: 5 }
    }

    fn other(chip: &str, memory: u64, cores: u32, mode: ComputeMode) -> Neighbour {
        Neighbour {
            name: "train".to_owned(),
            pid: Some(7),
            chip: DeviceUuid::new(chip).unwrap(),
            memory: Bytes::gib(memory),
            cores: Percent(cores),
            mode,
        }
    }

    use ComputeMode::{BestEffort, Elastic, Hard};

    #[test]
    fn what_is_not_said_follows_from_what_is() {
        let grant = |wish: Wish| wish.grant(&chip(), &[]).unwrap();
        let memory_only = grant(wish(Some(4), None, None));
        assert_eq!((memory_only.mode, memory_only.memory), (BestEffort, Bytes::gib(4)));
        let both = grant(wish(Some(4), Some(30), None));
        assert_eq!((both.mode, both.cores, both.memory), (Hard, Percent(30), Bytes::gib(4)));
        let cores_only = grant(wish(None, Some(30), Some(Elastic)));
        assert_eq!((cores_only.mode, cores_only.phys_id), (Elastic, 3));
        // 19.2 GiB, in whole pages of 2 MiB.
        assert_eq!(cores_only.memory, Bytes(19_660 << 20));
        assert_eq!(grant(wish(Some(64), Some(100), None)).memory, Bytes::gib(64), "all of it");
    }

    #[test]
    fn shares_that_fill_the_chip_fit_and_one_more_does_not() {
        let others = [other("A", 20, 30, Hard), other("B", 64, 100, Hard)];
        let grant = |wish: Wish| wish.grant(&chip(), &others).map(drop).map_err(|e| e.to_string());
        grant(wish(Some(44), Some(70), None)).unwrap();
        grant(wish(Some(44), None, None)).unwrap();
        let message = grant(wish(Some(45), None, None)).unwrap_err();
        assert!(
            message.starts_with("--memory 45Gi is more than chip A has left, 44Gi of 64Gi:"),
            "{message}"
        );
        assert!(message.contains("\n  train (process 7): 20Gi, 30 percent hard"), "{message}");
        let message = grant(wish(Some(4), Some(71), None)).unwrap_err();
        assert!(
            message.starts_with("--cores 71 is more than chip A has left, 70 of 100 percent:"),
            "{message}"
        );
        assert!(message.contains("\n  train (process 7)") && message.contains("--mode elastic"), "{message}");
        // Half of the memory goes with half of the compute.
        let message = grant(wish(None, Some(70), None)).unwrap_err();
        assert!(message.contains("as --cores says") && message.contains("--memory"), "{message}");
    }

    #[test]
    fn elastic_runs_may_be_promised_more_than_there_is_and_count_for_hard_ones() {
        let hard = [other("A", 1, 80, Hard)];
        wish(Some(1), Some(90), Some(Elastic)).grant(&chip(), &hard).unwrap();
        assert!(wish(Some(1), Some(90), Some(Hard)).grant(&chip(), &hard).is_err());
        let elastic = [other("A", 1, 80, Elastic)];
        assert!(wish(Some(1), Some(30), Some(Hard)).grant(&chip(), &elastic).is_err());
        let leftovers = [other("A", 1, 100, BestEffort)];
        wish(Some(1), Some(100), Some(Hard)).grant(&chip(), &leftovers).unwrap();
    }

    #[test]
    fn wishes_that_make_no_sense_are_refused() {
        let refused = |wish: Wish| wish.check().unwrap_err().to_string();
        assert_eq!(refused(wish(Some(0), None, None)), "--memory must be more than 0");
        assert!(refused(wish(None, None, None)).contains("--memory, --cores or both"));
        assert!(refused(wish(Some(1), Some(0), None)).contains("1 to 100"));
        assert!(refused(wish(Some(1), Some(101), None)).contains("1 to 100"));
        assert!(refused(wish(Some(1), None, Some(Hard))).contains("--mode hard needs --cores"));
        assert!(refused(wish(Some(1), None, Some(Elastic))).contains("--mode elastic needs --cores"));
        assert!(refused(wish(Some(1), Some(5), Some(BestEffort))).contains("leave out --cores"));
        wish(Some(1), None, Some(BestEffort)).check().unwrap();
        let error = wish(Some(65), None, None).grant(&chip(), &[]).unwrap_err();
        assert_eq!(error.to_string(), "--memory 65Gi is more than chip A has (64Gi)");
    }
}
