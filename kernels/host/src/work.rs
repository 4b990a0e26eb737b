//! What a problem asks of any machine: arithmetic and memory traffic, counted from its sizes. No implementation can do with
//! less, but for one that finds its operands in a cache or computes a sum in a cleverer way than it is written.

use crate::dtype::DType;
use crate::problem::*;
use crate::program::{Instr, Program};
use crate::view::RunError;

/// Arithmetic and memory traffic of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Operations of the sums of products of matrix products, convolutions and attention: two for each product.
    pub products: u64,
    /// All other operations, one for each: pointwise operators, comparisons, additions of reductions.
    pub others: u64,
    /// Bytes of operands, each element that is used counted once.
    pub read: u64,
    /// Bytes of results.
    pub written: u64,
}

impl Work {
    /// All operations.
    pub fn flops(&self) -> u64 {
        self.products.saturating_add(self.others)
    }

    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.read.saturating_add(self.written)
    }
}

impl Problem<usize> {
    /// Its arithmetic and traffic; sizes that overflow saturate. An error where the problem itself is inconsistent.
    pub fn work(&self) -> Result<Work, RunError> {
        let contract = self.contract()?;
        // A placed result writes no more than a dense one.
        if self.epilogue().is_some_and(|e| e.place.is_some()) {
            return self.unplaced().work();
        }
        // What lies between its parts is written and not read.
        if let Problem::Squeeze(p) = self {
            let (a, b) =
                (Problem::from(Conv::clone(&p.conv)).work()?, Problem::from(p.excite.clone()).work()?);
            return Ok(Work {
                products: a.products.saturating_add(b.products),
                others: a.others.saturating_add(b.others),
                read: a.read.saturating_add(b.read).saturating_sub(a.written),
                written: a.written.saturating_add(b.written),
            });
        }
        // What is pooled is neither written nor read.
        if let Problem::Conv(p) = self
            && let Some(pool) = p.pool()
        {
            let plain = Problem::from(Conv { pooled: None, ..p.clone() }).work()?;
            let pool = Problem::from(pool).work()?;
            let others = plain.others.saturating_add(pool.others);
            return Ok(Work { others, written: pool.written, ..plain });
        }
        let results: u64 = contract.outputs.iter().map(|(_, shape)| count(shape)).sum();
        let written = contract.outputs.iter().map(|(dtype, shape)| bytes(count(shape), *dtype)).sum();
        let used = self.used();
        let operands = contract.inputs.iter().enumerate();
        let read = operands.map(|(i, o)| {
            let used = used.get(i).copied().flatten().unwrap_or(u64::MAX);
            bytes(used.min(o.len as u64), o.dtype)
        });
        let epilogue = self.epilogue().map_or(0, |e| operations(&e.program)).saturating_mul(results);
        let (products, own) = self.arithmetic(results);
        let others = own.saturating_add(epilogue);
        Ok(Work { products, others, read: read.fold(0, u64::saturating_add), written })
    }

