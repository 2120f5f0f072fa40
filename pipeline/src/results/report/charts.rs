//! The plots of a report: SVG that takes its colours and fonts from the page, so that one picture serves light, dark and
//! paper.

use crate::error::PipelineError;
use plotters::prelude::*;
use serde::Serialize;

/// Series that have colours of their own; further ones begin again.
pub const SERIES: usize = 6;
/// Size of a plot, in units of its view box.
const SIZE: (u32, u32) = (520, 270);
/// Size of a distribution within a row of a table.
const SMALL: (u32, u32) = (120, 26);
/// Stand-ins, which [`themed`] replaces by classes of the page.
const TEXT: RGBColor = RGBColor(0xFA, 0x01, 0x00);
const GRID: RGBColor = RGBColor(0xFA, 0x02, 0x00);

/// The stand-in for the colour of a series.
const fn series(at: usize) -> RGBColor {
    RGBColor(0xFA, 0x03, (at % SERIES) as u8)
}

/// A line of a plot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// What it is called.
    pub name: String,
    /// Places, ascending by the first number.
    pub points: Vec<(f64, f64)>,
}

/// What a plot says beside its lines.
#[derive(Debug, Clone, Copy)]
pub struct Axes<'a> {
    /// Below.
    pub x: &'a str,
    /// On the left.
    pub y: &'a str,
    /// Whether the values begin at 0.
    pub from_zero: bool,
    /// A place that is marked by a line from top to bottom.
    pub mark: Option<f64>,
}

/// A plot, and the names of its lines in the order of their colours.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chart {
    /// The picture.
    pub svg: String,
    /// Of each line the number of its colour, and its name.
    pub legend: Vec<(usize, String)>,
}

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Draws lines; none where there is no point.
///
/// # Errors
/// [`PipelineError::Data`] for what cannot be drawn.
pub fn lines(axes: Axes<'_>, lines: &[Line]) -> Result<Option<Chart>, PipelineError> {
    let points = || lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let ends = |of: fn(&(f64, f64)) -> f64| {
        points().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)))
    };
    let ((left, right), (low, high)) = (ends(|(x, _)| *x), ends(|(_, y)| *y));
    if left > right {
        return Ok(None);
    }
    // One place alone stands in the middle.
    let margin = if right > left { (right - left) * 0.03 } else { 0.5 };
    let room = (high - low).max(high.abs() * 0.05).max(1e-9) * 0.08;
    let bottom = if axes.from_zero { low.min(0.0) } else { low - room };
    let svg = drawn(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .margin_right(14)
            .x_label_area_size(42)
            .y_label_area_size(58)
            .build_cartesian_2d(left - margin..right + margin, bottom..high + room)?;
        let label = ("sans-serif", 14).into_font().color(&TEXT);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .label_style(label.clone())
            .axis_desc_style(label)
            .x_desc(axes.x)
            .y_desc(axes.y)
            .x_labels(8)
            .y_labels(6)
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| short(*y))
            .draw()?;
        if let Some(at) = axes.mark {
            chart.draw_series(LineSeries::new([(at, bottom), (at, high + room)], GRID.stroke_width(2)))?;
        }
        for (at, line) in lines.iter().enumerate() {
            let style = series(at).stroke_width(2);
            chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
            if line.points.len() <= 40 {
                chart.draw_series(line.points.iter().map(|point| Circle::new(*point, 3, series(at).filled())))?;
            }
        }
        Ok(())
    })?;
    let legend = lines.iter().enumerate().map(|(at, line)| (at % SERIES, line.name.clone())).collect();
    Ok(Some(Chart { svg, legend }))
}

/// Draws counts as columns between `low` and `high`; none where there are none.
///
/// # Errors
/// [`PipelineError::Data`] for what cannot be drawn.
pub fn columns(axes: Axes<'_>, (low, high): (f64, f64), counts: &[u64]) -> Result<Option<Chart>, PipelineError> {
    let Some(most) = counts.iter().copied().max().filter(|most| *most > 0 && low < high) else { return Ok(None) };
    let width = (high - low) / counts.len() as f64;
    let svg = drawn(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .margin_right(14)
            .x_label_area_size(42)
            .y_label_area_size(58)
            .build_cartesian_2d(low..high, 0.0..most as f64 * 1.05)?;
        let label = ("sans-serif", 14).into_font().color(&TEXT);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .label_style(label.clone())
            .axis_desc_style(label)
            .x_desc(axes.x)
            .y_desc(axes.y)
            .x_labels(8)
            .y_labels(6)
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| short(*y))
            .draw()?;
        chart.draw_series(counts.iter().enumerate().map(|(at, count)| {
            let left = low + width * at as f64;
            Rectangle::new([(left + width * 0.06, 0.0), (left + width * 0.94, *count as f64)], series(0).filled())
        }))?;
        Ok(())
    })?;
    Ok(Some(Chart { svg, legend: Vec::new() }))
}

