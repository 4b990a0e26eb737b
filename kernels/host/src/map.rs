//! Pointwise programs as Rust closures: what generated code calls where the compiler interprets a program. A block of
//! elements at a time, so that the closure becomes one vectorised loop over data in the L1 cache.

use crate::element::Element;
use crate::parallel;
use crate::problem::Access;
use crate::view::{RunError, bail};
use crate::walk;

/// Elements processed at a time.
const BLOCK: usize = 1024;
/// Below this many elements a second thread costs more than it brings.
const SERIAL: usize = 1 << 13;

/// An operand: where element `i` of the space lies in a slice.
#[derive(Debug)]
pub struct Read<'a, T> {
    data: &'a [T],
    offset: usize,
    strides: Vec<usize>,
}

/// Element `offset + Σ index[d] · strides[d]` of a slice.
pub fn read<'a, T>(data: &'a [T], offset: usize, strides: &[usize]) -> Read<'a, T> {
    Read { data, offset, strides: strides.to_vec() }
}

impl<T: Element> Read<'_, T> {
    fn check(&self, k: usize, shape: &[usize]) -> Result<(), RunError> {
        if self.strides.len() != shape.len() {
            bail!("input {k} has {} strides over a space of rank {}", self.strides.len(), shape.len());
        }
        let access = Access { offset: self.offset, strides: self.strides.clone() };
        match walk::reach(shape, &access) {
            Some(need) if need <= self.data.len() => Ok(()),
            need => bail!("input {k} has {} elements where its access reaches {need:?}", self.data.len()),
        }
    }

    /// Elements `start..start + n` of the space, in their class.
    fn block<'s>(
        &'s self,
        space: &[usize],
        start: usize,
        n: usize,
        scratch: &'s mut Vec<T::Acc>,
    ) -> &'s [T::Acc] {
        if let ([_], [1]) = (space, &self.strides[..])
            && let Some(block) = T::in_class(&self.data[self.offset + start..][..n])
        {
            return block;
        }
        scratch.resize(BLOCK, T::Acc::default());
        walk::runs(space, &self.strides, self.offset, start, n, &mut |from, step, at, n| {
            let out = &mut scratch[at..at + n];
            match step {
                0 => out.fill(self.data[from].widen()),
                1 => T::widen_into(&self.data[from..from + n], out),
                _ => out
                    .iter_mut()
                    .zip(self.data[from..].iter().step_by(step))
                    .for_each(|(o, v)| *o = v.widen()),
            }
        });
        &scratch[..n]
    }
}

/// A tuple of operands.
pub trait Reads: Sync {
    /// One element of each, in its class.
    type Values;
    /// Memory for a block of each.
    type Scratch: Default;
    /// A block of each.
    type Blocks<'s>
    where
        Self: 's;
    /// Whether every access lies in its slice.
    fn check(&self, shape: &[usize]) -> Result<(), RunError>;
    /// The strides of each.
    fn strides(&self) -> Vec<Vec<usize>>;
    /// Says the accesses over another space.
    fn restride(&mut self, strides: &[Vec<usize>]);
    /// Elements `start..start + n` of each.
    fn load<'s>(
        &'s self,
        space: &[usize],
        start: usize,
        n: usize,
        scratch: &'s mut Self::Scratch,
    ) -> Self::Blocks<'s>;
    /// Element `i` of a block of `n`.
    fn get<'s>(blocks: &Self::Blocks<'s>, n: usize, i: usize) -> Self::Values
    where
        Self: 's;
}

macro_rules! reads {
    ($($t:ident $k:tt)*) => {
        impl<$($t: Element),*> Reads for ($(Read<'_, $t>,)*) {
            type Values = ($($t::Acc,)*);
            type Scratch = ($(Vec<$t::Acc>,)*);
            type Blocks<'s> = ($(&'s [$t::Acc],)*) where Self: 's;
            #[allow(unused_variables)]
            fn check(&self, shape: &[usize]) -> Result<(), RunError> {
                $(self.$k.check($k, shape)?;)*
                Ok(())
            }
            fn strides(&self) -> Vec<Vec<usize>> {
                vec![$(self.$k.strides.clone()),*]
            }
            #[allow(unused_variables)]
            fn restride(&mut self, strides: &[Vec<usize>]) {
                $(self.$k.strides.clone_from(&strides[$k]);)*
            }
            #[allow(unused_variables, clippy::unused_unit)]
            #[inline(always)]
            fn load<'s>(&'s self, space: &[usize], start: usize, n: usize, scratch: &'s mut Self::Scratch) -> Self::Blocks<'s> {
                ($(self.$k.block(space, start, n, &mut scratch.$k),)*)
            }
            #[allow(unused_variables, clippy::unused_unit)]
            #[inline(always)]
            fn get<'s>(blocks: &Self::Blocks<'s>, n: usize, i: usize) -> Self::Values where Self: 's {
                ($(blocks.$k[..n][i],)*)
            }
        }
    };
}
reads!();
reads!(A 0);
reads!(A 0 B 1);
reads!(A 0 B 1 C 2);
reads!(A 0 B 1 C 2 D 3);
reads!(A 0 B 1 C 2 D 3 E 4);
reads!(A 0 B 1 C 2 D 3 E 4 F 5);
reads!(A 0 B 1 C 2 D 3 E 4 F 5 G 6);
reads!(A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7);
reads!(A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8);
reads!(A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9);
reads!(A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10);
reads!(A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10 L 11);

