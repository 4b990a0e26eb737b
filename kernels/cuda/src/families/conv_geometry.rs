//! A convolution's numbers in three spatial dimensions (missing ones in front, of size 1), and the constants that the
//! `conv*.cuh` sources are written in. Knows no tactic.

use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use bakelite_host::problem::{Access, Conv, ConvTranspose, Epilogue, Gemm, Layout, Math};
use bakelite_host::{DType, Problem};
use std::fmt::Write;

/// Of a convolution or a transposed one.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    pub(super) n: Dim,
    pub(super) channels: usize,
    pub(super) filters: usize,
    pub(super) groups: usize,
    pub(super) input: [Dim; 3],
    pub(super) output: [Dim; 3],
    pub(super) kernel: [usize; 3],
    pub(super) strides: [usize; 3],
    pub(super) dilations: [usize; 3],
    pub(super) pads: [usize; 3],
    pub(super) last: bool,
    pub(super) dtype: DType,
    /// Dimensions the problem has.
    pub(super) rank: usize,
}

/// Why most families refuse a convolution whose pixels are not a dense tensor of its type.
const ELSEWHERE: &str = "its pixels lie otherwise than its layout says";

/// Why all families but one refuse a convolution whose pixels another one makes.
pub(super) const MADE: &str = "its pixels are made by another convolution";

/// Why all families but one refuse a convolution of whose results maxima are wanted.
pub(super) const POOLED: &str = "its results are pooled";

/// A problem that is an implicit matrix product over pixels: rows are output pixels, columns filters.
pub(super) struct Implicit<'a> {
    pub(super) geometry: Geometry,
    pub(super) math: Math,
    pub(super) epilogue: &'a Epilogue<Dim>,
    /// How far the weights' elements lie apart: filters, channels and taps.
    pub(super) weights: [usize; 3],
    /// Whether the third operand has a factor for every channel of every image.
    pub(super) scaled: bool,
    /// What is added, by operands of its own.
    pub(super) added: Option<Geometry>,
}

impl Implicit<'_> {
    /// Of a convolution, or of a matrix product whose right operand has strides known now.
    pub(super) fn of(problem: &Problem<Dim>) -> Result<Implicit<'_>, String> {
        match problem {
            Problem::Conv(conv) if conv.x.is_some() => Err(ELSEWHERE.to_owned()),
            Problem::Conv(conv) if conv.expand.is_some() => Err(MADE.to_owned()),
            Problem::Conv(conv) if conv.pooled.is_some() => Err(POOLED.to_owned()),
            Problem::Conv(conv) => {
                let geometry = Geometry::of_any_conv(conv)?;
                let weights = [geometry.cg() * geometry.taps(), geometry.taps(), 1];
                Ok(Implicit {
                    geometry,
                    math: conv.math,
                    epilogue: &conv.epilogue,
                    weights,
                    scaled: conv.scaled,
                    added: Geometry::of_added(conv)?,
                })
            }
            Problem::Gemm(g) => {
                let geometry = Geometry::of_gemm(g)?;
                if geometry.channels % 8 != 0 {
                    return Err(format!("rows of {} elements; expected a multiple of 8", geometry.channels));
                }
                let stride = |d: &Dim| d.as_const().and_then(|s| usize::try_from(s).ok());
                let (Some(row), Some(column)) = (stride(&g.b[1]), stride(&g.b[2])) else {
                    return Err(format!("strides {} and {} of the right operand", g.b[1], g.b[2]));
                };
                Ok(Implicit {
                    geometry,
                    math: g.math,
                    epilogue: &g.epilogue,
                    weights: [column, row, 0],
                    scaled: false,
                    added: None,
                })
            }
            other => Err(format!("{} is no product over pixels", other.name())),
        }
    }
}

