//! The lines: written by the hypervisor's writer, read by another, documented in full.
#![cfg(test)]

use std::collections::BTreeSet;

use report::{
    Bench, Check, Counters, Event, Gigablock, Guest, LINE_BYTES, Latency, Leaves, Machine, Outcome, Pause,
    PhaseHeader, Pmu, PmuCount, PmuEvent, Probe, ReportValue, SCHEMA, Skip, Start, Stress, Trace, Verdict,
    View, WriteError, write_event, write_phase,
};
use serde_json::Value;

fn start(command_line: &str) -> Event<&str> {
    Event::Start(Start {
        schema: SCHEMA,
        version: "0.1.0",
        commit: "0123abc",
        machine: Machine {
            cpu: "QEMU TCG CPU",
            second_stage: "npt",
            leaf_1g: true,
            nrip_save: false,
            decode_assists: false,
            flush_by_asid: false,
            asids: 16,
            physical_bits: 40,
        },
        memory_mib: 511,
        cpus_found: 2,
        cpus_used: 1,
        seed: u64::MAX,
        command_line,
    })
}

/// One of each but `phase`.
fn samples() -> Vec<Event<&'static str>> {
    vec![
        start("guest=hello,memory=64M seed=1"),
        Event::Guest(Guest {
            name: "escape",
            instance: 3,
            memory_mib: 64,
            large_leaves_mib: 62,
            measurement: "00ff",
            ending: "memory-fault",
            expected: "memory-fault",
            held: true,
            detail: "wrote to 0x4000000, which it does not own",
            vcpus: 4,
            at_once: 2,
            turns: 6,
            exits: 7,
            hypercalls: 2,
            alternations: 7,
            moves: 2,
            kicks: 1,
            cpu_us: 1234,
        }),
        Event::View(View {
            phase: "guests",
            memory: memory::view::View::default(),
        }),
        Event::Trace(Trace {
            cpu: 1,
            number: 5000,
            time: u64::MAX,
            action: "restore",
            address: 1 << 30,
            bytes: 2 << 20,
        }),
        Event::ReportValue(ReportValue {
            guest: "two-at-once",
            instance: 2,
            name: "switches",
            value: 100,
        }),
        Event::Check(Check {
            name: "no host address reaches a private frame",
            held: true,
            detail: "",
        }),
        Event::Counters(Counters {
            flushes: 3,
            ..Counters::default()
        }),
        Event::Pause(Pause { phase: "guests" }),
        Event::Verdict(Verdict {
            verdict: Outcome::Refused,
            reason: "no SVM: add `-cpu max`",
        }),
        Event::Bench(Bench {
            policy: "grouped",
            pages: 4096,
            hide: 1,
            map: 2,
            scrub_before: 3,
            load: 6,
            bytes_loaded: 7,
            load_invlpgs: 8,
            restore: 4,
            scrub_after: 5,
            launch_flushes: 1,
            teardown_flushes: 1,
            cpus_interrupted: 2,
            cpus_flagged: 3,
            cpus_spared: 4,
            launch_invlpgs: 8,
            teardown_invlpgs: 8,
            level2_splits: 0,
            level3_splits: 1,
            level3_collapses: 1,
            before: Leaves::default(),
            peak: Leaves { g1: 1, m2: 2, k4: 3 },
            after: Leaves::default(),
        }),
        Event::Stress(Stress {
            cpus: 4,
            operations: 100,
            ..Stress::default()
        }),
        Event::Pmu(Pmu {
            phase: "boot",
            cpu: 0,
            core: "Zen 4",
            interface: "AMD PerfMonV2",
            counters: 6,
            width: 48,
            host_only: true,
            state: "live",
            reason: "",
        }),
        Event::PmuEvent(PmuEvent {
            phase: "boot",
            cpu: 0,
            metric: "walks",
            select: 0x42_f045,
            state: "live",
            reason: "",
        }),
        Event::PmuCount(PmuCount {
            phase: "guests",
            cpu: 1,
            workload: "objects-all",
            metric: "walks",
            loads: 65_536,
            count: 12,
            entries: "large",
        }),
        Event::Probe(Probe {
            phase: "boot",
            cpu: 0,
            few: 5000,
            many: 5100,
            entries: "large",
        }),
        Event::Latency(Latency {
            phase: "after",
            cpu: 0,
            workload: "objects-64",
            loads: 256,
            windows: 2000,
            p10: 5000,
            p25: 5100,
            median: 5200,
            tsc_khz: 2_400_000,
            entries: "large",
        }),
        Event::Skip(Skip {
            phase: "boot",
            what: "latency",
            reason: "an emulator",
        }),
    ]
}

fn line(event: &Event<&str>) -> String {
    let mut text = String::new();
    write_event(event, &mut [0; LINE_BYTES], &mut text).unwrap();
    assert_eq!(text.matches('\n').count(), 1);
    assert!(text.ends_with('\n'));
    text
}

fn phase(gigablocks: impl Iterator<Item = Gigablock>) -> String {
    let mut text = String::new();
    let header = PhaseHeader {
        phase: "guests",
        leaves: Leaves { g1: 1, m2: 2, k4: 3 },
        hidden_mib: 4,
    };
    write_phase(&header, gigablocks, &mut [0; LINE_BYTES], &mut text).unwrap();
    text
}

