//! A list of records in frames of their own: only RAM limits it.

use memory::frame::OutOfMemory;

use crate::frames::FrameBox;

/// Frames for a record, taken before there is one.
pub struct Place<T>(FrameBox<Node<T>>);

struct Node<T> {
    value: Option<T>,
    next: Option<Place<T>>,
}

impl<T> Place<T> {
    /// Takes the frames.
    ///
    /// # Errors
    /// When there are none.
    pub fn new() -> Result<Self, OutOfMemory> {
        FrameBox::new(Node {
            value: None,
            next: None,
        })
        .map(Self)
    }

    /// The record. It is used in place: it may hold a guest's secrets, and every move would leave a copy.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.0.value.as_mut()
    }

    /// Takes the record out and gives the place up.
    pub fn into_value(mut self) -> Option<T> {
        self.0.value.take()
    }
}

/// Records, the one that was put in last first.
pub struct List<T> {
    first: Option<Place<T>>,
    len: usize,
}

impl<T> List<T> {
    /// No record.
    pub const fn new() -> Self {
        Self { first: None, len: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds a new record.
    pub fn add(&mut self, mut place: Place<T>, value: T) {
        place.0.value = Some(value);
        self.put_back(place);
    }

    /// Puts a record back that was taken out.
    pub fn put_back(&mut self, mut place: Place<T>) {
        place.0.next = self.first.take();
        self.first = Some(place);
        self.len += 1;
    }

    /// Takes out the record at a position below [`Self::len`].
    pub fn take(&mut self, position: usize) -> Option<Place<T>> {
        let mut at = &mut self.first;
        for _ in 0..position {
            at = &mut at.as_mut()?.0.next;
        }
        let mut place = at.take()?;
        *at = place.0.next.take();
        self.len -= 1;
        Some(place)
    }

    /// Takes out the first record that `is_it` knows.
    pub fn take_where(&mut self, is_it: impl Fn(&T) -> bool) -> Option<Place<T>> {
        let position = self.iter().position(is_it)?;
        self.take(position)
    }

    /// All of them.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter {
            next: self.first.as_ref(),
        }
    }
}

/// Iterator over a [`List`].
pub struct Iter<'l, T> {
    next: Option<&'l Place<T>>,
}

impl<'l, T> Iterator for Iter<'l, T> {
    type Item = &'l T;

    fn next(&mut self) -> Option<&'l T> {
        let node = &self.next?.0;
        self.next = node.next.as_ref();
        node.value.as_ref()
    }
}
