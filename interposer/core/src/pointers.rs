//! Which address or handle cost how much: open-addressing tables in mappings of our own, never from malloc, so
//! that no hook re-enters the program's allocator.
//!
//! Sharded; a shard is guarded by a spin lock with a bounded wait, held for tens of nanoseconds. A forked child
//! starts with new tables, so a lock that another thread of the parent held is never waited for.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What an address or handle stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) bytes: u64,
    /// The context that it goes with, or what stands for one that may be about to end; or the pool that it is of; 0 for
    /// none.
    pub(crate) owner: u64,
    /// Handles and mappings that keep it; 1 for an address.
    pub(crate) holders: u32,
    pub(crate) claim: u16,
    pub(crate) device: u16,
}

/// What a table may keep.
///
/// # Safety
/// All-zero memory is a valid value.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: numbers.
unsafe impl Plain for Block {}

#[derive(Clone, Copy)]
#[repr(C)]
struct Place<V> {
    // 0: empty, as fresh mappings are.
    key: u64,
    value: V,
}

const SHARDS: usize = 64;
const FIRST_CAPACITY: usize = 1024;
/// Some hundred microseconds: a holder that runs is done by then.
const SPINS: u32 = 10_000;
/// Then one that does not is given the core: some 200 ms in all with the timer's slack, far beyond any that will run again.
const SLEEPS: u32 = 2_000;
const SLEEP: Duration = Duration::from_micros(50);

/// The table of one process.
pub(crate) struct Pointers<V: Plain> {
    shards: [Shard<V>; SHARDS],
}

struct Shard<V: Plain> {
    locked: AtomicBool,
    table: UnsafeCell<Table<V>>,
}

// SAFETY: the cell is only reached with `locked` held.
unsafe impl<V: Plain> Sync for Shard<V> {}
// SAFETY: a table owns its mapping.
unsafe impl<V: Plain> Send for Shard<V> {}

struct Table<V> {
    places: *mut Place<V>,
    capacity: usize,
    used: usize,
}

impl<V: Plain> Pointers<V> {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Shard {
                locked: AtomicBool::new(false),
                table: UnsafeCell::new(Table { places: std::ptr::null_mut(), capacity: 0, used: 0 }),
            }),
        }
    }

    /// Remembers `key`; an older value of the same key is replaced and returned. `Err` when it cannot be kept.
    pub(crate) fn insert(&self, key: u64, value: V) -> Result<Option<V>, ()> {
        if key == 0 {
            return Err(());
        }
        self.with(key, |table| table.insert(key, value)).unwrap_or(Err(()))
    }

    /// Forgets `key`.
    pub(crate) fn remove(&self, key: u64) -> Option<V> {
        if key == 0 {
            return None;
        }
        self.with(key, |table| table.remove(key)).flatten()
    }

    /// What `key` stands for.
    pub(crate) fn get(&self, key: u64) -> Option<V> {
        if key == 0 {
            return None;
        }
        self.with(key, |table| table.find(key).copied()).flatten()
    }

    /// Changes what `key` stands for; `fresh`, where it stands for nothing.
    pub(crate) fn update(&self, key: u64, fresh: V, act: impl FnOnce(&mut V)) {
        if key == 0 {
            return;
        }
        let _ = self.with(key, |table| {
            if table.find(key).is_none() {
                let _ = table.insert(key, fresh);
            }
            table.find(key).map(act)
        });
    }

    /// Changes all that there are.
    pub(crate) fn each(&self, mut act: impl FnMut(&mut V)) {
        for shard in &self.shards {
            let _ = shard.with(|table| {
                for index in 0..table.capacity {
                    if let Some(place) = table.place(index)
                        && place.key != 0
                    {
                        act(&mut place.value);
                    }
                }
            });
        }
    }

    /// Forgets all that `goes`, and tells each.
    pub(crate) fn take_where(&self, goes: impl Fn(u64, &V) -> bool, mut tell: impl FnMut(V)) {
        for shard in &self.shards {
            let _ = shard.with(|table| {
                let mut index = 0;
                while let Some(place) = table.place(index).map(|place| *place) {
                    if place.key != 0 && goes(place.key, &place.value) {
                        table.remove(place.key).into_iter().for_each(&mut tell);
                        // Another may have moved here; never one from places that were passed.
                    } else {
                        index += 1;
                    }
                }
            });
        }
    }

    fn with<T>(&self, key: u64, act: impl FnOnce(&mut Table<V>) -> T) -> Option<T> {
        // The top bits choose the shard, those below them the place in it.
        self.shards.get((hash(key) >> 58) as usize % SHARDS)?.with(act)
    }
}

