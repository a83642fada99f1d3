//! The atomics of the shootdown protocol: the processor's, or loom's, which try every order of events that the memory model allows.
//!
//! The one place where `cfg(loom)` stands. Table entries are none of these: hardware reads them, so they are `core`'s in any build.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub use modelled::{at_each_fence, fence};

/// Whether this build is one for models.
pub const MODELLED: bool = cfg!(loom);

/// A function that is `const` where atomics can be made in constants. Loom's cannot.
#[cfg(not(loom))]
macro_rules! const_unless_modelled {
    ($(#[$attribute:meta])* pub fn $($rest:tt)*) => { $(#[$attribute])* pub const fn $($rest)* };
}
/// A function that is `const` where atomics can be made in constants. Loom's cannot.
#[cfg(loom)]
macro_rules! const_unless_modelled {
    ($(#[$attribute:meta])* pub fn $($rest:tt)*) => { $(#[$attribute])* pub fn $($rest)* };
}
pub(crate) use const_unless_modelled;

#[cfg(loom)]
mod modelled {
    extern crate std;

    use std::boxed::Box;
    use std::cell::RefCell;

    use loom::sync::atomic::Ordering;

    type Interruption = Box<dyn FnMut()>;

    loom::thread_local! {
        static INTERRUPTION: RefCell<Option<Interruption>> = RefCell::new(None);
    }

    /// From now on `interruption` comes before and after each fence of this thread: the places where an NMI can meet a half-done change
    /// of mode. It does not come while it runs.
    pub fn at_each_fence(interruption: impl FnMut() + 'static) {
        INTERRUPTION.with(|place| *place.borrow_mut() = Some(Box::new(interruption)));
    }

    fn interrupt() {
        let taken = INTERRUPTION.with(|place| place.borrow_mut().take());
        if let Some(mut interruption) = taken {
            interruption();
            INTERRUPTION.with(|place| *place.borrow_mut() = Some(interruption));
        }
    }

    /// Loom's fence, between two places for an interruption.
    pub fn fence(order: Ordering) {
        interrupt();
        loom::sync::atomic::fence(order);
        interrupt();
    }
}
