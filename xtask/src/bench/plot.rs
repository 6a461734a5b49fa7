//! Plots of values over a day, as SVG that needs nothing else and can be read on light and on dark.

use std::fmt::Write;

/// A plot of docs/benchmarks.md.
pub(super) struct Plot {
    /// Its name in docs/.
    pub(super) file: &'static str,
    /// What it shows, for who does not see it.
    pub(super) alt: &'static str,
    /// One below the other.
    pub(super) panels: Vec<Panel>,
}

/// Lines on the same axes: percent, over the hours of a day.
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) lines: Vec<Line>,
}

pub(super) struct Line {
    pub(super) name: String,
    /// Dashed, as what is there to compare with.
    pub(super) dashed: bool,
    /// Hours and percent.
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
/// Of one panel, and of the axes in it.
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 34.0;
const HOURS: f64 = 24.0;

/// Four colours that keep apart for the colour-blind (after Okabe and Ito), darker and lighter.
const STYLE: &str = "\
text{font:12px system-ui,sans-serif;fill:#333}.t{font-size:14px;font-weight:600}.g{stroke:#8884;stroke-width:1}\
path{fill:none;stroke-width:2}.d{stroke-dasharray:5 4}\
.c0{stroke:#0072b2}.c1{stroke:#c04000}.c2{stroke:#00805c}.c3{stroke:#8a8a8a}\
@media(prefers-color-scheme:dark){text{fill:#ccc}.c0{stroke:#56b4e9}.c1{stroke:#f0884a}.c2{stroke:#3ccf9f}}";

impl Plot {
    /// The line of docs/benchmarks.md that shows it.
    pub(super) fn markdown(&self) -> String {
        format!("![{}]({})", self.alt, self.file)
    }

    pub(super) fn svg(&self) -> String {
        let height = HEIGHT * self.panels.len() as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
             <title>{}</title>\n<style>{STYLE}</style>\n",
            escaped(self.alt)
        );
        for (index, panel) in self.panels.iter().enumerate() {
            let _ = writeln!(
                svg,
                "<g transform=\"translate(0 {})\">",
                HEIGHT * index as f64
            );
            panel.draw(&mut svg);
            svg.push_str("</g>\n");
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Panel {
    fn draw(&self, svg: &mut String) {
        let x = |hour: f64| LEFT + hour / HOURS * (WIDTH - LEFT - RIGHT);
        let y = |percent: f64| TOP + (1.0 - percent / 100.0) * (HEIGHT - TOP - BOTTOM);
        let title = escaped(self.title);
        let _ = writeln!(
            svg,
            "<text class=\"t\" x=\"{LEFT}\" y=\"22\">{title}</text>"
        );
        for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
            let (from, to, at) = (x(0.0), x(HOURS), y(percent));
            let _ = writeln!(
                svg,
                "<path class=\"g\" d=\"M{from} {at}H{to}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{percent}%</text>",
                LEFT - 6.0,
                at + 4.0
            );
        }
        for hour in [0.0, 6.0, 12.0, 18.0, 24.0] {
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{hour} h</text>",
                x(hour),
                HEIGHT - BOTTOM + 18.0
            );
        }
        let mut legend = LEFT;
        for (index, line) in self.lines.iter().enumerate() {
            let class = format!("c{}{}", index % 4, if line.dashed { " d" } else { "" });
            let _ = writeln!(
                svg,
                "<path class=\"{class}\" d=\"M{legend} 42h22\"/><text x=\"{}\" y=\"46\">{}</text>",
                legend + 28.0,
                escaped(&line.name)
            );
            legend += 46.0 + 6.3 * line.name.chars().count() as f64;
            let mut path = String::new();
            for &(hour, percent) in &line.points {
                let step = if path.is_empty() { 'M' } else { 'L' };
                let _ = write!(path, "{step}{:.1} {:.1}", x(hour), y(percent));
            }
            let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_drawn_within_the_picture() {
        let line = |points| Line {
            name: "a < b".to_owned(),
            dashed: false,
            points,
        };
        let plot = Plot {
            file: "x.svg",
            alt: "a & b",
            panels: vec![Panel {
                title: "Title",
                lines: vec![
                    line(vec![(0.0, 0.0), (24.0, 100.0)]),
                    line(vec![(1.0, 50.0)]),
                ],
            }],
        };
        let svg = plot.svg();
        let bottom = HEIGHT - BOTTOM;
        assert!(svg.contains(&format!(
            "M{LEFT:.1} {bottom:.1}L{:.1} {TOP:.1}",
            WIDTH - RIGHT
        )));
        assert_eq!(svg.matches("a &lt; b").count(), 2);
        assert!(svg.contains("<title>a &amp; b</title>") && svg.ends_with("</svg>\n"));
    }
}
