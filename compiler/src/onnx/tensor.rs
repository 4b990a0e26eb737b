//! TensorProto to [`Tensor`]: raw bytes are shared, typed fields converted, external data looked up. The number of
//! elements is checked against what is there before anything is allocated.

use super::model::{ExternalData, error};
use super::proto::{TensorProto, tensor_proto};
use crate::error::Result;
use crate::ir::Tensor;
use bakelite_host::DType;
use bytes::Bytes;
use std::collections::BTreeMap;

/// The element type of a number in the schema's list, or the sentence that says which one it is and that it is not supported.
pub(super) fn dtype(number: i32) -> Result<DType, String> {
    use tensor_proto::DataType as T;
    let kind =
        T::try_from(number).map_err(|_| format!("its element type has the unknown number {number}"))?;
    Ok(match kind {
        T::Float => DType::F32,
        T::Float16 => DType::F16,
        T::Bfloat16 => DType::BF16,
        T::Double => DType::F64,
        T::Int8 => DType::I8,
        T::Int16 => DType::I16,
        T::Int32 => DType::I32,
        T::Int64 => DType::I64,
        T::Uint8 => DType::U8,
        T::Uint16 => DType::U16,
        T::Uint32 => DType::U32,
        T::Uint64 => DType::U64,
        T::Bool => DType::Bool,
        T::Undefined => return Err("its element type is missing".into()),
        other => {
            let all: Vec<&str> = DType::ALL.iter().map(|d| d.name()).collect();
            return Err(format!(
                "its element type {} is not supported; supported are {}",
                other.as_str_name().to_lowercase(),
                all.join(", ")
            ));
        }
    })
}

/// Turns tensors of the file into tensors, and remembers the external files it has opened.
pub(super) struct Tensors<'a> {
    external: &'a dyn ExternalData,
    open: BTreeMap<String, Bytes>,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(external: &'a dyn ExternalData) -> Tensors<'a> {
        Tensors { external, open: BTreeMap::new() }
    }

    /// The tensor; `at` says in errors where it stands.
    pub(super) fn resolve(&mut self, proto: &TensorProto, at: &str) -> Result<Tensor> {
        self.tensor(proto).map_err(|what| error(at, what))
    }

    fn tensor(&mut self, proto: &TensorProto) -> Result<Tensor, String> {
        let dtype = dtype(proto.data_type())?;
        if proto.segment.is_some() {
            return Err("it is stored in segments, which are not supported".into());
        }
        let mut shape = Vec::with_capacity(proto.dims.len());
        let mut count = 1usize;
        for d in &proto.dims {
            let size =
                usize::try_from(*d).map_err(|_| format!("its shape {:?} has the size {d}", proto.dims))?;
            count = count
                .checked_mul(size)
                .filter(|c| c.checked_mul(dtype.size()).is_some_and(|b| isize::try_from(b).is_ok()))
                .ok_or_else(|| format!("its shape {:?} has more elements than can exist", proto.dims))?;
            shape.push(size);
        }
        let need = count * dtype.size();
        let bytes = if proto.data_location() == tensor_proto::DataLocation::External {
            self.external(proto, need)?
        } else if let Some(raw) = &proto.raw_data {
            if raw.len() != need {
                return Err(format!("{dtype}{shape:?} needs {need} bytes, but raw_data has {}", raw.len()));
            }
            raw.clone()
        } else {
            typed(proto, dtype, count)?
        };
        Tensor::new(dtype, shape, if dtype == DType::Bool { clean_bools(bytes) } else { bytes })
    }

    fn external(&mut self, proto: &TensorProto, need: usize) -> Result<Bytes, String> {
        let entry = |key: &str| {
            let mut found = proto.external_data.iter().filter(|e| e.key() == key).map(|e| e.value());
            match (found.next(), found.next()) {
                (Some(_), Some(_)) => Err(format!("its external data give `{key}` twice")),
                (first, _) => Ok(first),
            }
        };
        let number = |key: &str| {
            let parse = |v: &str| {
                v.parse::<usize>()
                    .map_err(|_| format!("its external data have the {key} \"{v}\", which is no size"))
            };
            entry(key)?.map(parse).transpose()
        };
        let location = entry("location")?.ok_or("its data are external, but no location is given")?;
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(need);
        if length != need {
            return Err(format!("it needs {need} bytes, but its external data have the length {length}"));
        }
        let file = match self.open.get(location) {
            Some(file) => file.clone(),
            None => {
                let file = self.external.open(location)?;
                self.open.insert(location.to_owned(), file.clone());
                file
            }
        };
        match offset.checked_add(length) {
            Some(end) if end <= file.len() => Ok(file.slice(offset..end)),
            _ => Err(format!(
                "its external data are {length} bytes at {offset} of \"{location}\", which has {} bytes",
                file.len()
            )),
        }
    }
}

/// Any non-zero byte is true, and only 1 may reach a kernel.
fn clean_bools(bytes: Bytes) -> Bytes {
    if bytes.iter().all(|b| *b <= 1) { bytes } else { bytes.iter().map(|b| u8::from(*b != 0)).collect() }
}

fn typed(proto: &TensorProto, dtype: DType, count: usize) -> Result<Bytes, String> {
    let check = |have: usize, field: &str| {
        if have == count {
            Ok(())
        } else {
            Err(format!(
                "{dtype}{:?} needs {count} elements, but {field} has {have} and there is no raw_data",
                proto.dims
            ))
        }
    };
    macro_rules! narrow {
        ($field:ident as $t:ty) => {{
            check(proto.$field.len(), stringify!($field))?;
            let mut out = Vec::with_capacity(count * size_of::<$t>());
            for v in &proto.$field {
                let v = <$t>::try_from(*v)
                    .map_err(|_| format!("the value {v} in {} does not fit {dtype}", stringify!($field)))?;
                out.extend_from_slice(&v.to_le_bytes());
            }
            out
        }};
    }
    let out: Vec<u8> = match dtype {
        DType::F32 => {
            check(proto.float_data.len(), "float_data")?;
            proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        DType::F64 => {
            check(proto.double_data.len(), "double_data")?;
            proto.double_data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        // Halves are stored as their bits.
        DType::F16 | DType::BF16 | DType::U16 => narrow!(int32_data as u16),
        DType::I16 => narrow!(int32_data as i16),
        DType::I8 => narrow!(int32_data as i8),
        DType::U8 | DType::Bool => narrow!(int32_data as u8),
        DType::I32 => narrow!(int32_data as i32),
        DType::I64 => narrow!(int64_data as i64),
        DType::U32 => narrow!(uint64_data as u32),
        DType::U64 => narrow!(uint64_data as u64),
    };
    Ok(out.into())
}
