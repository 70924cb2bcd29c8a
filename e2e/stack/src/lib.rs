//! The product on a cluster of the harness: manifests applied, stand-in machines running, a node plugin on each
//! node, an image to run in pods. What the end-to-end suites, the demo and the benches start from.

mod artefacts;
mod fleet;
mod machine_node;
mod stack;

pub use artefacts::Artefacts;
pub use fleet::{FLEET, Fleet};
pub use machine_node::MachineNode;
pub use stack::{DEMO_IMAGE, MUSL_IMAGE, Stack, StackOptions};
pub use standin_protocol::{Card, Die, Fault, Instance, Machine, Mig, MultiDiePolicy, SuperPod, Xid};
pub use vnpu_harness::{Cluster, ControllerHandle, NodeHandle, Options, PluginOptions, RealNode, admin_page};
