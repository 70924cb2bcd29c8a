//! The marks of one process on their way through its streams, oldest first: what was launched before each of them.

/// A mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) launches: u32,
    /// One of them is a graph.
    pub(crate) graph: bool,
    /// Only the beginning of an interval: what came before it is not this process's time.
    pub(crate) opens: bool,
}

/// Marks in flight; with two grants of half a lease there are three.
pub(crate) const MOST: usize = 8;

/// Marks that are not known to be finished.
#[derive(Debug)]
pub(crate) struct Marks {
    all: [Mark; MOST],
    count: usize,
}

impl Marks {
    pub(crate) const fn new() -> Self {
        Self { all: [Mark { launches: 0, graph: false, opens: false }; MOST], count: 0 }
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mark> {
        self.all.iter().take(self.count)
    }

    pub(crate) fn oldest(&self) -> Option<&Mark> {
        self.iter().next()
    }

    pub(crate) fn newest_mut(&mut self) -> Option<&mut Mark> {
        self.all.get_mut(self.count.checked_sub(1)?)
    }

    /// Whether anything was launched before one of them.
    pub(crate) fn any_launches(&self) -> bool {
        self.iter().any(|mark| mark.launches > 0)
    }

    /// Adds the newest; whether there is room.
    pub(crate) fn push(&mut self, mark: Mark) -> bool {
        let Some(place) = self.all.get_mut(self.count) else { return false };
        *place = mark;
        self.count += 1;
        true
    }

    /// Takes the newest back.
    pub(crate) const fn pop_newest(&mut self) -> bool {
        let any = self.count > 0;
        self.count = self.count.saturating_sub(1);
        any
    }

    /// Takes the oldest.
    pub(crate) fn pop_oldest(&mut self) -> Option<Mark> {
        let oldest = self.oldest().copied()?;
        self.all.copy_within(1.., 0);
        self.count -= 1;
        Some(oldest)
    }

    pub(crate) const fn clear(&mut self) {
        self.count = 0;
    }
}
