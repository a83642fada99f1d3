//! A guest that lives, and the collection of all of them.

use core::fmt;

use boot_config::Launch;
use guest_image::File;
use memory::frame::{GuestId, OutOfMemory};
use memory::guest::GuestMemory;
use report::GuestText;

use crate::frames::FrameBox;

/// Writing a guest's image and launch area into its memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loading {
    /// TSC ticks that it took.
    pub ticks: u64,
    /// Bytes written.
    pub bytes: u64,
}

/// A guest.
pub struct Live<'a, V> {
    /// Its program.
    pub file: File<'a>,
    /// Its number in this boot, from 1.
    pub instance: u32,
    /// How it was launched.
    pub launch: Launch,
    /// Its memory.
    pub memory: GuestMemory,
    /// Its CPU.
    pub vcpu: V,
    /// What its image cost to load.
    pub loading: Loading,
    /// What it prints.
    pub output: GuestText,
    /// CPU time used, microseconds.
    pub used_us: u64,
    /// Hypercalls made.
    pub hypercalls: u64,
    /// Values reported.
    pub values: u64,
    /// Turns on the CPU that came right after another guest's turn.
    pub alternations: u64,
    /// The CPU that it had its last turn on.
    pub ran_on: Option<u32>,
    /// Turns on another CPU than the one before.
    pub moves: u64,
    /// Turns that another CPU ended by a kick while it ran.
    pub kicks: u64,
}

/// A guest's name and number, as they stand in front of its lines.
pub struct Label<'a>(pub &'a str, pub u32);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.0, self.1)
    }
}

/// A new guest, with the place for it.
pub type Newborn<'a, V> = (Place<'a, V>, Live<'a, V>);

/// Frames for a guest's record, taken before anything else of the guest exists.
pub struct Place<'a, V>(FrameBox<Node<'a, V>>);

struct Node<'a, V> {
    guest: Option<Live<'a, V>>,
    next: Option<Place<'a, V>>,
}

impl<'a, V> Place<'a, V> {
    /// Takes the frames.
    ///
    /// # Errors
    /// When there are none.
    pub fn new() -> Result<Self, OutOfMemory> {
        Ok(Self(FrameBox::new(Node {
            guest: None,
            next: None,
        })?))
    }

    /// The guest that lives here. It is used in place: its registers are a guest's secret, and every move would leave a copy.
    pub fn guest_mut(&mut self) -> Option<&mut Live<'a, V>> {
        self.0.guest.as_mut()
    }

    /// Takes the guest out and gives the place up.
    pub fn into_guest(mut self) -> Option<Live<'a, V>> {
        self.0.guest.take()
    }
}

/// The guests that live. A list of records in frames of their own: only RAM limits it.
pub struct Population<'a, V> {
    first: Option<Place<'a, V>>,
    len: usize,
}

impl<'a, V> Population<'a, V> {
    /// Nobody.
    pub const fn new() -> Self {
        Self { first: None, len: 0 }
    }

    /// How many live.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds a new guest.
    pub fn add(&mut self, mut place: Place<'a, V>, guest: Live<'a, V>) {
        place.0.guest = Some(guest);
        self.put_back(place);
    }

    /// Puts a guest back that was taken out.
    pub fn put_back(&mut self, mut place: Place<'a, V>) {
        place.0.next = self.first.take();
        self.first = Some(place);
        self.len += 1;
    }

    /// Takes out the guest at a position below [`Self::len`].
    pub fn take(&mut self, position: usize) -> Option<Place<'a, V>> {
        let mut at = &mut self.first;
        for _ in 0..position {
            at = &mut at.as_mut()?.0.next;
        }
        let mut place = at.take()?;
        *at = place.0.next.take();
        self.len -= 1;
        Some(place)
    }

    /// All of them.
    pub fn iter(&self) -> Iter<'_, 'a, V> {
        Iter {
            next: self.first.as_ref(),
        }
    }

    /// Whether a guest with this number lives.
    pub fn has(&self, id: GuestId) -> bool {
        self.iter().any(|guest| guest.memory.id() == id)
    }
}

/// Iterator over a [`Population`].
pub struct Iter<'p, 'a, V> {
    next: Option<&'p Place<'a, V>>,
}

impl<V> Clone for Iter<'_, '_, V> {
    fn clone(&self) -> Self {
        Self { next: self.next }
    }
}

impl<'p, 'a, V> Iterator for Iter<'p, 'a, V> {
    type Item = &'p Live<'a, V>;

    fn next(&mut self) -> Option<Self::Item> {
        let node = &self.next?.0;
        self.next = node.next.as_ref();
        node.guest.as_ref()
    }
}
