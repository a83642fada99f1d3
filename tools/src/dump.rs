//! Leaves of one moment, kept to be compared with those of another.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Peekable;

use audit::{Attributes, Leaf, LeafSize, PhysicalRead, Tables, Va, WalkError};
use serde::{Deserialize, Serialize};

/// One leaf, as it is kept in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafRecord {
    /// Where it is seen.
    #[serde(with = "hex")]
    pub va: u64,
    /// Where it goes.
    #[serde(with = "hex")]
    pub pa: u64,
    /// Its size in bytes.
    #[serde(with = "hex")]
    pub bytes: u64,
    /// Rights and memory type, see [`attributes`].
    pub attributes: String,
    /// The CPU read through it.
    pub accessed: bool,
    /// The CPU wrote through it.
    pub dirty: bool,
}

impl From<Leaf> for LeafRecord {
    fn from(leaf: Leaf) -> Self {
        Self {
            va: leaf.va.get(),
            pa: leaf.pa.get(),
            bytes: leaf.size.bytes(),
            attributes: attributes(leaf.attributes),
            accessed: leaf.accessed,
            dirty: leaf.dirty,
        }
    }
}

impl LeafRecord {
    /// Whether two leaves agree in all but accessed and dirty.
    pub fn same_shape(&self, other: &Self) -> bool {
        self.va == other.va
            && self.pa == other.pa
            && self.bytes == other.bytes
            && self.attributes == other.attributes
    }
}

impl fmt::Display for LeafRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:#018x} -> {:#014x} {} {}",
            self.va,
            self.pa,
            size(self.bytes),
            self.attributes
        )
    }
}

/// A leaf size in two characters: `4K`, `2M` or `1G`; other numbers as they are.
pub fn size(bytes: u64) -> String {
    for (name, size) in [("4K", LeafSize::K4), ("2M", LeafSize::M2), ("1G", LeafSize::G1)] {
        if bytes == size.bytes() {
            return name.to_owned();
        }
    }
    format!("{bytes:#x}")
}

/// Attributes as letters: `r`, `w` or `-`, `x` or `-`, user or supervisor, then `g` for global, `t` for PWT, `c` for PCD, `p` for PAT
/// (each `-` when clear), and the protection key when it is not 0.
pub fn attributes(attributes: Attributes) -> String {
    let flag = |set, letter| if set { letter } else { '-' };
    let mut text = String::from("r");
    text.push(flag(attributes.writable, 'w'));
    text.push(flag(attributes.execute, 'x'));
    text.push(if attributes.user { 'u' } else { 's' });
    text.push(flag(attributes.global, 'g'));
    text.push(flag(attributes.write_through, 't'));
    text.push(flag(attributes.cache_disable, 'c'));
    text.push(flag(attributes.pat, 'p'));
    if attributes.key != 0 {
        text.push_str(&format!(" key {}", attributes.key));
    }
    text
}

/// The leaves under one root at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafDump {
    /// The root table.
    #[serde(with = "hex")]
    pub root: u64,
    /// The leaves in order of their address.
    pub leaves: Vec<LeafRecord>,
}

impl LeafDump {
    /// Takes every leaf that translates an address from `first` to `last`, both inclusive.
    ///
    /// # Errors
    /// The tables are malformed.
    pub fn take<M: PhysicalRead + ?Sized>(
        tables: &Tables<'_, M>,
        first: Va,
        last: Va,
    ) -> Result<Self, WalkError> {
        // Filtered rather than walked as a range: a range may not cross the gap between the halves of the address space.
        let leaves = tables.leaves().filter(|leaf| match leaf {
            Ok(leaf) => leaf.va <= last && leaf.va.get().saturating_add(leaf.size.bytes() - 1) >= first.get(),
            Err(_) => true,
        });
        let leaves = leaves
            .map(|leaf| leaf.map(LeafRecord::from))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            root: tables.root().get(),
            leaves,
        })
    }
}

