//! How a change goes on: which phase follows which.

use crate::address::Level;
use crate::guest::GuestMemory;
use crate::guest::balloon::Drawn;
use crate::guest::second_stage::Part;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::region::Magazine;
use crate::tlb::shootdown::GuestReceipt;
use crate::window::Windows;

use super::changing::{Changing, Phase};
use super::{ChangeError, Progress};

/// Frames that are given back in one step of a refusal.
const RELEASED_AT_ONCE: u64 = Level::L2.frames();

impl GuestMemory {
    /// Goes on with the change that was begun, by at most 2 MiB. Single hidden frames that it needs come from the CPU's magazine.
    pub fn go_on<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
        magazine: &mut Magazine,
    ) -> Progress {
        let Some(mut changing) = self.changing.take() else {
            return Progress::Done(Ok(()));
        };
        self.tables.release_some(&mut memory.frames);
        let progress = self.step(memory, machine, windows, magazine, &mut changing);
        match progress {
            Progress::Done(result) => {
                if result.is_ok() {
                    self.tables_made += changing.tables_taken - changing.tables.len();
                }
                memory.frames.free_tables(changing.tables);
                memory.frames.free_tables(changing.reserve);
            }
            Progress::More | Progress::Flush | Progress::Hide | Progress::Restock => {
                self.changing = Some(changing);
            }
        }
        progress
    }

    /// The guest's translations were flushed, as [`Progress::Flush`] asked: only the shootdown of them makes a receipt.
    ///
    /// # Panics
    /// When it is another guest's.
    pub fn flushed(&mut self, memory: &mut HostMemory<'_>, receipt: GuestReceipt<()>) {
        let guest = receipt.guest();
        receipt.open(&mut memory.stats);
        assert!(guest == self.id, "broken invariant: the wrong guest was flushed");
        memory.stats.guest_flushes += 1;
        self.tables.flushed(&mut memory.frames);
        if let Some(changing) = &mut self.changing
            && matches!(changing.phase, Phase::Flush)
        {
            changing.enter(Phase::Finish);
        }
    }

    fn step<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
        magazine: &mut Magazine,
        changing: &mut Changing,
    ) -> Progress {
        let part = Part::first_of(changing.next, changing.end);
        match changing.phase {
            Phase::Check => {
                if !self
                    .tables
                    .all(machine, part, |state| changing.change.fits(state))
                {
                    changing.phase = Phase::Refuse(ChangeError::State);
                    return Progress::More;
                }
                self.count_lack(machine, changing.change, part, &mut changing.drawn);
                if changing.advance(part) {
                    changing.enter(match changing.change {
                        change if change.shares() && self.shared + changing.pages() > self.most_shared => {
                            Phase::Refuse(ChangeError::Limit)
                        }
                        _ => Phase::Reserve,
                    });
                }
            }
            Phase::Reserve => match self.reserve(memory, machine, changing, part) {
                Err(error) => changing.phase = Phase::Refuse(error),
                Ok(()) if changing.advance(part) => changing.enter(match &changing.drawn {
                    Drawn {
                        wanted: 0,
                        pages_wanted: 0,
                        ..
                    } => Phase::when_ready(changing.change),
                    _ => Phase::DrawPages,
                }),
                Ok(()) => {}
            },
            Phase::DrawPages if changing.drawn.pages_wanted > 0 => {
                let drawn = &mut changing.drawn;
                if !drawn.draw_pages(memory, machine, windows, magazine) {
                    match memory.may_grow(drawn.pages_wanted) {
                        Ok(()) => return Progress::Restock,
                        Err(error) => changing.refuse(error),
                    }
                }
            }
            Phase::DrawPages => changing.phase = Phase::Draw,
            Phase::Draw if changing.drawn.wanted > 0 => match memory.draw(machine, &mut changing.drawn) {
                // No whole regions: single frames do, too.
                Err(error) => match self.reserve_for_pages(memory, machine, changing) {
                    Ok(()) => changing.phase = Phase::DrawPages,
                    Err(_) => changing.refuse(error),
                },
                Ok(()) if changing.drawn.posted.is_some() => {
                    changing.phase = Phase::Hide;
                    // At once: who asked waits for it before it rests, so whoever looks meanwhile finds no batch that is on its way.
                    return Progress::Hide;
                }
                Ok(()) => {}
            },
            Phase::Draw => changing.phase = Phase::Scrub,
            Phase::Hide if changing.drawn.posted.is_some() => return Progress::Hide,
            // All that was to be waited for is hidden.
            Phase::Hide => changing.phase = Phase::Draw,
            Phase::Scrub => {
                if !changing.drawn.scrubber.step(memory, machine, windows) {
                    changing.enter(Phase::when_ready(changing.change));
                }
            }
            Phase::Revoke => {
                self.revoke_part(memory, machine, changing, part);
                if changing.advance(part) {
                    changing.enter(Phase::Flush);
                }
            }
            Phase::Flush => return Progress::Flush,
            Phase::Finish => {
                self.finish_part(memory, machine, windows, changing, part);
                if changing.advance(part) {
                    return Progress::Done(Ok(()));
                }
            }
            Phase::Refuse(error) => {
                if changing.drawn.release_some(memory, machine, windows) {
                    return Progress::More;
                }
                for _ in 0..RELEASED_AT_ONCE {
                    let next = changing.reserve.pop(&memory.frames);
                    let Some(frame) = next.or_else(|| changing.tables.pop(&memory.frames)) else {
                        return Progress::Done(Err(error));
                    };
                    memory.frames.free_table(frame);
                }
            }
        }
        Progress::More
    }
}
