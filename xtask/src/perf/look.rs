//! Whether perf can count here, and what.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use pmu_events::{Event, Metric, Unit, Vendor};
use raw_cpuid::CpuIdReaderNative;

use super::stat;

/// The program.
pub const PERF: &str = "perf";
/// The kernel's list of what can count. A CPU with two kinds of core has two; P-cores are `cpu_core`.
const DEVICES: &str = "/sys/bus/event_source/devices";
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";
/// The highest value at which a user without rights may count a guest's kernel (the kernel's Documentation/admin-guide/perf-security.rst).
const LEAST_PARANOID: i32 = 1;

/// perf's own names, which each kernel knows for its CPU.
const GENERIC: [&str; 3] = ["dTLB-load-misses", "dTLB-store-misses", "iTLB-load-misses"];
/// Of the tables in `pmu-events`: as many as count at once on every core.
const OURS: [Metric; 7] = [
    Metric::LoadWalks,
    Metric::LoadWalkActive,
    Metric::LoadSecondHits,
    Metric::StoreWalks,
    Metric::Walks,
    Metric::SecondHits4K,
    Metric::SecondHits2M,
];

/// The events that count here, or why none does.
pub fn ask(emulated: bool) -> Result<Vec<String>, String> {
    if let Err(error) = Command::new(PERF).arg("--version").output() {
        return Err(match error.kind() {
            ErrorKind::NotFound => {
                "there is no `perf` on this machine: install it (Debian: linux-perf, Ubuntu: linux-tools-generic)".into()
            }
            _ => format!("`perf` does not start: {error}"),
        });
    }
    if let Some(reason) = forbidden(
        nix::unistd::geteuid().is_root(),
        fs::read_to_string(PARANOID).ok().as_deref(),
    ) {
        return Err(reason);
    }
    let device = ["cpu", "cpu_core"]
        .into_iter()
        .find(|name| Path::new(DEVICES).join(name).exists());
    let unit = Unit::detect(&CpuIdReaderNative).ok();
    let events = events(device, unit.as_ref(), emulated);
    // A short program shows what the kernel really gives.
    let output = Command::new(PERF)
        .args(["stat", "-j", "-e", &events.join(","), "--", "true"])
        .output()
        .map_err(|error| format!("`perf stat` does not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!(
            "`perf stat -j` refuses (it is there since Linux 6.0): {}",
            text.lines()
                .find(|line| !line.trim().is_empty())
                .unwrap_or("without a word")
                .trim()
        ));
    }
    let counts = stat::read(&text).map_err(|error| format!("{error:#}"))?;
    // One that is "not counted" had no time: the program above runs no guest.
    if counts.iter().all(|count| !count.is_supported()) {
        return Err(match device {
            None => "the kernel has no counters of the CPU, as in a virtual machine without them; perf says \"not supported\" of every event".into(),
            Some(_) => "perf says \"not supported\" of every event".into(),
        });
    }
    Ok(events)
}

/// Why this user may not count, if so.
fn forbidden(root: bool, paranoid: Option<&str>) -> Option<String> {
    let level: i32 = paranoid?.trim().parse().ok()?;
    (!root && level > LEAST_PARANOID).then(|| {
        format!("kernel.perf_event_paranoid is {level}, which forbids it: `sudo sysctl kernel.perf_event_paranoid={LEAST_PARANOID}`, or run as root")
    })
}

/// The events, in perf's words. `:G` counts a guest's time only.
fn events(device: Option<&str>, unit: Option<&Unit>, emulated: bool) -> Vec<String> {
    let whose = if emulated { "u" } else { "G" };
    let generic = GENERIC.iter().chain(&["instructions", "cycles"]);
    let mut events: Vec<String> = generic.map(|name| format!("{name}:{whose}")).collect();
    if let (Some(device), Some(unit)) = (device, unit) {
        let ours = unit.all().filter(|event| OURS.contains(&event.metric));
        events.extend(ours.map(|event| raw(device, unit.vendor, event, whose)));
    }
    events
}

fn raw(device: &str, vendor: Vendor, event: Event, whose: &str) -> String {
    let select = event.select;
    // AMD's events have 12 bits, which the kernel's format takes as one number, too.
    let number = match vendor {
        Vendor::Intel => select.event & 0xff,
        Vendor::Amd => select.event & 0xfff,
    };
    let cmask = if select.cmask == 0 {
        String::new()
    } else {
        format!(",cmask={:#x}", select.cmask)
    };
    format!(
        "{device}/event={number:#x},umask={:#x}{cmask},name={}/{whose}",
        select.umask,
        event.metric.name()
    )
}

#[cfg(test)]
mod tests {
    use raw_cpuid::CpuIdResult;

    use super::*;

    #[test]
    fn only_users_without_rights_are_kept_out() {
        assert!(
            forbidden(false, Some("2\n"))
                .unwrap()
                .contains("perf_event_paranoid=1")
        );
        assert!(forbidden(false, Some("4")).is_some());
        for (root, level) in [(false, "1"), (false, "-1"), (true, "4"), (false, "what")] {
            assert_eq!(forbidden(root, Some(level)), None);
        }
        assert_eq!(forbidden(false, None), None);
    }

    #[test]
    fn events_are_those_of_the_core_and_of_the_guest() {
        let zen_4 = |leaf: u32, _: u32| {
            let [eax, ebx, ecx, edx] = match leaf {
                0 => [1, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
                1 => [0x00a1_0f11, 0, 0, 0],
                _ => [0; 4],
            };
            CpuIdResult { eax, ebx, ecx, edx }
        };
        let unit = Unit::detect(&zen_4).ok();
        let found = events(Some("cpu"), unit.as_ref(), false);
        assert!(found.contains(&"dTLB-load-misses:G".to_owned()));
        assert!(
            found.contains(&"cpu/event=0x45,umask=0xf0,name=walks/G".to_owned()),
            "{found:?}"
        );
        let found = events(Some("cpu"), None, true);
        assert!(found.iter().all(|event| event.ends_with(":u")), "{found:?}");
        // Without the kernel's device raw events are an error of perf's.
        assert_eq!(events(None, unit.as_ref(), false).len(), 5);
    }

    #[test]
    fn a_counter_mask_is_said() {
        let event = Event {
            metric: Metric::LoadWalkActive,
            select: pmu_events::Select {
                event: 0x12,
                umask: 0x10,
                cmask: 1,
            },
        };
        assert_eq!(
            raw("cpu_core", Vendor::Intel, event, "G"),
            "cpu_core/event=0x12,umask=0x10,cmask=0x1,name=load-walk-active/G"
        );
    }
}