impl<V: Plain> Shard<V> {
    fn with<T>(&self, act: impl FnOnce(&mut Table<V>) -> T) -> Option<T> {
        let mut spins = 0;
        // SYNC POINT: Acquire pairs with the Release store below.
        while self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            spins += 1;
            if spins > SPINS + SLEEPS {
                return None;
            }
            if spins > SPINS {
                std::thread::sleep(SLEEP);
            } else if spins % 64 == 0 {
                std::thread::yield_now();
            }
        }
        // SAFETY: we hold the lock.
        let out = act(unsafe { &mut *self.table.get() });
        self.locked.store(false, Ordering::Release);
        Some(out)
    }
}

impl Pointers<Block> {
    /// One holder of `key` more; whether it is known.
    pub(crate) fn hold(&self, key: u64) -> bool {
        let more = |table: &mut Table<Block>| {
            let holders = &mut table.find(key)?.holders;
            *holders = holders.saturating_add(1);
            Some(())
        };
        key != 0 && self.with(key, more).flatten().is_some()
    }

    /// One holder of `key` less: `Some(None)` while there are others, the block when that was the last one, which
    /// forgets `key`; `None` when it is not known.
    pub(crate) fn let_go(&self, key: u64) -> Option<Option<Block>> {
        if key == 0 {
            return None;
        }
        let less = |table: &mut Table<Block>| {
            let holders = &mut table.find(key)?.holders;
            if *holders > 1 {
                *holders -= 1;
                return Some(None);
            }
            table.remove(key).map(Some)
        };
        self.with(key, less).flatten()
    }
}

impl Pointers<Block> {
    /// What goes with the context `from` goes with `to` from now on; whether there is any.
    pub(crate) fn relabel(&self, from: u64, to: u64) -> bool {
        let mut any = false;
        self.each(|block| {
            if block.owner == from {
                block.owner = to;
                any = true;
            }
        });
        any
    }

    /// Forgets what goes with a context, and tells each.
    pub(crate) fn sweep(&self, context: u64, tell: impl FnMut(Block)) {
        self.take_where(|_, block| block.owner == context, tell);
    }
}

impl<V: Plain> Drop for Pointers<V> {
    fn drop(&mut self) {
        for shard in &mut self.shards {
            // One that was locked when this process was forked may be half changed: left alone.
            if *shard.locked.get_mut() {
                continue;
            }
            let table = shard.table.get_mut();
            if table.capacity != 0 {
                // SAFETY: our own mapping of that size, referenced by nothing else.
                unsafe { libc::munmap(table.places.cast(), table.capacity * size_of::<Place<V>>()) };
            }
        }
    }
}

