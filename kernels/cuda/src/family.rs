//! The contract between kernel families and the compiler: a family proposes tactics for a problem, and builds one
//! into CUDA C++ sources and launches. It never sees a graph, an ONNX node or a GPU.

use crate::dim::{Dim, Symbols};
use crate::tactic::Tactic;
use crate::target::Target;
use crate::tensor_map::TensorMap;
use bakelite_host::Problem;

/// A kernel family: one algorithm with declared tactics.
pub trait Family: Sync {
    /// Its name, such as `gemm.mma`: the first word of its tactics.
    fn name(&self) -> &'static str;

    /// Changes whenever the same tactic would mean other code.
    fn version(&self) -> u32;

    /// Whether its kernels know what is known of rows, and give moments of them: `Epilogue::rows`, `Epilogue::moments`.
    fn takes_rows(&self) -> bool {
        false
    }

    /// The tactics worth timing for `problem` on `target`, at most some dozens; empty where the family cannot.
    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic>;

    /// Estimated time in µs, for ranking where there is no GPU. Comparable across families.
    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64;

    /// The code of `tactic`, or why it does not fit `problem` (a tactic may come from a file).
    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        target: &Target,
    ) -> Result<Build, String>;
}

/// µs from which on a kernel keeps all of a GPU busy, and alone, for a moment, runs at higher clocks than in its network, where power is
/// scarce: which tile is best shows in the whole plan.
pub const LONG: f64 = 15.0;

/// What a tactic turns a problem into: kernels and the launches that run them in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Build {
    /// Complete CUDA C++ sources, one kernel each, which NVRTC compiles as they are once [`KERNEL_NAME`] is replaced.
    pub kernels: Vec<String>,
    /// In order; each waits for the one before.
    pub launches: Vec<Launch>,
    /// Scratch memory in bytes, 256-byte aligned, contents undefined at the start.
    pub workspace: Dim,
    /// For each operand of the problem: how constant data must be rearranged at compile time before it is uploaded.
    /// `None`: as it is. A family that returns `Some` requires it: the operand must be a constant.
    pub packs: Vec<Option<Pack>>,
}

/// Stands for the kernel's name in a source; the compiler puts the final name there.
pub const KERNEL_NAME: &str = "KERNEL_NAME";

/// One launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Index into [`Build::kernels`].
    pub kernel: usize,
    /// Blocks; expressions over symbols for dynamic sizes.
    pub grid: [Dim; 3],
    /// Threads.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// Blocks in a cluster (sm_90 and later).
    pub cluster: Option<[u32; 3]>,
    /// The kernel signals and waits with griddepcontrol itself.
    pub programmatic: bool,
    /// Kernel parameters in order.
    pub args: Vec<Arg>,
}

/// What a kernel must be allowed for its launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Most dynamic shared memory, bytes.
    pub shared: u32,
    /// Clusters of more blocks than every GPU that has clusters takes.
    pub large_clusters: bool,
}

impl Allowance {
    /// Of kernel number `kernel` for those of `launches` that are its.
    pub fn of<'a>(kernel: usize, launches: impl Iterator<Item = &'a Launch> + Clone) -> Allowance {
        let mine = launches.filter(|l| l.kernel == kernel);
        Allowance {
            shared: mine.clone().map(|l| l.shared).max().unwrap_or(0),
            large_clusters: mine.filter_map(|l| l.cluster).any(|c| c.iter().product::<u32>() > 8),
        }
    }
}

/// A kernel parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// Pointer to the problem's operand i.
    Input(usize),
    /// Pointer to the problem's result i.
    Output(usize),
    /// Pointer to the workspace plus this many bytes.
    Workspace(Dim),
    /// A 32-bit signed integer: the value of a symbol or of any size.
    Size(Dim),
    /// A tensor map over an operand or a result, by value.
    Map(Box<TensorMap>),
    /// Pointer to the plan's weights plus this many bytes. Only the planner makes these.
    Weights(u64),
}

/// A compile-time rearrangement of one constant operand: element `i` of the packed data is element
/// `Σ index[d] · strides[d]`, plus what folds and tables add, of the original, or zero where some index is past its limit or
/// in no place of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pack {
    /// Shape of the packed data, row-major.
    pub shape: Vec<usize>,
    /// For each packed dimension, how far it moves in the original, in elements.
    pub strides: Vec<usize>,
    /// Zero-fill rules: the sum of `index[d] · weight` over the listed dimensions must stay below the limit.
    pub limits: Vec<Limit>,
    /// Indices that walk two dimensions of the original as one.
    pub folds: Vec<Fold>,
    /// Indices that walk the original in an order of their own.
    pub tables: Vec<Table>,
    /// Whether the packed data are rows of 128 bytes whose 16-byte chunk c is stored at place c ^ (row & 7): wgmma's
    /// 128-byte swizzle.
    pub swizzled: bool,
}

/// One index over two dimensions of the original: the sum k of `index[d] · weight` moves `k / by · outer + k % by · inner`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fold {
    /// (dimension, weight)
    pub terms: Vec<(usize, usize)>,
    /// Size of the inner dimension, not 0.
    pub by: usize,
    /// Strides in the original, in elements.
    pub outer: usize,
    /// Likewise.
    pub inner: usize,
}

/// One index with a place for each of its values: the sum k of `index[d] · weight` moves `places[k]` in the original, and is
/// zero where there is none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    /// (dimension, weight)
    pub terms: Vec<(usize, usize)>,
    /// In elements.
    pub places: Vec<Option<usize>>,
}

/// One zero-fill rule of a [`Pack`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// (dimension, weight)
    pub terms: Vec<(usize, usize)>,
    /// First value that is out of bounds.
    pub below: usize,
}