macro_rules! of {
    ($name:ident, $problem:ident) => {
        pub(super) fn $name(p: &$problem<Dim>) -> Result<Geometry, String> {
            let rank = p.kernel.len();
            let lens = [p.input.len(), p.output.len(), p.strides.len(), p.dilations.len(), p.pads.len()];
            if !(1..=3).contains(&rank) || lens.iter().any(|l| *l != rank) {
                return Err(format!("{rank} spatial dimensions (lists of {lens:?}); expected 1 to 3"));
            }
            if p.groups == 0 || p.channels % p.groups != 0 || p.filters % p.groups != 0 || p.filters == 0 {
                return Err(format!("{} channels, {} filters in {} groups", p.channels, p.filters, p.groups));
            }
            if p.kernel.contains(&0) || p.strides.contains(&0) || p.dilations.contains(&0) || p.channels == 0
            {
                return Err("a kernel size, stride, dilation or channel count of 0".to_owned());
            }
            Ok(Geometry {
                n: p.n.clone(),
                channels: p.channels,
                filters: p.filters,
                groups: p.groups,
                input: sizes(&p.input),
                output: sizes(&p.output),
                kernel: numbers(&p.kernel, 1),
                strides: numbers(&p.strides, 1),
                dilations: numbers(&p.dilations, 1),
                pads: numbers(&p.pads, 0),
                last: p.layout == Layout::ChannelsLast,
                dtype: p.dtype,
                rank,
            })
        }
    };
}

fn sizes(of: &[Dim]) -> [Dim; 3] {
    sizes_or(of, 1)
}

fn sizes_or(of: &[Dim], missing: i64) -> [Dim; 3] {
    std::array::from_fn(|d| (d + of.len()).checked_sub(3).map_or(Dim::from(missing), |d| of[d].clone()))
}

/// Where a convolution's pixels lie: element `offset + n · image + Σ p[d] · spatial[d] + c · channel`.
#[derive(Clone, Debug)]
pub(super) struct Pixels {
    pub(super) dtype: DType,
    /// One more than the last element that is read.
    pub(super) extent: Dim,
    pub(super) offset: Dim,
    pub(super) image: Dim,
    pub(super) spatial: [Dim; 3],
    pub(super) channel: Dim,
}

impl Pixels {
    /// `pixel_t`, and the offset and strides as sizes.
    pub(super) fn constants(&self) -> String {
        let [d, h, w] = &self.spatial;
        let named = [
            ("OFFSET", &self.offset),
            ("XN", &self.image),
            ("XD", d),
            ("XH", h),
            ("XW", w),
            ("XC", &self.channel),
        ];
        let sizes: String = named.iter().map(|(name, size)| codegen::size(name, size)).collect();
        format!("typedef {} pixel_t;\n{sizes}", codegen::ctype(self.dtype))
    }
}

fn numbers(of: &[usize], missing: usize) -> [usize; 3] {
    std::array::from_fn(|d| (d + of.len()).checked_sub(3).map_or(missing, |d| of[d]))
}

impl Geometry {
    of!(of_any_conv, Conv);
    of!(of_transpose, ConvTranspose);

    /// Of a convolution with one filter to each channel, in at most two dimensions, whose pixels are read as they are;
    /// whatever follows it.
    pub(super) fn of_depthwise(problem: &Problem<Dim>) -> Result<(&Conv<Dim>, Geometry), String> {
        let conv = match problem {
            Problem::Conv(conv) => conv,
            Problem::Squeeze(p) => &p.conv,
            other => return Err(format!("{} is no depthwise convolution", other.name())),
        };
        let geometry = Geometry::of_conv(conv)?;
        if !conv.is_depthwise() || geometry.rank > 2 {
            return Err("expected one filter to a channel, and at most two dimensions".to_owned());
        }
        Ok((conv, geometry))
    }

    /// Of a convolution that reads its pixels as they are, dense: for families that cannot scale them.
    pub(super) fn of_conv(p: &Conv<Dim>) -> Result<Geometry, String> {
        if p.scaled {
            return Err("it scales its channels".to_owned());
        }
        if p.x.is_some() {
            return Err(ELSEWHERE.to_owned());
        }
        if p.added.is_some() {
            return Err("another convolution is added to it".to_owned());
        }
        if p.expand.is_some() {
            return Err(MADE.to_owned());
        }
        if p.pooled.is_some() {
            return Err(POOLED.to_owned());
        }
        Geometry::of_any_conv(p)
    }

