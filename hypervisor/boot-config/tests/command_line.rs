//! The command line as a user writes it: what is accepted, what each error says, and that nothing panics.

use std::time::Duration;

use boot_config::{
    ACTIONS, Config, Ending, Expected, GuestSpec, Hook, Launch, MAX_COMMAND_LINE, MAX_GUESTS, Phase, Policy,
    Stress,
};
use proptest::prelude::*;

fn error(line: &str) -> String {
    match Config::parse(line) {
        Err(error) => error.to_string(),
        Ok(config) => panic!("{line} is accepted as {config:?}"),
    }
}

#[test]
fn an_empty_line_is_the_default() {
    let config = Config::parse("  ").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(
        (config.seed, config.together, config.quiet, config.test),
        (1, None, false, None)
    );
    assert!(config.guests.is_empty());
    assert!(Phase::ALL.iter().all(|phase| !config.pauses.contains(*phase)));
}

#[test]
fn every_parameter_at_once() {
    let line = "guest=hello guest=spin,memory=16M,count=3,vcpus=4,share=12K,tables=7,limit=200ms,expect=time-limit,auto-accept,auto-convert,after seed=0x10 together=8 \
                pause=boot+after quiet test=read-hole cache=40 trace=hide+flush view \
                stress=1000+10";
    let config = Config::parse(line).unwrap();
    assert_eq!(config.guests.len(), 2);
    assert_eq!(
        config.guests[0],
        GuestSpec {
            name: "hello",
            launch: Launch::default()
        }
    );
    let launch = Launch {
        memory: 16 << 20,
        count: 3,
        vcpus: 4,
        share: 12 << 10,
        tables: 7,
        limit: Duration::from_millis(200),
        expect: Expected::Exactly(Ending::TimeLimit),
        auto_accept: true,
        auto_convert: true,
        after: true,
    };
    assert_eq!(config.guests[1], GuestSpec { name: "spin", launch });
    assert_eq!((config.seed, config.together, config.quiet), (16, Some(8), true));
    assert_eq!(
        Phase::ALL.map(|phase| config.pauses.contains(phase)),
        [true, false, true]
    );
    assert_eq!(config.test, Some(Hook::ReadHole));
    assert_eq!((config.cache, config.view), (40, true));
    let (operations, stops) = (1000, 10);
    assert_eq!(config.stress, Some(Stress { operations, stops }));
    assert!(config.trace.any());
    assert_eq!(
        ACTIONS.map(|action| config.trace.contains(action)),
        [false, true, false, false, true, false]
    );
    let all = Config::parse("trace=all").unwrap().trace;
    assert!(ACTIONS.iter().all(|action| all.contains(action)));
    assert!(!Config::parse("").unwrap().trace.any());
}

#[test]
fn the_last_one_counts() {
    assert_eq!(Config::parse("seed=1 seed=2").unwrap().seed, 2);
    assert_eq!(GuestSpec::parse("a,count=2,count=3").unwrap().launch.count, 3);
}

#[test]
fn launch_text_goes_over_a_base() {
    let base = Launch::default()
        .parse_over("memory=16M,expect=memory-fault")
        .unwrap();
    let launch = base.parse_over("memory=32M,count=2").unwrap();
    assert_eq!((launch.memory, launch.count), (32 << 20, 2));
    assert_eq!(launch.expect, Expected::Exactly(Ending::MemoryFault));
    assert_eq!(base.parse_over("").unwrap(), base);
}

#[test]
fn expectations() {
    assert!(Expected::Any.holds(Ending::Shutdown));
    assert!(Expected::default().holds(Ending::Exit(0)));
    assert!(!Expected::default().holds(Ending::Exit(1)));
    assert!(!Expected::Exactly(Ending::Halt).holds(Ending::Shutdown));
}

#[test]
fn the_benchmark_has_a_size_and_a_policy() {
    let config = Config::parse("bench=256M policy=linux-aged").unwrap();
    assert_eq!(
        (config.bench, config.policy),
        (Some(256 << 20), Policy::LinuxAged)
    );
    for policy in Policy::ALL {
        let line = format!("policy={}", policy.name());
        assert_eq!(Config::parse(&line).unwrap().policy, policy);
    }
    let refused = Config::parse("policy=linux-fesh").unwrap_err().to_string();
    assert!(refused.contains("did you mean `linux-fresh`"), "{refused}");
    assert!(Config::parse("bench=3M").is_err());
}

