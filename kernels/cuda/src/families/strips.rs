//! What families share in which one thread computes short rows of neighbouring elements of a dense output: proposing widths,
//! checking them, launching and estimating. It is no family itself.

use crate::codegen;
use crate::dim::{Dim, product};
use crate::family::{Arg, Build, Family, Launch};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::Epilogue;
use bakelite_host::{DType, Problem};

/// A launch with nothing to do, in µs: what ranking adds to every kernel.
pub(crate) const LAUNCH: f64 = 2.0;

/// The tactic of such a family: `v` elements in a row, `t` threads in a block, `r` rows for each thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strips {
    pub(crate) v: u32,
    pub(crate) threads: u32,
    pub(crate) rows: u32,
}

impl Strips {
    /// Tactics for every width that `fits`, but no row longer than 32 bytes of elements of `element` bytes.
    pub(crate) fn propose(family: &dyn Family, element: usize, fits: impl Fn(u32) -> bool) -> Vec<Tactic> {
        let tactic = |v, t, r| Tactic::new(family.name(), family.version(), &[("v", v), ("t", t), ("r", r)]);
        [16, 8, 4, 2, 1]
            .into_iter()
            .filter(|v| (*v == 1 || *v as usize * element <= if *v == 16 { 16 } else { 32 }) && fits(*v))
            .flat_map(|v| [tactic(v, 128, 1), tactic(v, 256, 1), tactic(v, 256, 2), tactic(v, 256, 4)])
            .collect()
    }

    /// What a tactic says, if it `fits`.
    pub(crate) fn of(tactic: &Tactic, fits: impl Fn(u32) -> bool) -> Result<Strips, String> {
        let (v, threads, rows) = (tactic.get("v")?, tactic.get("t")?, tactic.get("r")?);
        if !matches!(v, 1 | 2 | 4 | 8 | 16) || !fits(v) {
            return Err(format!("rows of {v} elements do not fit this problem ({tactic})"));
        }
        if !(32..=1024).contains(&threads) || threads % 32 != 0 || !(1..=16).contains(&rows) {
            return Err(format!(
                "{threads} threads of {rows} rows: a multiple of 32 up to 1024, and 1 to 16, are needed ({tactic})"
            ));
        }
        Ok(Strips { v, threads, rows })
    }

    pub(crate) fn constants(self) -> String {
        codegen::constants(
            &[("WIDTH", self.v), ("THREADS", self.threads), ("ROWS", self.rows)]
                [..if self.rows == 1 { 2 } else { 3 }],
        )
    }

    /// The kernel's statements: `body` for every row of the thread, which begins at element `i`.
    pub(crate) fn each(self, body: &str) -> String {
        if self.rows == 1 {
            return format!(
                "  dependency_wait();\n  launch_dependents();\n  \
                 const index_t i = ((index_t)blockIdx.x * THREADS + threadIdx.x) * WIDTH;\n  \
                 if (i >= SIZE) return;\n{body}"
            );
        }
        format!(
            "  dependency_wait();\n  launch_dependents();\n\
#pragma unroll\n  \
             for (int r = 0; r < ROWS; ++r) {{\n    \
             const index_t i = (((index_t)blockIdx.x * ROWS + r) * THREADS + threadIdx.x) * WIDTH;\n    \
             if (i >= SIZE) return;\n{}  }}\n",
            codegen::indent(body, 2)
        )
    }

    /// One launch of one kernel over `total` elements.
    pub(crate) fn build(self, text: String, total: &Dim, args: Vec<Arg>, operands: usize) -> Build {
        let block = Dim::from(i64::from(self.v * self.threads * self.rows));
        one_launch(text, [total.ceil_div(&block), 1.into(), 1.into()], self.threads, args, operands)
    }
}

/// A build of one kernel and one launch without dynamic shared memory.
pub(crate) fn one_launch(
    text: String,
    grid: [Dim; 3],
    threads: u32,
    args: Vec<Arg>,
    operands: usize,
) -> Build {
    let block = [threads, 1, 1];
    let launch = Launch { kernel: 0, grid, block, shared: 0, cluster: None, programmatic: true, args };
    Build { kernels: vec![text], launches: vec![launch], workspace: 0.into(), packs: vec![None; operands] }
}

