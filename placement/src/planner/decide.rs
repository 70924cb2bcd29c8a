//! One pass over the front of the queue: plan, judge, reserve or hold.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Planner;
use crate::batch::{Batch, BatchKey, Mode};
use crate::decision::{Assignment, Decision, Outcome, Placement, Tier, WaitReason};
use crate::demand::PodDemand;
use crate::explain::{self, Subject};
use crate::field::Spread;
use crate::ledger::Reservation;
use crate::moment::Moment;
use crate::plan::trial::Trial;
use crate::plan::{self, Plan, Problem, plan};
use crate::queue::{Entry, Holding, Target};
use crate::resources::Resources;
use crate::rule::{Situation, Verdict, judge, turn};
use crate::units::{Unit, reserved_claims, units};
use crate::view::View;

impl Planner {
    pub(super) fn decide_all(&mut self, now: Moment) -> Vec<Decision> {
        let mut decisions = Vec::new();
        let mut closed: BTreeSet<u32> = BTreeSet::new();
        self.deadline = None;
        for key in self.order(now) {
            self.view.settle();
            let Some(mut entry) = self.queue.remove(&key) else { continue };
            let (open, placed) = members(&self.view, &entry.batch);
            if open.is_empty() {
                continue;
            }
            let units = units(&mut self.view, &entry.batch, &open);
            let decision = self.decide_one(&mut entry, &units, &placed, &mut closed, now);
            if !matches!(&decision, Some(Decision { outcome: Outcome::Placed(_), .. })) {
                self.queue.put(entry);
            }
            decisions.extend(decision);
        }
        decisions
    }

    /// The front of the queue in the order in which it is looked at.
    fn order(&mut self, now: Moment) -> Vec<BatchKey> {
        self.view.settle();
        let mut keys = self.queue.front(self.config.depth.max(1));
        for key in &keys {
            self.note_minimum(key);
        }
        keys.sort_by_cached_key(|key| {
            let entry = self.queue.get(key);
            let turn = entry.map(|entry| {
                turn(now.since(entry.batch.arrived), self.config.aging_bound, entry.is_compact())
            });
            (entry.map(|entry| Reverse(entry.batch.priority)), turn)
        });
        keys
    }

    /// Finds how a batch would lie if nothing were used, where that is not known.
    fn note_minimum(&mut self, key: &BatchKey) {
        let hardware = self.view.hardware;
        let Some(entry) = self.queue.get(key) else { return };
        if entry.minimum.is_some_and(|(version, _)| version == hardware) {
            return;
        }
        let batch = &entry.batch;
        let (open, placed) = members(&self.view, batch);
        let units = units(&mut self.view, batch, &open);
        let groups = plan::groups(&mut self.view, &units);
        let problem = Problem {
            batch,
            units: &units,
            groups: &groups,
            placed: &placed,
            closed: &BTreeSet::new(),
            empty: true,
        };
        let spread = plan(&mut self.view, &problem).map(|plan| plan.spread);
        self.queue.set_minimum(key, (hardware, spread));
    }

