//! The text of a problem: one line, every field by name, equal for equal problems. It is the key in the tactics file and
//! what plans and dumps print: `gemm batch=1 m=128 n=768 k=3072 dtype=f16 math=exact a=[0,3072,1] b=[0,1,3072] then ...`.

use crate::dtype::DType;
use crate::problem::*;
use std::fmt::{self, Display, Formatter, Write};

/// What can stand after `name=`.
trait Text {
    fn write(&self, f: &mut Formatter<'_>) -> fmt::Result;
}

macro_rules! displayed {
    ($($t:ty),+) => {$( impl Text for $t { fn write(&self, f: &mut Formatter<'_>) -> fmt::Result { write!(f, "{self}") } } )+};
}
displayed!(bool, u32, i64, DType);

impl Text for f32 {
    fn write(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

// Enums print as their lower-case names: `ChannelsLast` as `channels_last`, `Lp(2)` as `lp(2)`.
macro_rules! named {
    ($($t:ty),+) => {$(
        impl Text for $t {
            fn write(&self, f: &mut Formatter<'_>) -> fmt::Result {
                let debug = format!("{self:?}");
                for (i, c) in debug.chars().filter(|c| *c != ' ').enumerate() {
                    if c.is_ascii_uppercase() && i > 0 && debug.as_bytes()[i - 1].is_ascii_alphanumeric() { f.write_char('_')?; }
                    f.write_char(c.to_ascii_lowercase())?;
                }
                Ok(())
            }
        }
    )+};
}
named!(Math, Layout, PoolKind, ReduceKind, PadMode, Coordinates, Interpolation);

/// A size or a symbolic size.
struct Size<'a, S>(&'a S);

impl<S: Display> Text for Size<'_, S> {
    fn write(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn list<T>(
    f: &mut Formatter<'_>,
    items: &[T],
    mut one: impl FnMut(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_char('[')?;
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            f.write_char(',')?;
        }
        one(f, item)?;
    }
    f.write_char(']')
}

impl<S: Display> Display for Access<S> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let offset = self.offset.to_string();
        if offset != "0" {
            write!(f, "{offset}+")?;
        }
        list(f, &self.strides, |f, s| write!(f, "{s}"))
    }
}

impl<S: Display> Display for Epilogue<S> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program)?;
        self.operands.iter().try_for_each(|a| write!(f, " {a}"))?;
        if let Some(Rows { len, rms, epsilon }) = self.rows {
            write!(f, " rows {len} rms={rms} epsilon={epsilon:?}")?;
        }
        f.write_str(if self.moments { " moments" } else { "" })?;
        let Some(place) = &self.place else { return Ok(()) };
        f.write_str(" at ")?;
        list(f, &place.shape, |f, s| write!(f, "{s}"))?;
        write!(f, ": {} of {}", place.access, place.elements)
    }
}

// `field` prints `name=value`; a size list, a plain list and a size are told apart by the macro's section.
macro_rules! text {
    ($($name:ident $word:literal { $(size $($s:ident)*;)? $(sizes $($l:ident)*;)? $(list $($p:ident)*;)? $(keep $($k:ident)*;)? $(then $e:ident;)? })+) => {$(
        impl<S: Display> Display for $name<S> {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str($word)?;
                $($(write!(f, " {}=", stringify!($s))?; Size(&self.$s).write(f)?;)*)?
                $($(write!(f, " {}=", stringify!($l))?; list(f, &self.$l, |f, s| write!(f, "{s}"))?;)*)?
                $($(write!(f, " {}=", stringify!($p))?; list(f, &self.$p, |f, s| write!(f, "{s:?}"))?;)*)?
                $($(write!(f, " {}=", stringify!($k))?; Text::write(&self.$k, f)?;)*)?
                $(write!(f, " then {}", self.$e)?;)?
                Ok(())
            }
        }
    )+};
}

impl Text for usize {
    fn write(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

text! {
    Gemm "gemm" { size batch m n k; sizes a b; keep dtype math; then epilogue; }
    ConvTranspose "conv_transpose" { size n; sizes input output; list kernel strides dilations pads; keep channels filters groups layout dtype; then epilogue; }
    Pool "pool" { size n channels; sizes input output kernel; list strides dilations pads pads_end; keep kind layout dtype; then epilogue; }
    Reduce "reduce" { sizes shape; list reduced; keep kind dtype; then epilogue; }
    ArgReduce "arg_reduce" { size outer len inner; keep max last dtype; }
    Softmax "softmax" { size outer len inner; keep log dtype; then epilogue; }
    LayerNorm "layer_norm" { size rows len; keep rms epsilon bias dtype; then epilogue; }
    GroupNorm "group_norm" { size n spatial; keep channels groups epsilon layout dtype; then epilogue; }
    Lrn "lrn" { size n spatial; keep channels size alpha beta bias dtype; then epilogue; }
    Concat "concat" { size outer inner; sizes lens; keep dtype; then epilogue; }
    Pad "pad" { sizes input output; list begin; keep mode dtype; }
    Gather "gather" { size outer len inner count; keep dtype index; then epilogue; }
    GatherElements "gather_elements" { sizes input output; keep axis dtype index; }
    Resize "resize" { sizes input output; list scales; keep coordinates interpolation dtype; then epilogue; }
    CumSum "cum_sum" { size outer len inner; keep exclusive reverse dtype; }
    TopK "top_k" { size outer len inner k; keep largest dtype; }
}

impl<S: Display> Display for Pointwise<S> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("pointwise shape=")?;
        list(f, &self.shape, |f, s| write!(f, "{s}"))?;
        write!(f, " {}", self.program)?;
        self.inputs.iter().try_for_each(|a| write!(f, " {a}"))
    }
}

