//! Messages by name: protobuf text format and JSON to bytes and back, for configuration and for metadata.
//!
//! The descriptors are this crate's own; nothing is registered anywhere else in the process.

use std::sync::OnceLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};

use crate::mistake;

/// Why a text is no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReflectError {
    /// No message of this name is known.
    UnknownMessage(String),
    /// `line:column: reason`, both from 1.
    Text(String),
}

/// A serialised `google.protobuf.FileDescriptorSet` of all messages and services in `proto/`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(DESCRIPTORS).expect("the descriptors were made by the build: this is a bug")
    })
}

fn descriptor(name: &str) -> Result<MessageDescriptor, ReflectError> {
    pool().get_message_by_name(name).ok_or_else(|| ReflectError::UnknownMessage(name.to_owned()))
}

/// Protobuf text format to bytes.
pub fn encode_text(message: &str, text: &str) -> Result<Vec<u8>, ReflectError> {
    let parsed = DynamicMessage::parse_text_format(descriptor(message)?, text)
        .map_err(|error| ReflectError::Text(mistake::explain(&error, pool(), text)))?;
    Ok(parsed.encode_to_vec())
}

/// Proto JSON to bytes.
pub fn encode_json(message: &str, json: &str) -> Result<Vec<u8>, ReflectError> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let parsed = DynamicMessage::deserialize(descriptor(message)?, &mut deserializer)
        .map_err(|error| ReflectError::Text(error.to_string()))?;
    Ok(parsed.encode_to_vec())
}

/// Bytes to proto JSON: field names as in the .proto file, numbers as numbers, defaults left out.
pub fn decode(message: &str, bytes: &[u8]) -> Result<String, ReflectError> {
    to_json(message, bytes, &SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false))
}

/// Bytes to proto JSON as TensorFlow Serving prints it: 64-bit integers as strings, defaults always there.
pub fn decode_in_full(message: &str, bytes: &[u8]) -> Result<String, ReflectError> {
    to_json(message, bytes, &SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false))
}

fn to_json(message: &str, bytes: &[u8], options: &SerializeOptions) -> Result<String, ReflectError> {
    let parsed =
        DynamicMessage::decode(descriptor(message)?, bytes).map_err(|error| ReflectError::Text(error.to_string()))?;
    let mut json = Vec::new();
    parsed
        .serialize_with_options(&mut serde_json::Serializer::new(&mut json), options)
        .map_err(|error| ReflectError::Text(error.to_string()))?;
    String::from_utf8(json).map_err(|error| ReflectError::Text(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "tensorflow.serving.ModelServerConfig";

    #[test]
    fn text_becomes_json_by_way_of_bytes() {
        let text = "model_config_list { # one\n config: { name: 'm' base_path: \"/a\" 'b'\n version_labels { key: 'stable' value: 3 }\n \
                    model_version_policy { specific { versions: [1, 2] } } } }";
        let text = text.replace("\"/a\" 'b'", "\"/a\" \"b\"");
        let json = decode(CONFIG, &encode_text(CONFIG, &text).expect("valid")).expect("valid");
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let model = &value["model_config_list"]["config"][0];
        assert_eq!(model["name"], "m");
        assert_eq!(model["base_path"], "/ab");
        assert_eq!(model["version_labels"]["stable"], 3);
        assert_eq!(model["model_version_policy"]["specific"]["versions"], serde_json::json!([1, 2]));
        assert_eq!(encode_json(CONFIG, &json).expect("valid"), encode_text(CONFIG, &text).expect("valid"));
    }

    #[test]
    fn a_mistake_is_located() {
        let Err(ReflectError::Text(message)) = encode_text(CONFIG, "model_config_list {\n  confi { }\n}") else {
            panic!("an unknown field must be refused");
        };
        assert!(message.starts_with("2:3: "), "{message}");
        assert_eq!(encode_text("no.Such", ""), Err(ReflectError::UnknownMessage("no.Such".into())));
        assert_eq!(encode_text(CONFIG, "# nothing but a comment"), Ok(Vec::new()));
    }

    #[test]
    fn a_session_config_can_be_written_as_text() {
        let text = "gpu_options { allow_growth: true visible_device_list: '0' } \
                    graph_options { rewrite_options { constant_folding: ON } } allow_soft_placement: true";
        assert!(!encode_text("tensorflow.ConfigProto", text).expect("valid").is_empty());
    }
}