/// One result, or a tuple of them.
pub trait Writes: Sized + Send {
    /// One element of each, in its class.
    type Values;
    /// Number of elements of each, which must be one number.
    fn count(&self) -> Result<usize, RunError>;
    /// Cut into parts of `len` elements.
    fn chunks(self, len: usize) -> Vec<Self>;
    /// Stores values at `at..at + n`.
    fn store(&mut self, at: usize, n: usize, value: impl Fn(usize) -> Self::Values);
}

impl<T: Element> Writes for &mut [T] {
    type Values = T::Acc;
    fn count(&self) -> Result<usize, RunError> {
        Ok(self.len())
    }
    fn chunks(self, len: usize) -> Vec<Self> {
        self.chunks_mut(len).collect()
    }
    #[inline(always)]
    fn store(&mut self, at: usize, n: usize, value: impl Fn(usize) -> T::Acc) {
        for (i, to) in self[at..][..n].iter_mut().enumerate() {
            *to = T::narrow(value(i));
        }
    }
}

macro_rules! writes {
    ($first:tt $($t:ident $k:tt),+) => {
        impl<$($t: Element),+> Writes for ($(&mut [$t],)+) {
            type Values = ($($t::Acc,)+);
            fn count(&self) -> Result<usize, RunError> {
                let counts = [$(self.$k.len()),+];
                if counts.iter().any(|c| *c != counts[0]) {
                    bail!("the results differ in length: {counts:?}");
                }
                Ok(counts[0])
            }
            fn chunks(self, len: usize) -> Vec<Self> {
                let count = self.$first.len().div_ceil(len);
                let mut parts = ($(self.$k.chunks_mut(len),)+);
                (0..count).map(|_| ($(parts.$k.next().unwrap_or_default(),)+)).collect()
            }
            #[inline(always)]
            fn store(&mut self, at: usize, n: usize, value: impl Fn(usize) -> Self::Values) {
                for i in 0..n {
                    let values = value(i);
                    $(self.$k[at..][..n][i] = $t::narrow(values.$k);)+
                }
            }
        }
    };
}
writes!(0 A 0, B 1);
writes!(0 A 0, B 1, C 2);
writes!(0 A 0, B 1, C 2, D 3);

/// `out[i] = f(in_0[access_0(i)], in_1[...], ...)` over a space; results are dense.
pub fn map<I: Reads, O: Writes>(
    shape: &[usize],
    mut inputs: I,
    outputs: O,
    f: impl Fn(I::Values) -> O::Values + Sync,
) -> Result<(), RunError> {
    let total = outputs.count()?;
    expect(shape, total)?;
    inputs.check(shape)?;
    if total == 0 {
        return Ok(());
    }
    let mut strides = inputs.strides();
    let space = walk::merge(shape, &mut strides);
    inputs.restride(&strides);
    let chunk = chunk(total);
    parallel::each(outputs.chunks(chunk), &|i, mut part| {
        let (start, len) = (i * chunk, chunk.min(total - i * chunk));
        let mut scratch = I::Scratch::default();
        for at in (0..len).step_by(BLOCK) {
            let n = BLOCK.min(len - at);
            let blocks = inputs.load(&space, start + at, n, &mut scratch);
            part.store(at, n, |i| f(I::get(&blocks, n, i)));
        }
    });
    Ok(())
}

