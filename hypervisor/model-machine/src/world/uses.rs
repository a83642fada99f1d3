//! What guests and the host do with memory that they have.

use std::ops::Range;

use memory::address::{Gpa, PAGE_SIZE};
use memory::guest::{GuestMemory, PageState};
use memory::window::Windows;

use super::change::Known;
use super::{Guest, Stage, World, judged};
use crate::check::{Rule, Violation};
use crate::guests::SHARED_BIT;
use crate::hardware::ModelCpu;

impl World<'_> {
    /// A guest writes where it may, and tries where it may not.
    pub(super) fn guest_write(&mut self, guest: usize, at: u64) -> Result<(), Vec<Violation>> {
        let Some(index) = self.choose(guest, |stage| matches!(stage, Stage::Alive(_))) else {
            return Ok(());
        };
        let Guest { id, bytes, known, .. } = &mut self.guests[index];
        let at = (at % *bytes) & !7;
        let value = 0x5ec2_e700_0000_0000 | u64::from(id.get()) << 32 | at >> 3;
        let state = known.page(at);
        let allowed = match state {
            Some(PageState::Accepted) => Some(0),
            Some(PageState::Shared | PageState::SharedInPlace) => Some(SHARED_BIT),
            Some(_) => None,
            None => known.old_alias(),
        };
        if let Some(alias) = allowed {
            let stored = self.machine.guest_store(*id, Gpa::new(at | alias), value);
            if stored {
                known.written.insert(at | alias, value);
            }
            if !stored && state.is_some() {
                return broken(format!("guest {id} has lost its memory at {:#x}", at | alias));
            }
        }
        for alias in [0, SHARED_BIT] {
            if state.is_some()
                && Some(alias) != allowed
                && self.machine.guest_store(*id, Gpa::new(at | alias), value)
            {
                return broken(format!(
                    "guest {id} reaches {:#x}, which is {state:?}",
                    at | alias
                ));
            }
        }
        Ok(())
    }

    pub(super) fn host_write(
        &mut self,
        cpu: usize,
        guest: usize,
        at: u64,
        bytes: usize,
    ) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let Some(index) = self.choose(guest, |stage| matches!(stage, Stage::Alive(_))) else {
            return Ok(());
        };
        let windows = &mut self.windows[cpu.index()];
        let Guest {
            id,
            bytes: size,
            stage,
            known,
            ..
        } = &mut self.guests[index];
        let Stage::Alive(guest) = stage else { return Ok(()) };
        let words = (bytes / 8).max(1) as u64;
        let at = (at % (*size - 8 * words + 1)) & !7;
        let states: Option<Vec<PageState>> = (0..words).map(|word| known.page(at + 8 * word)).collect();
        let Some(states) = states else { return Ok(()) };
        let mut data = Vec::new();
        for word in 0..words {
            data.extend((0x1dad_ed00_0000_0000 | u64::from(id.get()) << 32 | word).to_le_bytes());
        }
        let frames = &self.memory.frames;
        let written = guest.write(&cpu, frames, windows, Gpa::new(at), &data);
        let private = states.iter().all(|state| *state == PageState::Accepted);
        if written.is_ok() != private {
            return broken(format!(
                "the host's write into guest {id} at {at:#x}: {written:?}, {states:?}"
            ));
        }
        let shared = guest.write_shared(&cpu, frames, windows, Gpa::new(at), &data);
        let is_shared = |state: &PageState| matches!(state, PageState::Shared | PageState::SharedInPlace);
        let all_shared = states.iter().all(is_shared);
        if shared.is_ok() != all_shared {
            return broken(format!(
                "the host's write into what guest {id} shares at {at:#x}: {shared:?}, {states:?}"
            ));
        }
        let alias = if private { 0 } else { SHARED_BIT };
        for (word, value) in (0..)
            .zip(data.as_chunks::<8>().0)
            .filter(|_| private || all_shared)
        {
            known
                .written
                .insert((at + 8 * word) | alias, u64::from_le_bytes(*value));
        }
        let differs = known.first_difference(guest, &cpu, frames, windows, |_| true);
        differs.map_or(Ok(()), |what| broken(format!("guest {id}: {what}")))
    }

    /// All that was ever written into these pages of a guest is there.
    pub(super) fn reads_the_same(
        &mut self,
        cpu: usize,
        index: usize,
        pages: &Range<u64>,
    ) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let windows = &mut self.windows[cpu.index()];
        let Guest { id, stage, known, .. } = &self.guests[index];
        let Stage::Alive(guest) = stage else { return Ok(()) };
        let inside = |at: u64| pages.contains(&(at / PAGE_SIZE));
        let differs = known.first_difference(guest, &cpu, &self.memory.frames, windows, inside);
        differs.map_or(Ok(()), |what| broken(format!("guest {id}: {what}")))
    }
}

impl Known {
    /// Everything that was ever written is there, by whichever way leads to it, and by no other.
    fn first_difference(
        &self,
        guest: &GuestMemory,
        cpu: &ModelCpu<'_>,
        frames: &memory::frame::FrameTable<'_>,
        windows: &mut Windows,
        is_meant: impl Fn(u64) -> bool,
    ) -> Option<String> {
        for (at, value) in self.written.iter().filter(|(at, _)| is_meant(**at & !SHARED_BIT)) {
            let (page, mut word) = (Gpa::new(at & !SHARED_BIT), [0; 8]);
            let Some(state) = self.page(page.get()) else {
                continue;
            };
            let shared = guest.read_shared(cpu, frames, windows, page, &mut word).is_ok();
            let private = guest.read(cpu, frames, windows, page, &mut word).is_ok();
            let expected = (
                matches!(state, PageState::Shared | PageState::SharedInPlace),
                state == PageState::Accepted,
            );
            if (shared, private) != expected {
                return Some(format!(
                    "{at:#x} is {state:?}; readable shared: {shared}, private: {private}"
                ));
            }
            if u64::from_le_bytes(word) != *value {
                return Some(format!("{word:x?} is at {at:#x}, {value:#x} was written"));
            }
        }
        None
    }
}

fn broken(what: String) -> Result<(), Vec<Violation>> {
    judged(vec![Violation {
        rule: Rule::OneOwner,
        what,
    }])
}
