//! The whole line: words separated by spaces.

use core::fmt;

use heapless::Vec;

use crate::error::{Error, Problem};
use crate::guest::{self, GuestSpec};
use crate::nearest::nearest;
use crate::parameter::{PARAMETER_NAMES, PARAMETERS, accepted};
use crate::value;

/// The longest command line, in bytes. Measured: with `-append` of 5000 bytes QEMU 7.2 and 10.0 overwrite the PVH start
/// information; 1950 are safe on 7.2.
pub const MAX_COMMAND_LINE: usize = 2000;
/// The most `guest=` words of one command line. Instances are not limited by it: see `count=`.
pub const MAX_GUESTS: usize = 64;

/// The most regions that `cache=` takes: 1 TiB.
const MAX_CACHE: u64 = 1 << 19;

/// All that can be measured.
const MEASURED: &str = "tlb";

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config<'a> {
    /// The guests in the order given. Empty: every file of the archive once, with the defaults.
    pub guests: Vec<GuestSpec<'a>, MAX_GUESTS>,
    /// The seed of every pattern and of every random order of the run.
    pub seed: u64,
    /// Most guests alive at once; `None`: as many as fit.
    pub together: Option<u32>,
    /// Where to stop for a look from outside.
    pub pauses: Pauses,
    /// No line on the console for each guest.
    pub quiet: bool,
    /// Whether commands are taken on the first serial port while guests run.
    pub console: bool,
    /// Instead of running guests, give this much private memory, take it back, and say what that cost.
    pub bench: Option<u64>,
    /// How the benchmark does it.
    pub policy: Policy,
    /// Empty hidden regions that are kept for reuse at most.
    pub cache: u64,
    /// Whether counters and latency of the host's own accesses are measured at each moment.
    pub measure: bool,
    /// What is noted in the trace.
    pub trace: Traces,
    /// Memory by kind and size on the console at each moment.
    pub view: bool,
    /// A deliberate mistake to make; only test builds do, others refuse to start.
    pub test: Option<Hook>,
    /// What all CPUs do beside running guests; only test builds do, others refuse to start.
    pub stress: Option<Stress>,
}

/// Random operations on the pool of hidden memory, by all CPUs, and how often all of it is checked meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stress {
    /// Operations of all CPUs together.
    pub operations: u64,
    /// Times that all CPUs stop for a check of everything.
    pub stops: u64,
}

impl Stress {
    /// The most operations.
    const MOST: u64 = 1_000_000_000;

    /// Reads `OPERATIONS+STOPS`: at least one stop, and for each at least one operation.
    fn parse(text: &str) -> Option<Self> {
        let (operations, stops) = text.split_once('+')?;
        let (operations, stops) = (value::number(operations)?, value::number(stops)?);
        (stops >= 1 && operations >= stops && operations <= Self::MOST).then_some(Self { operations, stops })
    }
}

/// What a trace can note: the actions of the memory subsystem.
pub const ACTIONS: [&str; 6] = ["carve", "hide", "split", "merge", "flush", "restore"];

/// A set of actions to be traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traces {
    chosen: [bool; ACTIONS.len()],
}

impl Traces {
    /// Whether anything is to be traced.
    pub fn any(self) -> bool {
        self.chosen.contains(&true)
    }

    /// Whether an action is.
    pub fn contains(self, action: &str) -> bool {
        ACTIONS
            .iter()
            .zip(self.chosen)
            .any(|(known, chosen)| chosen && *known == action)
    }

    /// Reads actions joined by `+`, or `all`; the error is the word that is none.
    fn parse(text: &str) -> Result<Self, &str> {
        if text == "all" {
            return Ok(Self {
                chosen: [true; ACTIONS.len()],
            });
        }
        let mut traces = Self::default();
        for word in text.split('+') {
            let (_, chosen) = ACTIONS
                .iter()
                .zip(&mut traces.chosen)
                .find(|(action, _)| **action == word)
                .ok_or(word)?;
            *chosen = true;
        }
        Ok(traces)
    }
}

/// A place where the hypervisor can stop for a look from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The direct map is built and nothing is hidden yet.
    Boot,
    /// The first guest has ended, none has been taken down: all of them still have their memory.
    Guests,
    /// All guests are torn down.
    After,
}

impl Phase {
    /// Every phase, in the order they happen.
    pub const ALL: [Self; 3] = [Self::Boot, Self::Guests, Self::After];

