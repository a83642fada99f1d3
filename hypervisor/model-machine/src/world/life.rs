//! How guests come and go, step by step.

use memory::frame::GuestId;
use memory::guest::{GuestFlushed, LaunchError, Prepared, SecondStageKind};

use super::change::Known;
use super::{Guest, Stage, World};
use crate::check::Violation;

impl World<'_> {
    pub(super) fn launch(
        &mut self,
        cpu: usize,
        regions: u64,
        kind: SecondStageKind,
    ) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let id = GuestId::new(self.next_id).unwrap();
        let before = self.snapshot();
        let mut preparing = self.memory.prepare(kind, id, regions << 21).unwrap();
        let prepared = loop {
            match preparing.step(&mut self.memory, &cpu) {
                Prepared::More(rest) => {
                    preparing = rest;
                    self.judge()?;
                }
                prepared => break prepared,
            }
        };
        match prepared {
            Prepared::Hidden(hiding) => {
                self.enrol(id, regions, kind, Stage::Hiding(hiding));
                self.launched += 1;
                Ok(())
            }
            Prepared::Refused(LaunchError::OutOfMemory(_) | LaunchError::Hide(_)) => {
                if self.has_shrunk(&before) {
                    return self.launch(cpu.index(), regions, kind);
                }
                self.refused += 1;
                self.unchanged(&before, "a launch was refused")
            }
            Prepared::Refused(error) => panic!("{error}"),
            Prepared::More(_) => unreachable!(),
        }
    }

    /// Begins a launch, all of whose steps are other operations.
    pub(super) fn prepare(&mut self, regions: u64, kind: SecondStageKind) {
        let id = GuestId::new(self.next_id).unwrap();
        let preparing = self.memory.prepare(kind, id, regions << 21).unwrap();
        self.enrol(id, regions, kind, Stage::Preparing(preparing));
    }

    fn enrol(&mut self, id: GuestId, regions: u64, kind: SecondStageKind, stage: Stage) {
        self.next_id += 1;
        self.guests.push(Guest {
            id,
            kind,
            bytes: regions << 21,
            stage,
            known: Known::default(),
        });
    }

    /// Cancels a launch. What has become of it ends by the steps that follow.
    pub(super) fn cancel(&mut self, cpu: usize, index: usize) {
        let cpu = self.cpu(cpu);
        let mut guest = self.guests.swap_remove(index);
        guest.stage = match guest.stage {
            Stage::Preparing(preparing) => Stage::Preparing(preparing.cancel()),
            Stage::Launching(launching) => {
                // No CPU has entered it: the model has no word of the guest yet.
                Stage::Teardown(launching.cancel(&mut self.memory, &cpu))
            }
            other => other,
        };
        self.guests.push(guest);
    }

    /// One step in the life of a guest.
    pub(super) fn advance(&mut self, cpu: usize, index: usize) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let windows = &mut self.windows[cpu.index()];
        let memory = &mut self.memory;
        let Guest {
            id,
            kind,
            bytes,
            stage,
            known,
        } = self.guests.swap_remove(index);
        let next = match stage {
            Stage::Preparing(preparing) => match preparing.step(memory, &cpu) {
                Prepared::More(rest) => Some(Stage::Preparing(rest)),
                Prepared::Hidden(hiding) => {
                    self.launched += 1;
                    Some(Stage::Hiding(hiding))
                }
                Prepared::Refused(LaunchError::OutOfMemory(_) | LaunchError::Hide(_)) => {
                    self.refused += 1;
                    None
                }
                Prepared::Refused(LaunchError::Cancelled) => None,
                Prepared::Refused(error) => panic!("{error}"),
            },
            Stage::Hiding(hiding) => Some(Stage::Launching(hiding.wait(&cpu))),
            Stage::Launching(mut launching) => {
                if launching.step(memory, &cpu, windows) {
                    Some(Stage::Launching(launching))
                } else {
                    let guest = launching.finish(memory, &cpu, windows);
                    assert_eq!(guest.bytes(), bytes);
                    self.machine.guest_begins(id, kind.into(), guest.second_stage());
                    Some(Stage::Alive(guest))
                }
            }
            Stage::Alive(guest) => Some(Stage::Revoked(guest.revoke(&cpu))),
            Stage::Revoked(revoked) => {
                self.machine.guest_flushed(id);
                Some(Stage::Teardown(revoked.reclaim(GuestFlushed::new(id))))
            }
            Stage::Teardown(mut teardown) => {
                if teardown.step(memory, &cpu, windows) {
                    Some(Stage::Teardown(teardown))
                } else {
                    self.machine.guest_ends(id);
                    Some(Stage::Restored(teardown.finish(memory, &cpu, windows)))
                }
            }
            Stage::Restored(restored) => Some(Stage::Flushed(restored.wait(&cpu))),
            Stage::Flushed(flushed) => {
                flushed.release(memory, &cpu);
                None
            }
        };
        if let Some(stage) = next {
            self.guests.push(Guest {
                id,
                kind,
                bytes,
                stage,
                known,
            });
            let last = self.guests.len() - 1;
            self.guests.swap(index, last);
        }
        // What a teardown gives back is gone before its next step.
        self.take_all();
        self.judge()
    }
}
