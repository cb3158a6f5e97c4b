//! What has to hold for whatever bytes the network brings, decoder by decoder.
//!
//! A check panics if it does not hold. libFuzzer calls the checks through `fuzz_targets/`; a test of `servable-wire`
//! includes this file and calls them with the kept corpus.

mod examples;
mod json;
mod memory;
mod messages;
mod predict;
mod saved_model;
mod target;
mod tensor;
mod token;

use std::sync::Arc;

use servable_core::{Limits, Status};
use servable_wire::span::Pieces;

pub use examples::example_requests;
pub use json::{json_examples, json_predict};
pub use messages::messages;
pub use predict::{predict_request, session_run};
pub use saved_model::saved_model;
pub use target::target;
pub use tensor::tensor_proto;
pub use token::token;

/// What a check is given.
pub type Check = fn(&[u8]);

/// Every check with its name, which is also that of its folder in the corpus.
pub const CHECKS: [(&str, Check); 10] = [
    ("tensor_proto", tensor_proto),
    ("predict_request", predict_request),
    ("session_run", session_run),
    ("example_requests", example_requests),
    ("json_predict", json_predict),
    ("json_examples", json_examples),
    ("target", target),
    ("messages", messages),
    ("saved_model", saved_model),
    ("token", token),
];

/// Small, so that a short input can reach each of them and bounds of memory can be close.
const LIMITS: Limits = Limits {
    max_message_bytes: 1 << 20,
    max_body_bytes: 1 << 20,
    max_decompressed_bytes: 1 << 20,
    max_json_depth: 5000,
    max_tensor_elements: 1024,
    max_repeated_bytes: 4096,
    max_output_bytes: 64 << 20,
};

/// The longest message of an error. It shows a value up to 16 KiB, in which each byte that is no UTF-8 becomes three.
const LONGEST_MESSAGE: usize = 50 << 10;

/// The message as it comes in one piece.
fn whole(data: &[u8]) -> Arc<Pieces> {
    Arc::new(Pieces::from(data.to_vec()))
}

/// The same message as many frames bring it. The input decides how long they are.
fn cut(data: &[u8]) -> Arc<Pieces> {
    let length = 1 + data.iter().fold(data.len(), |sum, byte| sum + usize::from(*byte)) % 16;
    let mut pieces = Pieces::default();
    data.chunks(length).for_each(|piece| pieces.push(piece.to_vec().into()));
    Arc::new(pieces)
}

/// Clients read messages, and logs keep them.
fn check_message(status: &Status) {
    let length = status.message.len();
    assert!(length <= LONGEST_MESSAGE, "a message of {length} bytes: {:.300}", status.message);
}
