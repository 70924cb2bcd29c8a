//! Memory with the alignment of a mapping, and what a hostile neighbour writes into it.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use vnpu_quota_abi::view::Mapping;

/// A line of a region, so that the memory is aligned as a mapped file is for every layout.
#[repr(C, align(128))]
struct Line([AtomicU64; 16]);

/// Exactly `len` bytes, so that an access behind them is one outside of the allocation.
pub(crate) struct Memory {
    lines: Box<[Line]>,
    len: usize,
}

impl Memory {
    /// Zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        let line = || Line(std::array::from_fn(|_| AtomicU64::new(0)));
        Self { lines: (0..len.div_ceil(128)).map(|_| line()).collect(), len }
    }

    /// These bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let memory = Self::zeroed(bytes.len());
        memory.write(0, bytes);
        memory
    }

    /// For a view that does not outlive this.
    pub(crate) fn mapping(&self) -> Mapping {
        let base = NonNull::from(&*self.lines).cast::<u8>();
        // SAFETY: the lines are atomics and live as long as `self`, which every caller keeps beside its views.
        unsafe { Mapping::new(base, self.len) }
    }

    /// Puts `bytes` at `offset`, as far as there is room.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..self.len).zip(bytes) {
            let word = &self.lines[at / 128].0[at % 128 / 8];
            let shift = at % 8 * 8;
            let rest = word.load(Ordering::Relaxed) & !(0xff << shift);
            word.store(rest | u64::from(*byte) << shift, Ordering::Relaxed);
        }
    }
}

/// The bytes of a run, taken one piece after the other; zeros when they are used up.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn number<const BYTES: usize>(&mut self) -> u64 {
        let mut word = [0; 8];
        let taken = self.take(BYTES);
        word[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(word)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.number::<1>() as u8
    }

    /// One write of a neighbour: where and what.
    pub(crate) fn patch(&mut self) -> (usize, &'a [u8]) {
        let place = self.number::<3>() as usize;
        let count = usize::from(self.byte() % 17);
        (place, self.take(count))
    }
}

/// A sound region as `make` makes it with writes of a neighbour over it, or (for the first byte 0) nothing but the
/// input: random bytes alone hardly ever get past a header.
pub(crate) fn spoiled(input: &mut Input<'_>, size: usize, make: impl FnOnce(Mapping)) -> Memory {
    let patches = input.byte();
    if patches == 0 {
        return Memory::of(input.take(input.0.len()));
    }
    let memory = Memory::zeroed(size);
    make(memory.mapping());
    for _ in 0..patches % 32 {
        let (place, bytes) = input.patch();
        // Half of them into the header and what follows it at once.
        memory.write(if place % 2 == 0 { place / 2 % 192 } else { place / 2 % size.max(1) }, bytes);
    }
    memory
}
