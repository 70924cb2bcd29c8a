//! Vendors as words.

use super::{Vendor, VendorName};
use crate::hardware::Inventory;
use crate::id::{NodeName, PoolName};

#[test]
fn known_vendors_are_the_words_that_they_always_were() {
    for (vendor, word) in [(Vendor::Ascend, "ascend"), (Vendor::Nvidia, "nvidia")] {
        assert_eq!(serde_json::to_string(&vendor).unwrap(), format!("\"{word}\""));
        assert_eq!(serde_json::from_str::<Vendor>(&format!("\"{word}\"")).unwrap(), vendor);
        assert!(vendor.enforces_quotas());
    }
}

#[test]
fn an_inventory_of_before_reads_as_before() {
    let text = r#"{"vendor":"nvidia","chips":[],"multi_die_policy":"independent","driver_version":"","superpod":null,"problems":[]}"#;
    let inventory: Inventory = serde_json::from_str(text).unwrap();
    assert_eq!(inventory.vendor, Vendor::Nvidia);
}

#[test]
fn another_vendor_is_its_name() {
    for name in ["a", "acme", "0-acme-9", "a".repeat(VendorName::LONGEST).as_str()] {
        let vendor: Vendor = name.parse().unwrap();
        assert_eq!(vendor, Vendor::Other(VendorName::new(name).unwrap()));
        assert_eq!((vendor.to_string().as_str(), vendor.as_str()), (name, name));
        assert_eq!(serde_json::to_string(&vendor).unwrap(), format!("\"{name}\""));
        assert_eq!(serde_json::from_str::<Vendor>(&format!("\"{name}\"")).unwrap(), vendor);
        assert!(!vendor.enforces_quotas());
    }
}

#[test]
fn what_is_no_vendors_name_is_refused_with_the_rule() {
    let long = "a".repeat(VendorName::LONGEST + 1);
    for name in ["", "Acme", "acme.example", "-acme", "acme-", "ac/me", "acme\n", "äcme", long.as_str()] {
        let error = name.parse::<Vendor>().unwrap_err().to_string();
        assert!(error.contains("at most 32 characters"), "{error}");
        assert!(serde_json::from_value::<Vendor>(name.into()).is_err(), "{name:?}");
    }
    for name in ["ascend", "nvidia"] {
        assert!(VendorName::new(name).unwrap_err().to_string().contains("own library"));
    }
}

#[test]
fn pools_are_taken_apart_again() {
    for vendor in ["ascend", "nvidia", "acme"] {
        let (node, vendor) = (NodeName::new("node-1.example").unwrap(), vendor.parse::<Vendor>().unwrap());
        let pool = PoolName::of(&node, vendor).unwrap();
        assert_eq!(pool.parts(), Some((node, vendor)));
    }
    for odd in ["node-1", "node-1/acme/0", "node-1/acme.example"] {
        assert_eq!(PoolName::new(odd).unwrap().parts(), None, "{odd}");
    }
}

#[test]
fn vendors_are_in_a_fixed_order() {
    let mut vendors: Vec<Vendor> =
        ["zeta", "nvidia", "acme", "ascend", "acm"].iter().map(|name| name.parse().unwrap()).collect();
    vendors.sort();
    let words: Vec<&str> = vendors.iter().map(Vendor::as_str).collect();
    assert_eq!(words, ["ascend", "nvidia", "acm", "acme", "zeta"]);
}