fn gigablock(gib: u64) -> Gigablock {
    Gigablock {
        gib,
        count: 1,
        leaves: Leaves {
            g1: 0,
            m2: 512 - gib % 7,
            k4: 0,
        },
        holes: gib % 7,
    }
}

#[test]
fn every_line_reads_as_what_was_written() {
    for event in samples() {
        let read: Value = serde_json::from_str(&line(&event)).unwrap();
        assert_eq!(read, serde_json::to_value(&event).unwrap());
        assert_eq!(read["event"], event.name());
    }
}

#[test]
fn a_line_has_exactly_this_text() {
    assert_eq!(
        line(&samples()[8]),
        "{\"event\":\"verdict\",\"verdict\":\"refused\",\"reason\":\"no SVM: add `-cpu max`\"}\n"
    );
    assert_eq!(
        phase([gigablock(1)].into_iter()),
        "{\"event\":\"phase\",\"phase\":\"guests\",\"leaves\":{\"g1\":1,\"m2\":2,\"k4\":3},\"hidden_mib\":4,\
         \"gigablocks\":[{\"gib\":1,\"count\":1,\"leaves\":{\"g1\":0,\"m2\":511,\"k4\":0},\"holes\":1}]}\n"
    );
}

#[test]
fn texts_are_escaped() {
    let nasty = "quote \" backslash \\ newline \n tab \t bell \u{7} umlaut \u{e4} slash / end";
    let read: Value = serde_json::from_str(&line(&start(nasty))).unwrap();
    assert_eq!(read["command_line"], nasty);
    assert_eq!(read["seed"], u64::MAX);
}

#[test]
fn the_longest_command_line_fits() {
    let longest = "x".repeat(1400);
    assert!(line(&start(&longest)).contains(&longest));
}

#[test]
fn too_long_is_an_error_and_writes_nothing() {
    let mut text = String::new();
    for length in [0, 1, 20, 60] {
        let error = write_event(&samples()[8], &mut vec![0; length], &mut text).unwrap_err();
        assert_eq!(
            error,
            WriteError::TooLong {
                event: "verdict",
                buffer: length
            }
        );
    }
    let long = "y".repeat(5000);
    let error = write_event(&start(&long), &mut [0; LINE_BYTES], &mut text).unwrap_err();
    assert!(error.to_string().contains("`start`"), "{error}");
    let header = PhaseHeader {
        phase: long.as_str(),
        leaves: Leaves::default(),
        hidden_mib: 0,
    };
    write_phase(&header, [].into_iter(), &mut [0; LINE_BYTES], &mut text).unwrap_err();
    assert_eq!(text, "");
}

#[test]
fn a_phase_takes_any_number_of_gigablocks() {
    for count in [0, 1, 64, 900, 100_000] {
        let read: Value = serde_json::from_str(&phase((0..count).map(gigablock))).unwrap();
        let array = read["gigablocks"].as_array().unwrap();
        assert_eq!(array.len() as u64, count);
        for (at, value) in array.iter().enumerate() {
            assert_eq!(value, &serde_json::to_value(gigablock(at as u64)).unwrap());
        }
    }
}

#[test]
fn the_longest_gigablock_fits_its_buffer() {
    let leaves = Leaves {
        g1: u64::MAX,
        m2: u64::MAX,
        k4: u64::MAX,
    };
    let longest = Gigablock {
        gib: u64::MAX,
        count: u64::MAX,
        leaves,
        holes: u64::MAX,
    };
    assert!(phase([longest].into_iter()).contains("18446744073709551615"));
}

fn fields(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                into.insert(name.clone());
                fields(value, into);
            }
        }
        Value::Array(array) => array.iter().for_each(|value| fields(value, into)),
        _ => (),
    }
}

/// Names of the document's table rows: the first cell, in backticks.
fn documented(document: &str) -> BTreeSet<String> {
    let rows = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn the_document_names_every_event_and_field_and_no_other() {
    let document = include_str!("../../../docs/report-schema.md");
    let mut lines: Vec<String> = samples().iter().map(line).collect();
    lines.push(phase([gigablock(0)].into_iter()));
    let mut names = BTreeSet::new();
    for line in &lines {
        let value: Value = serde_json::from_str(line).unwrap();
        let event = value["event"].as_str().unwrap();
        assert!(
            document.contains(&format!("## `{event}`")),
            "docs/report-schema.md has no section for `{event}`"
        );
        fields(&value, &mut names);
    }
    assert_eq!(documented(document), names);
    assert!(
        document.contains(&format!("`{SCHEMA}`")),
        "the document does not give the schema version"
    );
}

#[cfg(feature = "read")]
#[test]
fn a_reader_gets_the_same_structs() {
    for event in samples() {
        let read: Event<String> = serde_json::from_str(&line(&event)).unwrap();
        assert_eq!(
            serde_json::to_value(&read).unwrap(),
            serde_json::to_value(&event).unwrap()
        );
    }
    let read: Event<String> = serde_json::from_str(&phase((0..3).map(gigablock))).unwrap();
    let Event::Phase(read) = read else {
        panic!("not a phase")
    };
    assert_eq!((read.phase.as_str(), read.hidden_mib), ("guests", 4));
    assert_eq!(read.gigablocks, [gigablock(0), gigablock(1), gigablock(2)]);
}
