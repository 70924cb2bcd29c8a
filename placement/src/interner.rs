//! Equal values kept once and told apart by small numbers. What a number stands for never changes; the numbers depend
//! on the order of arrival, so nothing that a user sees is ordered by them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Values of one kind, each once.
#[derive(Debug)]
pub(crate) struct Interner<T: ?Sized> {
    ids: HashMap<Arc<T>, u32>,
    items: Vec<Arc<T>>,
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self { ids: HashMap::new(), items: Vec::new() }
    }
}

impl<T: ?Sized + Eq + Hash> Interner<T> {
    /// The number of `item`; it gets one where it has none.
    pub(crate) fn id(&mut self, item: &T) -> u32
    where
        Arc<T>: for<'a> From<&'a T>,
    {
        match self.ids.get(item) {
            Some(id) => *id,
            None => self.adopt(Arc::from(item)),
        }
    }

    /// The number of `item`, which is kept as it is when it is new.
    pub(crate) fn adopt(&mut self, item: Arc<T>) -> u32 {
        if let Some(id) = self.ids.get(&item) {
            return *id;
        }
        let id = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        self.ids.insert(Arc::clone(&item), id);
        self.items.push(item);
        id
    }

    /// The number of `item`, where it has one.
    pub(crate) fn find(&self, item: &T) -> Option<u32> {
        self.ids.get(item).copied()
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.items.len()
    }

    /// What a number stands for.
    pub(crate) fn get(&self, id: u32) -> Option<&Arc<T>> {
        self.items.get(usize::try_from(id).ok()?)
    }
}