#[test]
fn errors_say_what_where_and_what_instead() {
    for (line, expected) in [
        (
            "quiet sead=1",
            "parameter `sead`, byte 6: `sead` is not known; did you mean `seed`?",
        ),
        ("gest=hello", "did you mean `guest`?"),
        (
            "bananas=1",
            "`bananas` is not known; known are guest, seed, together, pause, quiet, console, bench, policy, cache, measure, trace, view, test",
        ),
        (
            "seed=twelve",
            "parameter `seed`, byte 5: `twelve` is not accepted; accepted is a 64-bit number",
        ),
        (
            "seed",
            "parameter `seed`, byte 0: a value is missing; accepted is a 64-bit number",
        ),
        ("quiet=1", "parameter `quiet`, byte 0: it takes no value"),
        (
            "together=0",
            "`0` is not accepted; accepted is a number from 1 to 1000000",
        ),
        (
            "pause=boot+gests",
            "parameter `pause`, byte 6: `gests` is not accepted; did you mean `guests`?",
        ),
        (
            "pause=",
            "`` is not accepted; accepted is `boot`, `guests`, `after`",
        ),
        (
            "trace=hide+flash",
            "parameter `trace`, byte 6: `flash` is not accepted; did you mean `flush`?",
        ),
        (
            "cache=600000",
            "`600000` is not accepted; accepted is a number of 2 MiB regions from 0 to 524288",
        ),
        (
            "stress=10",
            "`10` is not accepted; accepted is a number of operations",
        ),
        ("stress=10+11", "`10+11` is not accepted"),
        ("stress=10+0", "`10+0` is not accepted"),
        ("stress=1000000001+1", "`1000000001+1` is not accepted"),
        ("view=1", "parameter `view`, byte 0: it takes no value"),
        ("test=read-hol", "did you mean `read-hole`?"),
        (
            "guest=",
            "parameter `guest`, byte 6: `` is not accepted; accepted is the name of a file",
        ),
        ("guest=../x", "`../x` is not accepted"),
        (
            "guest=a,",
            "parameter `guest`, byte 8: `` is not known; known are memory, count, vcpus, share, tables, limit, expect, auto-accept, auto-convert, after",
        ),
        (
            "guest=a,memroy=4M",
            "parameter `guest`, byte 8: `memroy` is not known; did you mean `memory`?",
        ),
        (
            "guest=a,memory=3M",
            "parameter `memory`, byte 15: `3M` is not accepted; accepted is a multiple of 2M",
        ),
        ("guest=a,memory=2M", "`2M` is not accepted"),
        ("guest=a,memory=4097K", "`4097K` is not accepted"),
        ("guest=a,memory=2T", "from 4M to 1T"),
        ("guest=a,memory=99999999999999999999T", "from 4M to 1T"),
        ("guest=a,share=4095", "a multiple of 4K from 0 to 1T"),
        ("guest=a,share=1025G", "a multiple of 4K from 0 to 1T"),
        ("guest=a,vcpus=0", "from 1 to 1024"),
        ("guest=a,vcpus=1025", "from 1 to 1024"),
        (
            "guest=a,count=0",
            "parameter `count`, byte 14: `0` is not accepted",
        ),
        ("guest=a,count=1000001", "from 1 to 1000000"),
        ("guest=a,limit=0s", "accepted is a time from 1ms to 3600s"),
        ("guest=a,limit=3601s", "accepted is a time from 1ms to 3600s"),
        ("guest=a,expect=timelimit", "did you mean `time-limit`?"),
        (
            "guest=a,expect=exit:x",
            "`exit:x` is not accepted; accepted is `exit:CODE`",
        ),
        (
            "guest=a,expect=exit",
            "did you mean `exit`?; accepted is `exit:CODE`",
        ),
        ("guest=a,after=1", "parameter `after`, byte 8: it takes no value"),
        ("guest=a,memory", "parameter `memory`, byte 8: a value is missing"),
        ("s\u{7}ed=1", "`s\\u{7}ed` is not known; did you mean `seed`?"),
    ] {
        let text = error(line);
        assert!(
            text.contains(expected),
            "{line}\n  says {text}\n  not  {expected}"
        );
    }
}

#[test]
fn limits_of_the_line() {
    let line = "guest=a ".repeat(MAX_GUESTS);
    assert_eq!(Config::parse(&line).unwrap().guests.len(), MAX_GUESTS);
    assert!(error(&format!("{line} guest=b")).contains("more than 64 `guest=` words"));
    let line = " ".repeat(MAX_COMMAND_LINE);
    assert!(Config::parse(&line).is_ok());
    assert!(error(&format!("{line} ")).contains("the line has 2001 bytes; at most 2000 are accepted"));
    let error = Config::from_bytes(b"seed=\xff").unwrap_err().to_string();
    assert!(error.contains("byte 5: this byte is not text"), "{error}");
}

#[test]
fn long_foreign_words_are_cut() {
    let text = error(&"x".repeat(1000));
    assert!(text.len() < 300, "{text}");
}

fn launches() -> impl Strategy<Value = Launch> {
    let ending = prop_oneof![
        any::<u64>().prop_map(Ending::Exit),
        Just(Ending::MemoryFault),
        Just(Ending::TimeLimit),
        Just(Ending::Shutdown),
        Just(Ending::Halt),
        Just(Ending::Unexpected),
        Just(Ending::Refused),
        Just(Ending::Destroyed),
    ];
    let expect = prop_oneof![Just(Expected::Any), ending.prop_map(Expected::Exactly)];
    (
        2u64..=1 << 19,
        1u32..=1_000_000,
        1u32..=1024,
        0u64..=1 << 28,
        0u64..=1 << 20,
        1u64..=3_600_000,
        expect,
        any::<[bool; 3]>(),
    )
        .prop_map(
            |(regions, count, vcpus, shared, tables, ms, expect, flags)| Launch {
                memory: regions << 21,
                count,
                vcpus,
                share: shared << 12,
                tables,
                limit: Duration::from_millis(ms),
                expect,
                auto_accept: flags[0],
                auto_convert: flags[1],
                after: flags[2],
            },
        )
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        if let Err(error) = Config::from_bytes(&bytes) {
            let _ = error.to_string();
        }
    }

    #[test]
    fn random_words_never_panic(line in "((guest|seed|together|pause|quiet|test|memory|x)?[=,+:]?[0-9a-zé]{0,5}[ ,=]?){0,30}") {
        if let Err(error) = Config::parse(&line) {
            prop_assert!(error.position <= line.len());
            let _ = error.to_string();
        }
    }

    #[test]
    fn what_is_written_is_read_back(name in "[A-Za-z0-9._+-]{1,64}", launch in launches()) {
        let text = GuestSpec { name: &name, launch }.to_string();
        prop_assert_eq!(GuestSpec::parse(&text), Ok(GuestSpec { name: &name, launch }));
    }
}
