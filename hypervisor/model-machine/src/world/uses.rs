//! What guests and the host do with memory that they have.

use memory::address::Gpa;

use super::{Guest, Stage, World, judged};
use crate::check::{Rule, Violation};

impl World<'_> {
    pub(super) fn guest_write(&mut self, guest: usize, at: u64) -> Result<(), Vec<Violation>> {
        let Some(index) = self.choose(guest, |stage| matches!(stage, Stage::Alive(_))) else {
            return Ok(());
        };
        let guest = &mut self.guests[index];
        let at = (at % guest.bytes) & !7;
        let value = 0x5ec2_e700_0000_0000 | u64::from(guest.id.get()) << 32 | at >> 3;
        guest.written.insert(at, value);
        if self.machine.guest_store(guest.id, Gpa::new(at), value) {
            return Ok(());
        }
        let what = format!("guest {} has lost its memory at {at:#x}", guest.id);
        judged(vec![Violation {
            rule: Rule::OneOwner,
            what,
        }])
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
            written,
            ..
        } = &mut self.guests[index];
        let Stage::Alive(guest) = stage else { return Ok(()) };
        let words = (bytes / 8).max(1) as u64;
        let at = (at % (*size - 8 * words + 1)) & !7;
        let mut data = Vec::new();
        for word in 0..words {
            let value = 0x1dad_ed00_0000_0000 | u64::from(id.get()) << 32 | word;
            written.insert(at + 8 * word, value);
            data.extend(value.to_le_bytes());
        }
        let frames = &self.memory.frames;
        guest.write(&cpu, frames, windows, Gpa::new(at), &data).unwrap();
        // Everything that was ever written to this guest is there, and nothing else nearby.
        for (at, value) in written {
            let mut word = [0; 8];
            guest
                .read(&cpu, frames, windows, Gpa::new(*at), &mut word)
                .unwrap();
            if u64::from_le_bytes(word) != *value {
                let what = format!("guest {id} reads {word:x?} at {at:#x}, {value:#x} was written");
                return Err(vec![Violation {
                    rule: Rule::OneOwner,
                    what,
                }]);
            }
        }
        Ok(())
    }
}
