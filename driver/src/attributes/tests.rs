use proptest::prelude::*;

use super::*;

#[test]
fn vendor_versions_become_semantic_versions() {
    for (vendor, version) in [
        ("", "0.0.0"),
        ("unknown", "0.0.0-unknown"),
        ("535.104.05", "535.104.5"),
        ("25.0.rc1", "25.0.0-rc1"),
        ("24.1.rc2.b010", "24.1.0-rc2.b010"),
        ("25.2.0", "25.2.0"),
        ("25.2.0.1", "25.2.0-1"),
        ("7.0.0.5.0242", "7.0.0-5.242"),
        ("V25.1", "25.1.0"),
        ("1.", "1.0.0"),
        (" 23 ", "23.0.0"),
        ("1.2.3+b5", "1.2.3-b5"),
        ("1.2rc3", "1.0.0-2rc3"),
        ("V100R001C19SPC001", "0.0.0-100R001C19SPC001"),
        ("1.2.3--", "1.2.3"),
        ("99999999999999999999999.1", "0.0.0-n99999999999999999999999.1"),
    ] {
        assert_eq!(semantic_version(vendor), version, "{vendor:?}");
    }
}

#[test]
fn texts_are_cut_between_characters() {
    assert_eq!(attribute_text("  Ascend\n910C "), "Ascend910C");
    let cut = attribute_text(&"é".repeat(40));
    assert_eq!(cut, "é".repeat(32));
    assert_eq!(attribute_text(&format!("x{}", "é".repeat(40))).len(), 63);
}

#[test]
fn a_modules_identity_is_die_zeros_and_stays_unique_when_cut() {
    assert_eq!(module_uuid("D0-1"), "M-D0-1");
    let (a, b) = (format!("{}a", "x".repeat(63)), format!("{}b", "x".repeat(63)));
    assert_eq!(module_uuid(&a).len(), 64);
    assert_ne!(module_uuid(&a), module_uuid(&b));
    assert_eq!(module_uuid(&"y".repeat(62)), format!("M-{}", "y".repeat(62)));
}

/// The grammar of semver.org 2.0.0 without build metadata, in 64-bit numbers.
fn is_semver(text: &str) -> bool {
    let (release, pre) = match text.split_once('-') {
        Some((release, pre)) => (release, Some(pre)),
        None => (text, None),
    };
    let number = |t: &str| t.parse::<u64>().is_ok_and(|n| n.to_string() == t);
    let identifier = |t: &str| {
        !t.is_empty()
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && (!t.bytes().all(|b| b.is_ascii_digit()) || number(t))
    };
    release.split('.').count() == 3
        && release.split('.').all(number)
        && pre.is_none_or(|p| p.split('.').all(identifier))
}

proptest! {
    #[test]
    fn every_text_becomes_a_version_that_the_api_takes(
        text in prop_oneof!["\\PC{0,100}", "[vV]?[0-9.+-]{0,100}", "[0-9a-z.-]{0,100}"]
    ) {
        let version = semantic_version(&text);
        prop_assert!(is_semver(&version), "{text:?} -> {version:?}");
        prop_assert!(version.len() <= MAX_ATTRIBUTE, "{version:?}");
        prop_assert_eq!(semantic_version(&version), version, "{:?}", text);
    }

    #[test]
    fn every_text_fits_an_attribute(text in "\\PC{0,100}") {
        prop_assert!(attribute_text(&text).len() <= MAX_ATTRIBUTE);
    }
}

#[test]
fn the_superpod_is_the_labels_and_without_one_the_hardwares() {
    use crate::fixtures::dual;
    use crate::hardware::Inventory;
    let attribute = |label: &str, hardware: Option<u32>| {
        let inventory = Inventory { superpod: hardware, ..dual(1) };
        let labels = NodeLabels { superpod: label.to_owned(), ..NodeLabels::default() };
        let chip = of_chip(&inventory.chips[0], &inventory, &labels).remove("superpod");
        let module =
            of_module(&inventory.chips[0], &inventory.chips[1], &inventory, &labels).remove("superpod");
        assert_eq!(chip, module);
        chip
    };
    let published = |word: &str| Some(AttributeValue::Str(word.to_owned()));
    assert_eq!(attribute("east", Some(9)), published("east"));
    assert_eq!(attribute("", Some(9)), published("9"));
    assert_eq!(attribute("", None), published(""));
}
