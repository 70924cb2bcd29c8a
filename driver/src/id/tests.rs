use proptest::prelude::*;

use super::*;
use crate::hardware::Vendor;

const UID: &str = "0b0e8bd2-07d1-4b3e-9a51-3c2a2f5d9e10";

#[test]
fn a_claim_uid_is_what_the_api_server_makes_and_nothing_else() {
    assert_eq!(ClaimUid::new(UID).unwrap().as_str(), UID);
    for hostile in [
        "",
        "../../../../etc/passwd",
        "0b0e8bd2-07d1-4b3e-9a51-3c2a2f5d9e1/",
        "0b0e8bd2-07d1-4b3e-9a51-3c2a2f5d9e1\0",
        "0B0E8BD2-07D1-4B3E-9A51-3C2A2F5D9E10",
        "0b0e8bd2-07d1-4b3e-9a51-3c2a2f5d9e10\n",
        "0b0e8bd207d14b3e9a513c2a2f5d9e10",
        "0b0e8bd2-07d1-4b3e-9a51-3c2a2f5d9e10-1",
        "------------------------------------",
        "..0e8bd2-07d1-4b3e-9a51-3c2a2f5d9e10",
    ] {
        assert!(ClaimUid::new(hostile).is_err(), "{hostile:?}");
        assert!(serde_json::from_value::<ClaimUid>(hostile.into()).is_err(), "{hostile:?}");
    }
}

#[test]
fn a_claim_uid_has_the_bytes_of_its_digits() {
    let bytes = ClaimUid::new("00112233-4455-6677-8899-aabbccddeeff").unwrap().bytes();
    assert_eq!(
        bytes,
        [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]
    );
}

#[test]
fn a_refused_text_is_shown_shortened() {
    let error = ClaimUid::new("x".repeat(500)).unwrap_err();
    assert_eq!(error.value.len(), 80);
}

#[test]
fn names_follow_the_rules_of_the_api() {
    assert!(NodeName::new("node-1.example.com").is_ok());
    for bad in ["", "Node", "-a", "a-", "a..b", "a/b", &"a".repeat(254)] {
        assert!(NodeName::new(bad).is_err(), "{bad:?}");
    }
    assert!(RequestName::new("npu-1").is_ok());
    for bad in ["", "a.b", "a/b", "A", &"a".repeat(64)] {
        assert!(RequestName::new(bad).is_err(), "{bad:?}");
    }
    let node = NodeName::new("node-1").unwrap();
    assert_eq!(PoolName::of(&node, Vendor::Ascend).unwrap().as_str(), "node-1/ascend");
    let long = NodeName::new(vec!["a".repeat(60); 4].join(".") + ".abcdef").unwrap();
    assert!(PoolName::of(&long, Vendor::Ascend).is_err());
}

#[test]
fn a_device_uuid_is_safe_as_a_file_name() {
    for good in ["D1A2-B3", "GPU-8f6e", "a", "0_1.2"] {
        assert!(DeviceUuid::new(good).is_ok(), "{good:?}");
    }
    for bad in ["", ".", "..", ".hidden", "a/b", "a b", "ä", &"a".repeat(65)] {
        assert!(DeviceUuid::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_device_name_has_one_spelling() {
    assert_eq!("chip-3-1".parse(), Ok(DeviceName::Chip { card: 3, die: 1 }));
    assert_eq!("module-12".parse(), Ok(DeviceName::Module { card: 12 }));
    let partition = DeviceName::Partition { card: 0, gpu_instance: 7, compute_instance: 2 };
    assert_eq!("partition-0-7-2".parse(), Ok(partition));
    for bad in [
        "",
        "chip",
        "chip-3",
        "chip-03-1",
        "chip-+3-1",
        "chip-3-1-0",
        "module--1",
        "module-",
        "Chip-1-1",
        "module-1/..",
        "module-4294967296",
        "partition-0-7",
        "partition-0-07-2",
        "partition-0-7-2-1",
    ] {
        assert!(bad.parse::<DeviceName>().is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn device_names_survive_their_spelling(card: u32, die: u32, other: u32, kind in 0..3) {
        let name = match kind {
            0 => DeviceName::Module { card },
            1 => DeviceName::Chip { card, die },
            _ => DeviceName::Partition { card, gpu_instance: die, compute_instance: other },
        };
        prop_assert_eq!(name.to_string().parse::<DeviceName>().unwrap(), name);
    }

    #[test]
    fn no_accepted_identity_leaves_its_directory(text in "\\PC{0,70}") {
        if let Ok(uuid) = DeviceUuid::new(text.clone()) {
            prop_assert!(!uuid.as_str().contains('/') && !uuid.as_str().starts_with('.'));
        }
        prop_assert!(ClaimUid::new(text).is_err());
    }
}