/// `y[i] = f(y[i], (in_0[access_0(i)], ...))`: an epilogue on accumulators that lie in the result already.
pub fn map_in_place<T: Element, I: Reads>(
    shape: &[usize],
    y: &mut [T],
    mut inputs: I,
    f: impl Fn(T::Acc, I::Values) -> T::Acc + Sync,
) -> Result<(), RunError> {
    let total = y.len();
    expect(shape, total)?;
    inputs.check(shape)?;
    if total == 0 {
        return Ok(());
    }
    let mut strides = inputs.strides();
    let space = walk::merge(shape, &mut strides);
    inputs.restride(&strides);
    let chunk = chunk(total);
    parallel::each(y.chunks_mut(chunk).collect(), &|i, y| {
        let (start, len) = (i * chunk, y.len());
        let mut scratch = I::Scratch::default();
        for at in (0..len).step_by(BLOCK) {
            let n = BLOCK.min(len - at);
            let blocks = inputs.load(&space, start + at, n, &mut scratch);
            for (i, y) in y[at..at + n].iter_mut().enumerate() {
                *y = T::narrow(f(y.widen(), I::get(&blocks, n, i)));
            }
        }
    });
    Ok(())
}

/// `y[i] = x[access(i)]`: a transpose, slice or broadcast.
pub fn copy<T: Element>(shape: &[usize], x: Read<'_, T>, y: &mut [T]) -> Result<(), RunError> {
    expect(shape, y.len())?;
    x.check(0, shape)?;
    if y.is_empty() {
        return Ok(());
    }
    let mut strides = [x.strides];
    let space = walk::merge(shape, &mut strides);
    let [strides] = strides;
    parallel::rows_mut(y, 1, SERIAL * 4, &|first, y| {
        walk::runs(&space, &strides, x.offset, first, y.len(), &mut |from, step, at, n| {
            let y = &mut y[at..at + n];
            match step {
                0 => y.fill(x.data[from]),
                1 => y.copy_from_slice(&x.data[from..from + n]),
                _ => y.iter_mut().zip(x.data[from..].iter().step_by(step)).for_each(|(y, x)| *y = *x),
            }
        });
    });
    Ok(())
}

fn expect(shape: &[usize], total: usize) -> Result<(), RunError> {
    match walk::count(shape) {
        Some(count) if count == total => Ok(()),
        _ => bail!("a result of {total} elements does not hold the space {shape:?}"),
    }
}

/// Elements that one task takes.
fn chunk(total: usize) -> usize {
    if total <= SERIAL {
        return total;
    }
    total.div_ceil(rayon::current_num_threads() * 4).max(SERIAL / 2).next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pointwise as pw;
    use half::f16;

    #[test]
    fn reads_through_accesses_and_stores_in_its_type() {
        let x: Vec<f16> = (0..6).map(|i| f16::from_f32(i as f32)).collect();
        let bias = [10.0f32, 20.0];
        let mut y = [0i32; 6];
        // y[i, j] = x[j, i] + bias[j] over [3, 2]
        let inputs = (read(&x, 0, &[1, 3]), read(&bias, 0, &[0, 1]));
        map(&[3, 2], inputs, &mut y[..], |(a, b)| crate::cast::to_i32(pw::f32::add(a, b))).unwrap();
        assert_eq!(y, [10, 23, 11, 24, 12, 25]);
        let mut z = [[false; 3]; 2];
        let (sum, big) = (&mut [0.0f32; 6][..], z.as_flattened_mut());
        map(&[6], (read(&x, 0, &[1]),), (sum, big), |(a,)| (a, pw::f32::gt(a, 2.0))).unwrap();
        assert_eq!(z, [[false; 3], [true; 3]]);
    }

    #[test]
    fn many_elements_are_spread_and_none_is_lost() {
        let n = 3 * SERIAL + 5;
        let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let mut y = x.clone();
        map_in_place(&[n], &mut y, (read(&x, 0, &[1]), read(&[2.0f32], 0, &[0])), |acc, (x, two)| {
            acc + two * x
        })
        .unwrap();
        assert!(y.iter().enumerate().all(|(i, y)| *y == 3.0 * i as f32));
        let mut back = vec![0.0; n];
        copy(&[n], read(&y, 0, &[1]), &mut back).unwrap();
        assert_eq!(back, y);
    }

    #[test]
    fn accesses_and_results_are_checked() {
        let mut y = [0.0f32; 4];
        assert!(map(&[4], (read(&[1.0f32], 0, &[1]),), &mut y[..], |(a,)| a).is_err());
        assert!(map(&[4], (read(&[1.0f32; 4], 0, &[1, 1]),), &mut y[..], |(a,)| a).is_err());
        assert!(map(&[5], (), &mut y[..], |()| 0.0).is_err());
        assert!(map(&[4], (), &mut y[..], |()| 1.5).is_ok());
        assert_eq!(y, [1.5; 4]);
    }
}