/// A distribution as small columns without axes.
///
/// # Errors
/// [`PipelineError::Data`] for what cannot be drawn.
pub fn small_columns(counts: &[u64]) -> Result<String, PipelineError> {
    let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    drawn(SMALL, |area| {
        let (width, height) = (f64::from(SMALL.0) / counts.len().max(1) as f64, f64::from(SMALL.1));
        for (at, count) in counts.iter().enumerate() {
            let (left, right) = (width * at as f64, (width * (at + 1) as f64 - 1.0).max(width * at as f64 + 0.7));
            // What is there can be seen.
            let top = (height * (1.0 - *count as f64 / most)).min(if *count > 0 { height - 1.0 } else { height });
            let corners = [(left.round() as i32, top.round() as i32), (right.round() as i32, SMALL.1 as i32)];
            area.draw(&Rectangle::new(corners, series(0).filled()))?;
        }
        Ok(())
    })
}

/// Draws into a picture of a size, without a background.
fn drawn(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn,
) -> Result<String, PipelineError> {
    let mut picture = String::new();
    {
        let area = SVGBackend::with_string(&mut picture, size).into_drawing_area();
        draw(&area)
            .and_then(|()| area.present())
            .map_err(|error| PipelineError::Data(format!("report: draw a plot: {error}")))?;
    }
    Ok(themed(&picture, size))
}

/// A picture whose stand-in colours are classes of the page, whose text has the page's font, and whose size follows
/// the room there is. What it shows is said beside it, so it is hidden from screen readers.
fn themed(picture: &str, (width, height): (u32, u32)) -> String {
    let begin = picture.find("<svg").and_then(|at| picture[at..].find('>').map(|end| at + end + 1)).unwrap_or(0);
    let mut svg = picture[begin..].trim().to_string();
    let mut replace = |colour: RGBColor, class: &str| {
        let RGBColor(r, g, b) = colour;
        for (attribute, kind) in [("fill", "f"), ("stroke", "k")] {
            svg = svg.replace(&format!("{attribute}=\"#{r:02X}{g:02X}{b:02X}\""), &format!("class=\"{kind}{class}\""));
        }
    };
    replace(TEXT, "t");
    replace(GRID, "g");
    (0..SERIES).for_each(|at| replace(series(at), &at.to_string()));
    let svg = svg.replace(" font-family=\"sans-serif\"", "");
    format!("<svg viewBox=\"0 0 {width} {height}\" aria-hidden=\"true\" focusable=\"false\">{svg}")
}

/// A number in few digits.
pub fn short(x: f64) -> String {
    let trimmed = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    };
    match x.abs() {
        size if size >= 1e9 => format!("{}G", trimmed(format!("{:.1}", x / 1e9))),
        size if size >= 1e6 => format!("{}M", trimmed(format!("{:.1}", x / 1e6))),
        size if size >= 1e4 => format!("{}k", trimmed(format!("{:.1}", x / 1e3))),
        size if size >= 100.0 => trimmed(format!("{x:.0}")),
        size if size >= 10.0 => trimmed(format!("{x:.1}")),
        size if !(1e-12..1e-3).contains(&size) => match trimmed(format!("{x:.4}")) {
            zero if zero == "-0" => "0".into(),
            text => text,
        },
        _ => format!("{x:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AXES: Axes<'_> = Axes { x: "k", y: "recall", from_zero: true, mark: Some(2.0) };

    #[test]
    fn a_picture_has_no_colour_and_no_size_of_its_own() {
        let line = |name: &str, points: &[(f64, f64)]| Line { name: name.into(), points: points.to_vec() };
        let all: Vec<Line> = (0..8).map(|at| line(&at.to_string(), &[(1.0, 0.1), (10.0, f64::from(at))])).collect();
        let chart = lines(AXES, &all).unwrap().unwrap();
        for picture in [chart.svg, columns(AXES, (0.0, 1.0), &[1, 0, 5]).unwrap().unwrap().svg] {
            assert!(picture.starts_with("<svg viewBox=") && picture.ends_with("</svg>"), "{picture}");
            assert!(
                !picture.contains('#') && !picture.contains("font-family") && !picture.contains("http"),
                "{picture}"
            );
            assert!(picture.contains("class=\"ft\"") && picture.contains("class=\"f0\""), "{picture}");
        }
        assert_eq!(chart.legend[7], (1, "7".to_string()));
    }

    #[test]
    fn what_has_no_point_is_not_drawn() {
        assert_eq!(lines(AXES, &[Line { name: "a".into(), points: Vec::new() }]).unwrap(), None);
        assert_eq!(columns(AXES, (0.0, 1.0), &[0, 0]).unwrap(), None);
        // One point alone, and one value for all, have room around them.
        let one = Line { name: "a".into(), points: vec![(1.0, 0.0)] };
        assert!(lines(AXES, &[one]).unwrap().is_some());
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.25, 1.0, 12.34, 123.4, 20_000.0, 1.5e8, 0.00012, -0.00001].map(short);
        assert_eq!(shown, ["0", "0.25", "1", "12.3", "123", "20k", "150M", "1.2e-4", "-1.0e-5"]);
    }
}
