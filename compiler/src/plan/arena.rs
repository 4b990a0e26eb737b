//! Memory planning: every buffer gets a place in one arena such that buffers alive at the same time do not overlap.

use super::ALIGNMENT;
use bakelite_kernels::Dim;

/// A buffer with its life and, once planned, its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// What it holds, for people.
    pub name: String,
    /// Size in bytes.
    pub bytes: Dim,
    /// Largest size over the symbols' ranges, rounded up to the alignment.
    pub capacity: u64,
    /// First step that touches it.
    pub first: usize,
    /// Last step that touches it.
    pub last: usize,
    /// Where it begins in the arena.
    pub offset: u64,
}

impl Buffer {
    /// Whether both hold something at some step, where steps run one after the other.
    pub fn lives_with(&self, other: &Buffer) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The key that one strategy sorts buffers by.
type Order = fn(&Buffer) -> (u64, u64);

/// Places the buffers and returns the arena's size and the lower bound (the most bytes alive at one step). Two buffers share memory
/// only if they do not `meet`.
///
/// Greedy by size is within a few per cent of the bound on networks (Pisarchyk and Lee, "Efficient memory management for
/// deep neural net inference", 2020); placing by length of life or by first use wins sometimes, so the best of all is kept.
pub fn pack(buffers: &mut [Buffer], meet: &dyn Fn(usize, usize) -> bool) -> (u64, u64) {
    let steps = buffers.iter().map(|b| b.last + 1).max().unwrap_or(0);
    let mut alive = vec![0u64; steps];
    for b in buffers.iter() {
        for bytes in &mut alive[b.first..=b.last] {
            *bytes += b.capacity;
        }
    }
    let bound = alive.iter().copied().max().unwrap_or(0);
    let orders: [Order; 3] = [
        |b| (u64::MAX - b.capacity, b.first as u64),
        |b| (u64::MAX - (b.last - b.first) as u64, u64::MAX - b.capacity),
        |b| (b.first as u64, u64::MAX - b.capacity),
    ];
    let mut best: Option<(u64, Vec<u64>)> = None;
    for key in orders {
        let mut order: Vec<usize> = (0..buffers.len()).collect();
        order.sort_by_key(|i| (key(&buffers[*i]), *i));
        let (size, offsets) = place(buffers, &order, meet);
        if best.as_ref().is_none_or(|(least, _)| size < *least) {
            best = Some((size, offsets));
        }
    }
    let (size, offsets) = best.unwrap_or_default();
    buffers.iter_mut().zip(offsets).for_each(|(b, offset)| b.offset = offset);
    (size, bound)
}

// Each buffer in turn into the tightest gap between those placed that live with it.
fn place(buffers: &[Buffer], order: &[usize], meet: &dyn Fn(usize, usize) -> bool) -> (u64, Vec<u64>) {
    let mut offsets = vec![0u64; buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut size = 0;
    for &i in order {
        let mut busy: Vec<(u64, u64)> = placed
            .iter()
            .filter(|p| meet(**p, i))
            .map(|p| (offsets[*p], offsets[*p] + buffers[*p].capacity))
            .collect();
        busy.sort_unstable();
        let need = buffers[i].capacity;
        let (mut at, mut tightest) = (0u64, None::<(u64, u64)>);
        for (start, end) in busy {
            if start >= at + need && tightest.is_none_or(|(gap, _)| start - at < gap) {
                tightest = Some((start - at, at));
            }
            at = at.max(end);
        }
        offsets[i] = tightest.map_or(at, |(_, gap)| gap);
        size = size.max(offsets[i] + need);
        placed.push(i);
    }
    (size, offsets)
}

/// Rounds up to the alignment; at least one unit, so that no two live buffers share an address.
pub(super) fn capacity(bytes: i64) -> Option<u64> {
    u64::try_from(bytes).ok()?.max(1).checked_next_multiple_of(ALIGNMENT).filter(|b| *b < 1 << 46)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buffer(capacity: u64, first: usize, last: usize) -> Buffer {
        Buffer { name: String::new(), bytes: Dim::from(0), capacity, first, last, offset: 0 }
    }

    fn pack_chain(buffers: &mut [Buffer]) -> (u64, u64) {
        let lives = buffers.to_vec();
        pack(buffers, &|a, b| lives[a].lives_with(&lives[b]))
    }

    #[test]
    fn buffers_that_meet_lie_apart_whatever_their_steps() {
        let mut buffers: Vec<Buffer> = (0..3).map(|i| buffer(256, 2 * i, 2 * i + 1)).collect();
        assert_eq!(pack_chain(&mut buffers), (256, 256));
        assert_eq!(pack(&mut buffers, &|a, b| a.min(b) == 0 && a.max(b) == 2), (512, 256));
        assert_ne!(buffers[0].offset, buffers[2].offset);
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let mut chain: Vec<Buffer> = (0..10).map(|i| buffer(256, i, i + 1)).collect();
        assert_eq!(pack_chain(&mut chain), (512, 512));
    }

    proptest! {
        #[test]
        fn buffers_alive_together_never_overlap(lives in proptest::collection::vec((1u64..50, 0usize..20, 0usize..8), 1..40)) {
            let mut buffers: Vec<Buffer> = lives.iter().map(|(c, f, l)| buffer(c * ALIGNMENT, *f, f + l)).collect();
            let (size, bound) = pack_chain(&mut buffers);
            prop_assert!(size >= bound);
            for (i, a) in buffers.iter().enumerate() {
                prop_assert!(a.offset + a.capacity <= size && a.offset % ALIGNMENT == 0);
                for b in &buffers[..i] {
                    let apart = a.offset + a.capacity <= b.offset || b.offset + b.capacity <= a.offset;
                    prop_assert!(apart || !a.lives_with(b), "{a:?} and {b:?}");
                }
            }
        }
    }
}
