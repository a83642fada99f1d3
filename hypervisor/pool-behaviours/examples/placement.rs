//! How many 1G leaves of the direct map are lost to hidden memory, while guests come and go in ways that are bad for it.
//!
//! `cargo run --release -p pool-behaviours --example placement [FILE.svg]` prints a table and draws the curves. 64 GiB of model RAM; each
//! history is seeded and repeats. The bound that must hold at every new peak of hidden memory is checked, and the run fails where it does not.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap ends a program that only measures"
)]

use std::error::Error;

use memory::HostMemory;
use memory::address::Level;
use memory::frame::GuestId;
use memory::guest::{GuestFlushed, GuestMemory, SecondStageKind};
use memory::window::Windows;
use model_machine::{Board, Booted, ModelCpu};
use plotters::prelude::*;

const GIB: u64 = 1 << 30;
const REGION: u64 = 2 << 20;
const RAM: u64 = 64 * GIB;

/// A machine with guests, and the curve so far: hidden memory and gigablocks broken, after each step.
struct Run<'m> {
    cpu: ModelCpu<'m>,
    memory: HostMemory<'m>,
    windows: Windows,
    alive: Vec<GuestMemory>,
    launched: u16,
    curve: Vec<(f64, f64)>,
    peak: u64,
    excess_at_peaks: i64,
}

impl Run<'_> {
    /// Launches a guest of so many regions; false when there is no memory for it.
    fn launch(&mut self, regions: u64) -> bool {
        self.launched += 1;
        let id = GuestId::new(self.launched).unwrap();
        let (memory, cpu) = (&mut self.memory, &self.cpu);
        if regions > memory.frames.free_regions() {
            return false;
        }
        let Ok(hiding) = memory.launch(cpu, SecondStageKind::Nested, id, regions * REGION) else {
            return false;
        };
        let guest = hiding.wait(cpu).finish(memory, cpu, &mut self.windows);
        self.alive.push(guest);
        self.note();
        true
    }

    /// Tears the guest at a place down.
    fn die(&mut self, place: usize) {
        let guest = self.alive.swap_remove(place);
        let (memory, cpu, id) = (&mut self.memory, &self.cpu, guest.id());
        let teardown = guest.revoke(cpu).reclaim(GuestFlushed::new(id));
        let restored = teardown.finish(memory, cpu, &mut self.windows);
        restored.wait(cpu).release(memory, cpu);
        self.note();
    }

    fn note(&mut self) {
        let (holes, broken) = self.memory.frames.holes();
        self.curve
            .push(((holes * REGION) as f64 / GIB as f64, broken as f64));
        if holes > self.peak {
            self.peak = holes;
            let excess = broken as i64 - holes.div_ceil(512) as i64;
            self.excess_at_peaks = self.excess_at_peaks.max(excess);
        }
    }
}

/// Random numbers that repeat: an xorshift, of which only spread is asked.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Guests of 2 MiB to 2 GiB come and go; three quarters of RAM are in use in the end.
fn mixed(run: &mut Run<'_>) {
    let mut dice = Dice(7);
    for _ in 0..1500 {
        let size = 1 << dice.roll(11);
        let full = run.memory.frames.holes().0 * REGION > RAM / 4 * 3;
        if (full || dice.roll(5) < 2) && !run.alive.is_empty() {
            let victim = dice.roll(run.alive.len() as u64) as usize;
            run.die(victim);
        } else {
            run.launch(size);
        }
    }
}

/// Small guests fill half of RAM; all but one in each gigablock die; then guests of 1 GiB come.
fn survivors(run: &mut Run<'_>) {
    for _ in 0..3 {
        while run.memory.frames.holes().0 * REGION < RAM / 2 && run.launch(16) {}
        let mut seen = std::collections::BTreeSet::new();
        for place in (0..run.alive.len()).rev() {
            let home = run.alive[place]
                .regions(&run.cpu, &run.memory.frames)
                .next()
                .unwrap();
            if !seen.insert(home.gigablock_number()) {
                run.die(place);
            }
        }
        for _ in 0..20 {
            run.launch(512);
        }
        while run.alive.len() > seen.len() {
            run.die(seen.len());
        }
    }
}

