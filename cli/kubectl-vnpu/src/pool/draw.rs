//! The kinds of device as lines: what is free of all there is. Pure.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};
use vnpu_driver::quantity::Bytes;

use crate::devices::{Kind, Node, Sharing, Stock, Totals, kinds, remarks};
use crate::output::{clean, columns, memory, ratio};

/// Which columns there are.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Some kind is parts of chips.
    parts: bool,
    /// Something is drained.
    drained: bool,
    /// All that there are.
    wide: bool,
}

/// A line for each kind, the sums, a legend, and what is wrong.
pub(super) fn table(nodes: &[Node], wide: bool) -> String {
    let stocks = kinds(nodes);
    let totals = sum(&stocks);
    let shape = Shape { parts: totals.partitions > 0, drained: totals.drained > 0, wide };
    let mut rows = vec![header(shape)];
    rows.extend(stocks.iter().map(|stock| row(stock, shape)));
    rows.push(last(&stocks, &totals, shape));
    let mut lines = columns(&rows);
    lines.push(String::new());
    lines.push(legend(shape));
    lines.extend(nodes.iter().flat_map(remarks));
    lines.push(String::new());
    lines.join("\n")
}

fn sum(stocks: &[Stock<'_>]) -> Totals {
    stocks.iter().fold(Totals::default(), |mut sum, stock| {
        sum += stock.totals;
        sum
    })
}

fn header(shape: Shape) -> Vec<String> {
    let mut words = vec!["KIND", "MODULES", "HALF", "CHIPS"];
    if shape.parts {
        words.push("PARTS");
    }
    words.extend(["MEMORY", "COMPUTE", "SICK"]);
    if shape.drained {
        words.push("DRAINED");
    }
    words.extend(["SHARING", "NODES"]);
    if shape.wide {
        words.extend(["SHARES", "CLAIMS", "SIZE", "DRIVER"]);
    }
    words.into_iter().map(str::to_owned).collect()
}

fn row(stock: &Stock<'_>, shape: Shape) -> Vec<String> {
    let totals = &stock.totals;
    let half = if totals.modules == 0 { "-".to_owned() } else { totals.half_modules.to_string() };
    let mut cells = vec![stock.kind.to_string(), ratio(totals.free_modules, totals.modules), half];
    cells.extend(amounts(totals, shape));
    cells.extend([sharing(stock), stock.nodes.len().to_string()]);
    if shape.wide {
        let sizes: Vec<String> = stock.sizes.iter().map(|size| Bytes(*size).to_string()).collect();
        let drivers: Vec<String> = stock.drivers.iter().map(|version| clean(version)).collect();
        cells.extend([totals.shares.to_string(), stock.claims.len().to_string()]);
        cells.extend(
            [sizes, drivers].map(|words| if words.is_empty() { "-".to_owned() } else { words.join(",") }),
        );
    }
    cells
}

/// What is a sum over all kinds. Modules are not: where a kind has none, its chips are as good.
fn last(stocks: &[Stock<'_>], totals: &Totals, shape: Shape) -> Vec<String> {
    let none = || "-".to_owned();
    let nodes: BTreeSet<&str> = stocks.iter().flat_map(|stock| stock.nodes.iter().copied()).collect();
    let mut cells = vec!["all".to_owned(), none(), none()];
    cells.extend(amounts(totals, shape));
    cells.extend([none(), nodes.len().to_string()]);
    if shape.wide {
        let claims: BTreeSet<&str> = stocks.iter().flat_map(|stock| stock.claims.iter().copied()).collect();
        cells.extend([totals.shares.to_string(), claims.len().to_string(), none(), none()]);
    }
    cells
}

/// The columns from `CHIPS` to `SICK` or `DRAINED`.
fn amounts(totals: &Totals, shape: Shape) -> Vec<String> {
    let mut cells = vec![ratio(totals.free_chips, totals.chips)];
    if shape.parts {
        cells.push(ratio(totals.free_partitions, totals.partitions));
    }
    cells.extend([
        memory(totals.free_memory, totals.memory),
        format!("{}/{}%", totals.free_cores, totals.cores),
        totals.sick.saturating_add(totals.gone).to_string(),
    ]);
    if shape.drained {
        cells.push(totals.drained.to_string());
    }
    cells
}

/// `held`; `held 8/16` where it is so for some of the devices only.
fn sharing(stock: &Stock<'_>) -> String {
    let word = stock.sharing().as_str();
    if stock.shareable == 0 || stock.shareable == stock.devices() {
        return word.to_owned();
    }
    format!("{word} {}/{}", stock.shareable, stock.devices())
}

fn legend(shape: Shape) -> String {
    let parts = |text: &'static str| if shape.parts { text } else { "" };
    format!(
        "MODULES, CHIPS, {}MEMORY, COMPUTE: free/all, and 100% is one chip; HALF: modules of which one chip is free\n\
         {}SICK: tainted or gone\n\
         SHARING: held: there are shares, and programs are held to them; counted: they are not; whole: there are none",
        parts("PARTS, "),
        parts("PARTS: instances of partitioned chips, which are not among the CHIPS; "),
    )
}

/// A kind as JSON has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Described<'a> {
    #[serde(flatten)]
    kind: &'a Kind,
    /// `held`, `counted` or `whole`.
    sharing: Sharing,
    /// Devices that several claims may hold parts of.
    shareable: u64,
    /// Bytes of one device: the sizes that there are.
    sizes: &'a BTreeSet<u64>,
    driver_versions: &'a BTreeSet<&'a str>,
    nodes: &'a BTreeSet<&'a str>,
    claims: &'a BTreeSet<&'a str>,
    totals: &'a Totals,
}

/// Everything, with the sums.
pub(super) fn json(nodes: &[Node]) -> Value {
    let stocks = kinds(nodes);
    let described = |stock: &Stock<'_>| {
        json!(Described {
            kind: &stock.kind,
            sharing: stock.sharing(),
            shareable: stock.shareable,
            sizes: &stock.sizes,
            driver_versions: &stock.drivers,
            nodes: &stock.nodes,
            claims: &stock.claims,
            totals: &stock.totals,
        })
    };
    let pools = || nodes.iter().flat_map(|node| &node.pools);
    let incomplete: Vec<&str> =
        pools().filter(|pool| pool.incomplete).map(|pool| pool.name.as_str()).collect();
    let unpublished = pools().flat_map(|pool| {
        pool.unpublished
            .iter()
            .map(|held| json!({"pool": pool.name, "device": held.device, "claim": held.claim}))
    });
    json!({
        "kinds": stocks.iter().map(described).collect::<Vec<_>>(),
        "totals": sum(&stocks),
        "incomplete": incomplete,
        "unpublished": unpublished.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