impl<S: Display> Display for Conv<S> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "conv n={}", self.n)?;
        for (name, sizes) in [("input", &self.input), ("output", &self.output)] {
            write!(f, " {name}=")?;
            list(f, sizes, |f, s| write!(f, "{s}"))?;
        }
        let lists = [
            ("kernel", &self.kernel),
            ("strides", &self.strides),
            ("dilations", &self.dilations),
            ("pads", &self.pads),
        ];
        for (name, numbers) in lists {
            write!(f, " {name}=")?;
            list(f, numbers, |f, n| write!(f, "{n}"))?;
        }
        write!(f, " channels={} filters={} groups={} layout=", self.channels, self.filters, self.groups)?;
        self.layout.write(f)?;
        write!(f, " dtype={} math=", self.dtype)?;
        self.math.write(f)?;
        // Said only where it is so: most have none.
        if let Some((dtype, access)) = &self.x {
            write!(f, " x={dtype}{access}")?;
        }
        f.write_str(if self.scaled { " scaled" } else { "" })?;
        if let Some(added) = &self.added {
            write!(f, " added={} of ", added.channels)?;
            list(f, &added.input, |f, s| write!(f, "{s}"))?;
            f.write_str(" by ")?;
            list(f, &added.strides, |f, s| write!(f, "{s}"))?;
        }
        if let Some(expand) = &self.expand {
            write!(f, " expand={} first {}", expand.channels, expand.epilogue)?;
        }
        write!(f, " then {}", self.epilogue)?;
        let Some(pooled) = &self.pooled else { return Ok(()) };
        f.write_str(" pooled=")?;
        list(f, &pooled.output, |f, s| write!(f, "{s}"))?;
        let lists = [("of", &pooled.kernel), ("by", &pooled.strides), ("from", &pooled.pads)];
        lists.into_iter().try_for_each(|(name, numbers)| {
            write!(f, " {name} ")?;
            list(f, numbers, |f, n| write!(f, "{n}"))
        })
    }
}

impl<S: Display> Display for Excite<S> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "excite n={} pixels={} channels={}", self.n, self.pixels, self.channels)?;
        write!(f, " hidden={} filters={} dtype={}", self.hidden, self.filters, self.dtype)?;
        write!(f, " first {} then {}", self.first, self.epilogue)
    }
}

impl<S: Display> Display for Squeeze<S> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "squeeze {}, {}", self.conv, self.excite)
    }
}

impl<S: Display> Display for Attention<S> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "attention batch={} heads={} kv_heads={}", self.batch, self.heads, self.kv_heads)?;
        write!(f, " seq_q={} seq_k={} dim={} dim_v={}", self.seq_q, self.seq_k, self.dim, self.dim_v)?;
        write!(f, " scale={:?} causal={} q={} k={} v={}", self.scale, self.causal, self.q, self.k, self.v)?;
        if let Some((dtype, access)) = &self.mask {
            write!(f, " mask={dtype}{access}")?;
        }
        write!(f, " out_heads_inner={} dtype={}", self.out_heads_inner, self.dtype)
    }
}

macro_rules! problem_text {
    ($($name:ident)+) => {
        impl<S: Display> Display for Problem<S> {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                match self { $(Problem::$name(p) => Display::fmt(p, f)),+ }
            }
        }
    };
}
problem_text!(Pointwise Gemm Conv ConvTranspose Pool Reduce Excite Squeeze ArgReduce Softmax LayerNorm GroupNorm Lrn Attention Concat Pad Gather
    GatherElements Resize CumSum TopK);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_line() {
        let gemm = Gemm::<usize> {
            batch: 1,
            m: 128,
            n: 768,
            k: 64,
            dtype: DType::F16,
            math: Math::Exact,
            a: [0, 64, 1],
            b: [0, 768, 1],
            epilogue: Epilogue::store(DType::F16),
        };
        let expected = "gemm batch=1 m=128 n=768 k=64 a=[0,64,1] b=[0,768,1] dtype=f16 math=exact then (f32) { } -> %0:f16";
        assert_eq!(Problem::from(gemm).to_string(), expected);
        let pool: Problem<usize> = Pool {
            kind: PoolKind::Average { count_pads: true },
            n: 1,
            channels: 8,
            input: vec![4, 4],
            output: vec![2, 2],
            kernel: vec![2, 2],
            strides: vec![2, 2],
            dilations: vec![1, 1],
            pads: vec![0, 0],
            pads_end: vec![0, 0],
            layout: Layout::ChannelsLast,
            dtype: DType::F32,
            epilogue: Epilogue::store(DType::F32),
        }
        .into();
        assert!(pool.to_string().contains("kind=average{count_pads:true} layout=channels_last"), "{pool}");
        let pooled =
            Pooled { output: vec![28, 28], kernel: vec![3, 3], strides: vec![2, 2], pads: vec![1, 1] };
        let conv: Problem<usize> = Conv {
            n: 1,
            channels: 3,
            filters: 8,
            groups: 1,
            input: vec![56, 56],
            output: vec![56, 56],
            kernel: vec![1, 1],
            strides: vec![1, 1],
            dilations: vec![1, 1],
            pads: vec![0, 0],
            layout: Layout::ChannelsLast,
            x: None,
            scaled: false,
            added: None,
            expand: None,
            pooled: Some(pooled),
            dtype: DType::F16,
            math: Math::Exact,
            epilogue: Epilogue::store(DType::F16),
        }
        .into();
        let end = "math=exact then (f32) { } -> %0:f16 pooled=[28,28] of [3,3] by [2,2] from [1,1]";
        assert!(conv.to_string().ends_with(end), "{conv}");
    }
}
