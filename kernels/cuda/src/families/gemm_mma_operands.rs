//! What the matrix products share: how their operands lie in memory, the text that says so, and the second kernel that
//! adds up partial products where k was split over blocks. Knows no tile and no instruction.

use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, Build, Launch};
use bakelite_host::Problem;
use bakelite_host::problem::Gemm;

/// How one operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operand {
    /// Neighbours along k are adjacent; else those along m (of n) should be.
    pub(crate) along_k: bool,
    /// Neighbours along that dimension really are adjacent.
    pub(crate) dense: bool,
    /// The largest power of two elements, at most 8, that always begin at a multiple of their size; 1 unless dense.
    pub(crate) align: u32,
}

/// The left operand.
pub(crate) fn left(g: &Gemm<Dim>) -> Operand {
    operand(&g.batch, &g.a[0], (&g.m, &g.a[1]), (&g.k, &g.a[2]))
}

/// The right operand.
pub(crate) fn right(g: &Gemm<Dim>) -> Operand {
    operand(&g.batch, &g.b[0], (&g.n, &g.b[2]), (&g.k, &g.b[1]))
}

fn operand(batch: &Dim, batch_stride: &Dim, other: (&Dim, &Dim), k: (&Dim, &Dim)) -> Operand {
    let along_k = k.1.is(1) || !other.1.is(1);
    let (inner, outer) = if along_k { (k, other) } else { (other, k) };
    let dense = inner.1.is(1) || inner.0.is(1);
    let one = Dim::from(1);
    // A stride that is never taken does not matter.
    let matters =
        [(batch, batch_stride), outer].into_iter().filter(|(size, _)| **size != one).map(|(_, s)| s);
    let align = if dense { codegen::power_of_two(matters.chain([inner.0]), 8) } else { 1 };
    Operand { along_k, dense, align }
}

/// Sizes at which tactics are ranked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) batch: f64,
    pub(crate) m: f64,
    pub(crate) n: f64,
    pub(crate) k: f64,
}

impl Sizes {
    pub(crate) fn of(g: &Gemm<Dim>, symbols: &Symbols) -> Sizes {
        let size = |d: &Dim| d.opt(symbols).max(1) as f64;
        Sizes { batch: size(&g.batch), m: size(&g.m), n: size(&g.n), k: size(&g.k) }
    }

    /// Bytes that must move at least once: operands of `element` bytes (a stride of 0 over the batch shares one) and results.
    pub(crate) fn bytes(&self, g: &Gemm<Dim>, element: f64) -> f64 {
        let copies = |stride: &Dim| if stride.is(0) { 1.0 } else { self.batch };
        let out = g.epilogue.out().size() as f64;
        let reads = copies(&g.a[0]) * self.m * self.k + copies(&g.b[0]) * self.k * self.n;
        let residuals: f64 = g
            .epilogue
            .operands
            .iter()
            .zip(g.epilogue.program.inputs.iter().skip(1))
            .filter(|(a, _)| a.strides.iter().filter(|s| !s.is(0)).count() > 1)
            .map(|(_, d)| d.size() as f64)
            .sum();
        reads * element + self.batch * self.m * self.n * (out + residuals)
    }
}

/// The tiles of a tactic, as far as sizes, text and launches depend on them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiling {
    pub(crate) m: u32,
    pub(crate) n: u32,
    pub(crate) k: u32,
    /// Parts of k that different blocks add up.
    pub(crate) splits: u32,
}

fn by(size: u32) -> Dim {
    Dim::from(i64::from(size))
}

impl Tiling {
    /// The largest power of two up to `most` elements that rows of the output can be stored in.
    pub(crate) fn vector(g: &Gemm<Dim>, most: u32) -> u32 {
        codegen::power_of_two([&g.n], most)
    }

    /// Whether blocks along the grid's z axis would be too many, so that it is folded into x.
    fn folded(self, g: &Gemm<Dim>, symbols: &Symbols) -> bool {
        g.batch.upper(symbols).saturating_mul(i64::from(self.splits)) > 65_535
    }

    /// Constants of sizes, strides and what divides what, `SYMBOL_PARAMS`, and the result: `RESULT_PARAMS` and `RESULT`.
    pub(crate) fn text(self, g: &Gemm<Dim>, problem: &Problem<Dim>, symbols: &Symbols) -> String {
        let mut text = format!("typedef {} element_t;\n", codegen::ctype(g.dtype));
        let never = Dim::from(0);
        let stride = |at: &Dim| if g.batch.is(1) { never.clone() } else { at.clone() };
        let sizes = [
            ("SIZE_BATCH", &g.batch),
            ("SIZE_M", &g.m),
            ("SIZE_N", &g.n),
            ("SIZE_K", &g.k),
            ("A_BATCH", &stride(&g.a[0])),
            ("A_ROW", &g.a[1]),
            ("A_COLUMN", &g.a[2]),
            ("B_BATCH", &stride(&g.b[0])),
            ("B_ROW", &g.b[1]),
            ("B_COLUMN", &g.b[2]),
        ];
        text.extend(sizes.map(|(name, size)| codegen::size(name, size)));
        text += &codegen::symbol_params(problem);
        text += &codegen::constants(&[("SPLITS", self.splits)]);
        let (a, b) = (left(g), right(g));
        let divides = |size: &Dim, tile: u32| size.exact_div(&by(tile)).is_some();
        for (name, value) in [
            ("FOLD", self.folded(g, symbols)),
            ("ALL_M", divides(&g.m, self.m)),
            ("ALL_N", divides(&g.n, self.n)),
            ("ALL_K", divides(&g.k, self.k)),
            ("A_ALONG_K", a.along_k),
            ("B_ALONG_K", b.along_k),
        ] {
            text += &format!("constexpr bool {name} = {value};\n");
        }
        if self.splits == 1 {
            text += &codegen::epilogue(&g.epilogue, &output(g));
            text += "#define RESULT_PARAMS EPILOGUE_PARAMS\n#define RESULT EPILOGUE\n";
        } else {
            let acc = codegen::class_type(g.dtype.class());
            text += &format!(
                "typedef {acc} acc_t;\n\
                 struct Partial {{\n  acc_t* out;\n\n  \
                   template <int V> DEVICE void store(const acc_t (&acc)[V], index_t i) const {{\n    \
                     Vec<acc_t, V> x;\n#pragma unroll\n    for (int j = 0; j < V; ++j) x.v[j] = acc[j];\n    \
                     store_vec<V>(out + i, x);\n  }}\n}};\n\
                 #define RESULT_PARAMS , acc_t* partial\n#define RESULT Partial{{partial}}\n"
            );
        }
        text
    }

