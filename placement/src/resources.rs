//! Amounts of what nodes have besides devices: CPU, memory, pods, and every other name of `allocatable`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Amounts by resource name, as in `status.allocatable` and container requests: CPU in thousandths of a core, all
/// else in units. A name that is absent counts as zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Resources(pub BTreeMap<String, u64>);
