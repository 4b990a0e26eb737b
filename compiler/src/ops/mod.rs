//! The closed set of IR operators: one line here and one file each, which holds attributes, shape inference, the kernel
//! problem it stands for, and its role in fusion. There is no per-operator evaluation: every operator evaluates as its
//! problem does on the host ([`crate::ops::eval`]), so the reference semantics have one home.

use crate::ir::attribute::Attributes;
use crate::ir::types::Type;
use bakelite_host::Problem;
use bakelite_kernels::Dim;

pub mod eval;

/// What fusion may do with an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Elementwise with numpy broadcasting: joins prologues and epilogues.
    Pointwise,
    /// Only relabels the dense elements: costs nothing, the result shares its operand's memory.
    View,
    /// Moves elements by an affine map: can be read through an access instead of being done.
    Move,
    /// The centre of a region; takes an epilogue.
    Anchor,
    /// The centre of a region; its problem has no epilogue.
    Opaque,
}

/// What every operator says of itself.
pub trait Operator: Clone + PartialEq + std::fmt::Debug {
    /// Types of the results for operands of these types, or a sentence that says what does not fit, with both values.
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String>;

    /// What fusion may do with it.
    fn role(&self) -> Role;

    /// The kernel problem it stands for, its epilogue storing the accumulator as it is. Operands in the operator's order.
    fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String>;
}

macro_rules! ops {
    ($($module:ident $name:ident;)+) => {
        $(mod $module; pub use $module::$name;)+

        /// An operator.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum Op { $($name($name)),+ }

        $(impl From<$name> for Op { fn from(op: $name) -> Op { Op::$name(op) } })+

        impl Op {
            /// Types of the results; see [`Operator::infer`].
            pub fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
                match self { $(Op::$name(op) => op.infer(inputs)),+ }
            }
            /// See [`Operator::role`].
            pub fn role(&self) -> Role {
                match self { $(Op::$name(op) => op.role()),+ }
            }
            /// See [`Operator::lower`].
            pub fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String> {
                match self { $(Op::$name(op) => op.lower(inputs, outputs)),+ }
            }
            /// The lower-case name of the text form.
            pub fn name(&self) -> &'static str {
                match self { Op::Apply(apply) => apply.op.name(), $(#[allow(unreachable_patterns)] Op::$name(_) => $name::NAME),+ }
            }
            /// Attributes in declaration order: name and text.
            pub fn attributes(&self) -> Vec<(&'static str, String)> {
                match self { Op::Apply(_) => vec![], $(#[allow(unreachable_patterns)] Op::$name(op) => op.attributes()),+ }
            }
            /// The operator of a name, from its attributes.
            pub fn parse(name: &str, mut attributes: Attributes) -> Result<Op, String> {
                let op = if let Ok(op) = name.parse() { Op::Apply(Apply { op }) } else {
                    match name {
                        $($name::NAME => Op::$name($name::take(&mut attributes)?),)+
                        _ => return Err(format!("unknown operator `{name}`")),
                    }
                };
                match attributes.0.into_keys().next() {
                    Some(left) => Err(format!("`{name}` has no attribute `{left}`")),
                    None => Ok(op),
                }
            }
        }
    };
}

/// Declares an operator's attributes, in the order the text form prints them.
macro_rules! op {
    ($(#[$doc:meta])* $name:ident $text:literal { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $ty,)* }
        impl $name {
            pub(super) const NAME: &'static str = $text;
            pub(super) fn attributes(&self) -> Vec<(&'static str, String)> {
                vec![$((stringify!($field), $crate::ir::attribute::Attribute::print(&self.$field))),*]
            }
            #[allow(unused_variables)]
            pub(super) fn take(from: &mut $crate::ir::attribute::Attributes) -> Result<$name, String> {
                Ok($name { $($field: from.take(stringify!($field))?),* })
            }
        }
    };
}

ops! {
    apply Apply;
    arg_reduce ArgReduce;
    attention Attention;
    broadcast Broadcast;
    cast Cast;
    concat Concat;
    conv Conv;
    conv_transpose ConvTranspose;
    cum_sum CumSum;
    gather Gather;
    gather_elements GatherElements;
    group_norm GroupNorm;
    layer_norm LayerNorm;
    lrn Lrn;
    matmul MatMul;
    moments Moments;
    pad Pad;
    pool Pool;
    reduce Reduce;
    reshape Reshape;
    resize Resize;
    slice Slice;
    softmax Softmax;
    top_k TopK;
    transpose Transpose;
}

/// `Err` unless the number of operands lies in the range.
fn expect_inputs(inputs: &[&Type], least: usize, most: usize) -> Result<(), String> {
    if (least..=most).contains(&inputs.len()) {
        return Ok(());
    }
    let wanted = if least == most { least.to_string() } else { format!("{least} to {most}") };
    Err(format!("expected {wanted} operands, got {}", inputs.len()))
}

/// `Err` unless both operands, named for the message, have one element type.
fn expect_same_dtype(a: (&str, &Type), b: (&str, &Type)) -> Result<(), String> {
    if a.1.dtype == b.1.dtype {
        return Ok(());
    }
    Err(format!("element types differ: {} is {} and {} is {}", a.0, a.1.dtype, b.0, b.1.dtype))
}

/// `Err` unless the operand is of floating point.
fn expect_float(ty: &Type) -> Result<(), String> {
    if ty.dtype.is_float() { Ok(()) } else { Err(format!("expected a floating-point operand, got {ty}")) }
}

/// A size that must be known at compile time, named for the message.
fn known(dim: &Dim, what: &str) -> Result<usize, String> {
    let value = dim.as_const().and_then(|c| usize::try_from(c).ok());
    value.ok_or_else(|| format!("{what} must be known at compile time, but is `{dim}`"))
}

/// Sizes before, at and after an axis: `[outer, len, inner]`.
fn around(shape: &[Dim], axis: usize) -> (Dim, Dim, Dim) {
    use bakelite_kernels::dim::product;
    (product(&shape[..axis]), shape[axis].clone(), product(&shape[axis + 1..]))
}
