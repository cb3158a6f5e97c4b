//! Bytes to tensors and back: protobuf, JSON, URLs.
//!
//! Pure functions: no sockets, no clock, no state. Anything may be passed in; what comes back is a value or a status.

pub mod examples;
pub mod fields;
pub mod json;
pub mod log;
mod mistake;
pub mod predict;
pub mod records;
pub mod reflect;
pub mod saved_model;
pub mod session;
pub mod span;
pub mod target;
pub mod tensor;
pub mod token;

/// Types of the messages in `proto/`, for whatever is not on the path of every request.
#[allow(clippy::all, clippy::pedantic, unreachable_pub, reason = "generated code")]
pub mod messages {
    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}
