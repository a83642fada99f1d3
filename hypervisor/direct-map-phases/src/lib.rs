//! What hidden memory costs the TLB: a history of guests played by several policies with the memory subsystem's own code, and what work on
//! the direct map costs at moments of it, by a model.
//!
//! [`board`] is the machine; [`history`] says what happens, the same for every policy; [`play`] does it and keeps the direct map as the
//! independent walker meets it at each moment; [`ground`] finds the pages that are the host's at all of these; [`measure`] sends the workloads'
//! addresses through the model. The program prints progress and writes `tools::pressure::Results`.

pub mod board;
pub mod ground;
pub mod history;
pub mod measure;
pub mod play;