    /// Of what is added to a convolution.
    pub(super) fn of_added(p: &Conv<Dim>) -> Result<Option<Geometry>, String> {
        p.addition().map(|more| Geometry::of_any_conv(&more)).transpose()
    }

    /// The sizes of what is added as constants, no channels where nothing is.
    pub(super) fn added_constants(added: Option<&Geometry>) -> String {
        let Some(added) = added else { return "#define ADDED_CHANNELS 0\n".to_owned() };
        let mut text = format!("#define ADDED_CHANNELS {}\n", added.channels);
        for (d, axis) in ["D", "H", "W"].into_iter().enumerate() {
            text.push_str(&codegen::size(&format!("ADDED_I{axis}"), &added.input[d]));
            let _ = writeln!(text, "constexpr int ADDED_S{axis} = {};", added.strides[d]);
        }
        text
    }

    /// A matrix product as a convolution by a window of one element: rows are pixels, `k` channels, columns filters. The
    /// left operand must lie as pixels do, dense rows of `k`.
    pub(super) fn of_gemm(g: &Gemm<Dim>) -> Result<Geometry, String> {
        let number = |d: &Dim, what: &str| {
            let n = d.as_const().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
            n.ok_or_else(|| format!("{d} {what}; expected a number"))
        };
        if !g.batch.is(1) || !g.a[2].is(1) || g.a[1] != g.k {
            let [z, row, column] = &g.a;
            return Err(format!("{} matrices of strides {z}, {row}, {column}; expected dense rows", g.batch));
        }
        let one = Dim::from(1);
        let line = [one.clone(), one, g.m.clone()];
        Ok(Geometry {
            n: 1.into(),
            channels: number(&g.k, "rows of the right operand")?,
            filters: number(&g.n, "columns")?,
            groups: 1,
            input: line.clone(),
            output: line,
            kernel: [1; 3],
            strides: [1; 3],
            dilations: [1; 3],
            pads: [0; 3],
            last: true,
            dtype: g.dtype,
            rank: 1,
        })
    }

    /// Channels of one group.
    pub(super) const fn cg(&self) -> usize {
        self.channels / self.groups
    }

    /// Filters of one group.
    pub(super) const fn ng(&self) -> usize {
        self.filters / self.groups
    }

    /// Positions of the window.
    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Output pixels of all images.
    pub(super) fn pixels(&self) -> Dim {
        &self.n * &product(&self.output)
    }

    /// Elements of `x`.
    pub(super) fn x_len(&self) -> Dim {
        &self.n * &product(&self.input) * Dim::from(self.channels)
    }

    /// Elements of the output.
    pub(super) fn out_len(&self) -> Dim {
        self.pixels() * Dim::from(self.filters)
    }

    /// The output's dimensions in the layout's order, as many as the problem has.
    pub(super) fn out_shape(&self) -> Vec<Dim> {
        self.arrange(&self.output, self.filters)
    }

    /// The dimensions of `x`, likewise.
    pub(super) fn x_shape(&self) -> Vec<Dim> {
        self.arrange(&self.input, self.channels)
    }

    fn arrange(&self, spatial: &[Dim; 3], channels: usize) -> Vec<Dim> {
        let spatial = spatial[3 - self.rank..].iter().cloned();
        let (n, c) = (self.n.clone(), Dim::from(channels));
        if self.last {
            [n].into_iter().chain(spatial).chain([c]).collect()
        } else {
            [n, c].into_iter().chain(spatial).collect()
        }
    }

    /// Where the pixels of `conv` lie.
    pub(super) fn pixels_of(&self, conv: &Conv<Dim>) -> Result<Pixels, String> {
        let shape = self.x_shape();
        let (dtype, access) = conv.x.clone().unwrap_or_else(|| {
            (conv.dtype, Access { offset: Dim::from(0), strides: codegen::dense(&shape) })
        });
        if dtype.class() != conv.dtype.class() {
            return Err(format!("it reads {dtype} as {}, of another class", conv.dtype));
        }
        let extent = codegen::extent(&access, &shape);
        let Access { offset, mut strides } = access;
        if strides.len() != shape.len() {
            return Err(format!("{} strides over {shape:?}", strides.len()));
        }
        let channel = strides.remove(if self.last { shape.len() - 1 } else { 1 });
        let image = strides.remove(0);
        Ok(Pixels { dtype, extent, offset, image, spatial: sizes_or(&strides, 0), channel })
    }

