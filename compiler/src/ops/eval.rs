//! Evaluation of one operator on constant operands: by the host kernel of its problem.

use super::Op;
use crate::ir::tensor::Tensor;
use crate::ir::types::Type;
use bakelite_host::DType;

/// The results of `op` on `inputs`, whose types it must accept. Shapes must be free of symbols.
pub fn eval(op: &Op, inputs: &[&Tensor]) -> Result<Vec<Tensor>, String> {
    let types: Vec<Type> = inputs.iter().map(|t| Type::new(t.dtype, &t.shape)).collect();
    let types: Vec<&Type> = types.iter().collect();
    let outputs = op.infer(&types)?;
    if let (Op::Reshape(_), [x], Some(shape)) = (op, inputs, outputs[0].dims()) {
        return Ok(vec![Tensor { dtype: x.dtype, shape, bytes: x.bytes.clone() }]);
    }
    let shapes = outputs.iter().map(|t| t.dims().ok_or_else(|| format!("the result {t} is symbolic")));
    let shapes = shapes.collect::<Result<Vec<_>, _>>()?;
    let problem = op
        .lower(&types, &outputs)?
        .map(&mut |d| d.as_const().and_then(|c| usize::try_from(c).ok()).unwrap_or(0));
    let mut buffers: Vec<Aligned> = shapes
        .iter()
        .zip(&outputs)
        .map(|(s, t)| Aligned::zeroed(t.dtype.size() * s.iter().product::<usize>()))
        .collect();
    run(&problem, inputs, &outputs.iter().map(|t| t.dtype).collect::<Vec<_>>(), &mut buffers)?;
    let tensor = |((shape, ty), buffer): ((Vec<usize>, &Type), Aligned)| {
        Tensor::new(ty.dtype, shape, buffer.into_bytes())
    };
    shapes.into_iter().zip(&outputs).zip(buffers).map(tensor).collect()
}

fn run(
    problem: &bakelite_host::Problem<usize>,
    inputs: &[&Tensor],
    dtypes: &[DType],
    outputs: &mut [Aligned],
) -> Result<(), String> {
    use bakelite_host::view::{View, ViewMut};
    let aligned: Vec<Aligned> = inputs.iter().map(|t| Aligned::copied(&t.bytes)).collect();
    let views: Vec<View<'_>> =
        inputs.iter().zip(&aligned).map(|(t, a)| View { dtype: t.dtype, bytes: a.bytes() }).collect();
    let mut outs: Vec<ViewMut<'_>> =
        outputs.iter_mut().zip(dtypes).map(|(o, d)| ViewMut { dtype: *d, bytes: o.bytes_mut() }).collect();
    bakelite_host::run(problem, &views, &mut outs).map_err(|e| e.to_string())
}

/// Bytes aligned for any element type.
pub(crate) struct Aligned {
    words: Vec<u64>,
    len: usize,
}

impl Aligned {
    pub(crate) fn zeroed(len: usize) -> Aligned {
        Aligned { words: vec![0; len.div_ceil(8)], len }
    }
    pub(crate) fn copied(bytes: &[u8]) -> Aligned {
        let mut aligned = Aligned::zeroed(bytes.len());
        aligned.bytes_mut().copy_from_slice(bytes);
        aligned
    }
    pub(crate) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
    pub(crate) fn into_bytes(self) -> bytes::Bytes {
        struct Owner(Aligned);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                self.0.bytes()
            }
        }
        bytes::Bytes::from_owner(Owner(self))
    }
}