    /// Decides of one batch; `None` when it was said before.
    fn decide_one(
        &mut self,
        entry: &mut Entry,
        units: &[Unit],
        placed: &BTreeSet<u32>,
        closed: &mut BTreeSet<u32>,
        now: Moment,
    ) -> Option<Decision> {
        let groups = plan::groups(&mut self.view, units);
        let Entry { batch, target, could_since, minimum, said } = entry;
        let problem = Problem { batch, units, groups: &groups, placed, closed, empty: false };
        let best = plan(&mut self.view, &problem);
        if best.is_some() {
            could_since.get_or_insert(now);
        }
        let verdict = judge(&Situation {
            plan: best.as_ref().map(|plan| plan.spread),
            minimum: minimum.and_then(|(_, minimum)| minimum),
            growth: !placed.is_empty(),
            waited: now.since(batch.arrived),
            put_off: could_since.map_or(Duration::ZERO, |since| now.since(since)),
            patience: batch.patience,
            aging_bound: self.config.aging_bound,
        });
        // One at a time: two that add up room take it from each other.
        let holds = verdict == Verdict::WaitForRoom(None) && closed.is_empty();
        let (held, nodes) = if holds { self.hold(target.as_ref(), &problem, now) } else { None }.unzip();
        *target = held;
        let outcome = match (verdict, &best) {
            (Verdict::Place, Some(plan)) => Outcome::Placed(self.placement(batch, units, plan)),
            (Verdict::Place | Verdict::Never, _) => Outcome::NeverFits,
            (Verdict::WaitForBetter(left), _) => waiting(WaitReason::Patience, None, Some(now.after(left))),
            (Verdict::WaitForRoom(left), _) => {
                waiting(WaitReason::NoRoom, target.as_ref(), left.map(|left| now.after(left)))
            }
        };
        if let Outcome::Waiting { until, .. } = &outcome {
            self.deadline = [self.deadline, *until].into_iter().flatten().min();
        }
        let word = word(&outcome);
        let decision = (said.as_ref() != Some(&word)).then(|| {
            let subject = Subject { problem: &problem, best: best.as_ref(), now };
            let record = explain::record(&mut self.view, &subject, &outcome);
            Decision { batch: batch.key.clone(), outcome, record }
        });
        if let (Some(Decision { outcome: Outcome::Placed(_), .. }), Some(plan)) = (&decision, &best) {
            self.reserve(batch, units, plan);
        }
        closed.extend(nodes.into_iter().flatten());
        *said = Some(word);
        decision
    }

    /// Chooses what is held for a batch that has waited too long, and the nodes that are closed for it.
    fn hold(
        &mut self,
        earlier: Option<&Target>,
        problem: &Problem<'_>,
        now: Moment,
    ) -> Option<(Target, BTreeSet<u32>)> {
        let group = problem.groups.first()?;
        let empty = Problem { empty: true, ..*problem };
        let (free, used) = (Trial::new(true), Trial::new(false));
        let empty_rooms = plan::rooms(&mut self.view, &empty, group, &free);
        let now_rooms = plan::rooms(&mut self.view, problem, group, &used);
        let view = &self.view;
        let holding = Holding {
            units: u32::try_from(group.units.len()).unwrap_or(u32::MAX),
            empty: plan::field(view, &empty, empty_rooms, None),
            now: plan::field(view, problem, now_rooms, None),
            reach: problem.batch.reach,
            mode: problem.batch.mode,
        };
        let name = |position: usize| {
            let node = view.topology.order.get(position).and_then(|node| view.node(*node));
            node.map(|n| n.name.to_string()).unwrap_or_default()
        };
        holding.choose(earlier, name, now)
    }

    fn placement(&self, batch: &Batch, units: &[Unit], plan: &Plan) -> Placement {
        let mut assignments: BTreeMap<usize, u32> = BTreeMap::new();
        for (unit, node) in units.iter().zip(&plan.nodes) {
            assignments.extend(unit.members.iter().map(|member| (*member, *node)));
        }
        let tree = &self.view.topology;
        let domains = |node: u32| tree.position(node).and_then(|position| tree.domains_at(position));
        let leaf =
            |node: u32| domains(node).and_then(|(leaf, _)| tree.leaves.get(leaf)).filter(|l| l.labelled);
        let superpod = |node: u32| {
            domains(node).and_then(|(_, superpod)| tree.superpods.get(superpod)).filter(|s| s.labelled)
        };
        let common = |name: &dyn Fn(u32) -> Option<String>| {
            let mut names = plan.nodes.iter().map(|node| name(*node));
            let first = names.next().flatten();
            names.all(|name| name == first).then_some(first).flatten()
        };
        let order = crate::units::by_rank(batch, &assignments.keys().copied().collect::<Vec<_>>());
        let assignment = |number: &usize| {
            let (member, node) = (batch.members.get(*number)?, *assignments.get(number)?);
            Some(Assignment {
                pod: member.uid.clone(),
                name: member.name.clone(),
                node: self.view.node(node)?.name.clone(),
                leaf: leaf(node).map(|l| l.name.to_string()),
            })
        };
        Placement {
            assignments: order.iter().filter_map(assignment).collect(),
            tier: tier(plan.spread),
            leaf: common(&|node| leaf(node).map(|l| l.name.to_string())),
            superpod: common(&|node| superpod(node).map(|s| s.name.to_string())),
        }
    }

