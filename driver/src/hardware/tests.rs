//! Hardware's own words.

use super::PciAddress;

#[test]
fn pci_addresses_are_read_as_they_are_written() {
    for text in ["0000:81:00.0", "10000:e1:1f.7", "ffffffff:00:00.0"] {
        assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), text);
    }
    assert_eq!("0000:AF:00.0".parse::<PciAddress>().unwrap().to_string(), "0000:af:00.0");
    for odd in [
        "",
        "81:00.0",
        "0000:81:00",
        "0000:81:20.0",
        "0000:81:00.8",
        "0000:181:00.0",
        "0000:81:00:1.0",
        "+000:81:00.0",
    ] {
        assert!(odd.parse::<PciAddress>().is_err(), "{odd}");
    }
}
