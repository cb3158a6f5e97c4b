//! Request targets of the REST API.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use servable_core::routes::Choice;
use servable_wire::target::{Target, TargetError, Verb, is_api, is_uri, parse_inference, parse_question};

use super::memory::Bound;

/// A segment of one byte is a slice of 16, in a list that doubles as it grows.
const BOUND: Bound = Bound { per_byte: 48, constant: 1 << 10 };

/// Reads a target as both kinds of request. One that names a model can be written, and read again.
pub fn target(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    if is_uri(text) {
        let path = text.split(['?', '#']).next().unwrap_or_default();
        assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "{path}");
    }
    for parse in [parse_inference, parse_question] {
        match BOUND.check(data.len(), || parse(text)) {
            Ok(target) => {
                assert!(is_api(text), "{text}");
                assert!(!target.name.is_empty(), "{text}");
                check_writing(target);
            }
            Err(TargetError::Version(digits)) => assert!(digits.bytes().all(|byte| byte.is_ascii_digit()), "{digits}"),
            Err(TargetError::Malformed | TargetError::MissingName) => {}
        }
    }
}

fn check_writing(target: Target) {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let choice = match &target.choice {
        Choice::Latest => String::new(),
        Choice::Version(version) => format!("/versions/{version}"),
        Choice::Label(label) => format!("/labels/{}", encoded(label)),
    };
    let (is_question, end) = match target.verb {
        Verb::Predict => (false, ":predict"),
        Verb::Classify => (false, ":classify"),
        Verb::Regress => (false, ":regress"),
        Verb::Status => (true, ""),
        Verb::Metadata => (true, "/metadata"),
    };
    let text = format!("/v1/models/{}{choice}{end}", encoded(&target.name));
    assert!(is_uri(&text) && is_api(&text), "{text}");
    let again = if is_question { parse_question(&text) } else { parse_inference(&text) };
    assert_eq!(again, Ok(target), "{text}");
}
