//! Bar plots as SVG: groups of horizontal bars with their text at the end, and a line at 1.

use std::fmt::Write;

/// Bars that belong together.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) bars: Vec<Bar>,
}

/// One bar.
pub(crate) struct Bar {
    pub(crate) series: &'static str,
    /// Its length.
    pub(crate) value: f64,
    /// What stands beside the length at its end.
    pub(crate) text: String,
    /// Drawn in the colour that stands out.
    pub(crate) strong: bool,
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 280.0;
const RIGHT: f64 = 130.0;
const BAR: f64 = 17.0;
const TOP: f64 = 62.0;
/// What a character of a label is wide, about.
const CHARACTER: f64 = 6.8;

/// The plot's text.
pub(crate) fn bars(title: &str, under: &str, groups: &[Group]) -> String {
    let all = groups.iter().flat_map(|g| &g.bars);
    let largest = all.map(|b| b.value).fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / largest;
    let gap = 16.0;
    let height = TOP + groups.iter().map(|g| g.bars.len() as f64 * BAR + gap).sum::<f64>() + 34.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\" fill=\"#222222\">{}</text>\n",
        escape(title)
    );
    let bottom = height - 34.0;
    for tick in ticks(largest) {
        let x = LEFT + tick * scale;
        let (colour, width) = if tick == 1.0 { ("#555555", 1.2) } else { ("#dddddd", 0.8) };
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666666\" font-size=\"11\">{tick}×</text>",
            TOP - 6.0,
            TOP - 11.0
        );
    }
    let mut y = TOP;
    for group in groups {
        let middle = y + group.bars.len() as f64 * BAR / 2.0 + 4.0;
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"{middle:.1}\" font-weight=\"bold\" fill=\"#222222\">{}</text>",
            escape(&group.name)
        );
        for bar in &group.bars {
            let (colour, weight) = if bar.strong { ("#c0502b", "bold") } else { ("#9db4c8", "normal") };
            let (length, baseline) = (bar.value * scale, y + BAR - 5.0);
            let label = format!("{:.2} ({})", bar.value, bar.text);
            // Lines of the scale end where a label is.
            let covered = label.chars().count() as f64 * CHARACTER;
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\" fill=\"#444444\" font-weight=\"{weight}\">{}</text>\
                 <rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
                 <rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{covered:.1}\" height=\"{BAR}\" fill=\"#ffffff\"/>\
                 <text x=\"{:.1}\" y=\"{baseline:.1}\" fill=\"#222222\" font-weight=\"{weight}\">{}</text>",
                LEFT - 8.0,
                escape(bar.series),
                y + 1.5,
                BAR - 3.0,
                LEFT + length + 3.0,
                LEFT + length + 6.0,
                escape(&label)
            );
            y += BAR;
        }
        y += gap;
    }
    let _ = writeln!(
        svg,
        "<text x=\"16\" y=\"{:.1}\" fill=\"#666666\" font-size=\"11\">{}</text>\n</svg>",
        height - 12.0,
        escape(under)
    );
    svg
}

/// Round numbers from 0 to the largest value, about five of them, with 1 among them.
fn ticks(largest: f64) -> Vec<f64> {
    let steps = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0];
    let step = steps.into_iter().find(|s| largest / s <= 6.0).unwrap_or(100.0);
    let mut ticks: Vec<f64> = (0..=(largest / step) as usize).map(|i| i as f64 * step).collect();
    if !ticks.contains(&1.0) {
        ticks.push(1.0);
    }
    ticks
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |value, strong| Bar { series: "a & b", value, text: "5 µs".into(), strong };
        let group = Group { name: "<model>".into(), bars: vec![bar(1.0, false), bar(4.5, true)] };
        let svg = bars("t", "u", &[group]);
        let widths: Vec<f64> =
            svg.split("width=\"").skip(1).filter_map(|t| t.split('"').next()?.parse().ok()).collect();
        assert!(widths.contains(&100.0) && widths.contains(&450.0), "{widths:?}");
        assert!(
            svg.contains("a &amp; b") && svg.contains("&lt;model&gt;") && svg.contains("4.50 (5 µs)"),
            "{svg}"
        );
    }

    #[test]
    fn one_is_always_marked() {
        assert_eq!(ticks(1.0), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(ticks(4.5), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert!(ticks(30.0).contains(&1.0));
    }
}
