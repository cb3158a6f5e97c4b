//! Answers that hold no tensors: errors, the state of versions, metadata.

use servable_core::routes::VersionStatus;
use servable_core::status::{Code, Status};

use crate::json::print;
use crate::json::text::quote;

/// `{"error": "…"}`.
pub fn write_error(status: &Status) -> Vec<u8> {
    let mut out = Vec::with_capacity(status.message.len() + 16);
    out.extend_from_slice(b"{\"error\": ");
    quote(status.message.as_bytes(), &mut out);
    out.push(b'}');
    out
}

/// The state of versions, in the order given.
pub fn write_status(versions: &[(i64, &VersionStatus)]) -> Vec<u8> {
    let mut out = b"{\"model_version_status\": [".to_vec();
    for (index, (version, status)) in versions.iter().enumerate() {
        let (code, message) =
            status.error.as_ref().map_or((Code::Ok, ""), |error| (error.code, error.message.as_ref()));
        out.extend_from_slice(if index == 0 { b"" } else { b", " });
        out.extend_from_slice(b"{\"version\": ");
        quote_number(*version, &mut out);
        out.extend_from_slice(b", \"state\": ");
        quote(status.state.name().as_bytes(), &mut out);
        out.extend_from_slice(b", \"status\": {\"error_code\": ");
        quote(code.name().as_bytes(), &mut out);
        out.extend_from_slice(b", \"error_message\": ");
        quote(message.as_bytes(), &mut out);
        out.extend_from_slice(b"}}");
    }
    out.extend_from_slice(b"]}");
    out
}

/// Metadata of a version. `signature_map_json` is a `SignatureDefMap` as JSON: `{"signature_def": {…}}`.
pub fn write_metadata(name: &str, version: i64, signature_map_json: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(signature_map_json.len() + name.len() + 128);
    out.extend_from_slice(b"{\"model_spec\": {\"name\": ");
    quote(name.as_bytes(), &mut out);
    out.extend_from_slice(b", \"signature_name\": \"\", \"version\": ");
    quote_number(version, &mut out);
    // The map itself has a member `signature_def` once more.
    out.extend_from_slice(b"}, \"metadata\": {\"signature_def\": ");
    out.extend_from_slice(signature_map_json.as_bytes());
    out.extend_from_slice(b"}}");
    out
}

/// 64-bit integers are strings in proto JSON.
fn quote_number(number: i64, out: &mut Vec<u8>) {
    out.push(b'"');
    print::signed(number, out);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use servable_core::routes::State;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn an_error_is_one_escaped_string() {
        let status = Status::invalid_argument("JSON Value: \"x\"\n is wrong");
        assert_eq!(text(write_error(&status)), r#"{"error": "JSON Value: \"x\"\n is wrong"}"#);
    }

    #[test]
    fn versions_tell_their_state_and_error() {
        let fine = VersionStatus {
            state: State::Available,
            error: None,
            servable: None,
            on_demand: false,
            memory_bytes: 0,
            remark: String::new(),
        };
        let error = Some(Status::not_found("no \"file\""));
        let ended = VersionStatus {
            state: State::End,
            error,
            servable: None,
            on_demand: false,
            memory_bytes: 0,
            remark: String::new(),
        };
        assert_eq!(
            text(write_status(&[(7, &fine), (3, &ended)])),
            r#"{"model_version_status": [{"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}, {"version": "3", "state": "END", "status": {"error_code": "NOT_FOUND", "error_message": "no \"file\""}}]}"#
        );
        assert_eq!(text(write_status(&[])), r#"{"model_version_status": []}"#);
    }

    #[test]
    fn metadata_nests_the_signature_map() {
        assert_eq!(
            text(write_metadata("a/b", -3, r#"{"signature_def": {}}"#)),
            r#"{"model_spec": {"name": "a/b", "signature_name": "", "version": "-3"}, "metadata": {"signature_def": {"signature_def": {}}}}"#
        );
    }
}
