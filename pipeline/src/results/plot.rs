//! Curves as an SVG picture.

use crate::error::PipelineError;
use crate::watch::terminal::escape_line;
use plotters::prelude::*;

/// Size in pixels.
const SIZE: (u32, u32) = (900, 540);
/// Colours of curves, told apart by people with any colour vision (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(148, 148, 148),
];

/// A curve of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// What it is called beside the plot.
    pub name: String,
    /// Length of the list and value of the metric, by ascending length.
    pub points: Vec<(usize, f64)>,
    /// Drawn thinner: what models are measured against.
    pub is_baseline: bool,
}

/// Draws curves of a metric by the length of lists.
///
/// # Errors
/// [`PipelineError::Usage`] where there is nothing to draw.
pub fn svg(metric: &str, curves: &[Curve]) -> Result<String, PipelineError> {
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let (Some(first), Some(last)) = (points().map(|(k, _)| k).min(), points().map(|(k, _)| k).max()) else {
        return Err(PipelineError::usage(format!("--svg: the runs have no {metric}")));
    };
    let top = points().map(|(_, value)| value).fold(0.0, f64::max) * 1.05;
    let mut picture = String::new();
    draw(&mut picture, metric, curves, (first, last), if top > 0.0 { top } else { 1.0 })
        .map_err(|error| PipelineError::Data(format!("--svg: draw {metric}: {error}")))?;
    Ok(picture)
}

fn draw(
    picture: &mut String,
    metric: &str,
    curves: &[Curve],
    (first, last): (usize, usize),
    top: f64,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let area = SVGBackend::with_string(picture, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    // One length alone stands in the middle.
    let margin = ((last - first) as f64 * 0.03).max(0.5);
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(first as f64 - margin..last as f64 + margin, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("length of the list, k")
        .y_desc(format!("{metric}@k"))
        .x_label_formatter(&|k| format!("{k:.0}"))
        .y_label_formatter(&|value| format!("{value:.3}"))
        .light_line_style(WHITE)
        .draw()?;
    for (at, curve) in curves.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let style = colour.stroke_width(if curve.is_baseline { 1 } else { 3 });
        let points = || curve.points.iter().map(|(k, value)| (*k as f64, *value));
        chart
            .draw_series(LineSeries::new(points(), style))?
            .label(escape_line(&curve.name))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
        chart.draw_series(points().map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The elements of a well-formed picture, by their names; panics for any other text.
    fn elements(svg: &str) -> Vec<String> {
        let (mut open, mut found) = (Vec::new(), Vec::new());
        let mut rest = svg.trim();
        while let Some(begin) = rest.find('<') {
            let text = &rest[..begin];
            assert!(!text.contains('>') && (!open.is_empty() || text.trim().is_empty()), "{text}");
            // No value of an attribute holds the mark.
            let end = begin + rest[begin..].find('>').expect("a tag ends");
            let tag = &rest[begin + 1..end];
            rest = &rest[end + 1..];
            if tag.starts_with('?') || tag.starts_with('!') {
                continue;
            }
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop().as_deref(), Some(name)),
                None => {
                    assert!(tag.matches('"').count().is_multiple_of(2) && !tag.contains('<'), "{tag}");
                    let name = tag.trim_end_matches('/').split_whitespace().next().unwrap().to_string();
                    found.push(name.clone());
                    if !tag.ends_with('/') {
                        open.push(name);
                    }
                }
            }
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
        found
    }

    #[test]
    fn a_plot_is_well_formed_and_names_its_curves_and_axes_whatever_they_are_called() {
        let curve = |name: &str, is_baseline, by: f64| Curve {
            name: name.into(),
            points: [10, 20, 50].map(|k| (k, by * k as f64)).to_vec(),
            is_baseline,
        };
        let curves =
            [curve("runs <a> & \"b\"\u{1b}", false, 0.01), curve("套餐", false, 0.012), curve("EASE", true, 0.005)];
        let picture = svg("recall", &curves).unwrap();
        let found = elements(&picture);
        let count = |name: &str| found.iter().filter(|element| *element == name).count();
        assert_eq!((&*found[0], count("svg"), count("circle")), ("svg", 1, 9));
        // A curve each, and its line in the legend.
        assert!(count("polyline") >= 6, "{found:?}");
        for text in ["recall@k", "runs &lt;a&gt; &amp;", "套餐", "EASE", "length of the list"] {
            assert!(picture.contains(text), "{text} in {picture}");
        }
        assert!(!picture.contains('\u{1b}'));
    }

    #[test]
    fn one_length_of_a_list_and_values_of_zero_are_drawn_and_nothing_is_refused() {
        let one = Curve { name: "a".into(), points: vec![(10, 0.0)], is_baseline: false };
        assert!(elements(&svg("recall", &[one]).unwrap()).contains(&"circle".to_string()));
        let error = svg("recall", &[]).unwrap_err();
        assert!(error.to_string().contains("the runs have no recall"), "{error}");
    }
}
