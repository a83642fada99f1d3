//! What guests do to their memory, and what the guest and the host see of it.

use memory::address::{Gfn, Gpa};
use memory::frame::GuestId;
use memory::guest::{Change, ChangeError, GuestMemory, Kept, NotShared, PageState, Progress};

use super::Bench;

impl Bench<'_> {
    /// One step of a guest's change, without what it asks for: the one place where tests drive a change.
    pub fn go_on(&mut self, guest: &mut GuestMemory) -> Progress {
        let windows = &mut self.windows[0];
        guest.go_on(&mut self.memory, &self.cpu, windows, &mut self.magazine)
    }

    /// One step of a guest's change, and what it asks for; then a look at all rules.
    ///
    /// # Panics
    /// When a step that does not ask for a flush leaves one to be waited for: whoever drives the change may rest then, and others look at
    /// what is hidden.
    pub fn step(&mut self, guest: &mut GuestMemory) -> Progress {
        let progress = self.go_on(guest);
        self.answer(guest, &progress);
        self.check();
        progress
    }

    /// Does what a step has asked for.
    ///
    /// # Panics
    /// As [`Self::step`].
    pub fn answer(&mut self, guest: &mut GuestMemory, progress: &Progress) {
        match progress {
            Progress::Flush => {
                let receipt = self.machine.translations_flushed(guest.id());
                guest.flushed(&mut self.memory, receipt);
            }
            Progress::Hide => {
                let receipt = guest.hiding().unwrap().wait(&self.cpu);
                guest.hidden(&mut self.memory, &self.cpu, receipt);
            }
            Progress::Restock => {
                let windows = &mut self.windows[0];
                if let Err(error) = self.magazine.refill(&mut self.memory, &self.cpu, windows) {
                    guest.starve(&self.memory, error);
                }
            }
            Progress::More | Progress::Done(_) => {
                let silent = guest.hiding().is_none();
                assert!(silent, "a step asked for a flush, and did not say so");
            }
        }
    }

    /// Changes a range of a guest's memory, to the end.
    ///
    /// # Errors
    /// The change is refused.
    ///
    /// # Panics
    /// When it ends and is still under way.
    pub fn change(
        &mut self,
        guest: &mut GuestMemory,
        change: Change,
        start: u64,
        bytes: u64,
    ) -> Result<(), ChangeError> {
        self.change_by(guest, change, (start, bytes), Self::step)
    }

    /// The same without a look at the rules, for machines on which that takes long.
    ///
    /// # Errors
    /// The change is refused.
    pub fn change_unseen(
        &mut self,
        guest: &mut GuestMemory,
        change: Change,
        start: u64,
        bytes: u64,
    ) -> Result<(), ChangeError> {
        self.change_by(guest, change, (start, bytes), |bench, guest| {
            let progress = bench.go_on(guest);
            bench.answer(guest, &progress);
            progress
        })
    }

    fn change_by(
        &mut self,
        guest: &mut GuestMemory,
        change: Change,
        (start, bytes): (u64, u64),
        step: impl Fn(&mut Self, &mut GuestMemory) -> Progress,
    ) -> Result<(), ChangeError> {
        guest.begin(change, Gpa::new(start), bytes)?;
        loop {
            assert!(guest.is_changing());
            if let Progress::Done(result) = step(self, guest) {
                assert!(!guest.is_changing());
                return result;
            }
        }
    }

    /// Takes what is kept for a guest's pages; how many frames.
    pub fn take_kept(&mut self, guest: &mut GuestMemory, which: Kept) -> u64 {
        let (mut next, mut taken) = (Gfn::default(), 0);
        while let Some(frames) = guest.take_kept(&mut self.memory, &self.cpu, &mut next, which) {
            taken += frames;
            self.check();
        }
        taken
    }

    /// The state of a guest's page.
    pub fn state(&self, guest: &GuestMemory, at: u64) -> PageState {
        guest.page(&self.cpu, Gpa::new(at)).state
    }

    /// Guest 1 writes a word; false when it has no translation for it.
    pub fn store(&self, at: u64, value: u64) -> bool {
        let id = GuestId::new(1).unwrap();
        self.machine.guest_store(id, Gpa::new(at), value)
    }

    /// A word of what a guest has accepted, read as for its vCPU.
    pub fn load(&mut self, guest: &GuestMemory, at: u64) -> Option<u64> {
        let (frames, windows) = (&self.memory.frames, &mut self.windows[0]);
        let mut word = [0; 8];
        let read = guest.read(&self.cpu, frames, windows, Gpa::new(at), &mut word);
        read.ok().map(|()| u64::from_le_bytes(word))
    }

    /// A word of what a guest shares.
    ///
    /// # Errors
    /// It is not shared.
    pub fn load_shared(&mut self, guest: &GuestMemory, at: u64) -> Result<u64, NotShared> {
        let (frames, windows) = (&self.memory.frames, &mut self.windows[0]);
        let mut word = [0; 8];
        guest.read_shared(&self.cpu, frames, windows, Gpa::new(at), &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// The host writes a word into what a guest shares.
    ///
    /// # Errors
    /// It is not shared.
    pub fn store_shared(&mut self, guest: &mut GuestMemory, at: u64, value: u64) -> Result<(), NotShared> {
        let (frames, windows) = (&self.memory.frames, &mut self.windows[0]);
        guest.write_shared(&self.cpu, frames, windows, Gpa::new(at), &value.to_le_bytes())
    }
}
