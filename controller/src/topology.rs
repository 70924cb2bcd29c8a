//! Which leaf switch and which super-pod a node belongs to, from whatever a cluster already knows of it: sources in, two
//! labels out, without I/O. The modules below watch the sources and write the labels; everything else in the product
//! reads only these two.

pub mod kueue;
pub mod label;
pub mod metrics;
pub mod run;
pub mod survey;
mod write;

use std::collections::BTreeMap;

use vnpu_driver::admission::pod::LEAF;
use vnpu_driver::controller_config::TopologySources;

use crate::planner::patch::SUPERPOD;

/// MindCluster's number of a group of nodes. It counts anew in each super-pod, so it names a leaf only together with it.
const ASCEND_GROUP: &str = "huawei.com/topotree.groupid";
/// MindCluster's number of a super-pod.
const ASCEND_SUPERPOD: &str = "huawei.com/topotree.superpodid";
/// The narrowest level of a Kueue Topology may be the node itself.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// The longest value of a label.
const MAX_VALUE: usize = 63;

/// Leaf and super-pod by node, from a file of the administrator.
pub type Table = BTreeMap<String, Place>;

/// Where a node is; `None` where nobody says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The leaf switch.
    pub leaf: Option<String>,
    /// The super-pod.
    pub superpod: Option<String>,
}

/// Why a table cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The columns are not those that are needed.
    #[error(
        "topology table: the first line must name the columns node and leaf, superpod or both, but is {0:?}"
    )]
    Columns(String),
    /// A line has not as many fields as there are columns.
    #[error("topology table, line {0}: it has {1} fields, the first line has {2}")]
    Fields(usize, usize, usize),
    /// A node stands there twice.
    #[error("topology table, line {0}: node {1} stood there before")]
    Twice(usize, String),
}

impl TableError {
    /// Whether the same text may be readable later: never.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word for metrics and events.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Columns(_) => "table_columns",
            Self::Fields(..) => "table_fields",
            Self::Twice(..) => "table_twice",
        }
    }
}

/// Reads a CSV with the columns `node`, `leaf` and `superpod` in any order, the last two optional; no quoting, names of
/// nodes and switches need none. Also MindCluster's planning file, whose columns are `nodeName` and label keys. Empty
/// lines and lines that begin with `#` are passed over.
///
/// # Errors
/// With the line that cannot be read.
pub fn read_table(text: &str) -> Result<Table, TableError> {
    let mut lines =
        text.lines().enumerate().map(|(at, line)| (at + 1, line.trim().trim_start_matches('\u{feff}')));
    let mut lines = lines.by_ref().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let header = lines.next().map_or("", |(_, line)| line);
    let columns: Vec<&str> = header.split(',').map(str::trim).collect();
    let column = |names: &[&str]| columns.iter().position(|c| names.contains(c));
    let node = column(&["node", "nodeName"]);
    let (leaf, superpod) =
        (column(&["leaf", LEAF, ASCEND_GROUP]), column(&["superpod", SUPERPOD, ASCEND_SUPERPOD]));
    let Some(node) = node.filter(|_| leaf.is_some() || superpod.is_some()) else {
        return Err(TableError::Columns(header.chars().take(80).collect()));
    };
    let grouped = leaf.and_then(|leaf| columns.get(leaf)) == Some(&ASCEND_GROUP);
    let mut table = Table::new();
    for (at, line) in lines {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        if fields.len() != columns.len() {
            return Err(TableError::Fields(at, fields.len(), columns.len()));
        }
        let field = |column: Option<usize>| {
            column.and_then(|c| fields.get(c)).filter(|f| !f.is_empty()).map(|f| (*f).to_owned())
        };
        let name = field(Some(node)).unwrap_or_default();
        let (mut leaf, superpod) = (field(leaf), field(superpod));
        if let (true, Some(superpod), Some(leaf)) = (grouped, &superpod, &mut leaf) {
            *leaf = format!("{superpod}-{leaf}");
        }
        let place = Place { leaf, superpod };
        if table.insert(name.clone(), place).is_some() {
            return Err(TableError::Twice(at, name));
        }
    }
    Ok(table)
}

