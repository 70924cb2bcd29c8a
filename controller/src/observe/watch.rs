//! Watches that heal: whatever goes wrong between us and the API server, what is gone there is told as gone here.

use std::collections::BTreeSet;
use std::fmt::Debug;

use futures::{StreamExt as _, pin_mut};
use kube::Resource;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;

/// What a watch tells.
#[derive(Debug)]
pub enum Told<C> {
    /// Something changed.
    Change(C),
    /// All that there was at the beginning has been told.
    Synced(&'static str),
}

/// How objects of one kind become changes.
#[derive(Debug, Clone, Copy)]
pub struct Reader<K, I, C> {
    /// The kind, for people.
    pub kind: &'static str,
    /// Objects in one page of a list: few where they are large.
    pub page: u32,
    /// What identifies an object; `None` for one that is of no concern.
    pub identity: fn(&K) -> Option<I>,
    /// What it tells while it is there; `None` when it is of no concern (any more).
    pub there: fn(&K) -> Option<C>,
    /// What it tells when it is gone.
    pub gone: fn(I) -> C,
}

/// Watches until the receiver is gone. Errors (410 Gone, a server that is away, answers that break off) are logged, and
/// the watch begins again with a list after a growing pause; what the list does not have any more is told as gone.
pub async fn watch<K, I, C, O>(api: Api<K>, reader: Reader<K, I, C>, sender: Sender<Told<O>>)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
    I: Ord + Clone,
    C: Into<O>,
{
    // Pages keep the memory of the first list small: what is read of an object is far less than the object.
    let config = watcher::Config::default().page_size(reader.page);
    let stream = watcher(api, config).default_backoff();
    pin_mut!(stream);
    let mut known: BTreeSet<I> = BTreeSet::new();
    let mut listed: BTreeSet<I> = BTreeSet::new();
    while let Some(event) = stream.next().await {
        let mut told = Vec::new();
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                if let Some(identity) = put(&reader, &object, &mut known, &mut told) {
                    listed.insert(identity);
                }
            }
            Ok(Event::InitDone) => {
                let gone: Vec<I> = known.difference(&listed).cloned().collect();
                for identity in gone {
                    known.remove(&identity);
                    told.push(Told::Change((reader.gone)(identity)));
                }
                listed.clear();
                told.push(Told::Synced(reader.kind));
            }
            Ok(Event::Apply(object)) => {
                put(&reader, &object, &mut known, &mut told);
            }
            Ok(Event::Delete(object)) => {
                if let Some(identity) = (reader.identity)(&object)
                    && known.remove(&identity)
                {
                    told.push(Told::Change((reader.gone)(identity)));
                }
            }
            Err(error) => tracing::warn!(kind = reader.kind, %error, "the watch broke off and begins again"),
        }
        for told in told {
            let told = match told {
                Told::Change(change) => Told::Change(change.into()),
                Told::Synced(kind) => Told::Synced(kind),
            };
            if sender.send(told).await.is_err() {
                return;
            }
        }
    }
}

fn put<K, I: Ord + Clone, C>(
    reader: &Reader<K, I, C>,
    object: &K,
    known: &mut BTreeSet<I>,
    told: &mut Vec<Told<C>>,
) -> Option<I> {
    let identity = (reader.identity)(object)?;
    match (reader.there)(object) {
        Some(change) => {
            known.insert(identity.clone());
            told.push(Told::Change(change));
            Some(identity)
        }
        None => {
            if known.remove(&identity) {
                told.push(Told::Change((reader.gone)(identity)));
            }
            None
        }
    }
}
