//! Pooling, over windows and over everything.

use super::conv::{Window, spatial};
use crate::onnx::call::{Call, Results, one};
use crate::ops::{Pool, Reduce};
use bakelite_host::Pw;
use bakelite_host::problem::{Layout, PoolKind, ReduceKind};

fn pool(c: &mut Call<'_>, kind: PoolKind) -> Results {
    let x = c.value(0)?;
    let sizes = spatial(c, x)?;
    c.attributes().need_ints("kernel_shape")?;
    let kernel = c.attributes().sizes("kernel_shape", sizes.len(), 1)?;
    let Window { strides, dilations, pads, pads_end } = Window::of(c, &sizes, &kernel)?;
    let ceil = c.attributes().flag("ceil_mode", false)?;
    let layout = Layout::ChannelsFirst;
    one(c.add(Pool { kind, kernel, strides, dilations, pads, pads_end, ceil, layout }, &[x])?)
}

pub(super) fn max(c: &mut Call<'_>) -> Results {
    pool(c, PoolKind::Max)
}

pub(super) fn average(c: &mut Call<'_>) -> Results {
    let count_pads = c.attributes().flag("count_include_pad", false)?;
    pool(c, PoolKind::Average { count_pads })
}

fn power(c: &Call<'_>) -> Result<u32, String> {
    let p = c.attributes().int("p", 2)?;
    u32::try_from(p).ok().filter(|p| *p > 0).ok_or_else(|| format!("attribute `p` is {p}"))
}

pub(super) fn lp(c: &mut Call<'_>) -> Results {
    let p = power(c)?;
    pool(c, PoolKind::Lp(p))
}

pub(super) fn global(c: &mut Call<'_>, kind: ReduceKind) -> Results {
    let x = c.value(0)?;
    spatial(c, x)?;
    one(c.add(Reduce { kind, axes: (2..c.rank(x)).collect(), keepdims: true }, &[x])?)
}

pub(super) fn global_lp(c: &mut Call<'_>) -> Results {
    match power(c)? {
        1 => global(c, ReduceKind::L1),
        2 => global(c, ReduceKind::L2),
        p => {
            let x = c.value(0)?;
            spatial(c, x)?;
            let absolute = c.pw(Pw::Abs, &[x])?;
            let powers = c.pw_number(Pw::Pow, absolute, f64::from(p))?;
            let axes = (2..c.rank(x)).collect();
            let sum = c.add(Reduce { kind: ReduceKind::Sum, axes, keepdims: true }, &[powers])?;
            one(c.pw_number(Pw::Pow, sum, 1.0 / f64::from(p))?)
        }
    }
}
