//! How many of a guest's vCPUs may still use its translations.
//!
//! A vCPU runs only together with a [`VcpuPass`], and retiring it turns the pass into a [`VcpuFlushed`]. When all have come back there is the
//! proof that a teardown wants; it cannot be had earlier.

use memory::frame::GuestId;
use memory::guest::GuestFlushed;

/// A vCPU's permission to run. Not `Clone`: there is one for each vCPU.
#[derive(Debug)]
#[must_use = "a guest whose vCPUs have not all been retired is never taken down"]
pub struct VcpuPass {
    guest: GuestId,
    number: u32,
}

/// The word of the CPU that retired a vCPU: it runs no more, and the translations under its tag are flushed wherever it ran, or will be before
/// anyone runs under that tag again.
#[derive(Debug)]
#[must_use = "a guest whose vCPUs have not all been retired is never taken down"]
pub struct VcpuFlushed(GuestId);

impl VcpuPass {
    /// The vCPU's number in its guest, from 0 in the order in which they were admitted.
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Only the code that owns the vCPU's tag can say so.
    pub(super) fn retire(self) -> VcpuFlushed {
        VcpuFlushed(self.guest)
    }
}

/// The vCPUs of one guest.
#[derive(Debug)]
pub struct VcpuTally {
    guest: GuestId,
    admitted: u32,
    alive: u32,
}

impl VcpuTally {
    /// A guest that has none yet.
    pub const fn new(guest: GuestId) -> Self {
        Self {
            guest,
            admitted: 0,
            alive: 0,
        }
    }

    /// One more.
    pub fn admit(&mut self) -> VcpuPass {
        let number = self.admitted;
        self.admitted += 1;
        self.alive += 1;
        VcpuPass {
            guest: self.guest,
            number,
        }
    }

    /// Takes the pass of a vCPU back that never ran.
    ///
    /// # Panics
    /// When it is another guest's.
    pub fn dismiss(&mut self, pass: VcpuPass) {
        self.retired(pass.retire());
    }

    /// One less.
    ///
    /// # Panics
    /// When it is another guest's.
    pub fn retired(&mut self, vcpu: VcpuFlushed) {
        assert!(
            vcpu.0 == self.guest && self.alive > 0,
            "broken invariant: a vCPU of another guest was retired"
        );
        self.alive -= 1;
    }

    /// Those that have not been retired.
    pub fn alive(&self) -> u32 {
        self.alive
    }

    /// The proof that the guest is flushed, once no vCPU is left; also when there has never been one.
    ///
    /// # Errors
    /// The tally itself while there is one.
    pub fn finish(self) -> Result<GuestFlushed, Self> {
        if self.alive == 0 {
            Ok(GuestFlushed::new(self.guest))
        } else {
            Err(self)
        }
    }
}
