//! A decoded model: what the protobuf says, checked for form, with functions inlined and tensors resolved.
//! Knows operators only as names; what they mean is the importer's affair.

use super::attributes::{Attribute, Attributes};
use super::proto::{self, ModelProto, NodeProto, ValueInfoProto};
use super::tensor::Tensors;
use super::{function, tensor};
use crate::error::{Error, Result, Stage};
use crate::ir::Tensor;
use bakelite_host::DType;
use bytes::Bytes;
use indexmap::IndexMap;
use prost::Message;
use std::collections::BTreeMap;

/// The operator sets of ai.onnx that are understood.
pub const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;
/// The newest file format that is understood.
pub const IR_VERSION: i64 = 14;
/// Domains whose operators the importer may know; everything else is refused when a node uses it.
pub const DOMAINS: [&str; 2] = ["", "com.microsoft"];

/// A model file that is not yet decoded.
pub struct Source {
    /// The whole file, usually mapped: weights stay slices of it.
    pub bytes: Bytes,
    /// What to call it in errors.
    pub name: String,
    /// Where weights outside the file come from.
    pub external: Box<dyn ExternalData>,
}

impl Source {
    /// A model of bytes in memory that has no external data.
    pub fn memory(bytes: impl Into<Bytes>, name: impl Into<String>) -> Source {
        Source { bytes: bytes.into(), name: name.into(), external: Box::new(NoExternalData) }
    }
}

/// Opens the files in which a model keeps its large tensors. An implementation decides what it trusts: the location
/// is whatever the model says.
pub trait ExternalData {
    /// The contents of the file at `location`, or a sentence that says why not.
    fn open(&self, location: &str) -> Result<Bytes, String>;
}

/// For models that must be complete in themselves.
pub struct NoExternalData;

impl ExternalData for NoExternalData {
    fn open(&self, location: &str) -> Result<Bytes, String> {
        Err(format!("external data \"{location}\" cannot be read: this model was given without a folder"))
    }
}

/// A decoded model.
#[derive(Clone, Debug)]
pub struct Model {
    /// The file's name, for people.
    pub name: String,
    /// Version of the file format.
    pub ir_version: i64,
    /// Version of ai.onnx in the main graph; functions may have brought their own, see [`Node::opset`].
    pub opset: i64,
    /// Who wrote the file, with version, if it says.
    pub producer: String,
    /// The main graph.
    pub graph: Scope,
}

/// A graph, or the body of a control-flow operator.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The graph's name.
    pub name: String,
    /// Inputs in order; those that an initializer also defines are left out, since nothing overrides the initializer here.
    pub inputs: Vec<(String, ValueType)>,
    /// Outputs in order.
    pub outputs: Vec<(String, ValueType)>,
    /// Constants by name.
    pub initializers: IndexMap<String, Tensor>,
    /// Nodes in the file's order, which ONNX requires to be topological.
    pub nodes: Vec<Node>,
}

/// What a file says of an input or output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValueType {
    /// Element type, or what stands in its place.
    pub dtype: Option<Result<DType, String>>,
    /// Sizes, if the rank is known.
    pub shape: Option<Vec<Size>>,
}

/// One size of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Size {
    /// A number.
    Const(i64),
    /// A name: equal names are equal sizes.
    Named(String),
    /// Not stated.
    Unknown,
}

/// One operator.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name, made unique for nodes out of functions; may be empty.
    pub name: String,
    /// Operator.
    pub op: String,
    /// Domain of the operator; empty for ai.onnx.
    pub domain: String,
    /// Version of ai.onnx that defines it.
    pub opset: i64,
    /// Operands by name; an empty name is an absent optional operand.
    pub inputs: Vec<String>,
    /// Results by name; an empty name is a result nobody wants.
    pub outputs: Vec<String>,
    /// Attributes.
    pub attributes: Attributes,
}

impl Node {
    /// How errors and plans call it: `node "conv1" (Conv)`.
    pub fn place(&self) -> String {
        place(&self.name, &self.op, &self.outputs)
    }
}

/// How a node is called where it may have no name.
pub(super) fn place(name: &str, op: &str, outputs: &[String]) -> String {
    match (name, outputs.iter().find(|o| !o.is_empty())) {
        ("", Some(output)) => format!("the node that makes \"{output}\" ({op})"),
        _ => format!("node \"{name}\" ({op})"),
    }
}

pub(super) fn error(at: impl Into<String>, what: impl Into<String>) -> Error {
    Error::new(Stage::Decode, at, what)
}

