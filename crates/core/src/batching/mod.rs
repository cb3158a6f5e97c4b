//! Requests for the same tensors of a servable are gathered, run as one, and parted again.
//!
//! ```text
//!   request ──► Queue ──────────► Pool ──────────► Batch ──────────► answers
//!               one per servable   free threads,    merged, run,
//!               and set of tensors round robin      parted
//! ```
//!
//! `decide` has the decisions, `tuning` and `concurrency` what is learned, all as functions of values; `merge` has the
//! tensors.

mod arrivals;
mod batch;
mod concurrency;
mod decide;
mod merge;
mod parameters;
mod pool;
mod queue;
mod report;
mod request;
#[cfg(test)]
mod tests;
mod tuning;

pub use batch::{BatchFacts, NoObserver, Observer, Times};
pub use decide::Reason;
pub use parameters::{LowPriority, Mixing, Mode, PaddingPolicy, Parameters};
pub use pool::Scheduler;
pub use report::{Counters, Durations, QueueReport};
pub use request::Batching;
pub use tuning::SizeReport;
