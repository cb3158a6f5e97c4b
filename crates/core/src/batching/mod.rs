//! Requests for the same tensors of a servable are gathered, run as one, and parted again.
//!
//! `decide` has the decisions, `merge` the tensors, `tuning` what is learned; `queue` does what they say.

mod decide;
mod merge;
mod parameters;
mod queue;
mod report;
#[cfg(test)]
mod tests;
mod tuning;

pub use decide::Reason;
pub use parameters::{LowPriority, Mixing, Mode, PaddingPolicy, Parameters};
pub use queue::{BatchFacts, Batching, NoObserver, Observer, Scheduler};
pub use report::{Counters, Durations, QueueReport};
pub use tuning::SizeReport;
