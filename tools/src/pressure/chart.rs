//! Figures over the moments, a line for each policy.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::axes::{Phase, Policy};
use super::goals::WORKLOAD;
use super::results::{Figure, PolicyResult, Results};
use super::table::size;

/// Pixels.
const SIZE: (u32, u32) = (980, 420);
/// The least that the logarithmic scale shows; what is less, 0 included, is drawn here.
const LEAST: f64 = 0.01;

/// Pixels around the chart, and below it for the axis.
const MARGIN: u32 = 10;
const AXIS: u32 = 34;
/// Height of a label in pixels.
const LABEL: i32 = 14;

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Translation cycles of one access.
    Cycles,
    /// Misses in the first level, of a thousand accesses.
    Misses,
    /// Walks of a thousand accesses.
    Walks,
}

impl Quantity {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cycles, Self::Misses, Self::Walks];

    fn of(self, figure: &Figure) -> f64 {
        match self {
            Self::Cycles => (figure.cycles / 1000.0).max(LEAST),
            Self::Misses => figure.misses.max(LEAST),
            Self::Walks => figure.walks.max(LEAST),
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Cycles => "translation cycles of one access",
            Self::Misses => "first-level misses of 1000 accesses",
            Self::Walks => "walks of 1000 accesses",
        }
    }
}

/// Colour of a policy: Okabe and Ito's palette, apart for colour-blind readers.
fn colour(policy: Policy) -> RGBColor {
    match policy {
        Policy::Grouped => RGBColor(0, 114, 178),
        Policy::GroupedWhole => RGBColor(0, 0, 0),
        Policy::GroupedNoMerge => RGBColor(86, 180, 233),
        Policy::LinuxFresh => RGBColor(0, 158, 115),
        Policy::LinuxAged => RGBColor(213, 94, 0),
        Policy::Scattered => RGBColor(204, 121, 167),
        Policy::All4K | Policy::All2M | Policy::All1G => RGBColor(90, 90, 90),
    }
}

/// A line: places on the axis, and at each the two ends of its error bar.
struct Line {
    policy: Policy,
    points: Vec<(usize, f64, f64)>,
}

/// What is drawn around the lines.
struct Frame<'f> {
    caption: &'f str,
    /// What the vertical axis has.
    quantity: &'f str,
    /// Its upper end.
    top: f64,
    /// The places of the horizontal axis.
    places: Vec<String>,
}

/// A chart of one core by phase, on a logarithmic scale.
///
/// # Errors
/// It can't be drawn.
pub fn draw(results: &Results, core: &str, quantity: Quantity) -> Result<String> {
    let phases: Vec<Phase> = Phase::ALL
        .into_iter()
        .filter(|phase| {
            results
                .policies
                .iter()
                .any(|policy| policy.phase(*phase).is_some())
        })
        .collect();
    let line = |policy: &PolicyResult| {
        let value = |phase: &Phase, replacement| {
            let figure = policy.phase(*phase)?.figure(core, replacement, WORKLOAD)?;
            Some(quantity.of(figure))
        };
        let points = phases.iter().enumerate();
        Line {
            policy: policy.policy,
            points: points
                .filter_map(|(place, phase)| Some((place, value(phase, "lru")?, value(phase, "nru")?)))
                .collect(),
        }
    };
    let frame = Frame {
        caption: &format!("{core}: {}, {WORKLOAD}", quantity.label()),
        quantity: quantity.label(),
        top: match quantity {
            Quantity::Cycles => 1000.0,
            Quantity::Misses | Quantity::Walks => 2000.0,
        },
        places: phases.iter().map(|phase| phase.name().into()).collect(),
    };
    svg(&frame, &results.policies.iter().map(line).collect::<Vec<_>>())
}

