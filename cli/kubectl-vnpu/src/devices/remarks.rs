//! What is wrong with nodes' slices, a line each. Pure.

use super::model::{Node, Pool};
use crate::output::clean;

/// What is wrong with a node's slices.
pub(crate) fn remarks(node: &Node) -> Vec<String> {
    let of_pool = |pool: &Pool| {
        let rewritten = pool.incomplete.then(|| {
            format!(
                "{}: slices are missing; it is being rewritten, or its node plugin is not well",
                pool.name
            )
        });
        let unpublished = pool.unpublished.iter().map(|held| {
            format!("{}: {} is held by {} and not published any more", pool.name, held.device, held.claim)
        });
        rewritten.into_iter().chain(unpublished).map(|text| clean(&text)).collect::<Vec<_>>()
    };
    node.pools.iter().flat_map(of_pool).collect()
}