/// A place where two dumps differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// Only in the first.
    Gone(LeafRecord),
    /// Only in the second.
    New(LeafRecord),
    /// At the same address, but not the same.
    Changed {
        /// As it was.
        before: LeafRecord,
        /// As it is.
        after: LeafRecord,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(leaf) => write!(f, "gone     {leaf}"),
            Self::New(leaf) => write!(f, "new      {leaf}"),
            Self::Changed { before, after } => write!(f, "changed  {before}\n     to  {after}"),
        }
    }
}

/// Compares two dumps leaf for leaf; accessed and dirty do not count. Both must be in order of address, as [`LeafDump::take`] gives them.
pub fn compare(before: &[LeafRecord], after: &[LeafRecord]) -> Vec<Difference> {
    let mut differences = Vec::new();
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    while let Some(difference) = next_difference(&mut before, &mut after) {
        differences.push(difference);
    }
    differences
}

fn next_difference<'l>(
    before: &mut Peekable<impl Iterator<Item = &'l LeafRecord>>,
    after: &mut Peekable<impl Iterator<Item = &'l LeafRecord>>,
) -> Option<Difference> {
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.va.cmp(&new.va),
        };
        match order {
            Ordering::Less => return before.next().cloned().map(Difference::Gone),
            Ordering::Greater => return after.next().cloned().map(Difference::New),
            Ordering::Equal => {
                let (old, new) = (before.next()?, after.next()?);
                if !old.same_shape(new) {
                    return Some(Difference::Changed {
                        before: old.clone(),
                        after: new.clone(),
                    });
                }
            }
        }
    }
}

/// Addresses in files are hexadecimal text: people read them, and no reader rounds them.
pub(crate) mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:#x}"))
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text
            .strip_prefix("0x")
            .ok_or_else(|| D::Error::custom("an address begins with 0x"))?;
        u64::from_str_radix(digits, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(va: u64, bytes: u64, attributes: &str) -> LeafRecord {
        LeafRecord {
            va,
            pa: va,
            bytes,
            attributes: attributes.to_owned(),
            accessed: false,
            dirty: false,
        }
    }

    #[test]
    fn equal_dumps_have_no_differences_whatever_was_accessed() {
        let before = [leaf(0, 4096, "rw"), leaf(4096, 4096, "rw")];
        let mut after = before.clone();
        after[1].accessed = true;
        after[1].dirty = true;
        assert_eq!(compare(&before, &after), []);
    }

    #[test]
    fn every_kind_of_difference_is_found_in_order() {
        let before = [
            leaf(0, 4096, "rw"),
            leaf(1 << 21, 1 << 21, "rw"),
            leaf(1 << 30, 1 << 30, "rw"),
        ];
        let after = [
            leaf(4096, 4096, "rw"),
            leaf(1 << 21, 1 << 21, "r-"),
            leaf(1 << 30, 1 << 21, "rw"),
            leaf(2 << 30, 1 << 30, "rw"),
        ];
        let text: Vec<String> = compare(&before, &after)
            .iter()
            .map(|difference| difference.to_string())
            .collect();
        let kinds: Vec<&str> = text
            .iter()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert_eq!(kinds, ["gone", "new", "changed", "changed", "new"]);
        assert!(
            text[3].contains("1G rw") && text[3].contains("2M rw"),
            "{}",
            text[3]
        );
    }

    #[test]
    fn a_dump_survives_its_file() {
        let dump = LeafDump {
            root: 0x23_5000,
            leaves: vec![leaf(0xffff_8000_0000_0000, 1 << 30, "rw-s----")],
        };
        let text = serde_json::to_string(&dump).unwrap();
        assert!(text.contains("\"0xffff800000000000\""), "{text}");
        assert_eq!(serde_json::from_str::<LeafDump>(&text).unwrap(), dump);
        assert!(serde_json::from_str::<LeafDump>("{\"root\":\"12\",\"leaves\":[]}").is_err());
    }
}
