//! The plots of a report, as SVG. CSS of the page replaces black and grey.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

/// For axes and text; replaced by the page.
const INK: RGBColor = RGBColor(0, 0, 0);

/// For grids; replaced by the page.
const GRID: RGBColor = RGBColor(221, 221, 221);

const SIZE: (u32, u32) = (720, 260);
const FONT: (&str, u32) = ("sans-serif", 13);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A colour with its name in the legend.
pub type Layer = (&'static str, RGBColor);

/// Stacked layers over time: for each `x` a value of each layer.
pub fn layers(
    points: &[(f64, Vec<f64>)],
    layers: &[Layer],
    unit: &str,
    label: &dyn Fn(&f64) -> String,
) -> Result<String> {
    let sums: Vec<(f64, Vec<f64>)> = points
        .iter()
        .map(|(x, values)| {
            let sums = values.iter().scan(0.0, |sum, value| {
                *sum += value;
                Some(*sum)
            });
            (*x, sums.collect())
        })
        .collect();
    let last = |of: Option<&(f64, Vec<f64>)>| of.map_or(0.0, |(x, _)| *x);
    let (from, until) = (last(sums.first()), last(sums.last()));
    let tops = sums.iter().filter_map(|(_, sums)| sums.last().copied());
    let top = tops.fold(0.0, f64::max).max(0.001) * 1.05;
    drawn(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(58)
            .build_cartesian_2d(from..until.max(from + 0.001), 0.0..top)?;
        for (n, (_, colour)) in layers.iter().enumerate().rev() {
            let line = sums.iter().map(|(x, sums)| (*x, sums[n]));
            chart.draw_series(AreaSeries::new(line, 0.0, colour.filled()))?;
        }
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(FONT.into_font().color(&INK))
            .x_labels(8)
            .y_labels(6)
            .x_label_formatter(&label)
            .y_label_formatter(&|y| format!("{} {unit}", short(*y)))
            .draw()?;
        Ok(())
    })
}

/// Rows of stacked bars.
pub fn bars(rows: &[(String, Vec<f64>)], layers: &[Layer], unit: &str) -> Result<String> {
    let most = rows.iter().map(|(_, values)| values.iter().sum::<f64>());
    let most = most.fold(0.0, f64::max).max(0.001) * 1.05;
    let count = rows.len().max(1);
    let size = (SIZE.0, 40 + 22 * count as u32);
    drawn(size, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(32)
            .x_label_area_size(24)
            .y_label_area_size(190)
            .build_cartesian_2d(0.0..most, (0..count.max(2) - 1).into_segmented())?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(FONT.into_font().color(&INK))
            .x_labels(6)
            .y_labels(count)
            .x_label_formatter(&|x| format!("{} {unit}", short(*x)))
            .y_label_formatter(&|row| match row {
                SegmentValue::CenterOf(n) if *n < rows.len() => rows[count - 1 - n].0.clone(),
                _ => String::new(),
            })
            .draw()?;
        for (n, (_, values)) in rows.iter().rev().enumerate() {
            let mut begin = 0.0;
            for (value, (_, colour)) in values.iter().zip(layers) {
                let corners = [
                    (begin, SegmentValue::Exact(n)),
                    (begin + value, end_of(n, count.max(2))),
                ];
                let mut bar = Rectangle::new(corners, colour.filled());
                bar.set_margin(3, 3, 0, 0);
                chart.draw_series([bar])?;
                begin += value;
            }
        }
        Ok(())
    })
}

/// A heat map with a field for each hour of the week.
pub fn week(hours: &[f64], colour: RGBColor, days: [&str; 7]) -> Result<String> {
    let most = hours.iter().copied().fold(0.001, f64::max);
    drawn((SIZE.0, 220), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(44)
            .build_cartesian_2d(0..24_usize, (0..6_usize).into_segmented())?;
        chart
            .configure_mesh()
            .disable_mesh()
            .axis_style(INK)
            .label_style(FONT.into_font().color(&INK))
            .x_labels(13)
            .y_labels(7)
            .y_label_formatter(&|day| match day {
                SegmentValue::CenterOf(n) if *n < 7 => days[6 - n].to_owned(),
                _ => String::new(),
            })
            .draw()?;
        for (n, value) in hours.iter().enumerate().filter(|(_, value)| **value > 0.0) {
            let (row, hour) = (6 - n / 24, n % 24);
            let corners = [(hour, SegmentValue::Exact(row)), (hour + 1, end_of(row, 7))];
            let share = (0.1 + 0.9 * value / most).clamp(0.1, 1.0);
            let mut field =
                Rectangle::new(corners, colour.mix((share * 50.0).round() / 50.0).filled());
            field.set_margin(1, 1, 1, 1);
            chart.draw_series([field])?;
        }
        Ok(())
    })
}

/// The output of `draw` as SVG.
fn drawn(size: (u32, u32), draw: impl FnOnce(&Area) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw(&area)?;
        area.present()?;
    }
    Ok(svg)
}

/// The upper end of row `n`.
fn end_of(n: usize, count: usize) -> SegmentValue<usize> {
    if n + 1 < count {
        SegmentValue::Exact(n + 1)
    } else {
        SegmentValue::Last
    }
}

fn short(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}
