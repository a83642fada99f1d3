//! The counts of one more region as a picture.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::counts::Counts;
use super::goals::grid;

/// Pixels.
const SIZE: (u32, u32) = (840, 420);
/// One colour for each amount of RAM, apart for colour-blind readers too (Okabe and Ito's palette).
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
];

/// Draws instructions over regions in use: a line for each amount of RAM, solid for taking and hiding, with rings for restoring and freeing.
///
/// # Errors
/// There is nothing to draw.
pub fn draw(counts: &Counts) -> Result<String> {
    let mut svg = String::new();
    lines(counts, &mut svg).map_err(|error| anyhow!("draw the counts: {error}"))?;
    Ok(svg + "\n")
}

fn lines(counts: &Counts, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let mut rams: Vec<u64> = grid(counts, "carve").map(|(ram, ..)| ram).collect();
    rams.dedup();
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let top = grid(counts, "carve").map(|(.., each)| each).fold(1.0, f64::max) * 1.3;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "One more region, as RAM and regions in use grow",
            ("sans-serif", 18),
        )
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((0.8_f64..150_000.0_f64).log_scale(), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("regions in use")
        .y_desc("instructions")
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .light_line_style(RGBColor(240, 240, 240))
        .draw()?;
    for (number, (ram, colour)) in rams.iter().zip(COLOURS.iter().cycle()).enumerate() {
        for (operation, what) in [("carve", "take and hide"), ("free", "restore and free")] {
            let points: Vec<_> = grid(counts, operation)
                .filter(|(of, ..)| of == ram)
                .map(|(_, in_use, each)| (in_use as f64, each))
                .collect();
            let line = chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
            if operation == "carve" {
                let colour = *colour;
                line.label(format!("{ram} GiB"))
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
            }
            // The lines lie on each other: rings of different sizes show that each is there.
            let size = 3 + 2 * number as i32;
            chart.draw_series(points.iter().map(|point| Circle::new(*point, size, colour)))?;
            if number == 0
                && let Some((x, y)) = points.first()
            {
                let above = (*x, y + top / 12.0);
                chart.draw_series([Text::new(what, above, ("sans-serif", 14))])?;
            }
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .border_style(RGBColor(200, 200, 200))
        .background_style(WHITE)
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::counts::Count;
    use super::*;

    #[test]
    fn each_amount_of_ram_has_a_line_and_a_label() {
        let count = |name: &str, instructions| Count {
            name: name.into(),
            times: 1,
            instructions,
        };
        let counts = Counts(vec![
            count("empty", 0),
            count("carve/4/1", 3000),
            count("free/4/1", 1000),
            count("carve/1024/1", 3000),
            count("free/1024/1", 1000),
        ]);
        let svg = draw(&counts).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("1024 GiB"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 4);
    }
}
