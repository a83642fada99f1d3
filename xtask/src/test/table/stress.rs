//! The stress of the pool.

use std::time::Duration;

use crate::build::Flavor;
use crate::machine::Kind;
use crate::test::checks;
use crate::test::row::{QEMU, Row};

/// Guests that come and go while the stress runs: more than CPUs at a time, short ones and such as never leave their CPU by themselves.
const CROWD: &str = "guest=spin,memory=4M,limit=100ms,expect=time-limit,count=4 {two-at-once} {changes-at-random} \
     guest=touch-all,memory=8M,limit=60s,count=2 guest=hello,memory=4M,count=8 together=6";

/// Few of them, where a CPU is slow or only a mistake is to be noticed.
const SMALL_CROWD: &str = "guest=spin,memory=4M,limit=50ms,expect=time-limit,count=4 \
     guest=changes-at-random,memory=12M,limit=120s guest=hello,memory=4M,count=8 together=6";

/// The same for longer.
const LONG_CROWD: &str = "guest=spin,memory=4M,limit=1s,expect=time-limit,count=20 {two-at-once} \
     guest=changes-at-random,memory=12M,limit=120s,count=20 \
     guest=touch-all,memory=8M,limit=60s,count=40 guest=hello,memory=4M,count=100 \
     guest=spin,memory=16M,limit=500ms,expect=time-limit,count=20 guest=touch-all,memory=32M,limit=60s,count=10 together=8";

/// Random operations on the pool, by all CPUs, while guests run.
pub(super) fn stress() -> Vec<Row> {
    let row = |name: &str, about, operations: u64, stops: u64| Row {
        flavor: Flavor::TestHooks,
        smp: 4,
        check: checks::stress,
        limit: Duration::from_secs(600),
        ..Row::passing(name, about, &format!("{CROWD} stress={operations}+{stops}"))
    };
    let long = |name: &str, about, operations: u64| Row {
        kinds: &[Kind::Tcg],
        long: true,
        limit: Duration::from_secs(3600),
        line: format!("{LONG_CROWD} quiet stress={operations}+100"),
        ..row(name, about, operations, 100)
    };
    let no_kick = |kind: &'static [Kind]| Row {
        kinds: kind,
        // On Bochs that takes more than a minute.
        long: kind == [Kind::Bochs],
        verdict: "FAIL",
        says: &["kicks were sent, and none came"],
        check: |_| Ok(()),
        line: format!("{SMALL_CROWD} stress=4000+4 test=no-kick"),
        ..row("stress-no-kick", "the stress notices that nobody is kicked", 0, 0)
    };
    vec![
        Row {
            kinds: QEMU,
            ..row(
                "stress",
                "all CPUs use the pool at random while guests run, and everything is checked at random stops",
                20_000,
                20,
            )
        },
        Row {
            kinds: &[Kind::Bochs],
            line: format!("{SMALL_CROWD} stress=10000+10"),
            ..row("stress-few", "the same with VMX and fewer guests", 0, 0)
        },
        Row {
            kinds: &[Kind::Tcg],
            threads: true,
            // QEMU makes a mistake now and then: see `Row::threads`.
            long: true,
            ..row(
                "stress-threads",
                "the same on CPUs that run at the same time",
                20_000,
                20,
            )
        },
        Row {
            kinds: &[Kind::Tcg],
            repeats: true,
            line: format!("{SMALL_CROWD} stress=5000+5"),
            ..row(
                "stress-repeats",
                "with the same seed the stress does the same again, to the instruction",
                0,
                0,
            )
        },
        no_kick(&[Kind::Tcg]),
        no_kick(&[Kind::Bochs]),
        long("stress-million", "a million operations on 4 CPUs", 1_000_000),
        Row {
            threads: true,
            ..long(
                "stress-million-threads",
                "a million operations on 4 CPUs that run at the same time",
                1_000_000,
            )
        },
        Row {
            smp: 16,
            ..long("stress-16-cpus", "200,000 operations on 16 CPUs", 200_000)
        },
        Row {
            // A quarter of it is for the stress, which takes whole gigablocks, all over RAM.
            memory_mib: 8192,
            host_mib: 9216,
            ..long(
                "stress-8G",
                "100,000 operations where extents reach 1 GiB",
                100_000,
            )
        },
        Row {
            kinds: &[Kind::Bochs],
            line: format!("{SMALL_CROWD} quiet stress=100000+100"),
            ..long("stress-100k", "100,000 operations with VMX", 0)
        },
    ]
}