/// Reads a model: decodes the protobuf without copying weights, checks versions and domains, inlines the model's own
/// functions, and resolves every tensor, those in other files too.
pub fn decode(source: Source) -> Result<Model> {
    let Source { bytes, name, external } = source;
    let file = format!("\"{name}\"");
    let size = bytes.len();
    let refuse = |what: String| error(file.clone(), what);
    let mut model = ModelProto::decode(bytes).map_err(|e| {
        refuse(format!("not an ONNX model, or a damaged one ({size} bytes): {e}")).help(
            "check that the file was downloaded completely, and is not a Git LFS pointer or a PyTorch file",
        )
    })?;
    let missing = [
        ("ir_version", model.ir_version.is_none()),
        ("opset_import", model.opset_import.is_empty()),
        ("graph", model.graph.is_none()),
    ];
    let missing: Vec<&str> = missing.into_iter().filter(|(_, m)| *m).map(|(n, _)| n).collect();
    if !missing.is_empty() {
        return Err(refuse(format!("not an ONNX model: it has no {}", missing.join(" and no "))));
    }
    let ir_version = model.ir_version.unwrap_or(0);
    if !(1..=IR_VERSION).contains(&ir_version) {
        return Err(refuse(format!("its IR version is {ir_version}; supported are 1 to {IR_VERSION}")));
    }
    let opset = opset_of(&model.opset_import, None).map_err(refuse)?;
    let producer = [model.producer_name(), model.producer_version()].join(" ").trim().to_owned();
    let mut graph = model.graph.take().unwrap_or_default();
    let nodes = function::inline(&mut graph, std::mem::take(&mut model.functions), opset)?;
    refuse_domains(&file, &nodes)?;
    let mut tensors = Tensors::new(&*external);
    let graph = scope(graph, nodes, &mut tensors)?;
    Ok(Model { name, ir_version, opset, producer, graph })
}

/// The version of ai.onnx among `imports`, or `inherited` where there is none.
pub(super) fn opset_of(
    imports: &[proto::OperatorSetIdProto],
    inherited: Option<i64>,
) -> std::result::Result<i64, String> {
    let (first, last) = OPSETS.into_inner();
    let own = imports.iter().find(|o| matches!(o.domain(), "" | "ai.onnx")).map(|o| o.version());
    match own.or(inherited) {
        None => Err(format!("it imports no opset of ai.onnx; supported are {first} to {last}")),
        Some(v) if !(first..=last).contains(&v) => Err(format!(
            "it uses opset {v} of ai.onnx; supported are {first} to {last}{}",
            if v < first { ": convert it with onnx.version_converter" } else { "" }
        )),
        Some(v) => Ok(v),
    }
}

/// A node with the opset that defines it, and the nodes of its subgraphs likewise.
pub(super) struct Placed {
    pub(super) node: NodeProto,
    pub(super) opset: i64,
    /// For each graph among the attributes, in order.
    pub(super) bodies: Vec<Vec<Placed>>,
}

fn refuse_domains(file: &str, nodes: &[Placed]) -> Result<()> {
    fn visit(nodes: &[Placed], counts: &mut BTreeMap<String, BTreeMap<String, usize>>) {
        for placed in nodes {
            let domain = placed.node.domain();
            if !matches!(domain, "ai.onnx") && !DOMAINS.contains(&domain) {
                *counts
                    .entry(domain.to_owned())
                    .or_default()
                    .entry(placed.node.op_type().to_owned())
                    .or_default() += 1;
            }
            placed.bodies.iter().for_each(|b| visit(b, counts));
        }
    }
    let mut counts = BTreeMap::new();
    visit(nodes, &mut counts);
    if counts.is_empty() {
        return Ok(());
    }
    let text: Vec<String> = counts
        .iter()
        .map(|(domain, ops)| {
            let ops: Vec<String> = ops.iter().map(|(op, n)| format!("{op} ×{n}")).collect();
            format!("{domain} ({})", ops.join(", "))
        })
        .collect();
    Err(error(file, format!("it uses operators of unknown domains: {}", text.join("; "))))
}

fn scope(graph: proto::GraphProto, nodes: Vec<Placed>, tensors: &mut Tensors<'_>) -> Result<Scope> {
    let mut scope = Scope { name: graph.name().to_owned(), ..Scope::default() };
    if !graph.sparse_initializer.is_empty() {
        let names: Vec<&str> = graph
            .sparse_initializer
            .iter()
            .take(8)
            .map(|s| s.values.as_ref().map_or("", |v| v.name()))
            .collect();
        return Err(error(
            format!("initializer \"{}\"", names.join("\", \"")),
            "sparse initializers are not supported",
        ));
    }
    for proto in graph.initializer {
        let name = proto.name().to_owned();
        if name.is_empty() {
            return Err(error("an initializer", "it has no name"));
        }
        let tensor = tensors.resolve(&proto, &format!("initializer \"{name}\""))?;
        if scope.initializers.insert(name.clone(), tensor).is_some() {
            return Err(error(format!("initializer \"{name}\""), "two initializers have this name"));
        }
    }
    for info in graph.input {
        // Before IR 4 every initializer had to be listed as an input; later it may be, as a default to override.
        if !scope.initializers.contains_key(info.name()) {
            scope.inputs.push((info.name().to_owned(), value_type(&info)));
        }
    }
    scope.outputs = graph.output.iter().map(|info| (info.name().to_owned(), value_type(info))).collect();
    for placed in nodes {
        scope.nodes.push(node(placed, tensors)?);
    }
    Ok(scope)
}