/// A chart of one core by the size of the only guest: what a workload costs more than before the guest.
///
/// # Errors
/// It can't be drawn.
pub fn by_size(results: &Results, core: &str, workload: &str) -> Result<String> {
    let mut sizes: Vec<u64> = results.sizes.iter().map(|result| result.bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut lines: Vec<Line> = Vec::new();
    for result in &results.sizes {
        let more = |replacement| Some((result.more(core, workload, replacement)? / 1000.0).max(LEAST));
        let place = sizes.binary_search(&result.bytes).ok();
        let Some((place, (lru, nru))) = place.zip(more("lru").zip(more("nru"))) else {
            continue;
        };
        match lines.iter_mut().find(|line| line.policy == result.policy) {
            Some(line) => line.points.push((place, lru, nru)),
            None => lines.push(Line {
                policy: result.policy,
                points: vec![(place, lru, nru)],
            }),
        }
    }
    let frame = Frame {
        caption: &format!("{core}: one guest, {workload}"),
        quantity: "cycles more of one access",
        top: 1000.0,
        places: sizes.into_iter().map(size).collect(),
    };
    svg(&frame, &lines)
}

fn svg(frame: &Frame<'_>, lines: &[Line]) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        plot(frame, lines, &area).map_err(|error| anyhow!("draw {}: {error}", frame.caption))?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn plot(frame: &Frame<'_>, lines: &[Line], area: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let last = frame.places.len().saturating_sub(1).max(1) as f64;
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(frame.caption, ("sans-serif", 17))
        .margin(MARGIN)
        .margin_right(150)
        .x_label_area_size(AXIS)
        .y_label_area_size(64)
        .build_cartesian_2d(-0.2..last + 0.2, (LEAST..frame.top).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(RGBColor(244, 244, 244))
        .x_labels(frame.places.len() * 2)
        .x_label_formatter(&|at| {
            let near = at.round();
            let name = frame
                .places
                .get(near as usize)
                .filter(|_| (at - near).abs() < 0.01);
            name.map_or_else(String::new, String::clone)
        })
        .y_label_formatter(&|value| {
            if *value <= LEAST {
                "0".into()
            } else {
                value.to_string()
            }
        })
        .y_desc(frame.quantity)
        .draw()?;
    let mut labels: Vec<(i32, i32, Policy)> = Vec::new();
    for line in lines {
        let mut points: Vec<(f64, f64, f64)> = line
            .points
            .iter()
            .map(|(place, lru, nru)| (*place as f64, *lru, *nru))
            .collect();
        let colour = colour(line.policy);
        if line.policy.is_yardstick() {
            let Some((_, lru, nru)) = points.first().copied() else {
                continue;
            };
            points = vec![(-0.2, lru, nru), (last + 0.2, lru, nru)];
            let line = points.iter().map(|(at, lru, _)| (*at, *lru));
            chart.draw_series(DashedLineSeries::new(line, 5, 4, colour.into()))?;
        } else {
            let drawn = points.iter().map(|(at, lru, _)| (*at, *lru));
            chart.draw_series(LineSeries::new(drawn, colour.stroke_width(2)))?;
            // The error bar, and a mark whose shape also tells the policy.
            for (at, lru, nru) in &points {
                chart.draw_series([PathElement::new(
                    [(*at, *lru), (*at, *nru)],
                    colour.stroke_width(2),
                )])?;
                mark(&mut chart, line.policy, (*at, *lru))?;
            }
        }
        if let Some((at, lru, _)) = points.last() {
            let (x, y) = chart.backend_coord(&(*at, *lru));
            let beyond = if line.policy.is_yardstick() { 6 } else { 26 };
            labels.push((y, x + beyond, line.policy));
        }
    }
    // Where lines end at the same place, their names stand below each other, and above again where there is no room below.
    labels.sort_by_key(|(y, ..)| *y);
    let mut next = i32::MIN;
    for (y, ..) in &mut labels {
        *y = next.max(*y);
        next = *y + LABEL;
    }
    // Above the axis, or its line goes through the lowest name.
    let mut next = SIZE.1 as i32 - MARGIN as i32 - AXIS as i32 - LABEL / 2;
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

type Chart<'c, 'a> = ChartContext<'c, SVGBackend<'a>, Cartesian2d<RangedCoordf64, LogCoord<f64>>>;

/// A mark of the policy's own: hollow ones are seen through when another lies beneath.
fn mark(chart: &mut Chart<'_, '_>, policy: Policy, at: (f64, f64)) -> Result<(), Box<dyn std::error::Error>> {
    let colour = colour(policy);
    match policy {
        Policy::Grouped => chart
            .draw_series([Circle::new(at, 5, colour.filled())])
            .map(drop)?,
        Policy::GroupedWhole => {
            let stroke = |from, to| PathElement::new([from, to], colour.stroke_width(2));
            let plus = EmptyElement::at(at) + stroke((-7, 0), (7, 0)) + stroke((0, -7), (0, 7));
            chart.draw_series([plus]).map(drop)?;
        }
        Policy::GroupedNoMerge => chart
            .draw_series([Circle::new(at, 8, colour.stroke_width(2))])
            .map(drop)?,
        Policy::LinuxFresh => chart
            .draw_series([TriangleMarker::new(at, 7, colour.filled())])
            .map(drop)?,
        Policy::LinuxAged => chart
            .draw_series([Cross::new(at, 5, colour.stroke_width(2))])
            .map(drop)?,
        Policy::Scattered => {
            let square = EmptyElement::at(at) + Rectangle::new([(-5, -5), (5, 5)], colour.stroke_width(2));
            chart.draw_series([square]).map(drop)?;
        }
        Policy::All4K | Policy::All2M | Policy::All1G => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn each_policy_has_its_line_and_its_name() {
        for quantity in Quantity::ALL {
            let svg = draw(&sample(), "spr", quantity).unwrap();
            for word in ["grouped", "linux-fresh", "boot", "guests-64", "after"] {
                assert!(svg.contains(word), "{word} is missing in {svg}");
            }
            // Three circles for the first policy; triangles are polygons.
            assert_eq!(svg.matches("<circle").count(), 3);
        }
    }

    #[test]
    fn each_size_of_a_guest_has_its_place() {
        let svg = by_size(&sample(), "spr", WORKLOAD).unwrap();
        for word in ["grouped", "linux-fresh", "2M", "64M"] {
            assert!(svg.contains(word), "{word} is missing in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 2);
    }
}
