//! Builds small models from prost structs, so that no test needs Python.

use bakelite::onnx::proto::*;
use prost::Message;

pub(crate) use attribute_proto::AttributeType as Kind;
pub(crate) use tensor_proto::DataType;

/// A model under construction: a graph with an opset.
#[derive(Clone)]
pub(crate) struct Build {
    pub(crate) model: ModelProto,
}

pub(crate) fn model(opset: i64) -> Build {
    Build {
        model: ModelProto {
            ir_version: Some(8),
            opset_import: vec![opset_id("", opset)],
            graph: Some(GraphProto { name: Some("test".into()), ..Default::default() }),
            ..Default::default()
        },
    }
}

pub(crate) fn opset_id(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

impl Build {
    pub(crate) fn graph(&mut self) -> &mut GraphProto {
        self.model.graph.as_mut().unwrap()
    }
    /// `sizes`: numbers are constants, `?` is unknown, anything else a name; blank-separated.
    pub(crate) fn input(mut self, name: &str, dtype: DataType, sizes: &str) -> Build {
        self.graph().input.push(info(name, dtype, sizes));
        self
    }
    pub(crate) fn output(mut self, name: &str) -> Build {
        self.graph().output.push(ValueInfoProto { name: Some(name.into()), ..Default::default() });
        self
    }
    pub(crate) fn init(mut self, name: &str, tensor: TensorProto) -> Build {
        self.graph().initializer.push(TensorProto { name: Some(name.into()), ..tensor });
        self
    }
    /// `outputs = op(inputs)`, names blank-separated; `_` is an absent operand.
    pub(crate) fn node(mut self, outputs: &str, op: &str, inputs: &str, attributes: &[(&str, A)]) -> Build {
        self.graph().node.push(node(outputs, op, inputs, attributes));
        self
    }
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }
}

pub(crate) fn node(outputs: &str, op: &str, inputs: &str, attributes: &[(&str, A)]) -> NodeProto {
    let names = |text: &str| {
        text.split_whitespace()
            .map(|n| if n == "_" { String::new() } else { n.to_owned() })
            .collect::<Vec<_>>()
    };
    let (domain, op) = op.split_once(':').unwrap_or(("", op));
    NodeProto {
        name: Some(format!("{op}_{}", outputs.replace(' ', "_"))),
        op_type: Some(op.into()),
        domain: Some(domain.into()),
        input: names(inputs),
        output: names(outputs),
        attribute: attributes.iter().map(|(n, a)| a.proto(n)).collect(),
        ..Default::default()
    }
}

pub(crate) fn info(name: &str, dtype: DataType, sizes: &str) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = sizes
        .split_whitespace()
        .map(|s| Dimension {
            value: match s.parse() {
                Ok(v) => Some(Value::DimValue(v)),
                Err(_) if s == "?" => None,
                Err(_) => Some(Value::DimParam(s.into())),
            },
            denotation: None,
        })
        .collect();
    let tensor = type_proto::Tensor { elem_type: Some(dtype as i32), shape: Some(TensorShapeProto { dim }) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None };
    ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..Default::default() }
}

/// An attribute.
#[derive(Clone)]
pub(crate) enum A {
    I(i64),
    F(f32),
    S(&'static str),
    Is(Vec<i64>),
    Fs(Vec<f32>),
    T(TensorProto),
    G(GraphProto),
    /// A reference to the function's attribute, of the kind.
    Ref(&'static str, Kind),
}

impl A {
    pub(crate) fn proto(&self, name: &str) -> AttributeProto {
        let mut a = AttributeProto { name: Some(name.into()), ..Default::default() };
        let kind = match self.clone() {
            A::I(v) => {
                a.i = Some(v);
                Kind::Int
            }
            A::F(v) => {
                a.f = Some(v);
                Kind::Float
            }
            A::S(v) => {
                a.s = Some(v.as_bytes().into());
                Kind::String
            }
            A::Is(v) => {
                a.ints = v;
                Kind::Ints
            }
            A::Fs(v) => {
                a.floats = v;
                Kind::Floats
            }
            A::T(v) => {
                a.t = Some(v);
                Kind::Tensor
            }
            A::G(v) => {
                a.g = Some(v);
                Kind::Graph
            }
            A::Ref(to, kind) => {
                a.ref_attr_name = Some(to.into());
                kind
            }
        };
        a.r#type = Some(kind as i32);
        a
    }
}

pub(crate) fn f32s(dims: &[i64], values: &[f32]) -> TensorProto {
    raw(DataType::Float, dims, bytemuck::cast_slice(values))
}

pub(crate) fn i64s(dims: &[i64], values: &[i64]) -> TensorProto {
    raw(DataType::Int64, dims, bytemuck::cast_slice(values))
}

pub(crate) fn raw(dtype: DataType, dims: &[i64], bytes: &[u8]) -> TensorProto {
    TensorProto {
        dims: dims.to_vec(),
        data_type: Some(dtype as i32),
        raw_data: Some(bytes.to_vec().into()),
        ..Default::default()
    }
}

pub(crate) fn external(dtype: DataType, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    TensorProto {
        dims: dims.to_vec(),
        data_type: Some(dtype as i32),
        data_location: Some(tensor_proto::DataLocation::External as i32),
        external_data: entries
            .iter()
            .map(|(k, v)| StringStringEntryProto { key: Some((*k).into()), value: Some((*v).into()) })
            .collect(),
        ..Default::default()
    }
}

pub(crate) fn function(
    domain: &str,
    name: &str,
    inputs: &str,
    outputs: &str,
    nodes: Vec<NodeProto>,
) -> FunctionProto {
    let names = |t: &str| t.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    FunctionProto {
        name: Some(name.into()),
        domain: Some(domain.into()),
        input: names(inputs),
        output: names(outputs),
        node: nodes,
        opset_import: vec![opset_id("", 17)],
        ..Default::default()
    }
}
