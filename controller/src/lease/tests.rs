//! Leader election: the table of decisions, hours of skewed observation, and the I/O against an API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::candidate::{Action, Answer, Candidate, Record, Seen, Step, WallClock, next};
use super::*;
use crate::testing::FakeApi;

const SECOND: Duration = Duration::from_secs(1);

fn held_by(holder: &str) -> Record {
    Record { holder: Some(holder.to_owned()), lease: Some(15 * SECOND), ..Record::default() }
}

fn counting() -> WallClock {
    let clock = AtomicI64::new(0);
    Arc::new(move || clock.fetch_add(1, Ordering::Relaxed))
}

#[test]
fn the_defaults_are_sound_and_a_leader_that_stops_too_late_is_not() {
    assert!(Timing::default().is_sound());
    assert!(!Timing { renew: 15 * SECOND, ..Timing::default() }.is_sound());
    assert!(!Timing { retry: 5 * SECOND, ..Timing::default() }.is_sound());
    assert!(!Timing { retry: Duration::ZERO, ..Timing::default() }.is_sound());
}

#[tokio::test(start_paused = true)]
async fn decisions() {
    let since = Instant::now();
    let at = |seconds: u32| since + SECOND * seconds;
    let seen = |record| Seen::Present { record, version: "1".to_owned(), since };
    let long = Record { lease: Some(60 * SECOND), ..held_by("other") };
    let short = Record { lease: Some(SECOND), ..held_by("other") };
    let silent = Record { lease: None, ..held_by("other") };
    for (case, seen, seconds, expected) in [
        ("no lease", Seen::Absent, 0, Action::Create),
        ("given back", seen(Record::default()), 0, Action::Take),
        ("ours", seen(held_by("me")), 0, Action::Renew),
        ("ours, long ago", seen(held_by("me")), 3600, Action::Renew),
        ("another's", seen(held_by("other")), 0, Action::Wait(at(15))),
        ("another's, nearly over", seen(held_by("other")), 14, Action::Wait(at(15))),
        ("another's, over", seen(held_by("other")), 15, Action::Take),
        ("another's, who promised longer", seen(long.clone()), 59, Action::Wait(at(60))),
        ("another's, longer and over", seen(long), 60, Action::Take),
        ("another's, who promised less than we do", seen(short), 14, Action::Wait(at(15))),
        ("another's, who promised nothing", seen(silent), 14, Action::Wait(at(15))),
    ] {
        assert_eq!(next(&seen, "me", Timing::default(), at(seconds)), expected, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_counts_from_before_it_was_sent_and_a_lost_answer_for_nothing() {
    let start = Instant::now();
    let mut me = Candidate::new("me".to_owned(), Timing::default(), true, counting());
    assert_eq!(me.next(start), Step::Read);
    me.take(start, start, Answer::Absent);
    let Step::Create(record) = me.next(start) else { panic!("nothing to wait for") };
    let answered = start + 3 * SECOND;
    me.take(start, answered, Answer::Written { record: record.clone(), version: "1".to_owned() });
    assert_eq!(me.held_until(), Some(start + 10 * SECOND));
    assert_eq!(me.next(answered), Step::Rest);
    let renewal = me.next(answered);
    assert!(matches!(&renewal, Step::Replace { version, wanted } if version == "1"
        && wanted.transitions == 0 && wanted.acquired == record.acquired && wanted.renewed != record.renewed));
    me.take(answered, answered + 4 * SECOND, Answer::Failed);
    assert_eq!(me.held_until(), Some(start + 10 * SECOND));
    assert_eq!(me.next(answered + 4 * SECOND), Step::Read, "what is there now is not known");
    let other = Answer::Found { record: held_by("other"), version: "9".to_owned() };
    me.take(answered + 4 * SECOND, answered + 5 * SECOND, other);
    assert_eq!(me.held_until(), None);
    assert_eq!(me.release(), None, "it is another's");
}

#[tokio::test(start_paused = true)]
async fn who_only_looks_never_takes() {
    let start = Instant::now();
    let mut me = Candidate::new("me".to_owned(), Timing::default(), false, counting());
    for second in 0..100 {
        let now = start + SECOND * second;
        assert_eq!(me.next(now), Step::Read);
        let record = Record { renewed: (second < 50).then(|| second.into()), ..held_by("other") };
        me.take(now, now, Answer::Found { record, version: "1".to_owned() });
        assert_eq!(me.next(now), Step::Rest);
        let alive = me.somebody_until().is_some_and(|until| now < until);
        assert_eq!(alive, second < 65, "{second}");
    }
}

/// How requests of one candidate fare in one round.
#[derive(Debug, Clone)]
struct Weather {
    there: u64,
    back: u64,
    request_lost: bool,
    answer_lost: bool,
    pause: u64,
}

fn weather() -> impl Strategy<Value = Weather> {
    let lost = || prop_oneof![6 => Just(false), 1 => Just(true)];
    let pause = prop_oneof![8 => Just(2000_u64), 1 => 5_000..25_000_u64];
    let way = || prop_oneof![3 => 0..50_u64, 1 => 0..4000_u64];
    (way(), way(), lost(), lost(), pause).prop_map(|(there, back, request_lost, answer_lost, pause)| {
        Weather { there, back, request_lost, answer_lost, pause }
    })
}

/// An API server's Lease.
#[derive(Default)]
struct Server(Option<(Record, u64)>);

impl Server {
    fn serve(&mut self, step: &Step) -> Answer {
        match (step, &self.0) {
            (Step::Read, None) => Answer::Absent,
            (Step::Read, Some((record, version))) => {
                Answer::Found { record: record.clone(), version: version.to_string() }
            }
            (Step::Create(_), Some(_)) | (Step::Replace { .. }, None) | (Step::Rest, _) => Answer::Conflict,
            (Step::Create(wanted), None) => self.write(wanted, 1),
            (Step::Replace { version, wanted }, Some((_, now))) => {
                if *version == now.to_string() {
                    self.write(wanted, now + 1)
                } else {
                    Answer::Conflict
                }
            }
        }
    }

    fn write(&mut self, wanted: &Record, version: u64) -> Answer {
        self.0 = Some((wanted.clone(), version));
        Answer::Written { record: wanted.clone(), version: version.to_string() }
    }
}

/// A candidate, its clock and what the network does to it.
struct Player {
    candidate: Candidate,
    weather: Vec<Weather>,
    rounds: usize,
    /// Its clock: this many milliseconds ahead, and so many per thousand faster.
    offset: u64,
    rate: u64,
}

impl Player {
    fn clock(&self, base: Instant, true_time: u64) -> Instant {
        base + Duration::from_millis(self.offset + true_time * (1000 + self.rate) / 1000)
    }

    fn weather(&mut self, true_time: u64) -> Weather {
        if true_time >= CALM {
            return Weather { there: 5, back: 5, request_lost: false, answer_lost: false, pause: 2000 };
        }
        self.rounds += 1;
        self.weather[self.rounds % self.weather.len()].clone()
    }
}

/// From then on, in milliseconds, nothing is late or lost any more.
const CALM: u64 = 500_000;
/// The end of the test.
const END: u64 = 600_000;

enum Happens {
    Wakes,
    Arrives(Step, u64, Weather),
    Answered(u64, Answer),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is late or lost and however the clocks run, there is one leader at most. When the weather clears there
    /// is one: before that, one whose writes arrive and whose answers do not can hold up all others, as long as it lasts.
    #[test]
    fn never_two_leaders(
        weathers in prop::collection::vec(prop::collection::vec(weather(), 8..24), 3),
        clocks in prop::collection::vec((0..1_000_000_u64, 0..100_u64), 3),
    ) {
        let base = Instant::now();
        let mut server = Server::default();
        let mut players: Vec<Player> = weathers.into_iter().zip(clocks).enumerate().map(|(n, (weather, clock))| Player {
            candidate: Candidate::new(format!("player-{n}"), Timing::default(), true, counting()),
            weather, rounds: 0, offset: clock.0, rate: clock.1,
        }).collect();
        // Ordered by time, then by the order in which they were put there.
        let mut events: BTreeMap<(u64, u64), (usize, Happens)> = BTreeMap::new();
        let mut serial = 0;
        let mut put = |events: &mut BTreeMap<_, _>, time: u64, who: usize, what: Happens| {
            serial += 1;
            events.insert((time, serial), (who, what));
        };
        for who in 0..players.len() {
            put(&mut events, 0, who, Happens::Wakes);
        }
        let mut led = false;
        while let Some(((time, _), (who, what))) = events.pop_first() {
            if time > END {
                break;
            }
            let player = &mut players[who];
            let clock = player.clock(base, time);
            match what {
                Happens::Wakes => {
                    let weather = player.weather(time);
                    match player.candidate.next(clock) {
                        Step::Rest => put(&mut events, time + weather.pause, who, Happens::Wakes),
                        step => put(&mut events, time + weather.there, who, Happens::Arrives(step, time, weather)),
                    }
                }
                Happens::Arrives(step, started, weather) => {
                    let answer = if weather.request_lost { Answer::Failed } else { server.serve(&step) };
                    let answer = if weather.answer_lost { Answer::Failed } else { answer };
                    put(&mut events, time + weather.back, who, Happens::Answered(started, answer));
                }
                Happens::Answered(started, answer) => {
                    let begun = player.clock(base, started);
                    player.candidate.take(begun, clock, answer);
                    put(&mut events, time + 1, who, Happens::Wakes);
                }
            }
            let leaders = players.iter()
                .filter(|p| p.candidate.held_until().is_some_and(|until| p.clock(base, time) < until))
                .count();
            prop_assert!(leaders <= 1, "{leaders} leaders at {time} ms");
            led = leaders == 1;
        }
        prop_assert!(led, "nobody leads in the end");
    }
}

fn election(api: &Arc<FakeApi>, me: &str) -> (Election, watch::Receiver<Leadership>) {
    let candidate = Candidate::new(me.to_owned(), Timing::default(), true, wall_clock());
    Election::new(api.client(), "vnpu-system", "vnpu-controller", candidate, Metrics::default())
}

#[tokio::test(start_paused = true)]
async fn one_leads_the_other_waits_and_takes_over_at_once_when_it_is_given_back() {
    let api = FakeApi::new();
    let (first, mut one) = election(&api, "one");
    let (second, mut two) = election(&api, "two");
    let (stop, stop_second) = (CancellationToken::new(), CancellationToken::new());
    let acting = TaskTracker::new();
    let work = acting.spawn({
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            tokio::time::sleep(3 * SECOND).await;
        }
    });
    let leaving = tokio::spawn(first.run(stop.clone(), acting));
    one.wait_for(|l| l.leader).await.unwrap();
    tokio::spawn(second.run(stop_second.clone(), TaskTracker::new()));
    tokio::time::sleep(60 * SECOND).await;
    assert!(one.borrow().may_act(Instant::now()), "renewed");
    assert!(!two.borrow().leader && two.borrow().somebody_leads(Instant::now()));

    let asked = Instant::now();
    stop.cancel();
    one.wait_for(|l| !l.leader).await.unwrap();
    assert_eq!(asked.elapsed(), Duration::ZERO, "who acts is told at once");
    leaving.await.unwrap();
    assert!(work.is_finished(), "not given back before the work had ended");
    two.wait_for(|l| l.leader).await.unwrap();
    assert!(asked.elapsed() < 7 * SECOND, "{:?}", asked.elapsed());
    stop_second.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_stops_before_another_begins() {
    let api = FakeApi::new();
    let cut = FakeApi::new();
    cut.share_objects_of(&api);
    let (first, mut one) = election(&cut, "one");
    let (second, mut two) = election(&api, "two");
    let stop = CancellationToken::new();
    tokio::spawn(first.run(stop.clone(), TaskTracker::new()));
    one.wait_for(|l| l.leader).await.unwrap();
    tokio::spawn(second.run(stop.clone(), TaskTracker::new()));
    tokio::time::sleep(30 * SECOND).await;
    cut.hang(true);
    let cut_off = Instant::now();
    one.wait_for(|l| !l.leader).await.unwrap();
    let stopped = cut_off.elapsed();
    assert!(stopped <= 10 * SECOND, "{stopped:?}");
    two.wait_for(|l| l.leader).await.unwrap();
    let taken = cut_off.elapsed();
    assert!(taken > stopped + 3 * SECOND, "{stopped:?}, {taken:?}");
    assert!(taken < 22 * SECOND, "{taken:?}");
    // And it comes back as a follower.
    cut.hang(false);
    tokio::time::sleep(30 * SECOND).await;
    assert!(!one.borrow().leader && one.borrow().somebody_leads(Instant::now()));
    stop.cancel();
}
