//! Convolutions by one element in front of depthwise ones that the tests compile and run, and layers of well-known models.

use super::rows;
use crate::dim::{Dim, product};
use bakelite_host::problem::{Access, Conv, Epilogue, Excite, Expand, Layout, Math, Squeeze};
use bakelite_host::{DType, Instr, Problem, Program, Pw, Scalar};

/// What becomes of sums, and of how many.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Store,
    /// Plus a bias, then between 0 and 6.
    Relu6,
    /// Plus a bias, then times the sigmoid.
    Silu,
    /// Plus a bias, then the sigmoid.
    Sigmoid,
    /// Plus a bias and a tensor like the result.
    Residual,
}

fn end(dtype: DType, shape: &[Dim], end: End) -> Epilogue<Dim> {
    if end == End::Store {
        return Epilogue::store(dtype);
    }
    let mut program = Program { inputs: vec![dtype.class().dtype(), dtype], ..Program::default() };
    if end == End::Residual {
        program.add_input(dtype);
    }
    let mut out = program.push(Instr::Apply(Pw::Add, vec![0, 1]));
    let bias = (1..=shape.len()).map(|d| Dim::from(i64::from(d == shape.len()))).collect();
    let mut operands = vec![Access { offset: Dim::from(0), strides: bias }];
    match end {
        End::Store => {}
        End::Relu6 => {
            let six = program.push(Instr::Const(Scalar::F32(6.0)));
            out = program.push(Instr::Apply(Pw::Relu, vec![out]));
            out = program.push(Instr::Apply(Pw::Min, vec![out, six]));
        }
        End::Silu | End::Sigmoid => {
            let gate = program.push(Instr::Apply(Pw::Sigmoid, vec![out]));
            out = if end == End::Silu { program.push(Instr::Apply(Pw::Mul, vec![out, gate])) } else { gate };
        }
        End::Residual => {
            out = program.push(Instr::Apply(Pw::Add, vec![out, 2]));
            operands.push(Access { offset: Dim::from(0), strides: crate::codegen::dense(shape) });
        }
    }
    program.outputs = vec![(out, dtype)];
    Epilogue::new(program, operands)
}

/// Of images of `sizes` pixels; kernel, stride, padding, channels that are read and that are made; what is between and at the end.
fn conv(
    dtype: DType,
    sizes: &str,
    [kernel, stride, pad, depth, channels]: [usize; 5],
    ends: [End; 2],
) -> Conv<Dim> {
    let sizes = rows::dims(sizes);
    let (n, input) = (sizes[0].clone(), sizes[1..].to_vec());
    let size = |d: &Dim| {
        let all = d + &Dim::from(2 * pad);
        (all - Dim::from(kernel)).floor_div(&Dim::from(stride)) + Dim::from(1)
    };
    let output: Vec<Dim> = input.iter().map(size).collect();
    let shape = |pixels: &[Dim]| [std::slice::from_ref(&n), pixels, &[Dim::from(channels)]].concat();
    let expand = Expand { channels: depth, epilogue: end(dtype, &shape(&input), ends[0]) };
    Conv {
        channels,
        filters: channels,
        groups: channels,
        epilogue: end(dtype, &shape(&output), ends[1]),
        n,
        input,
        output,
        kernel: vec![kernel; 2],
        strides: vec![stride; 2],
        dilations: vec![1; 2],
        pads: vec![pad; 2],
        layout: Layout::ChannelsLast,
        x: None,
        scaled: false,
        added: None,
        expand: Some(expand.into()),
        pooled: None,
        dtype,
        math: Math::Exact,
    }
}

fn excited(dtype: DType, sizes: &str, numbers: [usize; 5], hidden: usize) -> Problem<Dim> {
    let conv = conv(dtype, sizes, numbers, [End::Silu; 2]);
    let (n, channels, pixels) = (conv.n.clone(), conv.channels, product(&conv.output));
    let last = |columns: usize, what| end(dtype, &[n.clone(), Dim::from(columns)], what);
    let (first, epilogue) = (last(hidden, End::Silu), last(channels, End::Sigmoid));
    let excite = Excite { n, pixels, channels, hidden, filters: channels, dtype, first, epilogue };
    Squeeze { conv: conv.into(), excite }.into()
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    use DType::{BF16, F16};
    let relu6 = [End::Relu6; 2];
    vec![
        conv(F16, "batch 30 30", [3, 2, 1, 16, 96], relu6).into(),
        conv(F16, "batch 28 28", [3, 1, 1, 24, 144], relu6).into(),
        conv(F16, "1 14 14", [3, 1, 1, 64, 384], relu6).into(),
        conv(F16, "2 14 14", [3, 2, 1, 96, 576], relu6).into(),
        conv(BF16, "batch 7 7", [5, 1, 2, 192, 128], [End::Silu; 2]).into(),
        conv(F16, "1 56 56", [5, 2, 2, 24, 144], [End::Silu; 2]).into(),
        // Odd sizes, channels that no chunk divides, little in common with an even tile.
        conv(BF16, "2 11 13", [3, 2, 1, 40, 72], relu6).into(),
        conv(F16, "3 9 5", [5, 1, 2, 8, 40], [End::Store, End::Residual]).into(),
        conv(F16, "2 seq 6", [3, 1, 1, 16, 34], [End::Silu, End::Store]).into(),
        // More padding than the window needs: some windows see nothing of the image.
        conv(F16, "1 6 7", [3, 1, 3, 32, 64], [End::Relu6, End::Silu]).into(),
        excited(F16, "batch 14 14", [5, 1, 2, 80, 480], 20),
        excited(F16, "1 28 28", [3, 2, 1, 40, 240], 10),
        excited(BF16, "3 7 7", [3, 1, 1, 192, 100], 7),
    ]
}

/// Layers of MobileNetV2 and EfficientNet-B0, one image and 32.
pub fn layers() -> Vec<Problem<Dim>> {
    let (relu6, silu) = ([End::Relu6; 2], [End::Silu; 2]);
    let mobile = [
        "112 112|3 2 16 96",
        "56 56|3 1 24 144",
        "56 56|3 2 24 144",
        "28 28|3 1 32 192",
        "28 28|3 2 32 192",
        "14 14|3 1 64 384",
        "14 14|3 1 96 576",
        "14 14|3 2 96 576",
        "7 7|3 1 160 960",
    ];
    let efficient = [
        "56 56|5 2 24 144",
        "28 28|5 1 40 240",
        "14 14|5 1 80 480",
        "14 14|5 1 112 672",
        "14 14|5 2 112 672",
        "7 7|5 1 192 1152",
    ];
    let mut out = Vec::new();
    for n in [1, 32] {
        for (text, ends) in mobile.iter().map(|t| (t, relu6)).chain(efficient.iter().map(|t| (t, silu))) {
            let (sizes, numbers) = text.split_once('|').unwrap_or_default();
            let numbers: Vec<usize> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            if let [kernel, stride, depth, channels] = numbers[..] {
                let numbers = [kernel, stride, kernel / 2, depth, channels];
                out.push(conv(DType::F16, &format!("{n} {sizes}"), numbers, ends).into());
            }
        }
    }
    out
}