    // How many different elements of each operand are read, where its length would say too many: it is read through an
    // access that skips elements, or picks some.
    fn used(&self) -> Vec<Option<u64>> {
        let distinct = |shape: &[usize], strides: &[usize]| {
            let moved = shape.iter().zip(strides).filter(|(_, s)| **s != 0);
            Some(moved.fold(1u64, |n, (d, _)| n.saturating_mul(*d as u64)))
        };
        let mut used = match self {
            Problem::Pointwise(p) => p.inputs.iter().map(|a| distinct(&p.shape, &a.strides)).collect(),
            Problem::Gemm(p) => {
                vec![distinct(&[p.batch, p.m, p.k], &p.a), distinct(&[p.batch, p.k, p.n], &p.b)]
            }
            Problem::Attention(p) => {
                let rows = |heads: usize, len: usize, dim: usize, access: &Access| {
                    let rows = distinct(&[p.batch, heads, len], &access.strides);
                    rows.map(|n| n.saturating_mul(dim as u64))
                };
                let mask = p.mask.as_ref();
                let mask = mask.map(|(_, a)| distinct(&[p.batch, p.heads, p.seq_q, p.seq_k], &a.strides));
                let own = [
                    rows(p.heads, p.seq_q, p.dim, &p.q),
                    rows(p.kv_heads, p.seq_k, p.dim, &p.k),
                    rows(p.kv_heads, p.seq_k, p.dim_v, &p.v),
                ];
                own.into_iter().chain(mask).collect()
            }
            Problem::Gather(p) => vec![Some(count(&[p.outer, p.count.min(p.len), p.inner])), None],
            Problem::GatherElements(p) => vec![Some(count(&p.output)), None],
            Problem::Pad(p) => vec![Some(count(&p.output)), None],
            Problem::Conv(p) => {
                let pixels = |p: &Conv| {
                    let window = window(&p.input, &p.output, &p.strides, &p.kernel);
                    Some(window.saturating_mul(count(&[p.n, p.channels])))
                };
                let mut used = vec![if p.expand.is_some() { None } else { pixels(p) }];
                used.resize(p.added_input(), None);
                used.extend(p.addition().as_ref().map(pixels));
                used
            }
            _ => vec![],
        };
        if let (Some(e), Ok(shapes)) = (self.epilogue(), self.output_shapes()) {
            used.resize(self.own_inputs(), None);
            let shape = shapes.first().map_or(&[][..], |s| s.as_slice());
            used.extend(e.operands.iter().map(|a| distinct(shape, &a.strides)));
        }
        used
    }

    // Operations of products, and others before the epilogue.
    fn arithmetic(&self, results: u64) -> (u64, u64) {
        let times = |a: u64, b: usize| a.saturating_mul(b as u64);
        match self {
            Problem::Pointwise(p) => (0, results_of(&p.shape, operations(&p.program))),
            Problem::Gemm(p) => (times(times(results, p.k), 2), 0),
            Problem::Conv(p) => {
                let taps = p.kernel.iter().product::<usize>() * (p.channels / p.groups.max(1));
                let taps = taps + p.added.as_ref().map_or(0, |a| a.channels);
                let own = times(times(results, taps), 2);
                // Of pixels that another convolution makes, every one once.
                let Some(first) = &p.expand else { return (own, 0) };
                let pixels = times(count(&p.input), p.n * p.channels);
                let made = times(times(pixels, first.channels), 2);
                (own.saturating_add(made), pixels.saturating_mul(operations(&first.epilogue.program)))
            }
            Problem::Excite(p) => {
                let products = times(count(&[p.n, p.hidden]), 2 * (p.channels + p.filters));
                (products, count(&[p.n, p.pixels, p.channels]))
            }
            Problem::ConvTranspose(p) => {
                let taps = p.kernel.iter().product::<usize>() * (p.filters / p.groups.max(1));
                (times(times(times(count(&p.input), p.n * p.channels), taps), 2), 0)
            }
            Problem::Attention(p) => {
                let pairs = times(count(&[p.batch, p.heads, p.seq_q]), p.seq_k);
                let pairs = if p.causal { pairs / 2 } else { pairs };
                // The softmax: a scale, a maximum, a difference, an exponential, a sum.
                (times(pairs, 2 * (p.dim + p.dim_v)), times(pairs, 5))
            }
            Problem::Pool(p) => (0, times(results, p.kernel.iter().product())),
            Problem::Reduce(p) => (0, count(&p.shape)),
            Problem::ArgReduce(p) => (0, count(&[p.outer, p.len, p.inner])),
            Problem::Softmax(p) => (0, times(count(&[p.outer, p.len, p.inner]), 5)),
            Problem::LayerNorm(p) => (0, times(count(&[p.rows, p.len]), 7)),
            Problem::GroupNorm(p) => (0, times(count(&[p.n, p.channels, p.spatial]), 7)),
            Problem::Lrn(p) => (0, times(results, p.size + 4)),
            Problem::CumSum(_) => (0, results),
            Problem::TopK(p) => (0, count(&[p.outer, p.len, p.inner])),
            // The sum of its parts.
            Problem::Squeeze(_) => (0, 0),
            Problem::Resize(p) => {
                let taps = match p.interpolation {
                    Interpolation::Linear => 2usize,
                    Interpolation::Cubic { .. } => 4,
                    _ => return (0, 0),
                };
                let sampled = p.input.iter().zip(&p.output).filter(|(i, o)| i != o).count();
                (0, times(results, 2 * taps.saturating_pow(u32::try_from(sampled).unwrap_or(u32::MAX))))
            }
            Problem::Concat(_) | Problem::Pad(_) | Problem::Gather(_) | Problem::GatherElements(_) => (0, 0),
        }
    }
}