impl Pack {
    /// Applies the rearrangement to elements of `size` bytes.
    pub fn apply(&self, original: &[u8], size: usize) -> Result<Vec<u8>, String> {
        let mut packed = vec![0u8; self.shape.iter().product::<usize>() * size];
        let rules = || {
            let folds = self.folds.iter().map(|f| &f.terms);
            self.limits.iter().map(|l| &l.terms).chain(folds).chain(self.tables.iter().map(|t| &t.terms))
        };
        let weight = |terms: &[(usize, usize)], d| terms.iter().filter(|t| t.0 == d).map(|t| t.1).sum();
        let weights: Vec<Vec<usize>> =
            (0..self.shape.len()).map(|d| rules().map(|terms| weight(terms, d)).collect()).collect();
        let mut sums = vec![0; rules().count()];
        if !packed.is_empty() {
            self.fill(0, 0, &mut sums, &weights, &mut packed, (original, size))?;
        }
        if self.swizzled {
            let bytes = packed.len();
            let (rows, rest) = packed.as_chunks_mut::<128>();
            if !rest.is_empty() {
                return Err(format!("{bytes} bytes are no rows of 128 to swizzle"));
            }
            for (row, bytes) in rows.iter_mut().enumerate() {
                let from = *bytes;
                for (chunk, to) in bytes.chunks_exact_mut(16).enumerate() {
                    let at = 16 * (chunk ^ (row & 7));
                    to.copy_from_slice(&from[at..at + 16]);
                }
            }
        }
        Ok(packed)
    }

    // Fills `out`, the part of the packed data that begins at some index of the dimensions before `d`: `at` is that index in
    // the original, `sums` what the terms of limits, folds and tables have come to.
    fn fill(
        &self,
        d: usize,
        at: usize,
        sums: &mut [usize],
        weights: &[Vec<usize>],
        out: &mut [u8],
        (original, size): (&[u8], usize),
    ) -> Result<(), String> {
        // Sums only grow with the dimensions that follow: past a limit everything stays zero.
        if sums.iter().zip(&self.limits).any(|(sum, l)| *sum >= l.below) {
            return Ok(());
        }
        let Some((extent, stride)) = self.shape.get(d).zip(self.strides.get(d)) else {
            let (folded, listed) = sums[self.limits.len()..].split_at(self.folds.len());
            let folded = self.folds.iter().zip(folded);
            let at = folded.fold(at, |at, (f, k)| at + k / f.by * f.outer + k % f.by * f.inner);
            let mut places = self.tables.iter().zip(listed).map(|(t, k)| t.places.get(*k).copied().flatten());
            let Some(at) = places.try_fold(at, |at, place| Some(at + place?)) else { return Ok(()) };
            let from = original.get(at * size..(at + 1) * size);
            out.copy_from_slice(
                from.ok_or_else(|| format!("packing reads element {at} of {}", original.len() / size))?,
            );
            return Ok(());
        };
        for (i, part) in out.chunks_exact_mut(out.len() / extent).enumerate() {
            self.fill(d + 1, at + i * stride, sums, weights, part, (original, size))?;
            sums.iter_mut().zip(&weights[d]).for_each(|(sum, w)| *sum += w);
        }
        sums.iter_mut().zip(&weights[d]).for_each(|(sum, w)| *sum -= extent * w);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_walk_two_dimensions_and_chunks_change_places() {
        // 16 rows of 64 halves; k = 5 * tap + channel of an original [row][channel][tap] of 5 channels and 20 taps.
        let pack = Pack {
            shape: vec![2, 8, 64],
            strides: vec![800, 100, 0],
            limits: vec![Limit { terms: vec![(2, 1)], below: 60 }],
            folds: vec![Fold { terms: vec![(2, 1)], by: 5, outer: 1, inner: 20 }],
            swizzled: true,
            tables: vec![],
        };
        let original: Vec<u8> = (0..1600u16).flat_map(u16::to_le_bytes).collect();
        let packed = pack.apply(&original, 2).unwrap();
        let mut zeros = 0;
        for (i, value) in packed.chunks_exact(2).enumerate() {
            let (row, chunk, e) = (i / 64, i / 8 % 8, i % 8);
            let k = (chunk ^ (row % 8)) * 8 + e;
            let want = if k < 60 { row * 100 + k / 5 + k % 5 * 20 } else { 0 };
            zeros += usize::from(k >= 60);
            assert_eq!(
                u16::from_le_bytes(value.try_into().unwrap()) as usize,
                want,
                "row {row} chunk {chunk}"
            );
        }
        assert_eq!(zeros, 64);
        assert!(Pack { shape: vec![3], ..pack }.apply(&original, 2).is_err());
    }

    #[test]
    fn tables_put_elements_in_an_order_of_their_own() {
        let places = [Some(4), None, Some(0), Some(2)];
        let pack = Pack {
            shape: vec![2, 2, 2],
            strides: vec![1, 0, 0],
            tables: vec![Table { terms: vec![(1, 2), (2, 1)], places: places.to_vec() }],
            ..Pack::default()
        };
        assert_eq!(pack.apply(&[10, 11, 12, 13, 14, 15], 1).unwrap(), [14, 0, 10, 12, 15, 0, 11, 13]);
        // A sum that the table does not know is zero too, a place outside the original an error.
        assert_eq!(Pack { shape: vec![2, 3, 2], ..pack.clone() }.apply(&[1; 6], 1).unwrap()[4..6], [0, 0]);
        assert!(pack.apply(&[1; 5], 1).is_err());
    }
}