fn node(placed: Placed, tensors: &mut Tensors<'_>) -> Result<Node> {
    let Placed { node: proto, opset, bodies } = placed;
    let (name, op) = (proto.name().to_owned(), proto.op_type().to_owned());
    let domain = if proto.domain() == "ai.onnx" { String::new() } else { proto.domain().to_owned() };
    let at = place(&name, &op, &proto.output);
    let mut attributes = Attributes::default();
    let mut bodies = bodies.into_iter();
    for a in proto.attribute {
        let key = a.name().to_owned();
        let value = attribute(a, &at, &mut bodies, tensors)?;
        if attributes.0.insert(key.clone(), value).is_some() {
            return Err(error(at, format!("the attribute `{key}` is given twice")));
        }
    }
    Ok(Node { name, op, domain, opset, inputs: proto.input, outputs: proto.output, attributes })
}

fn attribute(
    a: proto::AttributeProto,
    at: &str,
    bodies: &mut dyn Iterator<Item = Vec<Placed>>,
    tensors: &mut Tensors<'_>,
) -> Result<Attribute> {
    use proto::attribute_proto::AttributeType as T;
    let key = a.name().to_owned();
    let text = |bytes: &[u8]| {
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|e| error(at, format!("attribute `{key}` is not UTF-8: {e}")))
    };
    // Files of IR 1 may lack the type; the field that is set tells.
    let kind = match T::try_from(a.r#type.unwrap_or(0)) {
        Ok(T::Undefined) if a.f.is_some() => T::Float,
        Ok(T::Undefined) if a.i.is_some() => T::Int,
        Ok(T::Undefined) if a.s.is_some() => T::String,
        Ok(T::Undefined) if a.t.is_some() => T::Tensor,
        Ok(T::Undefined) if !a.floats.is_empty() => T::Floats,
        Ok(T::Undefined) if !a.ints.is_empty() => T::Ints,
        Ok(T::Undefined) if !a.strings.is_empty() => T::Strings,
        Ok(kind) => kind,
        Err(_) => {
            return Err(error(
                at,
                format!("attribute `{key}` has the unknown type {}", a.r#type.unwrap_or(0)),
            ));
        }
    };
    Ok(match kind {
        T::Float => Attribute::Float(a.f.unwrap_or(0.0)),
        T::Int => Attribute::Int(a.i.unwrap_or(0)),
        T::String => Attribute::Text(text(&a.s.unwrap_or_default())?),
        T::Floats => Attribute::Floats(a.floats),
        T::Ints => Attribute::Ints(a.ints),
        T::Strings => Attribute::Texts(a.strings.iter().map(|s| text(s)).collect::<Result<_>>()?),
        T::Tensor => {
            let t = a.t.unwrap_or_default();
            Attribute::Tensor(tensors.resolve(&t, &format!("{at}, attribute `{key}`"))?)
        }
        T::Graph => {
            let Some(graph) = a.g else { return Err(error(at, format!("attribute `{key}` has no graph"))) };
            Attribute::Graph(Box::new(scope(graph, bodies.next().unwrap_or_default(), tensors)?))
        }
        other => Attribute::Other(other.as_str_name()),
    })
}

fn value_type(info: &ValueInfoProto) -> ValueType {
    use proto::tensor_shape_proto::dimension::Value as Dimension;
    use proto::type_proto::Value;
    let mut ty = ValueType::default();
    match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        None => {}
        Some(Value::TensorType(t)) => {
            ty.dtype = t.elem_type.filter(|e| *e != 0).map(tensor::dtype);
            ty.shape = t.shape.as_ref().map(|s| {
                let size = |d: &proto::tensor_shape_proto::Dimension| match &d.value {
                    Some(Dimension::DimValue(v)) if *v >= 0 => Size::Const(*v),
                    Some(Dimension::DimParam(p)) if !p.is_empty() => Size::Named(p.clone()),
                    _ => Size::Unknown,
                };
                s.dim.iter().map(size).collect()
            });
        }
        Some(other) => {
            let kind = match other {
                Value::SequenceType(_) => "a sequence",
                Value::MapType(_) => "a map",
                Value::OptionalType(_) => "an optional",
                Value::SparseTensorType(_) => "a sparse tensor",
                _ => "no tensor",
            };
            ty.dtype = Some(Err(format!("it is {kind}; supported are tensors")));
        }
    }
    ty
}