    /// Whether flat indices need 64 bits.
    pub(crate) fn wide(self, g: &Gemm<Dim>, symbols: &Symbols) -> bool {
        let one = Dim::from(1);
        let extent = |strides: &[Dim; 3], rows: &Dim, columns: &Dim| {
            let steps = [&g.batch, rows, columns].map(|d| d - &one);
            steps.iter().zip(strides).fold(one.clone(), |sum, (n, s)| sum + n * s)
        };
        let partial = by(self.splits) * product(&output(g));
        let operands = g.epilogue.operands.iter().map(|a| codegen::extent(a, &output(g)));
        let extents = [extent(&g.a, &g.m, &g.k), extent(&g.b, &g.k, &g.n), partial];
        codegen::is_wide(&extents.into_iter().chain(operands).collect::<Vec<_>>(), symbols)
    }

    /// One launch of `kernel` over `tiles` for each matrix of the batch, and where k is split a second that adds the parts.
    pub(crate) fn build(
        self,
        g: &Gemm<Dim>,
        problem: &Problem<Dim>,
        symbols: &Symbols,
        kernel: String,
        tiles: &Dim,
        (threads, shared): (u32, u32),
    ) -> Build {
        let matrices = &g.batch * &by(self.splits);
        let grid = if self.folded(g, symbols) {
            [tiles * &matrices, 1.into(), 1.into()]
        } else {
            [tiles.clone(), 1.into(), matrices]
        };
        let symbol_args = codegen::symbol_args(problem);
        let epilogue_args = codegen::epilogue_args(&g.epilogue, 2);
        let result = if self.splits == 1 { epilogue_args.clone() } else { vec![Arg::Workspace(0.into())] };
        let args =
            [Arg::Input(0), Arg::Input(1)].into_iter().chain(result).chain(symbol_args.clone()).collect();
        let launch = |kernel, grid, threads, shared, args| Launch {
            kernel,
            grid,
            block: [threads, 1, 1],
            shared,
            cluster: None,
            programmatic: true,
            args,
        };
        let packs = vec![None; 2 + g.epilogue.operands.len()];
        let mut build = Build {
            kernels: vec![kernel],
            launches: vec![launch(0, grid, threads, shared, args)],
            workspace: 0.into(),
            packs,
        };
        if self.splits > 1 {
            let out = output(g);
            let vector = Tiling::vector(g, 4);
            let sizes = ["SIZE_BATCH", "SIZE_M", "SIZE_N"].iter().zip(&out);
            let text = codegen::source(
                &format!("the sum of {} parts of a matrix product", self.splits),
                self.wide(g, symbols),
                &[
                    &sizes.map(|(name, d)| codegen::size(name, d)).collect::<String>(),
                    &codegen::symbol_params(problem),
                    &codegen::constants(&[("SPLITS", self.splits), ("VECTOR", vector)]),
                    &codegen::epilogue(&g.epilogue, &out),
                    include_str!("../../cuda/gemm_mma_splits.cuh"),
                ],
            );
            let args =
                [Arg::Workspace(0.into())].into_iter().chain(epilogue_args).chain(symbol_args).collect();
            let blocks = product(&out).ceil_div(&by(256 * vector));
            build.kernels.push(text);
            build.launches.push(launch(1, [blocks, 1.into(), 1.into()], 256, 0, args));
            let accumulator = g.dtype.class().dtype().size() as u32;
            build.workspace = by(accumulator * self.splits) * product(&out);
        }
        build
    }

    /// Blocks of one matrix.
    pub(crate) fn tiles(self, g: &Gemm<Dim>) -> Dim {
        g.m.ceil_div(&by(self.m)) * g.n.ceil_div(&by(self.n))
    }
}

fn output(g: &Gemm<Dim>) -> [Dim; 3] {
    [g.batch.clone(), g.m.clone(), g.n.clone()]
}

/// Splits of k worth trying: only where there are fewer than `blocks` wanted, and each part keeps `least` of k.
pub(crate) fn splits(tiles: f64, k: f64, wanted: f64, least: f64) -> Vec<u32> {
    let fits = |s: &u32| *s == 1 || (tiles * f64::from(*s) <= wanted * 2.0 && k / f64::from(*s) >= least);
    [1, 2, 3, 4, 6, 8, 12, 16, 24, 32].into_iter().filter(fits).collect()
}
