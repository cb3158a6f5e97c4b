//! Listeners and handlers: gRPC and REST. Handlers only translate; what they ask for is in `core`.

mod access_log;
mod admin;
mod app;
mod authority;
mod body;
mod coding;
mod control;
mod edge;
mod exchange;
mod framing;
mod grpc;
mod health;
mod inference;
mod listen;
mod metrics;
mod pages;
mod panics;
mod peer;
mod probe;
mod reflection;
mod rest;
mod server;
mod session;
mod shard;
mod stall;
mod tap;
mod trace;
mod warmup;

pub use access_log::AccessLogSettings;
pub use app::Settings;
pub use control::ControlCall;
pub use panics::log_panics;
pub use server::{Ports, Server, Snapshot};
pub use trace::TraceProtocol;
pub use warmup::{Warmup, WarmupError};