/// Why a family refuses a problem of another kind.
pub(crate) fn wrong(family: &dyn Family, problem: &Problem<Dim>) -> String {
    format!("{} does not compute the problem `{}`", family.name(), problem.name())
}

/// Estimated µs to move `bytes` in all for `elements` results, of which the narrowest operand has `element` bytes each.
pub(crate) fn time(bytes: f64, elements: f64, element: usize, tactic: &Tactic, target: &Target) -> f64 {
    let Ok(Strips { v, threads, rows }) = Strips::of(tactic, |_| true) else { return f64::INFINITY };
    // Narrow accesses keep too little in flight.
    let efficiency = match v as usize * element {
        // Two accesses a row are a little worse than one.
        17.. => 0.9,
        16 => 0.95,
        8.. => 0.9,
        4.. => 0.75,
        2.. => 0.5,
        _ => 0.3,
    };
    // An H200 starts a block every 1.2 ns.
    let blocks = (elements / f64::from(v * threads * rows)).ceil();
    let starts = blocks * 1.2e-3 * 132.0 / f64::from(target.multiprocessors);
    // Where nothing else tells them apart, small blocks spread better over the multiprocessors.
    let spread = 1e-2 * f64::from(threads * rows) / 1024.0;
    LAUNCH + spread + f64::max(bytes / (target.bandwidth * 1e3 * efficiency), starts)
}

/// Whether `v` divides a size for every value of its symbols.
pub(crate) fn divides(v: u32, size: &Dim) -> bool {
    size.exact_div(&Dim::from(i64::from(v))).is_some()
}

/// The epilogue for kernels that move elements of `dtype` as they are: besides [`codegen::epilogue`] a function
/// `finish<V>(epilogue, x, i)`, which does not convert where there is nothing to compute.
pub(crate) fn mover(epilogue: &Epilogue<Dim>, shape: &[Dim], dtype: DType) -> String {
    let body = if epilogue.stores(dtype) {
        "  store_vec<V>(epilogue.out + i, x);\n"
    } else {
        "  acc_t acc[V];\n#pragma unroll\n  for (int j = 0; j < V; ++j) acc[j] = widen(x.v[j]);\n  \
         epilogue.store<V>(acc, i);\n"
    };
    format!(
        "{}\n// Elements as they were read, to i to i + V - 1 of the output.\n\
         template <int V> DEVICE void finish(const Epilogue& epilogue, const Vec<{}, V>& x, index_t i) {{\n{body}}}\n",
        codegen::epilogue(epilogue, shape),
        codegen::ctype(dtype),
    )
}

/// Whether the epilogue lets rows of `v` elements of an output of this shape be stored: they lie in one innermost row,
/// or every operand walks the output as one dimension; and where they are placed, they lie in one piece.
pub(crate) fn epilogue_fits(epilogue: &Epilogue<Dim>, shape: &[Dim], v: u32) -> bool {
    let (sizes, _) = codegen::collapse(shape, &epilogue.operands.iter().collect::<Vec<_>>());
    let placed = epilogue.place.iter().all(|p| {
        let (sizes, _) = codegen::collapse(&p.shape, &[&p.access]);
        sizes.last().is_none_or(|inner| divides(v, inner))
    });
    placed && sizes.last().is_none_or(|inner| divides(v, inner))
}

/// Statements that split the dense index `i` into `c0`, `c1`, ... over `shape`; only those that `needed` names.
pub(crate) fn coordinates(shape: &[Dim], needed: impl Fn(usize) -> bool) -> String {
    let mut text = String::new();
    for d in (0..shape.len()).filter(|d| needed(*d)) {
        let inner = product(&shape[d + 1..]);
        let by = if inner.is(1) { String::new() } else { format!(" / {}", codegen::size_text(&inner)) };
        let modulo = if d == 0 { String::new() } else { format!(" % {}", codegen::size_text(&shape[d])) };
        text += &format!("  const index_t c{d} = i{by}{modulo};\n");
    }
    text
}

/// `name * stride` as a term of an address, or nothing for stride 0.
pub(crate) fn term(name: &str, stride: &Dim) -> Option<String> {
    match stride.as_const() {
        Some(0) => None,
        Some(1) => Some(name.to_owned()),
        _ => Some(format!("{name} * {}", codegen::size_text(stride))),
    }
}
