//! A guest to launch: `NAME[,memory=SIZE][,count=N][,vcpus=N][,share=SIZE][,tables=N][,limit=DURATION][,expect=ENDING][,auto-accept][,auto-convert][,after]`.

use core::fmt;
use core::time::Duration;

use crate::ending::{self, Expected};
use crate::error::{Error, Problem};
use crate::nearest::nearest;
use crate::parameter::{FIELD_NAMES, FIELDS, PARAMETERS, accepted};
use crate::value;

/// A guest's memory is a multiple of this, in bytes: guest memory is carved in whole 2M regions.
pub const MEMORY_STEP: u64 = 2 << 20;
/// The least memory of a guest, in bytes: below 1 MiB lies the launch area, above it the image.
pub const MIN_MEMORY: u64 = 4 << 20;
/// The most memory of a guest, in bytes: 2^40, all that a CPU with 40 address bits can name.
pub const MAX_MEMORY: u64 = 1 << 40;
/// What a guest shares is a multiple of this, in bytes: a page.
pub const SHARE_STEP: u64 = 4096;
/// The most tables beyond those of the launch: two for each 2 MiB of the largest guest, one for each alias.
pub const MAX_TABLES: u64 = 2 * MAX_MEMORY / MEMORY_STEP;
/// The most instances one `guest=` word launches.
pub const MAX_COUNT: u32 = 1_000_000;
/// The most vCPUs of a guest: a choice, well beyond the CPUs of most machines.
pub const MAX_VCPUS: u32 = 1024;
/// The longest time limit.
pub const MAX_LIMIT: Duration = Duration::from_secs(3600);
/// The longest name of a guest, in bytes.
pub const MAX_NAME: usize = 64;

/// How a guest is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Memory in bytes: a multiple of [`MEMORY_STEP`] from [`MIN_MEMORY`] to [`MAX_MEMORY`].
    pub memory: u64,
    /// How many instances are launched, from 1 to [`MAX_COUNT`].
    pub count: u32,
    /// vCPUs that each instance may have, from 1 to [`MAX_VCPUS`]; the first starts by itself.
    pub vcpus: u32,
    /// Bytes that each instance may share with the host at a time: a multiple of 4 KiB, at most what a guest can have at all.
    pub share: u64,
    /// Tables that each instance's changes of its memory may make the host allocate, from 0 to 1048576.
    pub tables: u64,
    /// CPU time that each instance may use, on all its vCPUs together; whole milliseconds, at most [`MAX_LIMIT`].
    pub limit: Duration,
    /// How each instance is expected to end.
    pub expect: Expected,
    /// A page that is pending or absent is backed and accepted when the guest touches it.
    pub auto_accept: bool,
    /// A page becomes shared, or private, when the guest touches it at the other alias.
    pub auto_convert: bool,
    /// Start each instance only when every guest before it, its own earlier instances included, has ended.
    pub after: bool,
}

impl Default for Launch {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            count: 1,
            vcpus: 1,
            share: MAX_MEMORY,
            tables: MAX_TABLES,
            limit: Duration::from_secs(30),
            expect: Expected::default(),
            auto_accept: false,
            auto_convert: false,
            after: false,
        }
    }
}

impl Launch {
    /// Reads fields separated by commas (`memory=16M,limit=200ms`) over the values of `self`; what the text does not name
    /// stays. Of a field given twice the last one counts. An empty text changes nothing.
    ///
    /// # Errors
    /// An unknown field, a value that is not accepted, or a value that is missing or not wanted. Positions count from the
    /// start of `text`.
    pub fn parse_over<'a>(self, text: &'a str) -> Result<Self, Error<'a>> {
        let mut launch = self;
        if text.is_empty() {
            return Ok(launch);
        }
        let mut position = 0;
        for field in text.split(',') {
            launch.set(field, position)?;
            position += field.len() + 1;
        }
        Ok(launch)
    }

    /// Takes over one field, which starts at `position`.
    fn set<'a>(&mut self, field: &'a str, position: usize) -> Result<(), Error<'a>> {
        let (name, text) = match field.split_once('=') {
            Some((name, text)) => (name, Some(text)),
            None => (field, None),
        };
        if !FIELD_NAMES.contains(&name) {
            let problem = Problem::UnknownName {
                word: name,
                nearest: nearest(name, FIELD_NAMES),
                known: FIELD_NAMES,
            };
            return Err(Error {
                parameter: "guest",
                position,
                problem,
            });
        }
        let flag = match name {
            "after" => Some(&mut self.after),
            "auto-accept" => Some(&mut self.auto_accept),
            "auto-convert" => Some(&mut self.auto_convert),
            _ => None,
        };
        if let Some(flag) = flag {
            if text.is_some() {
                return Err(Error {
                    parameter: name,
                    position,
                    problem: Problem::UnwantedValue,
                });
            }
            *flag = true;
            return Ok(());
        }
        let accepted = accepted(FIELDS, name);
        let Some(text) = text else {
            return Err(Error {
                parameter: name,
                position,
                problem: Problem::MissingValue { accepted },
            });
        };
        let known = match name {
            "memory" => memory(text).map(|memory| self.memory = memory),
            "count" => count(text).map(|count| self.count = count),
            "vcpus" => vcpus(text).map(|vcpus| self.vcpus = vcpus),
            "share" => share(text).map(|share| self.share = share),
            "tables" => tables(text).map(|tables| self.tables = tables),
            "limit" => limit(text).map(|limit| self.limit = limit),
            _ => Expected::parse(text).map(|expect| self.expect = expect),
        };
        known.ok_or_else(|| {
            let nearest = if name == "expect" && !text.starts_with("exit:") {
                nearest(text, ending::NAMES)
            } else {
                None
            };
            let position = position + name.len() + 1;
            Error {
                parameter: name,
                position,
                problem: Problem::BadValue {
                    value: text,
                    nearest,
                    accepted,
                },
            }
        })
    }
}

