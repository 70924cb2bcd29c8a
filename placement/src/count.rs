//! How many pods of one demand fit on a node: the search, repeated. It also tells how many half modules each of them
//! would leave.

use std::sync::Arc;

use crate::layout::Layout;
use crate::prepare::Prepared;
use crate::search::{Found, place};
use crate::sweep;
use crate::usage::Usage;

/// What a node can still take of one demand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// How many pods.
    pub(crate) count: u32,
    /// Half modules after some pods less those before, as (up to so many pods, halves); empty where it is always zero.
    pub(crate) made: Box<[(u16, i16)]>,
    /// A search was given up; there may be more room.
    pub(crate) given_up: bool,
}

impl Room {
    /// Half modules that `pods` of them make; negative when they fill some.
    #[cfg(test)]
    pub(crate) fn halves(&self, pods: u32) -> i32 {
        halves_after(&self.made, pods)
    }
}

/// Half modules after `pods`, as they are kept.
pub(crate) fn halves_after(made: &[(u16, i16)], pods: u32) -> i32 {
    let step = made.partition_point(|(up_to, _)| u32::from(*up_to) < pods);
    let found = made.get(step).or(made.last()).filter(|_| pods > 0);
    found.map_or(0, |(_, halves)| i32::from(*halves))
}

/// Half modules pod by pod, as a [`Room`] keeps them.
#[derive(Debug, Default)]
pub(crate) struct Halves(Vec<(u16, i16)>);

impl Halves {
    /// After `pods` more of them it is so many.
    pub(crate) fn push(&mut self, pods: u32, halves: i64) {
        let halves = i16::try_from(halves).unwrap_or(if halves < 0 { i16::MIN } else { i16::MAX });
        let before = self.0.last().map_or(0, |(up_to, _)| *up_to);
        let up_to = before.saturating_add(u16::try_from(pods).unwrap_or(u16::MAX));
        match self.0.last_mut() {
            Some((end, same)) if *same == halves => *end = up_to,
            _ => self.0.push((up_to, halves)),
        }
    }

    /// Done.
    pub(crate) fn finish(self) -> Box<[(u16, i16)]> {
        if self.0.iter().any(|(_, halves)| *halves != 0) { self.0.into() } else { Box::default() }
    }
}

/// How many units fit, each made of pods that are placed one after the other; in one pass where that is enough.
pub(crate) fn count_rooms(
    unit: &[Arc<Prepared>],
    layouts: &[Arc<Layout>],
    usages: &[Usage],
    limit: u32,
) -> Room {
    let asks = unit.iter().any(|p| p.claims.iter().any(|c| !c.requests.is_empty()));
    if !asks {
        return Room { count: limit, ..Room::default() };
    }
    if let [prepared] = unit
        && let Some(room) = sweep::count(prepared, layouts, usages, limit)
    {
        return room;
    }
    count_by_search(unit, layouts, usages, limit)
}

/// The same by emulation alone.
pub(crate) fn count_by_search(
    unit: &[Arc<Prepared>],
    layouts: &[Arc<Layout>],
    usages: &[Usage],
    limit: u32,
) -> Room {
    let mut usages = usages.to_vec();
    let halves = |usages: &[Usage]| -> i64 {
        layouts.iter().zip(usages).map(|(layout, usage)| i64::from(usage.halves(layout))).sum()
    };
    let before = halves(&usages);
    let mut room = Room::default();
    let mut made = Halves::default();
    while room.count < limit {
        for prepared in unit {
            match place(prepared, layouts, &mut usages).0 {
                Found::Yes => {}
                Found::No => return finish(room, made),
                Found::GivenUp => {
                    room.given_up = true;
                    return finish(room, made);
                }
            }
        }
        room.count += 1;
        made.push(1, halves(&usages) - before);
    }
    finish(room, made)
}

fn finish(room: Room, made: Halves) -> Room {
    Room { made: made.finish(), ..room }
}
