//! From desired and observed slices of one pool to the writes that make them equal, in the order that keeps
//! readers right: obsolete ones away first, then changes, then new ones.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1 as api;
use vnpu_driver::DRIVER_NAME;
use vnpu_driver::slices::{PoolPlan, SliceKey};

use crate::compare::same_content;
use crate::slice::{NodeOwner, key_of, resource_slices};

/// One write to the API server.
#[derive(Debug, Clone, PartialEq)]
pub enum SliceWrite {
    /// Delete, with UID and resource version as preconditions.
    Delete {
        /// `metadata.name`.
        name: String,
        /// `metadata.uid`.
        uid: Option<String>,
        /// `metadata.resourceVersion`.
        resource_version: Option<String>,
    },
    /// Replace: name, UID and resource version are those of the observed object.
    Update(Box<api::ResourceSlice>),
    /// Create by `generateName`.
    Create(Box<api::ResourceSlice>),
}

/// What is to be written, in this order; nothing when all is as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct SyncPlan {
    /// The pool's generation once everything is written.
    pub generation: i64,
    /// The writes.
    pub writes: Vec<SliceWrite>,
}

/// Compares `desired` with the slices that are there. `observed` may hold slices of other pools and drivers,
/// which are left alone. `highest` is the highest generation of the pool ever seen (0 at first): a new slice
/// must never be older than one that a reader may remember.
///
/// The generation stays when a single slice changes and the number of slices does not; otherwise all slices
/// move to the next one, because readers take a pool as whole only at one generation.
pub fn sync(
    desired: &PoolPlan,
    observed: &[api::ResourceSlice],
    owner: &NodeOwner,
    highest: i64,
) -> SyncPlan {
    let ours: Vec<&api::ResourceSlice> = observed.iter().filter(|s| belongs(s, desired)).collect();
    let seen = ours.iter().map(|s| s.spec.pool.generation).max().unwrap_or(0).max(highest);
    let wanted: BTreeMap<SliceKey, api::ResourceSlice> =
        desired.slices.iter().map(|s| s.key).zip(resource_slices(desired, owner, seen)).collect();
    let (kept, mut writes) = sort_out(&ours, &wanted);
    let changed: Vec<SliceKey> = wanted
        .iter()
        .filter(|(key, slice)| kept.get(key).is_some_and(|k| !same_content(k, slice) || !owned(k, owner)))
        .map(|(key, _)| *key)
        .collect();
    let complete = kept.len() == wanted.len();
    let even =
        wanted.iter().all(|(key, slice)| kept.get(key).is_some_and(|k| k.spec.pool == slice.spec.pool));
    let same_generation = complete && even && writes.is_empty() && changed.len() <= 1;
    let generation = if same_generation { seen } else { seen.saturating_add(1) };
    let mut creates = Vec::new();
    for (key, mut slice) in wanted {
        slice.spec.pool.generation = generation;
        match kept.get(&key) {
            None => creates.push(SliceWrite::Create(Box::new(slice))),
            Some(old) if !same_generation || changed.contains(&key) => {
                writes.push(SliceWrite::Update(Box::new(replacing(old, slice))));
            }
            Some(_) => {}
        }
    }
    writes.extend(creates);
    SyncPlan { generation, writes }
}

fn belongs(slice: &api::ResourceSlice, desired: &PoolPlan) -> bool {
    slice.spec.driver == DRIVER_NAME
        && slice.spec.pool.name == desired.pool.as_str()
        && slice.spec.node_name.as_deref() == Some(desired.node.as_str())
}

fn owned(slice: &api::ResourceSlice, owner: &NodeOwner) -> bool {
    slice.metadata.owner_references.as_deref() == Some(&[owner.reference()])
}

type Kept<'a> = BTreeMap<SliceKey, &'a api::ResourceSlice>;

/// One observed slice per wanted key, and deletes for all the others. Of two with one key (two writers, a
/// write whose answer was lost) the one of the newest generation stays, then the one first by name.
fn sort_out<'a>(
    ours: &[&'a api::ResourceSlice],
    wanted: &BTreeMap<SliceKey, api::ResourceSlice>,
) -> (Kept<'a>, Vec<SliceWrite>) {
    let mut sorted = ours.to_vec();
    sorted.sort_by_key(|s| (-s.spec.pool.generation, s.metadata.name.clone()));
    let mut kept = Kept::new();
    let mut deletes = Vec::new();
    for slice in sorted {
        let key = key_of(slice).filter(|key| wanted.contains_key(key) && !kept.contains_key(key));
        match key {
            Some(key) => {
                kept.insert(key, slice);
            }
            None => deletes.push(SliceWrite::Delete {
                name: slice.metadata.name.clone().unwrap_or_default(),
                uid: slice.metadata.uid.clone(),
                resource_version: slice.metadata.resource_version.clone(),
            }),
        }
    }
    (kept, deletes)
}

/// `new` as a replacement of `old`. Times of taints that stay are kept: eviction counts from them.
fn replacing(old: &api::ResourceSlice, mut new: api::ResourceSlice) -> api::ResourceSlice {
    new.metadata.name.clone_from(&old.metadata.name);
    new.metadata.uid.clone_from(&old.metadata.uid);
    new.metadata.resource_version.clone_from(&old.metadata.resource_version);
    new.metadata.generate_name.clone_from(&old.metadata.generate_name);
    let old_devices: BTreeMap<&str, &api::Device> =
        old.spec.devices.iter().flatten().map(|d| (d.name.as_str(), d)).collect();
    for device in new.spec.devices.iter_mut().flatten() {
        let before = old_devices.get(device.name.as_str()).and_then(|d| d.taints.as_ref());
        for taint in device.taints.iter_mut().flatten() {
            let same = before
                .into_iter()
                .flatten()
                .find(|t| t.key == taint.key && t.value == taint.value && t.effect == taint.effect);
            taint.time_added = same.and_then(|t| t.time_added.clone());
        }
    }
    new
}

#[cfg(test)]
mod tests;
