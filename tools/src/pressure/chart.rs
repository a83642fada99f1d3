//! Figures over the moments, a line for each policy.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::goals::WORKLOAD;
use super::results::{Figure, Phase, Policy, Results};

/// Pixels.
const SIZE: (u32, u32) = (980, 420);
/// The least that the logarithmic scale shows; what is less, 0 included, is drawn here.
const LEAST: f64 = 0.01;

/// Height of a label in pixels.
const LABEL: i32 = 14;

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Translation cycles of one access.
    Cycles,
    /// Walks of a thousand accesses.
    Walks,
}

impl Quantity {
    fn of(self, figure: &Figure) -> f64 {
        match self {
            Self::Cycles => (figure.cycles / 1000.0).max(LEAST),
            Self::Walks => figure.walks.max(LEAST),
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Cycles => "translation cycles of one access",
            Self::Walks => "walks of 1000 accesses",
        }
    }
}

/// Colour of a policy: Okabe and Ito's palette, apart for colour-blind readers.
fn colour(policy: Policy) -> RGBColor {
    match policy {
        Policy::Grouped => RGBColor(0, 114, 178),
        Policy::GroupedNoMerge => RGBColor(86, 180, 233),
        Policy::LinuxFresh => RGBColor(0, 158, 115),
        Policy::LinuxAged => RGBColor(213, 94, 0),
        Policy::Scattered => RGBColor(204, 121, 167),
        Policy::All4K | Policy::All2M | Policy::All1G => RGBColor(90, 90, 90),
    }
}

/// A chart of one core, on a logarithmic scale.
///
/// # Errors
/// It can't be drawn.
pub fn draw(results: &Results, core: &str, quantity: Quantity) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        lines(results, core, quantity, &area)
            .map_err(|error| anyhow!("draw {}: {error}", quantity.label()))?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn lines(
    results: &Results,
    core: &str,
    quantity: Quantity,
    area: &Area<'_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let phases: Vec<Phase> = Phase::ALL
        .into_iter()
        .filter(|phase| {
            results
                .policies
                .iter()
                .any(|policy| policy.phase(*phase).is_some())
        })
        .collect();
    let last = phases.len().saturating_sub(1).max(1) as f64;
    area.fill(&WHITE)?;
    let top = match quantity {
        Quantity::Cycles => 1000.0,
        Quantity::Walks => 2000.0,
    };
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!("{core}: {}, {WORKLOAD}", quantity.label()),
            ("sans-serif", 17),
        )
        .margin(10)
        .margin_right(150)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(-0.2..last + 0.2, (LEAST..top).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(RGBColor(244, 244, 244))
        .x_labels(phases.len() * 2)
        .x_label_formatter(&|at| {
            let near = at.round();
            let name = phases.get(near as usize).filter(|_| (at - near).abs() < 0.01);
            name.map_or_else(String::new, |phase| phase.name().into())
        })
        .y_label_formatter(&|value| {
            if *value <= LEAST {
                "0".into()
            } else {
                value.to_string()
            }
        })
        .y_desc(quantity.label())
        .draw()?;
    let mut labels: Vec<(i32, i32, Policy)> = Vec::new();
    for (number, policy) in results.policies.iter().enumerate() {
        let value = |phase: &Phase, replacement| {
            let figure = policy.phase(*phase)?.figure(core, replacement, WORKLOAD)?;
            Some(quantity.of(figure))
        };
        let mut points: Vec<(f64, f64, f64)> = (0..)
            .zip(&phases)
            .filter_map(|(place, phase)| Some((f64::from(place), value(phase, "lru")?, value(phase, "nru")?)))
            .collect();
        let colour = colour(policy.policy);
        if policy.policy.is_yardstick() {
            let Some((_, lru, nru)) = points.first().copied() else {
                continue;
            };
            points = vec![(-0.2, lru, nru), (last + 0.2, lru, nru)];
            let line = points.iter().map(|(at, lru, _)| (*at, *lru));
            chart.draw_series(DashedLineSeries::new(line, 5, 4, colour.into()))?;
        } else {
            let line = points.iter().map(|(at, lru, _)| (*at, *lru));
            chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
            // The error bar, and a mark whose shape also tells the policy.
            for (at, lru, nru) in &points {
                chart.draw_series([PathElement::new(
                    [(*at, *lru), (*at, *nru)],
                    colour.stroke_width(2),
                )])?;
                let place = (*at, *lru);
                match number % 3 {
                    0 => chart.draw_series([Circle::new(place, 5, colour.filled())])?,
                    1 => chart.draw_series([TriangleMarker::new(place, 6, colour.filled())])?,
                    _ => chart.draw_series([Cross::new(place, 5, colour.stroke_width(2))])?,
                };
            }
        }
        if let Some((at, lru, _)) = points.last() {
            let (x, y) = chart.backend_coord(&(*at, *lru));
            let beyond = if policy.policy.is_yardstick() { 6 } else { 26 };
            labels.push((y, x + beyond, policy.policy));
        }
    }
    // Where lines end at the same place, their names stand below each other, and above again where there is no room below.
    labels.sort_by_key(|(y, ..)| *y);
    let mut next = i32::MIN;
    for (y, ..) in &mut labels {
        *y = next.max(*y);
        next = *y + LABEL;
    }
    let mut next = SIZE.1 as i32 - 2 * LABEL;
    for (y, ..) in labels.iter_mut().rev() {
        *y = next.min(*y);
        next = *y - LABEL;
    }
    for (y, x, policy) in labels {
        let style = ("sans-serif", 13).into_font().color(&colour(policy));
        area.draw_text(policy.name(), &style, (x, y - LABEL / 2))?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::results::sample;
    use super::*;

    #[test]
    fn each_policy_has_its_line_and_its_name() {
        for quantity in [Quantity::Cycles, Quantity::Walks] {
            let svg = draw(&sample(), "spr", quantity).unwrap();
            for word in ["grouped", "linux-fresh", "boot", "guests-64", "after"] {
                assert!(svg.contains(word), "{word} is missing in {svg}");
            }
            // Three circles for the first policy; triangles are polygons.
            assert_eq!(svg.matches("<circle").count(), 3);
        }
    }
}
