//! The JSON of the REST interface: requests into tensors, tensors and statuses into answers.
//!
//! ```text
//! body ── Document::parse ──► Document ── inputs ──► tensors        (scan, document │ decode, column, walk, number, text)
//!                                           └─ refused ──► explain  (the slow walk that finds the right message)
//! tensors ── write_predict ──► body                                 (write, print, text)
//! ```
//!
//! The dialect is `RapidJSON`'s as the original server sets it up, down to the offsets in its messages. There is no tree
//! of values: a document remembers where its members lie, and numbers go from text straight into aligned memory.

mod column;
mod decode;
mod dialect;
mod document;
mod dump;
mod examples;
mod explain;
mod number;
mod print;
mod scan;
mod status;
mod text;
mod walk;
mod write;

#[cfg(test)]
mod tests;

pub use decode::Format;
pub use dialect::Dialect;
pub use document::{Document, Signatures};
pub use dump::dump;
pub use examples::write_computed;
pub use status::{write_error, write_metadata, write_status};
pub use text::quote;
pub use write::write_predict;
