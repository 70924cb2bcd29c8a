//! Faults that are told as they come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_int, c_uint};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use standin_protocol::{Reply, Selector};

use crate::structs::{Event, EventFilter, FaultEvent};
use crate::wire::{INNER_ERROR, INVALID_PARAMETER, ask, changed, code, die, field};

const FUNCTION: &str = "dcmi_subscribe_fault_event";

/// A driver that is away is looked for again so often.
const AGAIN: Duration = Duration::from_millis(200);

/// `DCMI_EVENT_FILTER_FLAG_SERVERITY`.
const BY_SEVERITY: u64 = 1 << 1;

type Handler = unsafe extern "C" fn(*mut Event);

/// What a die says of itself: alarm level and error codes.
#[derive(Clone, Default, PartialEq, Eq)]
struct Alarm {
    level: u32,
    codes: BTreeSet<u32>,
    phys_id: u32,
}

type Alarms = BTreeMap<(i32, i32), Alarm>;

static SUBSCRIBED: AtomicBool = AtomicBool::new(false);

/// Tells of all dies (card and device -1) or one. Once for a process, of what comes after the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_subscribe_fault_event(
    card: c_int,
    device: c_int,
    filter: EventFilter,
    handler: Option<Handler>,
) -> c_int {
    code(subscribe((card, device), filter, handler))
}

fn subscribe(of: (i32, i32), filter: EventFilter, handler: Option<Handler>) -> Result<(), c_int> {
    let handler = handler.ok_or(INVALID_PARAMETER)?;
    // First the number: what changes meanwhile is seen twice rather than never.
    let seen = changed(0)?;
    let alarms = look(of)?;
    if SUBSCRIBED.swap(true, Ordering::SeqCst) {
        return Err(INNER_ERROR);
    }
    let severity = if filter.flags & BY_SEVERITY == 0 { 0 } else { filter.severity };
    thread::spawn(move || follow(of, severity, handler, seen, alarms));
    Ok(())
}

fn follow(of: (i32, i32), severity: u8, handler: Handler, mut seen: u64, mut alarms: Alarms) {
    let mut number = 0;
    loop {
        let generation = match changed(seen) {
            Ok(generation) if generation == seen => continue,
            other => other,
        };
        let Ok((generation, now)) = generation.and_then(|generation| Ok((generation, look(of)?))) else {
            thread::sleep(AGAIN);
            continue;
        };
        for (place, alarm) in &now {
            let before = alarms.get(place).cloned().unwrap_or_default();
            for (id, assertion) in difference(&before, alarm) {
                let level = if assertion == 0 { before.level } else { alarm.level }.min(3) as u8;
                number += 1;
                if level >= severity {
                    let mut event = event(*place, alarm.phys_id, (id, assertion), level, number);
                    // SAFETY: the program's function, of the type of the vendor's header.
                    unsafe { handler(&mut event) };
                }
            }
        }
        (seen, alarms) = (generation, now);
    }
}

/// Codes that came and went; without codes the alarm itself.
fn difference(before: &Alarm, now: &Alarm) -> Vec<(u32, u8)> {
    let came = now.codes.difference(&before.codes).map(|code| (*code, 1));
    let went = before.codes.difference(&now.codes).map(|code| (*code, 0));
    let all: Vec<_> = went.chain(came).collect();
    if all.is_empty() && before.level != now.level { vec![(0, u8::from(now.level > 0))] } else { all }
}

fn event(
    (_, device): (i32, i32),
    phys_id: u32,
    (event_id, assertion): (c_uint, u8),
    severity: u8,
    number: c_int,
) -> Event {
    let raised = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Event {
        kind: 0,
        fault: FaultEvent {
            event_id,
            device_id: phys_id as u16,
            node_type: 0,
            node_id: device as u8,
            sub_node_type: 0,
            sub_node_id: 0,
            severity,
            assertion,
            event_number: number,
            notice_number: number,
            raised_millis: raised.as_millis() as u64,
            name: field("stand-in fault"),
            info: field(""),
            reserve: [0; 32],
        },
    }
}

fn look(of: (i32, i32)) -> Result<Alarms, c_int> {
    let mut alarms = Alarms::new();
    let Reply::Machine { cards, .. } = ask(FUNCTION, Selector::Machine)? else { return Err(INNER_ERROR) };
    for card in cards {
        let Reply::Card { devices } = ask(FUNCTION, Selector::Card(card))? else { return Err(INNER_ERROR) };
        for place in devices.into_iter().map(|device| (card, device)) {
            if of == (-1, -1) || of == place {
                let view = die(FUNCTION, Selector::Die(place.0, place.1))?;
                let codes = view.die.error_codes.into_iter().collect();
                alarms.insert(place, Alarm { level: view.die.health, codes, phys_id: view.die.phys_id });
            }
        }
    }
    Ok(alarms)
}
