use proptest::prelude::*;

use super::*;

fn bytes(text: &str) -> Result<u64, &'static str> {
    text.parse::<Bytes>().map(|b| b.0).map_err(|e| e.rule)
}

#[test]
fn quantities_are_read_as_the_api_reads_them() {
    for (text, value) in [
        ("4Gi", 4 << 30),
        ("4294967296", 4 << 30),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 1_000_000_000_000_000_000),
        ("1k", 1000),
        ("10", 10),
        ("0", 0),
        ("+5", 5),
        ("1.5Gi", 3 << 29),
        (".5Ki", 512),
        ("2.", 2),
        ("1000m", 1),
        ("1000000u", 1),
        ("3000000000n", 3),
        ("1500e-2", 15),
        ("12e6", 12_000_000),
        ("1Ei", 1 << 60),
        ("18446744073709551615", u64::MAX),
        ("007", 7),
    ] {
        assert_eq!(bytes(text), Ok(value), "{text}");
    }
}

#[test]
fn what_is_no_quantity_or_not_whole_is_refused() {
    for text in [
        "", "-", "Gi", "1gi", "1 Gi", "1Gi ", "0x10", "1.2.3", "e3", "1e", "1e+", "1K", "1_0", "٣", ".",
        "1ee3",
    ] {
        assert_eq!(bytes(text), Err(NOT_A_QUANTITY), "{text:?}");
    }
    for text in ["500m", "0.5", "-1", "1n"] {
        assert_eq!(bytes(text), Err(NOT_WHOLE), "{text:?}");
    }
    for text in ["1e40", "99999999999999999999999999999999999999999", "1e99999999999"] {
        assert_eq!(bytes(text), Err(TOO_LARGE), "{text:?}");
    }
    assert_eq!(bytes("1e-10"), Err(TOO_FINE));
    assert_eq!("4294967296".parse::<Percent>().map_err(|e| e.rule), Err(TOO_LARGE));
    assert_eq!("10".parse::<Percent>(), Ok(Percent(10)));
}

#[test]
fn the_message_names_the_text_and_the_rule() {
    let error = "1500m".parse::<Percent>().unwrap_err();
    assert_eq!(error.to_string(), "quantity \"1500m\": it must be a whole number of units, not negative");
}

#[test]
fn quantities_compare_by_value() {
    let read = |text: &str| text.parse::<Quantity>().unwrap();
    assert_eq!(read("1Gi"), read("1073741824"));
    assert_eq!(read("1000m"), read("1"));
    assert!(read("999m") < read("1"));
    assert!(read("-1") < read("0"));
    assert_eq!(read("1500m").to_string(), "1500000000n");
    assert_eq!(read("1Ki").to_string(), "1024");
}

#[test]
fn memory_is_rounded_down_to_gib() {
    assert_eq!(Bytes(65_452 << 20).floor_gib(), Bytes::gib(63));
    assert_eq!(Bytes::gib(64).floor_gib(), Bytes::gib(64));
    assert_eq!(Bytes((1 << 30) - 1).floor_gib(), Bytes(0));
}

proptest! {
    #[test]
    fn bytes_survive_their_own_spelling(value: u64) {
        let text = Bytes(value).to_string();
        prop_assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(value));
    }

    #[test]
    fn quantities_survive_their_own_spelling(text in "-?[0-9]{1,12}(\\.[0-9]{0,9})?(Ki|Mi|Gi|n|u|m|k|M|e[0-9])?") {
        if let Ok(quantity) = text.parse::<Quantity>() {
            prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity);
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}") {
        let _ = text.parse::<Quantity>();
    }
}

#[test]
fn fractions_count_as_one_more() {
    for (text, units, thousandths) in [
        ("1500m", 2, 1500),
        ("1", 1, 1000),
        ("100n", 1, 1),
        ("-1", 0, 0),
        ("0", 0, 0),
        ("4Gi", 4 << 30, (4 << 30) * 1000),
    ] {
        let quantity: Quantity = text.parse().unwrap();
        assert_eq!((quantity.ceil(), quantity.ceil_thousandths()), (units, thousandths), "{text}");
    }
}
