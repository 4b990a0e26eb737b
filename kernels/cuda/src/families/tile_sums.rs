//! What tactics need to know of cuda/tile_sums.cuh. It is no family itself.

use crate::codegen;
use crate::dim::Dim;
use bakelite_host::DType;
use bakelite_host::problem::{Epilogue, SPAN};

/// The source.
pub(super) const TILE_SUMS: &str = include_str!("../../cuda/tile_sums.cuh");

/// Bytes of shared memory for the sums of a tile of which each of `blocks` blocks of a cluster has `planes` parts: its own,
/// which may lie over something else (`BlockSums`), and those that it gets (`ClusterSums::BYTES`).
pub(super) const fn sum_bytes(rows: u32, columns: u32, blocks: u32, planes: u32) -> (u32, u32) {
    let row = planes * (columns + 8) * 4;
    (rows * row, (blocks - 1) * rows.div_ceil(blocks) * row)
}

/// Elements of a row of `columns` that a thread finishes at a time: whole 16-byte groups where the columns allow.
pub(super) fn finish_width(columns: usize) -> u32 {
    [8, 4, 2, 1].into_iter().find(|w| columns.is_multiple_of(*w as usize)).unwrap_or(1)
}

/// Registers of a thread for where `width` elements go, and for what the epilogue reads for them.
pub(super) fn finish_registers(epilogue: &Epilogue<Dim>, width: u32) -> u32 {
    let sizes = operands(epilogue).map(|read| read.dtype.size() as u32);
    1 + width * sizes.sum::<u32>() / 4 + row_registers(epilogue)
}

/// Registers of a thread for what it has of the moments of a row.
pub(super) fn row_registers(epilogue: &Epilogue<Dim>) -> u32 {
    epilogue.rows.map_or(0, |rows| 1 + 2 * (rows.len / SPAN).div_ceil(4) as u32)
}

/// What an epilogue reads for each element.
pub(super) struct Read {
    /// Its place among the epilogue's operands.
    pub(super) operand: usize,
    pub(super) dtype: DType,
    /// Whether all rows read the same in a column.
    pub(super) by_column: bool,
}

/// All of them, but for what is known of rows.
pub(super) fn operands(epilogue: &Epilogue<Dim>) -> impl Iterator<Item = Read> {
    let all = epilogue.operands.iter().zip(epilogue.program.inputs.iter().skip(1)).enumerate();
    let all = all.map(|(operand, (access, dtype))| Read {
        operand,
        dtype: *dtype,
        by_column: codegen::goes_by_column(access),
    });
    all.skip(if epilogue.rows.is_some() { 2 } else { 0 })
}
