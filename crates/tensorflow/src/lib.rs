//! SavedModel sessions through TensorFlow's C API.
//!
//! The libraries are found in an installed TensorFlow and opened at run time: one binary works with every release from
//! 2.16 up, and no Python of TensorFlow's is ever imported. All `unsafe` of the data plane is in this crate.

mod ffi;
mod library;
mod pages;
mod session;
mod tensor;

pub use library::Library;
pub use pages::{release_free_memory, release_startup_pages};
pub use session::{LoadOptions, MetaGraph, SavedModelSession, create_thread_pools, devices};
