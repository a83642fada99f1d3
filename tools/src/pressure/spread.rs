//! How long loads took: what all windows of the pointer chase say, as boxes.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::chased::{Chase, ChaseRow, PERCENTILE_STEP};

/// Pixels.
const SIZE: (u32, u32) = (980, 400);
/// Half the width of a box, and how far the two kinds stand apart, in parts of a place.
const HALF: f64 = 0.11;
const APART: f64 = 0.17;

/// The two kinds of memory: name, colour (Okabe and Ito's palette), side, and whether the box is filled.
const KINDS: [(&str, RGBColor, f64, bool); 2] = [
    ("4K pages", RGBColor(213, 94, 0), -1.0, true),
    ("2M pages", RGBColor(0, 114, 178), 1.0, false),
];

/// Nanoseconds of a load by number of pages, on a logarithmic scale: a line from the 5th to the 95th percentile, a box around the middle half, a bar
/// at the median.
///
/// # Errors
/// It can't be drawn.
pub fn draw(chase: &Chase) -> Result<String> {
    let mut svg = String::new();
    boxes(chase, &mut svg).map_err(|error| anyhow!("draw the chase: {error}"))?;
    Ok(svg)
}

/// The percentiles that are drawn: 5, 25, 50, 75, 95. `None` for a row that has too few.
fn five(values: &[f64]) -> Option<[f64; 5]> {
    let at = |percent: usize| values.get(percent / PERCENTILE_STEP).copied();
    Some([at(5)?, at(25)?, at(50)?, at(75)?, at(95)?])
}

fn boxes(chase: &Chase, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let of = |row: &ChaseRow, which: usize| five(if which == 0 { &row.small } else { &row.large });
    let all = chase.rows.iter().flat_map(|row| [of(row, 0), of(row, 1)]);
    let (low, high) = all.flatten().fold((1.0_f64, 10.0_f64), |(low, high), five| {
        (low.min(five[0]), high.max(five[4]))
    });
    let last = chase.rows.len().saturating_sub(1).max(1) as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "this machine: nanoseconds of one load, by memory that is chased through",
            ("sans-serif", 17),
        )
        .margin(10)
        .margin_right(24)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(-0.5..last + 0.5, ((low * 0.8).max(0.1)..high * 1.3).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(RGBColor(244, 244, 244))
        .x_labels(chase.rows.len() * 2)
        .x_label_formatter(&|at| {
            let near = at.round();
            let row = chase
                .rows
                .get(near as usize)
                .filter(|_| near >= 0.0 && (at - near).abs() < 0.01);
            row.map_or_else(String::new, |row| memory(row.pages))
        })
        .y_desc("nanoseconds of one load")
        .draw()?;
    for (which, (name, colour, side, filled)) in KINDS.into_iter().enumerate() {
        let style = ShapeStyle {
            color: colour.into(),
            filled,
            stroke_width: 2,
        };
        let mut shapes: Vec<_> = Vec::new();
        let mut paths: Vec<_> = Vec::new();
        for (place, row) in (0..).zip(&chase.rows) {
            let Some([p5, p25, p50, p75, p95]) = of(row, which) else {
                continue;
            };
            let at = f64::from(place) + side * APART;
            paths.push(PathElement::new([(at, p5), (at, p25)], colour.stroke_width(2)));
            paths.push(PathElement::new([(at, p75), (at, p95)], colour.stroke_width(2)));
            paths.push(PathElement::new(
                [(at - 1.5 * HALF, p50), (at + 1.5 * HALF, p50)],
                BLACK.stroke_width(2),
            ));
            shapes.push(Rectangle::new([(at - HALF, p25), (at + HALF, p75)], style));
        }
        chart
            .draw_series(shapes)?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], style));
        chart.draw_series(paths)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(RGBColor(136, 136, 136))
        .label_font(("sans-serif", 13))
        .draw()?;
    area.present()?;
    Ok(())
}

/// The memory that so many pages of 4K are.
pub fn memory(pages: u64) -> String {
    match pages << 12 {
        small if small < 1 << 20 => format!("{}K", small >> 10),
        large if large < 1 << 30 => format!("{}M", large >> 20),
        large => format!("{}G", large >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn each_row_has_two_boxes_and_its_name() {
        let mut chase = sample().chase.unwrap();
        let rectangles = |svg: &str| svg.matches("<rect").count();
        let whole = draw(&chase).unwrap();
        for word in ["64K", "16M", "4K pages", "2M pages"] {
            assert!(whole.contains(word), "{word} is missing in {whole}");
        }
        chase.rows[1].small.truncate(3);
        let less = draw(&chase).unwrap();
        assert_eq!(rectangles(&whole) - rectangles(&less), 1);
    }

    #[test]
    fn memory_is_named_for_people() {
        assert_eq!([16, 256, 262_144].map(memory), ["64K", "1M", "1G"]);
    }
}
