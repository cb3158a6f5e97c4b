//! Hard limits on what the network may ask for; checked before memory is taken.

/// Every size in bytes unless its name says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A gRPC request message, decompressed.
    pub max_message_bytes: usize,
    /// A REST request body as it comes over the wire.
    pub max_body_bytes: usize,
    /// A REST request body after gunzip.
    pub max_decompressed_bytes: usize,
    /// Nesting of arrays and objects in a JSON body.
    pub max_json_depth: usize,
    /// Elements of one tensor of a request.
    pub max_tensor_elements: usize,
    /// Values of one tensor that its message does not hold: fewer values than elements means that the last repeats, so
    /// a message of a few bytes may stand for a huge tensor.
    pub max_repeated_bytes: usize,
    /// All values of one answer.
    pub max_output_bytes: usize,
}

impl Limits {
    pub const DEFAULT: Self = Self {
        max_message_bytes: 512 << 20,
        max_body_bytes: 512 << 20,
        max_decompressed_bytes: 100 << 20,
        max_json_depth: 1_000_000,
        max_tensor_elements: 1 << 28,
        max_repeated_bytes: 256 << 20,
        max_output_bytes: i32::MAX as usize,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