    /// Whether output pixel p needs input pixel p and no other.
    pub(super) fn is_pointwise(&self) -> bool {
        self.taps() == 1 && self.strides == [1; 3] && self.pads == [0; 3] && self.input == self.output
    }

    /// Whether flat indices need 64 bits.
    pub(super) fn is_wide(&self, symbols: &Symbols) -> bool {
        codegen::is_wide([&self.x_len(), &self.out_len()], symbols)
    }

    /// Multiplications and additions, with symbols at their optimum.
    pub(super) fn flops(&self, transposed: bool, symbols: &Symbols) -> f64 {
        let pixels = if transposed { &self.n * &product(&self.input) } else { self.pixels() };
        2.0 * pixels.opt(symbols) as f64 * (self.filters * self.cg() * self.taps()) as f64
    }

    /// Bytes of weights, of `x` and of an output of `out_size` bytes an element, with symbols at their optimum.
    pub(super) fn bytes(&self, out_size: usize, symbols: &Symbols) -> f64 {
        let size = self.dtype.size() as f64;
        let weights = (self.filters * self.cg() * self.taps()) as f64 * size;
        weights
            + self.x_len().opt(symbols) as f64 * size
            + self.out_len().opt(symbols) as f64 * out_size as f64
    }

    /// `element_t`, the sizes and the attributes as constants, and `SYMBOL_PARAMS` with `SYMBOL_NAMES`, what a function
    /// declared with the former is called with.
    pub(super) fn constants(&self, problem: &Problem<Dim>) -> String {
        let mut text = format!("typedef {} element_t;\n", codegen::ctype(self.dtype));
        let numbers = [
            ("CHANNELS", self.channels),
            ("FILTERS", self.filters),
            ("GROUPS", self.groups),
            ("CG", self.cg()),
            ("NG", self.ng()),
            ("LAST", usize::from(self.last)),
        ];
        for (name, value) in numbers {
            let _ = writeln!(text, "constexpr int {name} = {value};");
        }
        for (d, axis) in ["D", "H", "W"].into_iter().enumerate() {
            text.push_str(&codegen::size(&format!("I{axis}"), &self.input[d]));
            text.push_str(&codegen::size(&format!("O{axis}"), &self.output[d]));
            let _ = writeln!(
                text,
                "constexpr int K{axis} = {}, S{axis} = {}, D{axis} = {}, P{axis} = {};",
                self.kernel[d], self.strides[d], self.dilations[d], self.pads[d]
            );
        }
        // Images, and output pixels of all of them.
        text.push_str(&codegen::size("N", &self.n));
        text.push_str(&codegen::size("M", &self.pixels()));
        let params = codegen::symbol_params(problem);
        let names = params.replacen("SYMBOL_PARAMS", "SYMBOL_NAMES", 1).replace(", int ", ", ");
        text + &params + &names
    }

    /// One line that says what the convolution is.
    pub(super) fn title(&self, name: &str) -> String {
        let text = |sizes: &[String]| sizes.join("x");
        let of = |v: &[usize; 3]| text(&v[3 - self.rank..].iter().map(usize::to_string).collect::<Vec<_>>());
        let sizes = |v: &[Dim; 3]| text(&v[3 - self.rank..].iter().map(Dim::to_string).collect::<Vec<_>>());
        format!(
            "{name}: {} x [{}] of {} channels -> [{}] of {} filters, kernel {}, stride {}, dilation {}, pad {}, {} groups, {}",
            self.n,
            sizes(&self.input),
            self.channels,
            sizes(&self.output),
            self.filters,
            of(&self.kernel),
            of(&self.strides),
            of(&self.dilations),
            of(&self.pads),
            self.groups,
            self.dtype
        )
    }
}
