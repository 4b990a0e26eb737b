//! Windows of a first convolution's results, of which `conv.stem` stores maxima.

use super::conv_geometry::Geometry;
use crate::codegen;
use crate::dim::Dim;
use bakelite_host::DType;
use bakelite_host::problem::{Conv, Epilogue};

/// A pool over results, in two dimensions.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    pub(super) output: [Dim; 2],
    pub(super) kernel: [u32; 2],
    pub(super) strides: [u32; 2],
    pub(super) pads: [u32; 2],
}

impl Windows {
    /// Of a convolution, if its results are pooled.
    pub(super) fn of(conv: &Conv<Dim>) -> Result<Option<Windows>, String> {
        let Some(pooled) = &conv.pooled else { return Ok(None) };
        let lists = [&pooled.kernel, &pooled.strides, &pooled.pads];
        let rank = pooled.output.len();
        if !(1..=2).contains(&rank) || lists.iter().any(|l| l.len() != rank) {
            return Err(format!("windows of results in {rank} dimensions; expected one or two"));
        }
        let numbers = |of: &[usize], missing: u32| -> Result<[u32; 2], String> {
            let known = of.iter().map(|n| u32::try_from(*n).ok().filter(|n| *n <= 64));
            let known = known.collect::<Option<Vec<u32>>>().ok_or_else(|| format!("windows of {of:?}"))?;
            Ok(std::array::from_fn(|d| (d + known.len()).checked_sub(2).map_or(missing, |d| known[d])))
        };
        let output = |d: usize| (d + rank).checked_sub(2).map_or(Dim::from(1), |d| pooled.output[d].clone());
        let windows = Windows {
            output: [0, 1].map(output),
            kernel: numbers(&pooled.kernel, 1)?,
            strides: numbers(&pooled.strides, 1)?,
            pads: numbers(&pooled.pads, 0)?,
        };
        let each = |d: usize| (windows.kernel[d], windows.strides[d], windows.pads[d]);
        if [0, 1].map(each).iter().any(|(k, s, p)| *s == 0 || k < s || p >= k) {
            return Err(format!("windows {windows:?} that leave results out, or lie in padding"));
        }
        let e = &conv.epilogue;
        let whole = e.out().is_half() && conv.filters.is_multiple_of(8);
        if !whole || e.moments || e.rows.is_some() {
            return Err("it pools halves of whole eights of filters, and knows no moments of them".to_owned());
        }
        Ok(Some(windows))
    }

    /// Maxima in a row of a patch `wide` columns wide, and the columns between two patches.
    pub(super) fn across(&self, wide: u32) -> (u32, u32) {
        let windows = wide.checked_sub(self.kernel[1]).map_or(0, |rest| rest / self.strides[1] + 1);
        (windows, windows * self.strides[1])
    }

    /// Sizes and strides, the type of results, and whether maxima are placed.
    pub(super) fn constants(&self, epilogue: &Epilogue<Dim>) -> String {
        let sizes: String = ["H", "W"]
            .iter()
            .zip(&self.output)
            .map(|(d, size)| codegen::size(&format!("POOL_O{d}"), size))
            .collect();
        let numbers: Vec<(String, u32)> = ["H", "W"]
            .iter()
            .enumerate()
            .flat_map(|(d, axis)| {
                let of = [("K", self.kernel[d]), ("S", self.strides[d]), ("P", self.pads[d])];
                of.map(|(name, value)| (format!("POOL_{name}{axis}"), value))
            })
            .chain([("BRAIN".to_owned(), u32::from(epilogue.out() == DType::BF16))])
            .collect();
        let numbers: Vec<(&str, u32)> = numbers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let placed = u32::from(epilogue.place.is_some());
        format!("#define POOLED 1\n#define PLACED {placed}\n{sizes}{}", codegen::constants(&numbers))
    }

    /// What becomes of sums, and where maxima go.
    pub(super) fn epilogues(&self, epilogue: &Epilogue<Dim>, geometry: &Geometry) -> String {
        let carried = Epilogue { place: None, ..epilogue.clone() };
        let text = codegen::epilogue_returned(&carried, &geometry.out_shape());
        if epilogue.place.is_none() {
            return text;
        }
        let [height, width] = self.output.clone();
        let one = Dim::from(1);
        let shape = Geometry { output: [one, height, width], ..geometry.clone() }.out_shape();
        let stored = Epilogue { place: epilogue.place.clone(), ..Epilogue::store(epilogue.out()) };
        text + &codegen::between(&stored, &shape)
    }
}
