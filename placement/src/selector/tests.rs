use std::collections::BTreeMap;

use vnpu_driver::id::{NodeName, PoolName};

use super::*;
use crate::node::{Capacity, Device, Pool};

fn verdict_of(text: &str) -> Verdict {
    let device = Device {
        name: "chip-0-0".into(),
        attributes: BTreeMap::from([
            ("type".into(), Attribute::String("chip".into())),
            ("vnpu.dev/module".into(), Attribute::Int(3)),
            ("vnpu.dev/uuid".into(), Attribute::String("U-1".into())),
            ("driverVersion".into(), Attribute::Version("25.0.1".into())),
            ("resource.kubernetes.io/numaNode".into(), Attribute::Int(1)),
        ]),
        capacity: BTreeMap::from([(
            "memory".into(),
            Capacity { value: 64 << 30, default: None, range: None },
        )]),
        shareable: true,
        counters: vec![],
        taints: vec![],
    };
    let pool = Pool {
        name: PoolName::new("n1/ascend").unwrap(),
        node: NodeName::new("n1").unwrap(),
        counters: vec![],
        devices: vec![device],
    };
    let mut catalog = Catalog::default();
    let (layout, own) = catalog.layout(&pool);
    let facts = Facts { layout: &layout, own: &own, device: 0 };
    let mut selectors = Selectors::default();
    let first = selectors.verdict(&catalog, text, facts);
    assert_eq!(selectors.verdict(&catalog, text, facts), first, "kept result of {text}");
    first
}

#[test]
fn selectors_read_devices_as_kubernetes_does() {
    for (text, expected) in [
        (r#"device.driver == "vnpu.dev""#, Verdict::Yes),
        (r#"device.driver == "vnpu.dev" && device.attributes["vnpu.dev"].type == "chip""#, Verdict::Yes),
        (r#"device.driver == "gpu.example.com" && device.attributes["x"].y == 1"#, Verdict::No),
        (r#"device.attributes["vnpu.dev"].type == "module""#, Verdict::No),
        (r#"device.attributes["vnpu.dev"].module >= 3"#, Verdict::Yes),
        (r#"device.attributes["vnpu.dev"].?absent.orValue(false)"#, Verdict::No),
        (r#"device.attributes["vnpu.dev"].?type.orValue("") == "chip""#, Verdict::Yes),
        (r#"device.attributes["other.dev"].?type.orValue("none") == "none""#, Verdict::Yes),
        (r#"has(device.attributes["vnpu.dev"].absent)"#, Verdict::No),
        (r#""type" in device.attributes["vnpu.dev"]"#, Verdict::Yes),
        (r#"device.attributes["resource.kubernetes.io"].numaNode == 1"#, Verdict::Yes),
        (r#"device.attributes["vnpu.dev"].uuid in ["U-1", "U-2"]"#, Verdict::Yes),
        (r#"device.capacity["vnpu.dev"].memory.compareTo(quantity("64Gi")) == 0"#, Verdict::Yes),
        (r#"device.capacity["vnpu.dev"].memory.isGreaterThan(quantity("80Gi"))"#, Verdict::No),
        (r#"device.capacity["vnpu.dev"].memory.isLessThan(quantity("80Gi"))"#, Verdict::Yes),
        (r#"device.capacity["vnpu.dev"].memory == quantity("65536Mi")"#, Verdict::Yes),
        (r#"device.capacity["vnpu.dev"].memory.asInteger() > 1"#, Verdict::Yes),
        (r#"device.attributes["vnpu.dev"].driverVersion.isGreaterThan(semver("24.1.0"))"#, Verdict::Yes),
        (r#"device.attributes["vnpu.dev"].driverVersion.compareTo(semver("25.0.1")) == 0"#, Verdict::Yes),
        ("device.allowMultipleAllocations", Verdict::Yes),
        (r#"device.attributes["vnpu.dev"].exists(k, k == "type")"#, Verdict::Yes),
        (r#"device.attributes["vnpu.dev"].absent == 1"#, Verdict::Unknown),
        ("device.(", Verdict::Unknown),
        ("nonsense(device)", Verdict::Unknown),
        (r#"device.attributes["vnpu.dev"].type"#, Verdict::Unknown),
    ] {
        assert_eq!(verdict_of(text), expected, "{text}");
    }
}

#[test]
fn only_what_an_expression_reads_tells_devices_apart() {
    let mut selectors = Selectors::default();
    assert!(!selectors.reads_own(r#"device.attributes["vnpu.dev"].type == "chip""#));
    assert!(selectors.reads_own(r#"device.attributes["vnpu.dev"].uuid == "U-1""#));
    assert!(selectors.reads_own(r#"device.attributes["vnpu.dev"].exists(k, k == "type")"#));
}
