//! The main job on machines of every size.

use std::time::Duration;

use crate::machine::Kind;
use crate::test::checks;
use crate::test::row::{QEMU, Row};

use super::long_on_bochs;

/// The main job with little and with much RAM. The host's share was measured (the emulator's VmHWM: 150 MiB with 128 MiB of RAM, 219 with
/// 512 MiB, 1088 with 4 GiB and a guest of 1 GiB, 235 with 64 GiB) and has a margin.
pub(super) fn sizes() -> Vec<Row> {
    let main_job = |name: &str, memory_mib, host_mib| Row {
        memory_mib,
        host_mib,
        check: |record| checks::cpus(record, 1, 1),
        ..Row::passing(name, "the main job: every bundled guest", "{guests}")
    };
    let with_two_cpus = |name: &str, row: Row| Row {
        name: name.into(),
        about: "the main job on a machine with two CPUs",
        smp: 2,
        check: |record| checks::cpus(record, 2, 2),
        ..row
    };
    let (little, some, much) = (
        main_job("main-job-128M", 128, 256),
        main_job("main-job-512M", 512, 384),
        main_job("main-job-2G", 2048, 512),
    );
    let mut rows = vec![
        with_two_cpus("main-job-512M-two-cpus", some.clone()),
        some,
        Row {
            kinds: QEMU,
            check: |record| {
                checks::gigabyte_leaves(record)?;
                checks::value(&record.report, "touch-all", "bytes", |bytes| bytes > 1000 << 20)
            },
            line: "{guests} guest=touch-all,memory=1G,limit=120s,after".into(),
            ..main_job("main-job-4G", 4096, 1536)
        },
        Row {
            kinds: QEMU,
            check: checks::gigabyte_leaves,
            limit: Duration::from_secs(400),
            ..main_job("main-job-64G", 65536, 512)
        },
        Row {
            // Of KVM's hosts many have fewer bits of physical address.
            kinds: &[Kind::Tcg],
            check: checks::gigabyte_leaves,
            ..main_job("main-job-900G", 900 << 10, 768)
        },
        Row {
            kinds: QEMU,
            cpu_flags: "pdpe1gb=off",
            check: checks::no_gigabyte_leaves,
            ..main_job("no-1G-leaves", 4096, 384)
        },
    ];
    let others = [
        with_two_cpus("main-job-128M-two-cpus", little.clone()),
        with_two_cpus("main-job-2G-two-cpus", much.clone()),
        little,
        much,
    ];
    rows.extend(others.into_iter().flat_map(long_on_bochs));
    rows
}
