//! A table of DCMI answers that tests change between passes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};

use crate::ascend::dcmi::{Answer, ChipInfo, Dcmi, Devices, Pcie, Refusal, Slot};

/// One die's answers.
#[derive(Debug, Clone)]
pub(super) struct FakeDie {
    pub(super) vdie: [u32; 5],
    pub(super) board: u32,
    pub(super) chip: &'static str,
    pub(super) hbm: Answer<u64>,
    pub(super) memory: Answer<u64>,
    pub(super) phys: u32,
    pub(super) health: u32,
    pub(super) errors: Vec<u32>,
    pub(super) kind: i32,
    pub(super) shares: Answer<bool>,
    /// Dies of one ring are joined; `None` where the library does not tell.
    pub(super) ring: Option<u32>,
}

/// What can be changed.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) dies: BTreeMap<Slot, FakeDie>,
    pub(super) policy: Answer<i32>,
    /// Function -> (slot or all) -> code.
    pub(super) failing: BTreeMap<(&'static str, Option<Slot>), i32>,
    pub(super) hanging: BTreeSet<(&'static str, Option<Slot>)>,
    pub(super) superpod: Answer<u32>,
    /// What was asked so far.
    pub(super) asked: BTreeSet<&'static str>,
    /// Questions about two dies so far.
    pub(super) connections: usize,
}

#[derive(Clone)]
pub(super) struct Fake(Arc<(Mutex<Table>, Condvar)>);

pub(super) fn slot(card: i32, device: i32) -> Slot {
    Slot { card, device }
}

impl Fake {
    pub(super) fn new(dies: impl IntoIterator<Item = (Slot, FakeDie)>) -> Self {
        let table = Table {
            dies: dies.into_iter().collect(),
            policy: Ok(1),
            failing: BTreeMap::new(),
            hanging: BTreeSet::new(),
            superpod: Err(Refusal::Code(-8255)),
            asked: BTreeSet::new(),
            connections: 0,
        };
        Self(Arc::new((Mutex::new(table), Condvar::new())))
    }

    /// `modules` cards of two dies on an A3 board, 64 GiB each.
    pub(super) fn modules(modules: i32) -> Self {
        Self::new(
            (0..modules)
                .flat_map(|card| (0..2).map(move |die| (slot(card, die), die_of(card, die, 2, 0xb0)))),
        )
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Table)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn play(&self, function: &'static str, slot: Option<Slot>) -> Answer<Table> {
        let mut table = self.0.0.lock().unwrap();
        while table.hanging.contains(&(function, slot)) || table.hanging.contains(&(function, None)) {
            table = self.0.1.wait(table).unwrap();
        }
        table.asked.insert(function);
        let code = table.failing.get(&(function, slot)).or_else(|| table.failing.get(&(function, None)));
        match code {
            Some(code) => Err(Refusal::Code(*code)),
            None => Ok(table.clone()),
        }
    }

    fn die(&self, function: &'static str, slot: Slot) -> Answer<FakeDie> {
        self.play(function, Some(slot))?.dies.get(&slot).cloned().ok_or(Refusal::Code(-8008))
    }
}

pub(super) fn die_of(card: i32, die: i32, dies: i32, board: u32) -> FakeDie {
    FakeDie {
        vdie: [0xABCD, card as u32, die as u32, 4, 5],
        board,
        chip: if board == 0xb0 { "Ascend910" } else { "910B3" },
        hbm: Ok(65536),
        memory: Err(Refusal::Code(-8255)),
        phys: (card * dies + die) as u32,
        health: 0,
        errors: Vec::new(),
        kind: 0,
        shares: Ok(true),
        ring: Some(0),
    }
}

impl Dcmi for Fake {
    fn init(&self) -> Answer<()> {
        Ok(())
    }
    fn driver_version(&self) -> Answer<String> {
        self.play("driver_version", None).map(|_| "25.5.0".to_owned())
    }
    fn multi_die_policy(&self) -> Answer<i32> {
        self.play("multi_die_policy", None)?.policy
    }
    fn cards(&self) -> Answer<Vec<i32>> {
        let cards: BTreeSet<i32> = self.play("cards", None)?.dies.keys().map(|slot| slot.card).collect();
        Ok(cards.into_iter().collect())
    }
    fn devices(&self, card: i32) -> Answer<Devices> {
        let table = self.play("devices", Some(slot(card, -1)))?;
        let ids: Vec<i32> = table.dies.keys().filter(|s| s.card == card).map(|s| s.device).collect();
        Ok(Devices { count: ids.len() as i32, beyond: ids.iter().max().map_or(0, |id| id + 1) })
    }
    fn unit_type(&self, slot: Slot) -> Answer<i32> {
        self.die("unit_type", slot).map(|die| die.kind)
    }
    fn vdie(&self, slot: Slot) -> Answer<[u32; 5]> {
        self.die("vdie", slot).map(|die| die.vdie)
    }
    fn board_id(&self, slot: Slot) -> Answer<u32> {
        self.die("board_id", slot).map(|die| die.board)
    }
    fn chip_info(&self, slot: Slot) -> Answer<ChipInfo> {
        let chip = self.die("chip_info", slot)?.chip;
        Ok(ChipInfo { chip_type: "Ascend".to_owned(), chip_name: chip.to_owned(), npu_name: String::new() })
    }
    fn hbm_mib(&self, slot: Slot) -> Answer<u64> {
        self.die("hbm", slot)?.hbm
    }
    fn memory_mib(&self, slot: Slot) -> Answer<u64> {
        self.die("memory", slot)?.memory
    }
    fn logic_id(&self, slot: Slot) -> Answer<i32> {
        self.die("logic_id", slot).map(|die| die.phys as i32)
    }
    fn phys_of_logic(&self, logic: u32) -> Answer<u32> {
        self.play("phys_of_logic", None).map(|_| logic)
    }
    fn pcie(&self, slot: Slot) -> Answer<Pcie> {
        let phys = self.die("pcie", slot)?.phys;
        Ok(Pcie { domain: 0, bus: 0x80 + phys, device: 0, function: 0 })
    }
    fn health(&self, slot: Slot) -> Answer<u32> {
        self.die("health", slot).map(|die| die.health)
    }
    fn error_codes(&self, slot: Slot) -> Answer<Vec<u32>> {
        self.die("error_codes", slot).map(|die| die.errors)
    }
    fn shares(&self, slot: Slot) -> Answer<bool> {
        self.die("shares", slot)?.shares
    }
    fn connection(&self, one: Slot, other: Slot) -> Answer<i32> {
        let (one, other) = (self.die("connection", one)?, self.die("connection", other)?);
        self.0.0.lock().unwrap().connections += 1;
        match (one.ring, other.ring) {
            (Some(ring), Some(same)) => Ok(if ring == same { 3 } else { 1 }),
            _ => Err(Refusal::Code(-8255)),
        }
    }
    fn super_pod(&self, slot: Slot) -> Answer<u32> {
        self.play("super_pod", Some(slot))?.superpod
    }
    fn processes(&self, _slot: Slot) -> Answer<Vec<(i32, u64)>> {
        Ok(Vec::new())
    }
}