/// What is known beside the nodes' own labels.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Which labels are looked at.
    pub config: TopologySources,
    /// The administrator's table.
    pub table: Table,
    /// The labels of a Kueue Topology, widest level first.
    pub kueue_levels: Vec<String>,
}

/// The value of a label, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The value.
    pub value: String,
    /// Its source, in words: `label network.topology.nvidia.com/leaf`.
    pub source: String,
}

/// What was found for a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Its leaf; `None` where nobody says.
    pub leaf: Option<Found>,
    /// Its super-pod.
    pub superpod: Option<Found>,
    /// Sources that say something else than the one that counts, in words.
    pub disagreements: Vec<String>,
}

/// Where the node `name` with these labels is. What the administrator wrote down counts before what Kueue is told, and
/// that before labels of other systems, in the order of the configuration.
pub fn resolve(name: &str, labels: &BTreeMap<String, String>, sources: &Sources) -> Resolved {
    let written = sources.table.get(name).cloned().unwrap_or_default();
    let levels: Vec<&String> = sources.kueue_levels.iter().filter(|l| l.as_str() != HOSTNAME).collect();
    // A Topology may be made of the very labels that are written here, which say nothing new.
    let level = |from_the_end: usize| {
        let at = levels.len().checked_sub(from_the_end)?;
        levels.get(at).copied().filter(|l| ![LEAF, SUPERPOD].contains(&l.as_str()))
    };
    let (narrowest, wider) = (level(1), level(2));
    let labelled =
        |key: &String| labels.get(key).map(|value| (format!("label {key}"), group(key, value, labels)));
    let mut disagreements = Vec::new();
    let mut choose = |what: &str, written: Option<String>, level: Option<&String>, keys: &[String]| {
        let table = written.map(|value| ("the table".to_owned(), value));
        let found = table.into_iter().chain(level.and_then(labelled)).chain(keys.iter().filter_map(labelled));
        let mut found =
            found.map(|(source, value)| (source, label_value(&value))).filter(|(_, v)| !v.is_empty());
        let (first, value) = found.next()?;
        for (source, other) in found {
            if other != value {
                disagreements.push(format!("{what} of {name}: {first} says {value}, {source} says {other}"));
            }
        }
        Some(Found { value, source: first })
    };
    let leaf = choose("leaf", written.leaf, narrowest, &sources.config.leaf_labels);
    let superpod = choose("super-pod", written.superpod, wider, &sources.config.superpod_labels);
    Resolved { leaf, superpod, disagreements }
}

/// The name of a leaf by a label.
fn group(key: &str, value: &str, labels: &BTreeMap<String, String>) -> String {
    match labels.get(ASCEND_SUPERPOD) {
        Some(superpod) if key == ASCEND_GROUP => format!("{superpod}-{value}"),
        _ => value.to_owned(),
    }
}

