//! Messages that handlers decode with prost's types, and the one that goes to the control plane by way of JSON.

use bytes::Bytes;
use prost::Message;
use serde_json::Value;
use servable_wire::messages::grpc::health::v1::HealthCheckRequest;
use servable_wire::messages::tensorflow::serving::{
    GetModelMetadataRequest, GetModelStatusRequest, ReloadConfigRequest,
};
use servable_wire::reflect;

use super::memory::Bound;

/// A name of two bytes is a `String` of 24, in a list that doubles as it grows.
const BOUND: Bound = Bound { per_byte: 40, constant: 1 << 10 };

/// A message of two bytes is a table of fields.
const RELOAD_BOUND: Bound = Bound { per_byte: 128, constant: 8 << 10 };

const RELOAD: &str = "tensorflow.serving.ReloadConfigRequest";

/// Decodes as each message that the server takes, apart from those with tensors or examples.
pub fn messages(data: &[u8]) {
    let message = Bytes::copy_from_slice(data);
    let _ = BOUND.check(data.len(), || GetModelMetadataRequest::decode(message.clone()));
    let _ = BOUND.check(data.len(), || GetModelStatusRequest::decode(message.clone()));
    let _ = BOUND.check(data.len(), || HealthCheckRequest::decode(message));
    reload(data);
}

/// A list of models becomes JSON, which says all that the message said.
fn reload(data: &[u8]) {
    static DESCRIPTORS: std::sync::Once = std::sync::Once::new();
    DESCRIPTORS.call_once(|| drop(reflect::decode(RELOAD, b""))); // they are read once, and are no part of a message
    let json = RELOAD_BOUND.check(data.len(), || reflect::decode(RELOAD, data));
    match &json {
        Ok(json) => {
            let bytes = reflect::encode_json(RELOAD, json).expect("what was printed can be read");
            let again = reflect::decode(RELOAD, &bytes).expect("it was written just now");
            assert_eq!(value(json), value(&again));
        }
        Err(error) => {
            // What an `Any` holds is not known here.
            let is_any = |message: &ReloadConfigRequest| format!("{message:?}").contains("Any {");
            if let Ok(typed) = ReloadConfigRequest::decode(data) {
                assert!(is_any(&typed), "prost reads it: {error:?}");
            }
        }
    }
}

fn value(json: &str) -> Value {
    serde_json::from_str(json).expect("JSON")
}
