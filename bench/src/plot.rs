//! Curves as SVG, for the pages.

use crate::{outcome::Outcome, report::Curve};
use plotters::prelude::*;
use std::{collections::BTreeMap, path::Path};

const SIZE: (u32, u32) = (720, 400);
const COLOURS: [RGBColor; 5] = [
    RGBColor(192, 57, 43),
    RGBColor(41, 98, 155),
    RGBColor(90, 90, 90),
    RGBColor(39, 125, 80),
    RGBColor(150, 100, 20),
];

/// One file for each plot, named after it.
pub(crate) fn draw_all(directory: &Path, curves: &[Curve]) -> Outcome {
    std::fs::create_dir_all(directory)?;
    let mut plots: BTreeMap<&str, Vec<&Curve>> = BTreeMap::new();
    for curve in curves.iter().filter(|curve| !curve.points.is_empty()) {
        plots.entry(curve.plot).or_default().push(curve);
    }
    for (name, curves) in plots {
        let path = directory.join(format!("{name}.svg"));
        draw(&path, &curves).map_err(|error| format!("draw {}: {error}", path.display()))?;
    }
    Ok(())
}

/// Both axes are logarithmic: what is compared differs by orders of magnitude.
fn draw(path: &Path, curves: &[&Curve]) -> Outcome {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let range = |of: fn((f64, f64)) -> f64| {
        let (low, high) = points()
            .map(of)
            .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        (low.max(f64::MIN_POSITIVE) / 1.3..high.max(f64::MIN_POSITIVE) * 1.3).log_scale()
    };
    let first = curves.first().ok_or("nothing to draw")?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d(range(|(x, _)| x), range(|(_, y)| y))?;
    chart.configure_mesh().light_line_style(WHITE).x_desc(first.x).y_desc(first.y).draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let line = LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2));
        chart.draw_series(line)?.label(&*curve.subject).legend(move |(x, y)| {
            PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2))
        });
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).draw()?;
    Ok(root.present()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_of_one_plot_become_one_file_with_all_their_names() {
        let curve = |subject: &str| Curve {
            plot: "growth",
            x: "instances",
            y: "bytes",
            subject: subject.to_owned(),
            points: vec![(1e3, 900.0), (1e6, 1_000.0)],
        };
        let directory = tempfile::tempdir().unwrap();
        draw_all(directory.path(), &[curve("rollcall"), curve("etcd")]).unwrap();
        let text = std::fs::read_to_string(directory.path().join("growth.svg")).unwrap();
        assert!(text.contains("rollcall") && text.contains("etcd") && text.contains("instances"));
    }
}