pub(crate) fn memory(text: &str) -> Option<u64> {
    value::size(text)
        .filter(|bytes| (MIN_MEMORY..=MAX_MEMORY).contains(bytes) && bytes.is_multiple_of(MEMORY_STEP))
}

/// A number from 1 to [`MAX_COUNT`].
pub(crate) fn count(text: &str) -> Option<u32> {
    let count = u32::try_from(value::number(text)?).ok()?;
    (1..=MAX_COUNT).contains(&count).then_some(count)
}

/// A number from 1 to [`MAX_VCPUS`].
fn vcpus(text: &str) -> Option<u32> {
    count(text).filter(|vcpus| *vcpus <= MAX_VCPUS)
}

fn share(text: &str) -> Option<u64> {
    value::size(text).filter(|bytes| *bytes <= MAX_MEMORY && bytes.is_multiple_of(SHARE_STEP))
}

fn tables(text: &str) -> Option<u64> {
    value::number(text).filter(|tables| *tables <= MAX_TABLES)
}

fn limit(text: &str) -> Option<Duration> {
    value::duration(text).filter(|limit| !limit.is_zero() && *limit <= MAX_LIMIT)
}

impl fmt::Display for Launch {
    /// Writes the fields that differ from the default, each with a comma before it, so that the text can follow a name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Self::default();
        if self.memory != default.memory {
            f.write_str(",memory=")?;
            value::write_size(f, self.memory)?;
        }
        if self.count != default.count {
            write!(f, ",count={}", self.count)?;
        }
        if self.vcpus != default.vcpus {
            write!(f, ",vcpus={}", self.vcpus)?;
        }
        if self.share != default.share {
            f.write_str(",share=")?;
            value::write_size(f, self.share)?;
        }
        if self.tables != default.tables {
            write!(f, ",tables={}", self.tables)?;
        }
        if self.limit != default.limit {
            f.write_str(",limit=")?;
            value::write_duration(f, self.limit)?;
        }
        if self.expect != default.expect {
            write!(f, ",expect={}", self.expect)?;
        }
        for (set, flag) in [
            (self.auto_accept, ",auto-accept"),
            (self.auto_convert, ",auto-convert"),
            (self.after, ",after"),
        ] {
            if set {
                f.write_str(flag)?;
            }
        }
        Ok(())
    }
}

/// One `guest=` word: which file of the archive, and how it is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestSpec<'a> {
    /// The name of a file in the archive: letters, digits, `.`, `_`, `-`, `+`; at most [`MAX_NAME`] bytes.
    pub name: &'a str,
    /// How it is launched.
    pub launch: Launch,
}

impl<'a> GuestSpec<'a> {
    /// Reads what follows `guest=`: a name, then fields after commas.
    ///
    /// # Errors
    /// A name that is empty, too long or has other characters, or what [`Launch::parse_over`] refuses. Positions count
    /// from the start of `text`.
    pub fn parse(text: &'a str) -> Result<Self, Error<'a>> {
        let (name, fields) = match text.split_once(',') {
            Some((name, fields)) => (name, Some(fields)),
            None => (text, None),
        };
        if !is_name(name) {
            let problem = Problem::BadValue {
                value: name,
                nearest: None,
                accepted: accepted(PARAMETERS, "guest"),
            };
            return Err(Error {
                parameter: "guest",
                position: 0,
                problem,
            });
        }
        let launch = Launch::default();
        let Some(fields) = fields else {
            return Ok(Self { name, launch });
        };
        let start = name.len() + 1;
        if fields.is_empty() {
            // A comma with nothing after it is a slip, not an empty list.
            let problem = Problem::UnknownName {
                word: "",
                nearest: None,
                known: FIELD_NAMES,
            };
            return Err(Error {
                parameter: "guest",
                position: start,
                problem,
            });
        }
        let launch = launch.parse_over(fields).map_err(|error| Error {
            position: error.position + start,
            ..error
        })?;
        Ok(Self { name, launch })
    }
}

/// Whether `name` can name a guest.
fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte))
}

impl fmt::Display for GuestSpec<'_> {
    /// Writes what [`GuestSpec::parse`] reads, without the fields that have their default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.launch)
    }
}
