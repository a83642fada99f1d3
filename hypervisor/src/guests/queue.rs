//! What to launch, and in which order.

use boot_config::{Config, Launch};
use guest_image::{Archive, File};

/// The guests that wait: the command line's, or each file of the archive once.
pub struct Queue<'a> {
    config: &'a Config<'a>,
    archive: &'a Archive<'a>,
    /// Index of the specification in turn, and instances of it that have been launched.
    at: usize,
    launched: u32,
    /// The same before the last guest was taken off.
    before: (usize, u32),
    /// It was begun anew.
    #[cfg(feature = "test-hooks")]
    again: bool,
}

/// One guest to launch.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// Its program.
    pub file: File<'a>,
    /// How.
    pub launch: Launch,
}

impl<'a> Queue<'a> {
    /// All guests of this command line.
    ///
    /// # Errors
    /// The name that is not in the archive.
    pub fn new(config: &'a Config<'a>, archive: &'a Archive<'a>) -> Result<Self, &'a str> {
        match config
            .guests
            .iter()
            .find(|guest| archive.file(guest.name).is_none())
        {
            Some(missing) => Err(missing.name),
            None => Ok(Self {
                config,
                archive,
                at: 0,
                launched: 0,
                before: (0, 0),
                #[cfg(feature = "test-hooks")]
                again: false,
            }),
        }
    }

    /// The guest in turn; `None` when there is none left.
    pub fn front(&self) -> Option<Order<'a>> {
        if self.config.guests.is_empty() {
            let file = self.archive.files().nth(self.at)?;
            return Some(Order {
                file,
                launch: Launch::default(),
            });
        }
        let guest = self.config.guests.get(self.at)?;
        Some(Order {
            file: self.archive.file(guest.name)?,
            launch: guest.launch,
        })
    }

    /// Puts the guest that was taken off last back: it is the next again. Nobody may have been taken off since.
    pub fn retreat(&mut self) {
        (self.at, self.launched) = self.before;
    }

    /// Begins anew, as if nobody had been launched.
    #[cfg(feature = "test-hooks")]
    pub fn rewind(&mut self) {
        (self.at, self.launched) = (0, 0);
        self.again = true;
    }

    /// Drops what is left of a queue that was begun anew.
    #[cfg(feature = "test-hooks")]
    pub fn cut(&mut self) {
        if self.again {
            self.at = usize::MAX;
        }
    }

    /// Takes the guest in turn off the queue.
    pub fn advance(&mut self) {
        self.before = (self.at, self.launched);
        self.launched += 1;
        let count = self
            .config
            .guests
            .get(self.at)
            .map_or(1, |guest| guest.launch.count);
        if self.launched >= count {
            self.at += 1;
            self.launched = 0;
        }
    }
}