/// Waves: guests of 64 MiB up to half of RAM, and all of them gone again, the oldest first.
fn waves(run: &mut Run<'_>) {
    for _ in 0..3 {
        while run.memory.frames.holes().0 * REGION < RAM / 2 && run.launch(32) {}
        while !run.alive.is_empty() {
            run.die(0);
        }
    }
}

type History = fn(&mut Run<'_>);

fn main() -> Result<(), Box<dyn Error>> {
    let histories: [(&str, History); 3] =
        [("mixed sizes", mixed), ("survivors", survivors), ("waves", waves)];
    let mut curves = Vec::new();
    let mut worst = 0;
    println!(
        "history        steps   most hidden   most broken   at most above ceil(H) at a peak   mean above   left at the end"
    );
    for (name, history) in histories {
        let mut board = Board::new(&[(0, RAM)], 1, Level::L3);
        let (machine, Booted { memory, mut windows }) = board.boot();
        let mut run = Run {
            cpu: machine.cpu(0),
            memory,
            windows: windows.remove(0),
            alive: Vec::new(),
            launched: 0,
            curve: Vec::new(),
            peak: 0,
            excess_at_peaks: 0,
        };
        history(&mut run);
        while !run.alive.is_empty() {
            run.die(0);
        }
        let most = |pick: fn(&(f64, f64)) -> f64| run.curve.iter().map(pick).fold(0.0, f64::max);
        let above: f64 = run
            .curve
            .iter()
            .map(|(hidden, broken)| broken - hidden.ceil())
            .sum();
        println!(
            "{name:<12} {:>7} {:>9.1} GiB {:>13} {:>33} {:>12.2} {:>17}",
            run.curve.len(),
            most(|point| point.0),
            most(|point| point.1),
            run.excess_at_peaks,
            above / run.curve.len() as f64,
            run.memory.frames.holes().1,
        );
        worst = worst.max(run.excess_at_peaks);
        curves.push((name, run.curve));
    }
    if let Some(file) = std::env::args().nth(1) {
        draw(&file, &curves)?;
        println!("drawn: {file}");
    }
    if worst > 1 {
        return Err("at a peak more than ceil(H / 1 GiB) + 1 leaves of 1G were lost".into());
    }
    Ok(())
}

/// One panel for each history: gigablocks broken, and the least there could be for what is hidden.
fn draw(file: &str, curves: &[(&str, Vec<(f64, f64)>)]) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(file, (900, 260 * curves.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, (name, curve)) in root.split_evenly((curves.len(), 1)).iter().zip(curves) {
        let top = curve.iter().map(|point| point.1).fold(1.0, f64::max) * 1.35;
        let mut chart = ChartBuilder::on(area)
            .caption(*name, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(32)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..curve.len() as f64, 0.0..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_label_formatter(&|value| format!("{value:.0}"))
            .y_label_formatter(&|value| format!("{value:.0}"))
            .x_desc("launches and deaths")
            .y_desc("1G leaves")
            .draw()?;
        let series = |pick: fn(&(f64, f64)) -> f64| {
            curve
                .iter()
                .enumerate()
                .step_by(1 + curve.len() / 800)
                .map(move |(step, point)| (step as f64, pick(point)))
                .collect::<Vec<_>>()
        };
        // Blue and vermilion of Okabe and Ito, which the colour-blind can tell apart; one is dashed, too.
        let (blue, vermilion) = (RGBColor(0, 114, 178), RGBColor(213, 94, 0));
        chart
            .draw_series(LineSeries::new(series(|point| point.1), blue.stroke_width(2)))?
            .label("lost")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], blue.stroke_width(2)));
        chart
            .draw_series(DashedLineSeries::new(
                series(|point| point.0.ceil()),
                4,
                3,
                vermilion.into(),
            ))?
            .label("least for what is hidden")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], vermilion));
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.4))
            .position(SeriesLabelPosition::UpperRight)
            .draw()?;
    }
    root.present()?;
    Ok(())
}
