//! Any problem on byte views: checks the operands, then calls the kernel for their element type.

use crate::dtype::DType;
use crate::element::{Element, Number};
use crate::interpret::{finish, finish_moved};
use crate::problem::*;
use crate::program::Program;
use crate::view::{RunError, View, ViewMut, bail};
use crate::walk::{self, count};
use crate::{
    arg_reduce, attention, concat, contract, conv, conv_transpose, cum_sum, excite, gather, gemm, group_norm,
    interpret, layer_norm, lrn, moments, pad, pool, reduce, resize, softmax, top_k,
};

/// Computes `outputs` from `inputs`, in the order the problem's doc gives. Views that do not fit are an error, as is an
/// index outside its dimension; then the outputs hold anything.
pub fn run(
    problem: &Problem<usize>,
    inputs: &[View<'_>],
    outputs: &mut [ViewMut<'_>],
) -> Result<(), RunError> {
    let contract = problem.contract()?;
    let named = |e: RunError| RunError(format!("{}: {e}", problem.name()));
    contract.check(inputs, outputs).map_err(named)?;
    if contract.outputs.iter().all(|(_, shape)| count(shape) == Some(0)) {
        return Ok(());
    }
    if let Problem::Conv(conv) = problem
        && let Some(first) = conv.expansion()
    {
        return expanded(conv, &first, inputs, outputs).map_err(named);
    }
    if let Some(rows) = problem.epilogue().and_then(|e| e.rows) {
        return normalised(problem, &rows, inputs, outputs).map_err(named);
    }
    if problem.epilogue().is_some_and(|e| e.moments) {
        return with_moments(problem, inputs, outputs).map_err(named);
    }
    if let Some(place) = problem.epilogue().and_then(|e| e.place.as_ref()) {
        return placed(problem, place, inputs, &mut outputs[0]).map_err(named);
    }
    if let Problem::Conv(conv) = problem
        && let Some(pool) = conv.pool()
    {
        return pooled(conv, pool, inputs, outputs).map_err(named);
    }
    dispatch(problem, &contract.outputs[0].1, inputs, outputs).map_err(named)
}

/// Computes the result dense, then puts every element in its place: the meaning of a placement, not a fast way to it.
fn placed(
    problem: &Problem<usize>,
    place: &Placement,
    inputs: &[View<'_>],
    out: &mut ViewMut<'_>,
) -> Result<(), RunError> {
    let (dtype, size) = (out.dtype, out.dtype.size());
    let total = count(&place.shape).unwrap_or(0);
    // u64 words, so that the elements are aligned whatever they are.
    let mut words = vec![0u64; (total * size).div_ceil(8)];
    let bytes = &mut bytemuck::cast_slice_mut(&mut words)[..total * size];
    run(&problem.unplaced(), inputs, &mut [ViewMut { dtype, bytes }])?;
    if total > 0 {
        let Access { offset, strides } = &place.access;
        walk::runs(&place.shape, strides, *offset, 0, total, &mut |element, step, at, count| {
            for i in 0..count {
                let (to, from) = ((element + i * step) * size, (at + i) * size);
                out.bytes[to..to + size].copy_from_slice(&bytes[from..from + size]);
            }
        });
    }
    Ok(())
}

/// The kernel for floats and integers: `number!(dtype, T => ...)`.
macro_rules! number {
    ($dtype:expr, $t:ident => $body:expr) => {
        with_number!($dtype, $t => $body, _ => bail!("not defined for bool"))
    };
}

/// The kernel for floats.
macro_rules! real {
    ($dtype:expr, $t:ident => $body:expr) => {
        with_real!($dtype, $t => $body, _ => bail!("not defined for {}", $dtype))
    };
}

/// Makes all the pixels, then convolves them: the meaning of an expansion, not a fast way to it.
fn expanded(
    conv: &Conv<usize>,
    first: &Conv<usize>,
    inputs: &[View<'_>],
    outputs: &mut [ViewMut<'_>],
) -> Result<(), RunError> {
    let own = conv.own_inputs();
    let plain = Problem::from(Conv { expand: None, ..conv.clone() });
    number!(conv.dtype, T => {
        let mut pixels = vec![T::default(); count(&[conv.n, conv.channels]).and_then(|n| n.checked_mul(count(&conv.input)?)).unwrap_or(0)];
        let from: Vec<View<'_>> = [0].into_iter().chain(conv.expand_input()..own).map(|i| inputs[i]).collect();
        run(&first.clone().into(), &from, &mut [ViewMut::of(&mut pixels)])?;
        let rest = inputs[1..2].iter().chain(&inputs[own..]).copied();
        let inputs: Vec<View<'_>> = [View::of(&pixels)].into_iter().chain(rest).collect();
        run(&plain, &inputs, outputs)
    })
}

/// Makes all results, then pools them: the meaning of it, not a fast way to it.
fn pooled(
    conv: &Conv<usize>,
    pool: Pool<usize>,
    inputs: &[View<'_>],
    outputs: &mut [ViewMut<'_>],
) -> Result<(), RunError> {
    let plain = Problem::from(Conv { pooled: None, ..conv.clone() });
    let elements: usize = plain.output_lens()?.iter().sum();
    number!(pool.dtype, T => {
        let mut results = vec![T::default(); elements];
        run(&plain, inputs, &mut [ViewMut::of(&mut results)])?;
        run(&pool.into(), &[View::of(&results)], outputs)
    })
}

fn dispatch(
    problem: &Problem<usize>,
    shape: &[usize],
    inputs: &[View<'_>],
    outputs: &mut [ViewMut<'_>],
) -> Result<(), RunError> {
    let out = &mut outputs[0];
    match problem {
        Problem::Pointwise(p) => interpret::pointwise(p, inputs, outputs),
        Problem::Gemm(p) => number!(p.dtype, T => {
            let (a, b) = (inputs[0].as_slice::<T>()?, inputs[1].as_slice::<T>()?);
            anchor::<<T as Element>::Acc>(&p.epilogue, shape, &inputs[2..], out, &mut |y| gemm::gemm(p, a, b, y))
        }),
        Problem::Conv(p) => number!(p.dtype, T => {
            let mut dense = vec![];
            if let Some((dtype, access)) = &p.x {
                let shape = contract::layout(p.n, p.channels, &p.input, p.layout);
                dense.resize(shape.iter().product(), T::default());
                let program = Program::identity(*dtype, p.dtype);
                let copy = Pointwise { shape, inputs: vec![access.clone()], program };
                run(&copy.into(), &inputs[..1], &mut [ViewMut::of(&mut dense)])?;
            }
            let x = if p.x.is_some() { &dense } else { inputs[0].as_slice::<T>()? };
            let w = inputs[1].as_slice::<T>()?;
            let scaled = if p.scaled { conv::scaled(p, x, inputs[2].as_slice::<T>()?) } else { vec![] };
            let x = if p.scaled { &scaled } else { x };
            let added = match p.addition() {
                None => None,
                Some(more) => {
                    let [x, w] = [0, 1].map(|i| inputs[p.added_input() + i].as_slice::<T>());
                    Some((more, x?, w?))
                }
            };
            anchor::<<T as Element>::Acc>(&p.epilogue, shape, &inputs[problem.own_inputs()..], out, &mut |y| {
                conv::conv(p, x, w, y);
                if let Some((more, x, w)) = &added {
                    conv::add(more, x, w, y);
                }
            })
        }),
        Problem::ConvTranspose(p) => number!(p.dtype, T => {
            let (x, w) = (inputs[0].as_slice::<T>()?, inputs[1].as_slice::<T>()?);
            anchor::<<T as Element>::Acc>(&p.epilogue, shape, &inputs[2..], out, &mut |y| conv_transpose::conv_transpose(p, x, w, y))
        }),
        Problem::Pool(p) => number!(p.dtype, T => {
            let x = inputs[0].as_slice::<T>()?;
            anchor::<<T as Element>::Acc>(&p.epilogue, shape, &inputs[1..], out, &mut |y| pool::pool(p, x, y))
        }),
        Problem::Reduce(p) if p.dtype == DType::Bool => {
            finish::<bool>(&p.epilogue, shape, &inputs[1..], out, &mut |y| {
                // The extrema of nothing are those of i64: `any` of nothing is false, `all` of nothing true.
                let mut wide = vec![0i64; y.len()];
                reduce::reduce::<u8>(p, inputs[0].bytes, &mut wide);
                y.iter_mut().zip(wide).for_each(|(y, v)| *y = v > 0);
                Ok(())
            })
        }
        Problem::Reduce(p) => number!(p.dtype, T => {
            let x = inputs[0].as_slice::<T>()?;
            anchor::<<T as Element>::Acc>(&p.epilogue, shape, &inputs[1..], out, &mut |y| reduce::reduce(p, x, y))
        }),
        Problem::Excite(p) => real!(p.dtype, T => {
            let (x, w1) = (inputs[0].as_slice::<T>()?, inputs[1].as_slice::<T>()?);
            let (w2, own) = (inputs[2].as_slice::<T>()?, problem.own_inputs());
            let mut hidden = vec![T::default(); p.n * p.hidden];
            let between = &mut ViewMut::of(&mut hidden);
            anchor::<<T as Element>::Acc>(&p.first, &[p.n, p.hidden], &inputs[3..own], between, &mut |y| excite::squeeze(p, x, w1, y))?;
            anchor::<<T as Element>::Acc>(&p.epilogue, shape, &inputs[own..], out, &mut |y| excite::excite(p, &hidden, w2, y))
        }),
        Problem::ArgReduce(p) => number!(p.dtype, T => {
            arg_reduce::arg_reduce(p, inputs[0].as_slice::<T>()?, out.as_mut_slice()?);
            Ok(())
        }),
        Problem::Softmax(p) => real!(p.dtype, T => {
            let x = inputs[0].as_slice::<T>()?;
            anchor::<<T as Element>::Acc>(&p.epilogue, shape, &inputs[1..], out, &mut |y| softmax::softmax(p, x, y))
        }),
        Problem::LayerNorm(p) => real!(p.dtype, T => {
            let (x, scale) = (inputs[0].as_slice::<T>()?, inputs[1].as_slice::<T>()?);
            let bias = if p.bias { inputs[2].as_slice::<T>()? } else { &[] };
            let rest = &inputs[2 + usize::from(p.bias)..];
            anchor::<<T as Element>::Acc>(&p.epilogue, shape, rest, out, &mut |y| layer_norm::layer_norm(p, x, scale, bias, y))
        }),
        Problem::GroupNorm(p) => real!(p.dtype, T => {
            let (x, scale) = (inputs[0].as_slice::<T>()?, inputs[1].as_slice::<T>()?);
            let bias = inputs[2].as_slice::<T>()?;
            anchor::<<T as Element>::Acc>(&p.epilogue, shape, &inputs[3..], out, &mut |y| group_norm::group_norm(p, x, scale, bias, y))
        }),
        Problem::Lrn(p) => real!(p.dtype, T => {
            let x = inputs[0].as_slice::<T>()?;
            anchor::<<T as Element>::Acc>(&p.epilogue, shape, &inputs[1..], out, &mut |y| lrn::lrn(p, x, y))
        }),
        Problem::Attention(p) => real!(p.dtype, T => {
            let (q, k) = (inputs[0].as_slice::<T>()?, inputs[1].as_slice::<T>()?);
            let v = inputs[2].as_slice::<T>()?;
            attention::attention(p, q, k, v, inputs.get(3).copied(), out.as_mut_slice()?)
        }),
        Problem::Concat(p) => {
            let (xs, rest) = inputs.split_at(p.lens.len());
            finish_moved(&p.epilogue, shape, p.dtype, rest, out, &mut |y| {
                with_bits!(p.dtype, T => {
                    let xs: Vec<&[T]> = xs.iter().map(|x| bits(x.bytes)).collect();
                    concat::concat(p, &xs, bits_mut(y.bytes));
                });
                Ok(())
            })
        }
        Problem::Pad(p) => {
            with_bits!(p.dtype, T => {
                let value = inputs.get(1).and_then(|v| bits::<T>(v.bytes).first().copied());
                pad::pad(p, bits::<T>(inputs[0].bytes), value, bits_mut(out.bytes));
            });
            Ok(())
        }
        Problem::Gather(p) => {
            let at = gather::positions(inputs[1], p.len)?;
            finish_moved(&p.epilogue, shape, p.dtype, &inputs[2..], out, &mut |y| {
                with_bits!(p.dtype, T => gather::gather(p, bits::<T>(inputs[0].bytes), &at, bits_mut(y.bytes)));
                Ok(())
            })
        }
        Problem::GatherElements(p) => {
            let at = gather::positions(inputs[1], p.input[p.axis])?;
            with_bits!(p.dtype, T => {
                gather::gather_elements(p, bits::<T>(inputs[0].bytes), &at, bits_mut(out.bytes));
            });
            Ok(())
        }
        Problem::Resize(p) => real!(p.dtype, T => {
            let x = inputs[0].as_slice::<T>()?;
            anchor::<<T as Element>::Acc>(&p.epilogue, shape, &inputs[1..], out, &mut |y| resize::resize(p, x, y))
        }),
        Problem::CumSum(p) => number!(p.dtype, T => {
            cum_sum::cum_sum(p, inputs[0].as_slice::<T>()?, out.as_mut_slice()?);
            Ok(())
        }),
        Problem::Squeeze(p) => {
            let [y, s] = outputs else { bail!("two outputs") };
            let (first, rest) = inputs.split_at(p.conv_operands());
            run(&Conv::clone(&p.conv).into(), first, std::slice::from_mut(y))?;
            let y = View { dtype: y.dtype, bytes: y.bytes };
            let inputs: Vec<View<'_>> = [y].into_iter().chain(rest.iter().copied()).collect();
            run(&p.excite.clone().into(), &inputs, std::slice::from_mut(s))
        }
        Problem::TopK(p) => number!(p.dtype, T => {
            let [values, indices] = outputs else { bail!("two outputs") };
            let x = inputs[0].as_slice::<T>()?;
            top_k::top_k(p, x, values.as_mut_slice::<T>()?, indices.as_mut_slice()?);
            Ok(())
        }),
    }
}

/// Computes what the moments of rows say of them, then all else: the meaning of such operands, not a fast way to them.
fn normalised(
    problem: &Problem<usize>,
    rows: &Rows,
    inputs: &[View<'_>],
    outputs: &mut [ViewMut<'_>],
) -> Result<(), RunError> {
    let own = problem.own_inputs();
    let statistics = moments::statistics(rows, inputs[own].as_slice()?);
    let (mut plain, mut inputs) = (problem.clone(), inputs.to_vec());
    inputs[own..own + 2].fill(View::of(&statistics));
    if let Some(epilogue) = plain.epilogue_mut() {
        epilogue.rows = None;
    }
    run(&plain, &inputs, outputs)
}

/// Computes the first result, then its moments.
fn with_moments(
    problem: &Problem<usize>,
    inputs: &[View<'_>],
    outputs: &mut [ViewMut<'_>],
) -> Result<(), RunError> {
    let mut plain = problem.clone();
    if let Some(epilogue) = plain.epilogue_mut() {
        epilogue.moments = false;
    }
    let [out, of_rows] = outputs else { bail!("two outputs") };
    let dtype = out.dtype;
    run(&plain, inputs, &mut [ViewMut { dtype, bytes: &mut *out.bytes }])?;
    real!(dtype, T => {
        moments::moments::<T>(View { dtype, bytes: &*out.bytes }.as_slice()?, of_rows.as_mut_slice()?);
        Ok(())
    })
}

/// A kernel that cannot fail, then its epilogue.
fn anchor<A: Number>(
    epilogue: &Epilogue<usize>,
    shape: &[usize],
    operands: &[View<'_>],
    out: &mut ViewMut<'_>,
    kernel: &mut dyn FnMut(&mut [A]),
) -> Result<(), RunError> {
    finish::<A>(epilogue, shape, operands, out, &mut |y| {
        kernel(y);
        Ok(())
    })
}

fn bits<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> &[T] {
    if bytes.is_empty() { &[] } else { bytemuck::cast_slice(bytes) }
}

fn bits_mut<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(bytes: &mut [u8]) -> &mut [T] {
    if bytes.is_empty() { &mut [] } else { bytemuck::cast_slice_mut(bytes) }
}
