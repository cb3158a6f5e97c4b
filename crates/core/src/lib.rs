//! The words of the domain: tensors, signatures, servables, routes, status.
//!
//! Nothing here knows a socket, a protobuf message or Python.

pub mod batching;
pub mod dtype;
pub mod examples;
pub mod limits;
mod pace;
pub mod predict;
pub mod progress;
pub mod routes;
pub mod servable;
pub mod signature;
pub mod status;
pub mod tensor;
pub mod usage;

pub use dtype::DataType;
pub use limits::Limits;
pub use signature::{Endpoint, Signature, Slot};
pub use status::{Code, Status};
pub use tensor::{Shape, Tensor};