/// `text` as the value of a label: other characters become dashes, and it begins and ends with a letter or digit.
fn label_value(text: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let text: String = text.trim().chars().map(legal).take(MAX_VALUE).collect();
    text.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn sources() -> Sources {
        Sources {
            config: TopologySources {
                leaf_labels: vec![ASCEND_GROUP.to_owned(), "network.topology.nvidia.com/leaf".to_owned()],
                superpod_labels: vec![ASCEND_SUPERPOD.to_owned()],
                ..TopologySources::default()
            },
            ..Sources::default()
        }
    }

    fn found(name: &str, labels: &BTreeMap<String, String>, sources: &Sources) -> Place {
        let found = resolve(name, labels, sources);
        Place { leaf: found.leaf.map(|f| f.value), superpod: found.superpod.map(|f| f.value) }
    }

    fn place(leaf: Option<&str>, superpod: Option<&str>) -> Place {
        Place { leaf: leaf.map(str::to_owned), superpod: superpod.map(str::to_owned) }
    }

    #[test]
    fn labels_of_other_systems_in_the_order_of_the_configuration() {
        let ascend = labels(&[(ASCEND_GROUP, "2"), (ASCEND_SUPERPOD, "7")]);
        assert_eq!(found("n", &ascend, &sources()), place(Some("7-2"), Some("7")));
        let nvidia = labels(&[("network.topology.nvidia.com/leaf", "S2")]);
        assert_eq!(found("n", &nvidia, &sources()), place(Some("S2"), None));
        assert_eq!(found("n", &labels(&[("zone", "a")]), &sources()), Place::default());
    }

    #[test]
    fn the_table_counts_first_and_disagreement_is_told() {
        let mut sources = sources();
        sources.table = read_table("node,leaf,superpod\nn,leaf-1,\n").unwrap();
        let resolved = resolve("n", &labels(&[("network.topology.nvidia.com/leaf", "S2")]), &sources);
        let leaf = Found { value: "leaf-1".to_owned(), source: "the table".to_owned() };
        assert_eq!((resolved.leaf, resolved.superpod), (Some(leaf), None));
        assert_eq!(
            resolved.disagreements,
            ["leaf of n: the table says leaf-1, label network.topology.nvidia.com/leaf says S2"]
        );
    }

    #[test]
    fn kueues_narrowest_level_above_the_node_is_the_leaf() {
        let on =
            labels(&[("block", "b1"), ("rack", "r1"), (HOSTNAME, "n"), (LEAF, "old"), (SUPERPOD, "older")]);
        for (levels, leaf, superpod) in [
            (&["block", "rack", HOSTNAME][..], Some("r1"), Some("b1")),
            (&["zone", "block", "rack"], Some("r1"), Some("b1")),
            (&["rack"], Some("r1"), None),
            (&[HOSTNAME], None, None),
            (&[], None, None),
            // A Topology over what is written here.
            (&[SUPERPOD, LEAF, HOSTNAME], None, None),
            (&["block", LEAF, HOSTNAME], None, Some("b1")),
        ] {
            let sources = Sources {
                kueue_levels: levels.iter().map(|&l| l.to_owned()).collect(),
                ..Sources::default()
            };
            assert_eq!(found("n", &on, &sources), place(leaf, superpod), "{levels:?}");
        }
    }

    #[test]
    fn tables_are_read_strictly() {
        let ascend = "nodeName,huawei.com/topotree.groupid,huawei.com/topotree\n# rack 1\nnode1,0,topo1\n\nnode2,,topo1\n";
        let table = read_table(ascend).unwrap();
        assert_eq!(table["node1"], place(Some("0"), None));
        assert_eq!(table["node2"], Place::default());
        let both =
            "nodeName,huawei.com/topotree.superpodid,huawei.com/topotree.groupid\nnode1,3,0\nnode2,,1\n";
        let table = read_table(both).unwrap();
        assert_eq!(table["node1"], place(Some("3-0"), Some("3")));
        assert_eq!(table["node2"], place(Some("1"), None));
        assert!(matches!(read_table("a,b\n"), Err(TableError::Columns(_))));
        assert!(matches!(read_table(""), Err(TableError::Columns(_))));
        assert_eq!(read_table("node,leaf\nn\n"), Err(TableError::Fields(2, 1, 2)));
        assert_eq!(read_table("node,leaf\nn,a\nn,b\n"), Err(TableError::Twice(3, "n".to_owned())));
    }

    #[test]
    fn values_become_legal_labels() {
        assert_eq!(label_value("rack 7/leaf:2 "), "rack-7-leaf-2");
        assert_eq!(label_value("--x--"), "x");
        assert_eq!(label_value(&"x".repeat(100)).len(), 63);
    }
}