    /// The word for the phase on the command line and in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Guests => "guests",
            Self::After => "after",
        }
    }
}

/// A set of phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pauses {
    chosen: [bool; Phase::ALL.len()],
}

impl Pauses {
    /// Whether to stop at `phase`.
    pub fn contains(self, phase: Phase) -> bool {
        Phase::ALL
            .iter()
            .zip(self.chosen)
            .any(|(known, chosen)| chosen && *known == phase)
    }

    /// Reads phases joined by `+`; the error is the word that is none.
    fn parse(text: &str) -> Result<Self, &str> {
        let mut pauses = Self::default();
        for word in text.split('+') {
            let (_, chosen) = Phase::ALL
                .iter()
                .zip(&mut pauses.chosen)
                .find(|(phase, _)| phase.name() == word)
                .ok_or(word)?;
            *chosen = true;
        }
        Ok(pauses)
    }
}

/// How private memory is hidden in the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Lacuna's: whole regions, one flush for all, merged back.
    Grouped,
    /// Linux' secret memory on a fresh machine: page by page, a flush each, never merged.
    LinuxFresh,
    /// The same among unmovable neighbours.
    LinuxAged,
    /// The same with the pages spread over all RAM: the worst case.
    Scattered,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::Grouped, Self::LinuxFresh, Self::LinuxAged, Self::Scattered];

    /// The word for the policy on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grouped => "grouped",
            Self::LinuxFresh => "linux-fresh",
            Self::LinuxAged => "linux-aged",
            Self::Scattered => "scattered",
        }
    }
}

/// A deliberate mistake that a test build can make, to show that it is caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Read a hidden frame through the direct map while its guest lives.
    ReadHole,
    /// Write to the hypervisor's own code through the direct map.
    WriteText,
    /// Recurse until the stack meets its guard page.
    StackOverflow,
    /// Do not call the last CPU when the others are started.
    SilentCpu,
    /// Map a hidden region a second time, outside of the direct map, while its guest lives.
    ShowHole,
    /// Copy a hidden region to ordinary memory, and never free that.
    KeepCopy,
    /// Give every guest on SVM an EFER with FFXSR, without asking CPUID for it.
    BadControlBlock,
    /// No mistake: try what the pool of hidden memory must do, before the first guest.
    Pool,
    /// No mistake: try every access of the host's to a guest's memory, before the first guest.
    HostAccess,
    /// Send no NMI to a CPU that is to leave its guest.
    NoKick,
    /// Read memory on one CPU while another hides it.
    StaleRead,
    /// The same, and send no interrupt to the CPU that is to flush.
    NoInterrupt,
    /// No mistake: pause, resume and destroy guests, at random moments, from CPUs that they do not run on.
    Control,
    /// No mistake: take the measurements of `measure=tlb` where time means nothing, too, to show that they run.
    MeasureAnyway,
}

impl Hook {
    /// Every hook.
    pub const ALL: [Self; 14] = [
        Self::ReadHole,
        Self::WriteText,
        Self::StackOverflow,
        Self::SilentCpu,
        Self::ShowHole,
        Self::KeepCopy,
        Self::BadControlBlock,
        Self::Pool,
        Self::HostAccess,
        Self::NoKick,
        Self::StaleRead,
        Self::NoInterrupt,
        Self::Control,
        Self::MeasureAnyway,
    ];

    /// The word for the hook on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadHole => "read-hole",
            Self::WriteText => "write-text",
            Self::StackOverflow => "stack-overflow",
            Self::SilentCpu => "silent-cpu",
            Self::ShowHole => "show-hole",
            Self::KeepCopy => "keep-copy",
            Self::BadControlBlock => "bad-control-block",
            Self::Pool => "pool",
            Self::HostAccess => "host-access",
            Self::NoKick => "no-kick",
            Self::StaleRead => "stale-read",
            Self::NoInterrupt => "no-interrupt",
            Self::Control => "control",
            Self::MeasureAnyway => "measure-anyway",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Default for Config<'_> {
    /// What an empty command line means.
    fn default() -> Self {
        Self {
            guests: Vec::new(),
            seed: 1,
            together: None,
            pauses: Pauses::default(),
            quiet: false,
            console: false,
            bench: None,
            policy: Policy::Grouped,
            cache: 0,
            measure: false,
            trace: Traces::default(),
            view: false,
            test: None,
            stress: None,
        }
    }
}