    /// Reserves what the pods will take, in the order in which they are let go.
    fn reserve(&mut self, batch: &Batch, units: &[Unit], plan: &Plan) {
        let mut nodes: BTreeMap<usize, u32> = BTreeMap::new();
        for (unit, node) in units.iter().zip(&plan.nodes) {
            nodes.extend(unit.members.iter().map(|member| (*member, *node)));
        }
        let order = crate::units::by_rank(batch, &nodes.keys().copied().collect::<Vec<_>>());
        let mut last: Option<(&Arc<PodDemand>, Arc<Resources>)> = None;
        for number in order {
            let (Some(member), Some(node)) = (batch.members.get(number), nodes.get(&number)) else {
                continue;
            };
            // Members with one demand keep one copy of what it takes.
            let resources = match &last {
                Some((demand, resources)) if Arc::ptr_eq(demand, &member.demand) => Arc::clone(resources),
                _ => Arc::new(member.demand.resources.clone()),
            };
            last = Some((&member.demand, Arc::clone(&resources)));
            let Some(node) = self.view.node(*node).map(|n| n.name.clone()) else { continue };
            let reservation = Reservation {
                pod: Arc::from(member.uid.as_str()),
                node,
                order: self.next_order,
                resources,
                claims: reserved_claims(&mut self.view, member),
                alone: (batch.mode == Mode::WholeNodes).then(|| Arc::clone(&batch.key.0)),
            };
            self.next_order = self.next_order.saturating_add(1);
            self.view.reserve(reservation);
        }
    }
}

/// The members that are still to be placed, and the nodes of those that are.
fn members(view: &View, batch: &Batch) -> (Vec<usize>, BTreeSet<u32>) {
    let mut open = Vec::new();
    let mut placed: BTreeSet<u32> =
        batch.placed.iter().filter_map(|(_, node)| view.find_node(node)).collect();
    for (number, member) in batch.members.iter().enumerate() {
        let node = view.reserved(&member.uid).or_else(|| view.bound(&member.uid));
        match node.and_then(|node| view.find_node(node)) {
            Some(node) => {
                placed.insert(node);
            }
            None => open.push(number),
        }
    }
    (open, placed)
}

const fn tier(spread: Spread) -> Tier {
    match spread {
        Spread { superpods: 2.., .. } => Tier::Across,
        Spread { leaves: 2.., .. } => Tier::Superpod,
        Spread { nodes: 2.., .. } => Tier::Leaf,
        Spread { .. } => Tier::Node,
    }
}

fn target_name(target: &Target) -> String {
    match target.tier {
        Tier::Superpod if target.name.is_empty() => "the nodes without a super-pod".to_owned(),
        Tier::Superpod => format!("super-pod {}", target.name),
        Tier::Leaf => format!("leaf {}", target.name),
        Tier::Node => format!("node {}", target.name),
        Tier::Across => "the whole cluster".to_owned(),
    }
}

fn waiting(reason: WaitReason, target: Option<&Target>, until: Option<Moment>) -> Outcome {
    Outcome::Waiting { reason, target: target.map(target_name), until }
}

/// What tells one thing said of a batch from another.
fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Placed(_) => "placed".to_owned(),
        Outcome::NeverFits => "never".to_owned(),
        Outcome::Waiting { reason, target, .. } => {
            format!("{reason:?} {}", target.as_deref().unwrap_or_default())
        }
    }
}