fn results_of(shape: &[usize], operations: u64) -> u64 {
    count(shape).saturating_mul(operations)
}

fn operations(program: &Program) -> u64 {
    program.code.iter().filter(|i| matches!(i, Instr::Apply(..))).count() as u64
}

fn count(shape: &[usize]) -> u64 {
    shape.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64))
}

fn bytes(elements: u64, dtype: DType) -> u64 {
    elements.saturating_mul(dtype.size() as u64)
}

// Positions of the input that some window covers: with strides larger than the kernel some are left out.
fn window(input: &[usize], output: &[usize], strides: &[usize], kernel: &[usize]) -> u64 {
    let covered = (0..input.len()).map(|d| {
        let all = output[d].saturating_mul(kernel[d]);
        if strides[d] > kernel[d] { input[d].min(all) } else { input[d] }
    });
    covered.fold(1u64, |n, d| n.saturating_mul(d as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pointwise::Pw;

    #[test]
    fn a_layer_of_bert() {
        let (m, k, n) = (4096usize, 768usize, 3072usize);
        let epilogue = Epilogue::store(DType::F16);
        let (dtype, math) = (DType::F16, Math::Exact);
        let gemm = Gemm { batch: 1, m, n, k, dtype, math, a: [0, k, 1], b: [0, n, 1], epilogue };
        let mut placed = gemm.clone();
        let access = Access { offset: n, strides: vec![2 * n, 1] };
        placed.epilogue.place = Some(Placement { shape: vec![m, n], access, elements: 2 * m * n });
        let work = Problem::from(gemm).work().unwrap();
        assert_eq!(Problem::from(placed).work(), Ok(work), "half of a larger tensor");
        assert_eq!(work.products, 19_327_352_832);
        assert_eq!(work.others, 0);
        assert_eq!((work.read, work.written), (2 * (4096 * 768 + 768 * 3072), 2 * 4096 * 3072));
    }

    fn conv(channels: usize, filters: usize, size: [usize; 2], kernel: usize, stride: usize) -> Conv {
        let mut program = Program { inputs: vec![DType::F32, DType::F16], ..Program::default() };
        let sum = program.push(Instr::Apply(Pw::Add, vec![0, 1]));
        let out = program.push(Instr::Apply(Pw::Relu, vec![sum]));
        program.outputs = vec![(out, DType::F16)];
        let bias = Access { offset: 0, strides: vec![0, 0, 0, 1] };
        Conv {
            n: 1,
            channels,
            filters,
            groups: 1,
            input: vec![size[0]; 2],
            output: vec![size[1]; 2],
            kernel: vec![kernel; 2],
            strides: vec![stride; 2],
            dilations: vec![1; 2],
            pads: vec![kernel / 2; 2],
            layout: Layout::ChannelsLast,
            x: None,
            scaled: false,
            added: None,
            expand: None,
            pooled: None,
            dtype: DType::F16,
            math: Math::Exact,
            epilogue: Epilogue::new(program, vec![bias]),
        }
    }

    #[test]
    fn the_first_layer_of_resnet() {
        let work = Problem::from(conv(3, 64, [224, 112], 7, 2)).work().unwrap();
        assert_eq!(work.products, 2 * 112 * 112 * 64 * 3 * 49);
        assert_eq!(work.others, 2 * 112 * 112 * 64, "bias and ReLU");
        assert_eq!(work.read, 2 * (224 * 224 * 3 + 64 * 3 * 49 + 64), "the bias once");
        assert_eq!(work.written, 2 * 112 * 112 * 64);
    }

    #[test]
    fn a_strided_projection_reads_a_quarter() {
        let work = Problem::from(conv(256, 512, [56, 28], 1, 2)).work().unwrap();
        assert_eq!(work.read, 2 * (28 * 28 * 256 + 512 * 256 + 512));
    }

    #[test]
    fn what_is_added_counts_too() {
        let (own, more) = (conv(128, 512, [28, 28], 1, 1), conv(256, 512, [56, 28], 1, 2));
        let added = Added { channels: 256, input: more.input.clone(), strides: more.strides.clone() };
        let both = Problem::from(Conv { added: Some(added), ..own.clone() }).work().unwrap();
        let [own, more] = [own, more].map(|c| Problem::from(c).work().unwrap());
        assert_eq!(both.products, own.products + more.products);
        assert_eq!(both.read, own.read + more.read - 2 * 512, "one bias");
        assert_eq!(both.written, own.written);
    }

    #[test]
    fn pixels_that_are_made_on_the_way_are_not_moved() {
        let (own, first) = (conv(96, 96, [28, 14], 3, 2), conv(16, 96, [28, 28], 1, 1));
        let own = Conv { groups: 96, ..own };
        let expand = Expand { channels: 16, epilogue: first.epilogue.clone() };
        let both = Problem::from(Conv { expand: Some(expand.into()), ..own.clone() }).work().unwrap();
        let [own, first] = [own, first].map(|c| Problem::from(c).work().unwrap());
        assert_eq!(both.flops(), own.flops() + first.flops());
        assert_eq!(both.products, own.products + first.products);
        assert_eq!(both.read + first.written, own.read + first.read);
        assert_eq!(both.written, own.written);
    }

    #[test]
    fn what_is_pooled_is_not_moved() {
        let own = conv(3, 64, [224, 112], 7, 2);
        let pooled =
            Pooled { output: vec![56; 2], kernel: vec![3; 2], strides: vec![2; 2], pads: vec![1; 2] };
        let both = Conv { pooled: Some(pooled), ..own.clone() };
        let pool = Problem::from(both.pool().unwrap()).work().unwrap();
        let [own, both] = [own, both].map(|c| Problem::from(c).work().unwrap());
        assert_eq!(both.flops(), own.flops() + pool.flops());
        assert_eq!((both.products, both.read), (own.products, own.read));
        assert_eq!(both.written, 2 * 56 * 56 * 64);
    }

    #[test]
    fn views_count_what_they_see() {
        // Queries inside a joint projection of 3 × 768: each third is read once.
        let joint = |at: usize| Access { offset: at * 768, strides: vec![128 * 2304, 64, 2304] };
        let attention = Attention {
            batch: 1,
            heads: 12,
            kv_heads: 12,
            seq_q: 128,
            seq_k: 128,
            dim: 64,
            dim_v: 64,
            scale: 0.125,
            causal: false,
            q: joint(0),
            k: joint(1),
            v: joint(2),
            mask: None,
            out_heads_inner: true,
            dtype: DType::F16,
        };
        let work = Problem::from(attention).work().unwrap();
        assert_eq!(work.products, 2 * 2 * 12 * 128 * 128 * 64);
        assert_eq!((work.read, work.written), (2 * 3 * 128 * 768, 2 * 128 * 768));
        // A slice reads what it keeps, and a broadcast its operand once.
        let program = Program::identity(DType::F32, DType::F32);
        let every_other = Access { offset: 0, strides: vec![0, 2] };
        let copy = Pointwise { shape: vec![8, 100], inputs: vec![every_other], program };
        let work = Problem::from(copy).work().unwrap();
        assert_eq!(work, Work { products: 0, others: 0, read: 400, written: 3200 });
    }
}