impl<'a> Config<'a> {
    /// Reads a command line as the boot loader hands it over: bytes without a terminating zero.
    ///
    /// # Errors
    /// Bytes that are not text, else as [`Config::parse`].
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, Error<'a>> {
        match core::str::from_utf8(bytes) {
            Ok(text) => Self::parse(text),
            Err(error) => Err(Error {
                parameter: "",
                position: error.valid_up_to(),
                problem: Problem::NotText,
            }),
        }
    }

    /// Reads a command line. Of a parameter given twice the last one counts, except `guest=`, which adds a guest each time.
    ///
    /// # Errors
    /// The first problem met: an unknown parameter, a value that is not accepted, a line or a list that is too long.
    pub fn parse(line: &'a str) -> Result<Self, Error<'a>> {
        if line.len() > MAX_COMMAND_LINE {
            let problem = Problem::TooLong(line.len());
            return Err(Error {
                parameter: "",
                position: MAX_COMMAND_LINE,
                problem,
            });
        }
        let mut config = Self::default();
        let mut position = 0;
        for word in line.split(|character: char| character.is_ascii_whitespace()) {
            if !word.is_empty() {
                config.set(word, position)?;
            }
            position += word.len() + 1;
        }
        Ok(config)
    }

    /// Takes over one word, which starts at `position`.
    fn set(&mut self, word: &'a str, position: usize) -> Result<(), Error<'a>> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        if !PARAMETER_NAMES.contains(&name) {
            let nearest = nearest(name, PARAMETER_NAMES);
            let problem = Problem::UnknownName {
                word: name,
                nearest,
                known: PARAMETER_NAMES,
            };
            return Err(Error {
                parameter: name,
                position,
                problem,
            });
        }
        let switch = match name {
            "quiet" => Some(&mut self.quiet),
            "console" => Some(&mut self.console),
            "view" => Some(&mut self.view),
            _ => None,
        };
        if let Some(switch) = switch {
            if value.is_some() {
                return Err(Error {
                    parameter: name,
                    position,
                    problem: Problem::UnwantedValue,
                });
            }
            *switch = true;
            return Ok(());
        }
        let accepted = accepted(PARAMETERS, name);
        let Some(value) = value else {
            return Err(Error {
                parameter: name,
                position,
                problem: Problem::MissingValue { accepted },
            });
        };
        let position = position + name.len() + 1;
        let bad = |value, nearest| {
            let problem = Problem::BadValue {
                value,
                nearest,
                accepted,
            };
            Error {
                parameter: name,
                position,
                problem,
            }
        };
        match name {
            "guest" => {
                let guest = GuestSpec::parse(value).map_err(|error| Error {
                    position: error.position + position,
                    ..error
                })?;
                self.guests.push(guest).map_err(|_| Error {
                    parameter: name,
                    position,
                    problem: Problem::TooManyGuests,
                })?;
            }
            "seed" => self.seed = value::number(value).ok_or_else(|| bad(value, None))?,
            "together" => self.together = Some(guest::count(value).ok_or_else(|| bad(value, None))?),
            "pause" => {
                let names = Phase::ALL.map(Phase::name);
                self.pauses = Pauses::parse(value).map_err(|word| bad(word, nearest(word, names)))?;
            }
            "bench" => {
                let memory = guest::memory(value);
                self.bench = Some(memory.ok_or_else(|| bad(value, None))?);
            }
            "cache" => {
                let regions = value::number(value).filter(|regions| *regions <= MAX_CACHE);
                self.cache = regions.ok_or_else(|| bad(value, None))?;
            }
            "measure" => {
                if value != MEASURED {
                    return Err(bad(value, nearest(value, [MEASURED])));
                }
                self.measure = true;
            }
            "stress" => {
                let stress = Stress::parse(value).ok_or_else(|| bad(value, None))?;
                self.stress = Some(stress);
            }
            "trace" => self.trace = Traces::parse(value).map_err(|word| bad(word, nearest(word, ACTIONS)))?,
            "policy" => {
                let policy = Policy::ALL.into_iter().find(|policy| policy.name() == value);
                let names = Policy::ALL.map(Policy::name);
                self.policy = policy.ok_or_else(|| bad(value, nearest(value, names)))?;
            }
            _ => {
                let hook = Hook::ALL.into_iter().find(|hook| hook.name() == value);
                let names = Hook::ALL.map(Hook::name);
                self.test = Some(hook.ok_or_else(|| bad(value, nearest(value, names)))?);
            }
        }
        Ok(())
    }
}
