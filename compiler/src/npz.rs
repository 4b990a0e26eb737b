//! `.npz` archives as tensors by name: what `run` takes and gives. The only formats read are the element types we have.

use crate::ir::Tensor;
use bakelite_host::DType;
use npyz::npz::NpzArchive;
use npyz::{DType as NpyDType, NpyFile, TypeChar};
use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};

/// Every array of an archive by name; the error names the array.
pub fn read(archive: impl Read + Seek) -> Result<BTreeMap<String, Tensor>, String> {
    let mut npz = NpzArchive::new(archive).map_err(|e| format!("not an .npz archive: {e}"))?;
    let names: Vec<String> = npz.array_names().map(str::to_owned).collect();
    let mut arrays = BTreeMap::new();
    for name in names {
        let fail = |what: String| format!("array \"{name}\": {what}");
        let array = npz.by_name(&name).map_err(|e| fail(e.to_string()))?;
        let array = array.ok_or_else(|| fail("is listed but missing".into()))?;
        arrays.insert(name.clone(), tensor(array).map_err(fail)?);
    }
    Ok(arrays)
}

fn tensor<R: Read>(npy: NpyFile<R>) -> Result<Tensor, String> {
    let NpyDType::Plain(ty) = npy.dtype() else { return Err("has a structured element type".into()) };
    let dtype = match (ty.type_char(), ty.size_field()) {
        (TypeChar::Float, 2) => DType::F16,
        (TypeChar::Float, 4) => DType::F32,
        (TypeChar::Float, 8) => DType::F64,
        (TypeChar::Int, 1) => DType::I8,
        (TypeChar::Int, 2) => DType::I16,
        (TypeChar::Int, 4) => DType::I32,
        (TypeChar::Int, 8) => DType::I64,
        (TypeChar::Uint, 1) => DType::U8,
        (TypeChar::Uint, 2) => DType::U16,
        (TypeChar::Uint, 4) => DType::U32,
        (TypeChar::Uint, 8) => DType::U64,
        (TypeChar::Bool, _) => DType::Bool,
        _ => return Err(format!("has the element type {ty}, which no model takes")),
    };
    if npy.order() != npyz::Order::C && npy.shape().len() > 1 {
        return Err("is in Fortran order; save it with numpy.ascontiguousarray".into());
    }
    let shape: Vec<usize> = npy.shape().iter().map(|d| *d as usize).collect();
    let ty = ty.to_string();
    if ty.starts_with('>') {
        return Err(format!("is big-endian ({ty}); save it with .astype('<...')"));
    }
    let expected =
        shape.iter().try_fold(dtype.size(), |n, d| n.checked_mul(*d)).ok_or("has an impossible shape")?;
    let mut bytes = Vec::new();
    npy.into_inner().take(expected as u64).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    Tensor::new(dtype, shape, bytes.into())
}

/// Writes an archive, arrays in the order of their names.
pub fn write(to: impl Write + Seek, arrays: &BTreeMap<String, Tensor>) -> Result<(), String> {
    let mut zip = npyz::zip::ZipWriter::new(to);
    let options =
        npyz::zip::write::FileOptions::default().compression_method(npyz::zip::CompressionMethod::Stored);
    for (name, tensor) in arrays {
        zip.start_file(format!("{name}.npy"), options).map_err(|e| e.to_string())?;
        zip.write_all(&header(tensor))
            .and_then(|()| zip.write_all(&tensor.bytes))
            .map_err(|e| e.to_string())?;
    }
    zip.finish().map(|_| ()).map_err(|e| e.to_string())
}

// The `.npy` header (format 1.0): magic, version, length, a Python dictionary padded to 64 bytes. bf16, which numpy lacks, is
// written as its bits in u16.
fn header(tensor: &Tensor) -> Vec<u8> {
    let descr = match tensor.dtype {
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::I8 => "|i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U8 => "|u1",
        DType::U16 | DType::BF16 => "<u2",
        DType::U32 => "<u4",
        DType::U64 => "<u8",
        DType::Bool => "|b1",
    };
    let sizes: String = tensor.shape.iter().map(|d| format!("{d}, ")).collect();
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    while !(text.len() + 11).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_round_trip() {
        let arrays = BTreeMap::from([
            ("x".to_owned(), Tensor::of(DType::F32, vec![2, 2], &[1f32, 2.0, 3.0, 4.0]).unwrap()),
            ("flag".to_owned(), Tensor::scalar(DType::Bool, 1.0)),
            ("ids".to_owned(), Tensor::of(DType::I64, vec![3], &[1i64, -2, 3]).unwrap()),
        ]);
        let mut file = std::io::Cursor::new(Vec::new());
        write(&mut file, &arrays).unwrap();
        assert_eq!(read(std::io::Cursor::new(file.into_inner())).unwrap(), arrays);
        assert!(read(std::io::Cursor::new(b"nonsense".to_vec())).is_err());
    }
}
