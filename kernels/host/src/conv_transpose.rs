//! [`ConvTranspose`]: a product of input and filters, whose rows are then added where their taps fall.

use crate::element::{Element, Number};
use crate::im2col::Window;
use crate::matrix::{Matrix, Threads, multiply};
use crate::parallel::{self, worth};
use crate::problem::{ConvTranspose, Layout};

/// Elements of products to have at a time.
const PANEL: usize = 1 << 22;

/// `y = conv_transpose(x, w)` in the class, before the epilogue.
pub fn conv_transpose<T: Element<Acc: Number>>(p: &ConvTranspose<usize>, x: &[T], w: &[T], y: &mut [T::Acc]) {
    in_class(p, &T::widened(x), &T::widened(w), y);
}

fn in_class<A: Number>(p: &ConvTranspose<usize>, x: &[A], w: &[A], y: &mut [A]) {
    if y.is_empty() {
        return;
    }
    let window = Window::from(p);
    let image = p.filters * window.elements();
    let source = p.channels * window.positions();
    for (n, y) in y.chunks_mut(image).enumerate() {
        let x = &x[n * source..][..source];
        match p.layout {
            Layout::ChannelsFirst => one(p, &window, x, w, y),
            Layout::ChannelsLast => {
                let mut first = vec![A::ZERO; image];
                one(p, &window, x, w, &mut first);
                let elements = window.elements();
                parallel::rows_mut(y, p.filters, worth(1 << 12, p.filters), &|start, y| {
                    for (i, y) in (start..).zip(y.chunks_mut(p.filters)) {
                        y.iter_mut().zip(first[i..].iter().step_by(elements)).for_each(|(y, f)| *y = *f);
                    }
                });
            }
        }
    }
}

/// One image; `x` in the problem's layout, `y` with channels first.
fn one<A: Number>(p: &ConvTranspose<usize>, window: &Window, x: &[A], w: &[A], y: &mut [A]) {
    let (own, filters) = (p.channels / p.groups, p.filters / p.groups);
    let (taps, positions, elements, step) =
        (window.taps(), window.positions(), window.elements(), window.step());
    y.fill(A::ZERO);
    if positions == 0 {
        return;
    }
    let at_once = (PANEL / (taps * positions)).clamp(1, filters.max(1));
    let mut products = vec![A::ZERO; at_once * taps * positions];
    for g in 0..p.groups {
        let x = match p.layout {
            Layout::ChannelsFirst => Matrix { data: &x[g * own * positions..], strides: [positions, 1] },
            Layout::ChannelsLast => Matrix { data: &x[g * own..], strides: [1, p.channels] },
        };
        let w = &w[g * own * filters * taps..][..own * filters * taps];
        let y = &mut y[g * filters * elements..][..filters * elements];
        for (block, y) in y.chunks_mut(at_once * elements).enumerate() {
            let rows = y.len() / elements * taps;
            let w = Matrix { data: &w[block * at_once * taps..], strides: [1, filters * taps] };
            multiply([rows, positions, own], w, x, (&mut products, [positions, 1]), Threads::All);
            let rows = taps * positions;
            parallel::rows_mut(y, elements, worth(1 << 12, rows), &|first, y| {
                let products = products[first * rows..].chunks(rows);
                for (y, products) in y.chunks_mut(elements).zip(products) {
                    for (t, products) in products.chunks_exact(positions).enumerate() {
                        window.runs(t, 0..positions, &mut |r| {
                            let products = &products[r.at + r.inside.start..r.at + r.inside.end];
                            if products.is_empty() {
                                return;
                            }
                            let y = y[r.from..].iter_mut().step_by(step);
                            y.zip(products).for_each(|(y, &v)| *y = y.plus(v));
                        });
                    }
                }
            });
        }
    }
}