fn hash(key: u64) -> u64 {
    // Addresses differ in their middle bits; a multiplication by an odd constant spreads them over the top.
    (key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The place where `key` belongs. Not from the low bits: those of a product know only the low bits of the
/// address, which huge pages leave at zero.
fn home(key: u64, mask: usize) -> usize {
    (hash(key) >> 26) as usize & mask
}

impl<V: Plain> Table<V> {
    fn place(&mut self, index: usize) -> Option<&mut Place<V>> {
        if index >= self.capacity {
            return None;
        }
        // SAFETY: inside the mapping of `capacity` places, aligned, any bits valid; `&mut self` excludes others.
        unsafe { self.places.add(index).as_mut() }
    }

    fn insert(&mut self, key: u64, value: V) -> Result<Option<V>, ()> {
        // At most three quarters full, so that every probe ends at an empty place.
        if (self.used + 1) * 4 > self.capacity * 3 {
            self.grow()?;
        }
        let mask = self.capacity - 1;
        let mut index = home(key, mask);
        loop {
            let place = self.place(index).ok_or(())?;
            if place.key == key {
                return Ok(Some(std::mem::replace(&mut place.value, value)));
            }
            if place.key == 0 {
                *place = Place { key, value };
                self.used += 1;
                return Ok(None);
            }
            index = (index + 1) & mask;
        }
    }

    fn find(&mut self, key: u64) -> Option<&mut V> {
        let mask = self.capacity.checked_sub(1)?;
        let mut index = home(key, mask);
        loop {
            match self.place(index)?.key {
                0 => return None,
                found if found == key => break,
                _ => index = (index + 1) & mask,
            }
        }
        self.place(index).map(|place| &mut place.value)
    }

    fn remove(&mut self, key: u64) -> Option<V> {
        if self.capacity == 0 {
            return None;
        }
        let mask = self.capacity - 1;
        let mut index = home(key, mask);
        let found = loop {
            let place = self.place(index)?;
            if place.key == key {
                break place.value;
            }
            if place.key == 0 {
                return None;
            }
            index = (index + 1) & mask;
        };
        // Close the gap: whoever was pushed past it moves back, so that no tombstones pile up.
        let mut next = index;
        loop {
            next = (next + 1) & mask;
            let candidate = *self.place(next)?;
            if candidate.key == 0 {
                break;
            }
            let home = home(candidate.key, mask);
            let reaches = next.wrapping_sub(home) & mask >= next.wrapping_sub(index) & mask;
            if reaches {
                *self.place(index)? = candidate;
                index = next;
            }
        }
        self.place(index)?.key = 0;
        self.used -= 1;
        Some(found)
    }

    fn grow(&mut self) -> Result<(), ()> {
        let capacity = (self.capacity * 2).max(FIRST_CAPACITY);
        let mut bigger = Table { places: map(capacity)?, capacity, used: 0 };
        for index in 0..self.capacity {
            let Some(place) = self.place(index).copied() else { break };
            if place.key != 0 {
                bigger.insert(place.key, place.value)?;
            }
        }
        if self.capacity != 0 {
            // SAFETY: our own mapping of that size, referenced by nothing else.
            unsafe { libc::munmap(self.places.cast(), self.capacity * size_of::<Place<V>>()) };
        }
        *self = bigger;
        Ok(())
    }
}

fn map<V>(places: usize) -> Result<*mut Place<V>, ()> {
    let len = places.checked_mul(size_of::<Place<V>>()).ok_or(())?;
    // SAFETY: a new anonymous mapping.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(());
    }
    NonNull::new(base.cast()).map(NonNull::as_ptr).ok_or(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may
mod tests {
    use super::*;

    fn block(bytes: u64, owner: u64) -> Block {
        Block { bytes, owner, holders: 1, claim: 0, device: 0 }
    }

    /// A holder that is not given a core for a while loses nobody's key.
    #[test]
    fn a_lock_is_waited_for_as_long_as_its_holder_may_be_off_its_core() {
        let table = Pointers::new();
        let holding = std::sync::Barrier::new(2);
        let (table, holding) = (&table, &holding);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                table.update(1 << 21, block(0, 0), |_| {
                    holding.wait();
                    std::thread::sleep(Duration::from_millis(50));
                });
            });
            holding.wait();
            assert_eq!(table.remove(1 << 21), Some(block(0, 0)));
        });
    }

    #[test]
    fn what_goes_with_a_context_is_swept_and_nothing_else() {
        let table = Pointers::new();
        let key = |n: u64| (n + 1) << 21;
        for n in 0..200_000 {
            assert_eq!(table.insert(key(n), block(n, n % 3)), Ok(None));
        }
        assert!(table.relabel(1, 7) && !table.relabel(1, 8));
        table.sweep(1, |_| panic!("none goes by the old number"));
        let mut sum = 0;
        table.sweep(7, |block| sum += block.bytes);
        assert_eq!(sum, (0..200_000).filter(|n| n % 3 == 1).sum());
        for n in 0..200_000 {
            let expected = (n % 3 != 1).then(|| block(n, n % 3));
            assert_eq!(table.get(key(n)), expected);
            assert_eq!(table.remove(key(n)), expected);
        }
    }
}
