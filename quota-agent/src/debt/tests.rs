use super::*;

const SECOND: i64 = 1_000_000_000;
const START: i64 = 100_000 * SECOND;
/// One percent.
const SHARE: u32 = 10;

/// A look `at` seconds after the start at a bucket whose moment is `ahead` seconds after that, with a ledger of so many
/// milliseconds of device time.
fn look(at: i64, ahead: i64, busy: u64) -> Look {
    let now = START + at * SECOND;
    let word = Some(bucket::word(now + ahead * SECOND, SHARE));
    Look { now, word, busy: Some(busy * 1_000_000), share_milli: SHARE, mode: Mode::Hard }
}

/// Seconds from the look to the moment that is to stand there; `None` where nothing is to be changed.
fn mended(last: Option<Believed>, look: &Look) -> Option<i64> {
    let (_, put) = Believed::after(last, look);
    put.map(|word| (bucket::tat(word) - look.now).div_euclid(SECOND))
}

fn first(look: &Look) -> Option<Believed> {
    Some(Believed::after(None, look).0)
}

#[test]
fn nobody_has_saved_up_more_than_a_burst() {
    // 20 ms of device time at a percent.
    assert_eq!(mended(None, &look(0, -1, 0)), None);
    for ahead in [-3, -3600, -99_000] {
        assert_eq!(mended(None, &look(0, ahead, 0)), Some(-2), "{ahead}");
    }
    let word = Some(bucket::word(START - SECOND, 1000));
    let whole = Look { share_milli: 1000, word, ..look(0, 0, 0) };
    assert_eq!(mended(None, &whole), Some(-1), "and 20 ms with the whole chip");
    let none = Look { share_milli: 0, mode: Mode::BestEffort, ..look(0, -10, 0) };
    assert_eq!(mended(None, &none), None, "without a share it is a long time");
}

#[test]
fn debt_grows_by_what_the_claims_ledger_says_and_no_further() {
    let last = first(&look(0, 0, 1000));
    // 1 s of device time is 100 s.
    assert_eq!(mended(last, &look(5, 99, 2000)), None);
    assert_eq!(mended(last, &look(5, 104, 2000)), None, "a charge that is not counted yet");
    assert_eq!(mended(last, &look(5, 3599, 2000)), Some(100), "the rest is a neighbour's doing");
    assert_eq!(mended(last, &look(5, 3599, 1000)), Some(0));
    assert_eq!(mended(last, &look(5, 3599, 0)), Some(0), "a ledger that was emptied");
    let hidden = Look { busy: None, ..look(5, 3599, 0) };
    assert_eq!(mended(last, &hidden), Some(0), "a ledger that cannot be read");
}

#[test]
fn debt_that_was_there_is_paid_off_by_time_alone() {
    let last = first(&look(0, 5900, 60_000));
    assert_eq!(mended(last, &look(1000, 4900, 60_000)), None);
    assert_eq!(mended(last, &look(1000, 5200, 60_000)), Some(4900));
}

#[test]
fn a_little_that_is_added_each_time_does_not_add_up() {
    let mut last = first(&look(0, 0, 0));
    for round in 1..100 {
        // As much as a charge that is not counted yet.
        let ahead = last.map_or(0, |last| (bucket::tat(last.word) - START) / SECOND - round).max(0) + 4;
        let (next, put) = Believed::after(last, &look(round, ahead, 0));
        assert_eq!(put, None);
        assert!(bucket::tat(next.word) <= START + round * SECOND, "round {round}");
        last = Some(next);
    }
    assert_eq!(mended(last, &look(100, 6, 0)), Some(0));
}

#[test]
fn at_the_first_look_the_longest_kernel_is_believed_as_far_as_the_ledger_knows_of_it() {
    assert_eq!(mended(None, &look(0, 5990, 100_000)), None);
    assert_eq!(mended(None, &look(0, 7000, 100_000)), Some(6000));
    assert_eq!(mended(None, &look(0, 3599, 2000)), Some(200));
}

#[test]
fn elastic_claims_owe_what_the_gate_leaves_them() {
    for mode in [Mode::Elastic, Mode::BestEffort] {
        let of = |look: Look| Look { mode, ..look };
        assert_eq!(mended(None, &of(look(0, 20, 100_000))), None);
        assert_eq!(mended(None, &of(look(0, 30, 100_000))), Some(20), "200 ms at a percent");
        let last = first(&look(0, 0, 0));
        assert_eq!(mended(last, &of(look(5, 19, 0))), Some(0), "which nobody used");
    }
}

#[test]
fn what_was_cut_off_is_as_it_was() {
    let cut = |at| Look { word: None, ..look(at, 0, 2000) };
    assert_eq!(mended(first(&look(0, 200, 2000)), &cut(5)), Some(195));
    assert_eq!(mended(first(&look(0, -1, 2000)), &cut(5)), Some(0));
    assert_eq!(mended(None, &cut(5)), Some(0));
}

#[test]
fn a_change_of_share_takes_no_debt_for_a_neighbours() {
    // 100 s of wall time at a percent is a second of device time.
    let last = first(&look(0, 100, 1000));
    let ten = |at, ahead| Look {
        share_milli: 100,
        word: Some(bucket::word(START + (at + ahead) * SECOND, 100)),
        ..look(at, 0, 1000)
    };
    // Changed just before the second look, or just after the first one.
    assert_eq!(mended(last, &ten(5, 9)), None);
    assert_eq!(mended(last, &ten(5, 5)), None);
    assert_eq!(mended(last, &ten(5, 11)), Some(10));
    // A process that still goes by the old share.
    assert_eq!(mended(last, &Look { share_milli: 100, ..look(5, 95, 1000) }), None);
}
