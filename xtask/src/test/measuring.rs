//! Rows for `measure=tlb`, and what must be true of what it reports.

use report::{Event, Latency, PmuCount};

use crate::build::Flavor;
use crate::machine::Kind;
use crate::report::Report;
use crate::test::row::{EVERYWHERE, Row};

/// A guest leaves the host memory in one gigablock with its own.
const LINE: &str = "{hello} measure=tlb";

/// The rows.
pub fn rows() -> Vec<Row> {
    let row = |kind: &'static [Kind], says, about| Row {
        kinds: kind,
        says,
        check: |record| honest(&record.report),
        ..Row::passing("measure-tlb", about, LINE)
    };
    vec![
        row(
            &[Kind::Tcg],
            &[
                "dead: advertised, but what is written is lost",
                "QEMU's emulation has no TLB like a CPU's",
            ],
            "counters that swallow what is written are dead, and emulated time is no figure",
        ),
        row(
            &[Kind::Bochs],
            &[
                "dead: advertised, but its registers fault",
                "Bochs has no TLB like a CPU's",
            ],
            "counters whose registers fault are dead, and emulated time is no figure",
        ),
        row(
            &[Kind::Kvm],
            &[],
            "every event is tried, and figures have the probe's answer beside them",
        ),
        Row {
            kinds: &[Kind::Tcg],
            cpu_flags: "family=25,model=17",
            says: &["core Zen 4"],
            check: |record| {
                honest(&record.report)?;
                all_dead(&record.report, "advertised, but what is written is lost")
            },
            ..Row::passing(
                "measure-tlb-zen-4",
                "a core by its number has its events, and none of them is believed",
                LINE,
            )
        },
        Row {
            kinds: EVERYWHERE,
            flavor: Flavor::TestHooks,
            smp: 2,
            says: &[
                "objects-64     125 windows of 256 loads",
                "objects-near   125 windows of 256 loads",
                "virtqueue      125 windows of 256 loads",
                "probe          125 windows of each list",
            ],
            check: |record| honest(&record.report),
            ..Row::passing(
                "measure-anyway",
                "the measurements run beside guests, on memory that is never hidden; figures are withheld",
                &format!("{LINE} test=measure-anyway"),
            )
        },
    ]
}

const PHASES: [&str; 3] = ["boot", "guests", "after"];
/// Times of a moment; at `boot` it is not known what will be hidden, so there is one less.
const WORKLOADS: usize = 6;

/// Each moment says what the counters are; where time means nothing there is no figure that looks like one, and else all are there.
pub fn honest(report: &Report) -> Result<(), String> {
    let events = || report.events.iter();
    for phase in PHASES {
        let units = events().filter(|event| matches!(event, Event::Pmu(pmu) if pmu.phase == phase));
        match units.count() {
            1 => {}
            count => return Err(format!("`{phase}` has {count} lines about counters")),
        }
        let withheld = events()
            .any(|event| matches!(event, Event::Skip(skip) if skip.phase == phase && skip.what == "latency"));
        let times: Vec<_> = latencies(report, phase).collect();
        let probes = events().filter(|event| matches!(event, Event::Probe(probe) if probe.phase == phase));
        let wanted = match (withheld, phase) {
            (true, _) => (0, 0),
            (false, "boot") => (WORKLOADS - 1, 1),
            (false, _) => (WORKLOADS, 1),
        };
        let found = (times.len(), probes.count());
        if found != wanted {
            return Err(format!(
                "`{phase}` has {found:?} latencies and probes, not {wanted:?}"
            ));
        }
        for time in times {
            if !(0 < time.p10 && time.p10 <= time.p25 && time.p25 <= time.median) {
                return Err(format!("quantiles out of order: {time:?}"));
            }
        }
        let live = |count: &PmuCount<String>| {
            events().any(|event| {
                matches!(event, Event::PmuEvent(tried)
                    if tried.phase == phase && tried.metric == count.metric && tried.state == "live")
            })
        };
        let counts = events().filter_map(|event| match event {
            Event::PmuCount(count) if count.phase == phase => Some(count),
            _ => None,
        });
        for count in counts {
            if !live(count) {
                return Err(format!("counted, and not live: {count:?}"));
            }
            if (count.entries == "unknown") != withheld {
                return Err(format!("the probe's answer is not beside {count:?}"));
            }
        }
    }
    Ok(())
}

fn latencies<'r>(report: &'r Report, phase: &'r str) -> impl Iterator<Item = &'r Latency<String>> {
    report.events.iter().filter_map(move |event| match event {
        Event::Latency(latency) if latency.phase == phase => Some(latency),
        _ => None,
    })
}

