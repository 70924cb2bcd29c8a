//! The table of what a Secret needs, and years of a clock that runs.

use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;

use super::super::issue::{AUTHORITY_LIFE, Authority, LEAF_LIFE};
use super::{Data, Need, SETTLING, Stored};

const DAY: Duration = Duration::from_secs(24 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn names() -> Vec<String> {
    vec!["vnpu-controller.vnpu-system.svc".to_owned(), "127.0.0.1".to_owned()]
}

fn fresh() -> Data {
    Stored::make(&names(), start()).unwrap().data()
}

fn with(data: &Data, changes: &[(&str, Option<&str>)]) -> Data {
    let mut data = data.clone();
    for (key, text) in changes {
        match text {
            Some(text) => data.insert((*key).to_owned(), ByteString(text.as_bytes().to_vec())),
            None => data.remove(*key),
        };
    }
    data
}

fn text(data: &Data, key: &str) -> String {
    String::from_utf8(data[key].0.clone()).unwrap()
}

#[test]
fn what_a_secret_needs() {
    let data = fresh();
    let other = fresh();
    let elsewhere = Stored::make(&["other.svc".to_owned()], start()).unwrap().data();
    let successor = Authority::make(start()).unwrap();
    let followed = with(
        &data,
        &[("next-ca.crt", Some(&successor.anchor.pem)), ("next-ca.key", Some(&successor.key_pem()))],
    );
    let preceded = with(&data, &[("previous-ca.crt", Some(&successor.anchor.pem))]);
    let (half, late) = (LEAF_LIFE / 2, AUTHORITY_LIFE - 10 * DAY);
    let zero = Duration::ZERO;
    let expired = AUTHORITY_LIFE + DAY;
    for (case, data, age, trusted, expected) in [
        ("good", data.clone(), zero, true, Need::Nothing),
        ("good, and nobody trusts it yet", data.clone(), zero, false, Need::Nothing),
        ("empty", Data::new(), zero, true, Need::Everything("certificate_missing")),
        (
            "no authority's key",
            with(&data, &[("ca.key", None)]),
            zero,
            true,
            Need::Everything("certificate_missing"),
        ),
        (
            "garbage",
            with(&data, &[("ca.crt", Some("x"))]),
            zero,
            true,
            Need::Everything("certificate_damaged"),
        ),
        (
            "the authority is a server's certificate",
            with(&data, &[("ca.crt", Some(&text(&data, "tls.crt")))]),
            zero,
            true,
            Need::Everything("certificate_authority"),
        ),
        (
            "another authority's key",
            with(&data, &[("ca.key", Some(&text(&other, "ca.key")))]),
            zero,
            true,
            Need::Everything("certificate_key"),
        ),
        ("expired", data.clone(), expired, true, Need::Everything("certificate_expired")),
        (
            "no server's certificate",
            with(&data, &[("tls.crt", None)]),
            zero,
            true,
            Need::Leaf("certificate_missing"),
        ),
        (
            "another server's key",
            with(&data, &[("tls.key", Some(&text(&other, "tls.key")))]),
            zero,
            true,
            Need::Leaf("certificate_key"),
        ),
        (
            "signed by another authority",
            with(
                &data,
                &[("tls.crt", Some(&text(&other, "tls.crt"))), ("tls.key", Some(&text(&other, "tls.key")))],
            ),
            zero,
            true,
            Need::Leaf("certificate_untrusted"),
        ),
        ("for another name", elsewhere, zero, true, Need::Leaf("certificate_untrusted")),
        ("in the middle of its life", data.clone(), half, true, Need::Nothing),
        ("its last sixth", data.clone(), LEAF_LIFE - 9 * DAY, true, Need::Leaf("leaf_due")),
        ("the server's is expired", data.clone(), LEAF_LIFE + DAY, true, Need::Leaf("certificate_expired")),
        ("a successor, young", followed.clone(), SETTLING / 2, true, Need::Nothing),
        ("a successor, nobody trusts it", followed.clone(), SETTLING, false, Need::Nothing),
        ("a successor, settled", followed.clone(), SETTLING, true, Need::Promotion("authority_due")),
        (
            "a successor of a damaged authority",
            with(&followed, &[("ca.crt", Some("x"))]),
            zero,
            false,
            Need::Promotion("authority_unusable"),
        ),
        ("a predecessor, young", preceded.clone(), SETTLING / 2, true, Need::Nothing),
        ("a predecessor, no more needed", preceded, SETTLING, true, Need::Sweep),
        ("a successor without a key", with(&followed, &[("next-ca.key", None)]), zero, true, Need::Sweep),
        ("something unknown beside it", with(&data, &[("password", Some("x"))]), zero, true, Need::Sweep),
        ("long after", data, late, true, Need::Leaf("certificate_expired")),
    ] {
        let now = start() + age;
        assert_eq!(Stored::read(&data).need(&names(), now, trusted), expected, "{case}");
        // Whatever it was, it ends well, and what is right for another replica is right for this one.
        let mut data = data;
        for round in 0.. {
            let stored = Stored::read(&data);
            let need = stored.need(&names(), now, false);
            if need == Need::Nothing {
                break;
            }
            assert!(round < 4, "{case}: {need:?}");
            data = stored.meet(need, &names(), now).unwrap().data();
        }
    }
}

#[test]
fn a_clock_that_is_behind_its_maker_by_an_hour_is_no_reason_for_anything() {
    let stored = Stored::read(&fresh());
    assert_eq!(stored.need(&names(), start() - 59 * MINUTE, true), Need::Nothing);
    let need = stored.need(&names(), start() - 61 * MINUTE, true);
    assert_eq!(need, Need::Everything("certificate_not_yet"));
}

/// Three years of looks every six hours, and every minute around changes. Who trusted the authorities of the last look
/// must trust what is served now, and what is served is never near its end.
#[test]
fn nobody_is_ever_left_without_a_certificate_that_he_trusts() {
    let (mut data, mut now) = (fresh(), start());
    let (mut leaves, mut promotions) = (0, 0);
    while now < start() + 3 * AUTHORITY_LIFE {
        let before = Stored::read(&data);
        let mut step = DAY / 4;
        loop {
            let stored = Stored::read(&data);
            let need = stored.need(&names(), now, true);
            match need {
                Need::Nothing => break,
                Need::Everything(reason) => panic!("{reason}"),
                Need::Leaf(_) => leaves += 1,
                Need::Promotion(_) => promotions += 1,
                Need::Successor | Need::Sweep => {}
            }
            data = stored.meet(need, &names(), now).unwrap().data();
            step = MINUTE;
        }
        let after = Stored::read(&data);
        let leaf = after.leaf.as_ref().unwrap();
        let trusted = before.anchors();
        assert!(trusted.iter().any(|anchor| leaf.check(anchor, &names(), now).is_ok()), "at {now:?}");
        let old = before.leaf.as_ref().unwrap();
        assert!(after.anchors().iter().any(|anchor| old.check(anchor, &names(), now).is_ok()), "at {now:?}");
        assert!(leaf.validity.ends > now + 9 * DAY, "at {now:?}");
        assert!(after.anchors().iter().all(|anchor| anchor.validity.ends > now), "at {now:?}");
        now += step;
    }
    assert!(promotions >= 3, "{promotions}");
    assert!((18..40).contains(&leaves), "{leaves}");
}