/// Every event was tried, those about walks among them, and found dead for this reason.
fn all_dead(report: &Report, reason: &str) -> Result<(), String> {
    let mut walks = 0;
    for event in &report.events {
        if let Event::PmuEvent(event) = event {
            if event.state != "dead" || event.reason != reason {
                return Err(format!("not dead because `{reason}`: {event:?}"));
            }
            walks += usize::from(event.metric == "walks");
        }
    }
    if walks == PHASES.len() {
        Ok(())
    } else {
        Err(format!("walks were tried {walks} times"))
    }
}

#[cfg(test)]
mod tests {
    use report::{Pmu, PmuEvent, Probe, Skip};

    use super::*;

    fn pmu(phase: &str, state: &str) -> Event<String> {
        Event::Pmu(Pmu {
            phase: phase.into(),
            cpu: 0,
            core: "Zen 4".into(),
            interface: "AMD PerfMonV2".into(),
            counters: 6,
            width: 48,
            host_only: true,
            state: state.into(),
            reason: String::new(),
        })
    }

    fn tried(phase: &str, state: &str) -> Event<String> {
        Event::PmuEvent(PmuEvent {
            phase: phase.into(),
            cpu: 0,
            metric: "walks".into(),
            select: 1,
            state: state.into(),
            reason: "lost".into(),
        })
    }

    fn count(phase: &str, entries: &str) -> Event<String> {
        Event::PmuCount(PmuCount {
            phase: phase.into(),
            cpu: 0,
            workload: "objects-64".into(),
            metric: "walks".into(),
            loads: 100,
            count: 3,
            entries: entries.into(),
        })
    }

    fn latency(phase: &str, p10: u64) -> Event<String> {
        Event::Latency(Latency {
            phase: phase.into(),
            cpu: 0,
            workload: "objects-64".into(),
            loads: 256,
            windows: 2000,
            p10,
            p25: 20,
            median: 30,
            tsc_khz: 1,
            entries: "large".into(),
        })
    }

    fn probe(phase: &str) -> Event<String> {
        Event::Probe(Probe {
            phase: phase.into(),
            cpu: 0,
            few: 1,
            many: 1,
            entries: "large".into(),
        })
    }

    fn skip(phase: &str) -> Event<String> {
        Event::Skip(Skip {
            phase: phase.into(),
            what: "latency".into(),
            reason: "an emulator".into(),
        })
    }

    fn emulated() -> Vec<Event<String>> {
        let of = |phase| vec![skip(phase), pmu(phase, "dead"), tried(phase, "dead")];
        PHASES.into_iter().flat_map(of).collect()
    }

    fn real() -> Vec<Event<String>> {
        let of = |phase| {
            let mut events = vec![
                probe(phase),
                pmu(phase, "live"),
                tried(phase, "live"),
                count(phase, "large"),
            ];
            let workloads = if phase == "boot" { 5 } else { 6 };
            events.extend((0..workloads).map(|_| latency(phase, 10)));
            events
        };
        PHASES.into_iter().flat_map(of).collect()
    }

    fn held(events: Vec<Event<String>>) -> Result<(), String> {
        honest(&Report {
            events,
            unknown: Vec::new(),
        })
    }

    #[test]
    fn honest_reports_are_accepted_and_others_are_not() {
        assert_eq!((held(emulated()), held(real())), (Ok(()), Ok(())));
        let with = |mut events: Vec<_>, event| {
            events.push(event);
            held(events)
        };
        assert!(held(Vec::new()).is_err());
        assert!(with(emulated(), latency("boot", 10)).is_err());
        assert!(with(emulated(), probe("after")).is_err());
        assert!(
            with(emulated(), count("boot", "large")).is_err(),
            "it is not live"
        );
        assert!(with(real(), pmu("boot", "live")).is_err());
        assert!(with(real(), count("after", "unknown")).is_err());
        assert!(with(real(), skip("guests")).is_err());
        let mut out_of_order = real();
        out_of_order.pop();
        out_of_order.push(latency("after", 25));
        assert!(held(out_of_order).unwrap_err().contains("out of order"));
        let mut fewer = real();
        fewer.pop();
        assert!(held(fewer).is_err());
    }

    #[test]
    fn dead_events_are_dead_for_the_reason() {
        let dead = |events, reason| {
            all_dead(
                &Report {
                    events,
                    unknown: Vec::new(),
                },
                reason,
            )
        };
        assert_eq!(dead(emulated(), "lost"), Ok(()));
        assert!(dead(emulated(), "faults").is_err());
        assert!(dead(real(), "lost").is_err());
        assert!(
            dead(emulated().split_off(3), "lost").is_err(),
            "not at each moment"
        );
    }
}
