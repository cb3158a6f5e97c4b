//! Request targets of the REST API: `/v1/models/NAME[/versions/N|/labels/L]…`.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use servable_core::routes::Choice;

/// What a request wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Predict,
    Classify,
    Regress,
    Status,
    Metadata,
}

/// A request target that names a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub name: String,
    pub choice: Choice,
    pub verb: Verb,
}

/// Why a request target names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetError {
    Malformed,
    MissingName,
    /// The digits of a version that is no 64-bit integer.
    Version(String),
}

/// Strips `prefix` in any letter case.
fn strip<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Whether the path belongs to the REST API at all.
pub fn is_api(target: &str) -> bool {
    strip(target, "/v1/").is_some_and(|rest| !rest.is_empty()) || target.eq_ignore_ascii_case("/v1/")
}

/// Whether a target is a URI reference as RFC 3986 has it: no raw blanks, brackets or bytes beyond ASCII in the path, and
/// two digits after each `%`.
pub fn is_uri(target: &str) -> bool {
    let path = target.split(['?', '#']).next().unwrap_or_default().as_bytes();
    let is_raw = |byte: &u8| !byte.is_ascii_graphic() || b"\"<>\\^`{|}[]".contains(byte);
    let is_cut = |at: usize| !path.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    !path.iter().any(is_raw) && !path.iter().enumerate().any(|(at, byte)| *byte == b'%' && is_cut(at))
}

/// `POST /v1/models/NAME[/versions/N|/labels/L]:VERB`. The verb has to be in lower case, the rest may be in any.
pub fn parse_inference(target: &str) -> Result<Target, TargetError> {
    let (path, verb) = target.rsplit_once(':').ok_or(TargetError::Malformed)?;
    let verb = match verb {
        "predict" => Verb::Predict,
        "classify" => Verb::Classify,
        "regress" => Verb::Regress,
        _ => return Err(TargetError::Malformed),
    };
    let rest = strip(path, "/v1/models/").ok_or(TargetError::Malformed)?;
    let (name, rest) = rest.split_once('/').map_or((rest, None), |(name, rest)| (name, Some(rest)));
    if name.is_empty() || name.contains(':') {
        return Err(TargetError::Malformed);
    }
    let choice = rest.map_or(Ok(Choice::Latest), parse_choice)?;
    Ok(Target { name: decoded(name)?, choice, verb })
}

/// `GET /v1/models[/NAME][/versions/N|/labels/L][/metadata]`.
pub fn parse_question(target: &str) -> Result<Target, TargetError> {
    let rest = strip(target, "/v1/models").ok_or(TargetError::Malformed)?;
    if rest.is_empty() {
        return Err(TargetError::MissingName);
    }
    let segments: Vec<&str> = rest.strip_prefix('/').ok_or(TargetError::Malformed)?.split('/').collect();
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err(TargetError::Malformed);
    }
    let is_choice = |segments: &[&str]| {
        segments.len() == 2
            && (segments[0].eq_ignore_ascii_case("versions") || segments[0].eq_ignore_ascii_case("labels"))
    };
    // `/versions/3` alone is a version of no model, `/versions` alone a model of that name.
    if is_choice(&segments) && parse_choice(&segments.join("/")).is_ok() {
        return Err(TargetError::MissingName);
    }
    let (name, mut rest) = (segments[0], &segments[1..]);
    let mut verb = Verb::Status;
    if let Some((last, before)) = rest.split_last()
        && last.eq_ignore_ascii_case("metadata")
        && before.len() != 1
    {
        verb = Verb::Metadata;
        rest = before;
    }
    if name.contains(':') {
        return Err(TargetError::Malformed);
    }
    let choice = if rest.is_empty() { Choice::Latest } else { parse_choice(&rest.join("/"))? };
    Ok(Target { name: decoded(name)?, choice, verb })
}

/// `versions/N` or `labels/L`.
fn parse_choice(text: &str) -> Result<Choice, TargetError> {
    if let Some(digits) = strip(text, "versions/") {
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(TargetError::Malformed);
        }
        return digits.parse().map(Choice::Version).map_err(|_| TargetError::Version(digits.to_owned()));
    }
    let label = strip(text, "labels/").ok_or(TargetError::Malformed)?;
    if label.is_empty() || label.contains(['/', ':']) {
        return Err(TargetError::Malformed);
    }
    decoded(label).map(Choice::Label)
}

/// Percent-decoded once. Names are UTF-8 here, as they are over gRPC.
fn decoded(text: &str) -> Result<String, TargetError> {
    percent_decode_str(text).decode_utf8().map(Cow::into_owned).map_err(|_| TargetError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "it stands in tables beside errors")]
    fn target(name: &str, choice: Choice, verb: Verb) -> Result<Target, TargetError> {
        Ok(Target { name: name.to_owned(), choice, verb })
    }

    fn label(label: &str) -> Choice {
        Choice::Label(label.to_owned())
    }

    #[test]
    fn inference_targets() {
        let cases = [
            ("/v1/models/m:predict", target("m", Choice::Latest, Verb::Predict)),
            ("/V1/Models/m/Versions/007:predict", target("m", Choice::Version(7), Verb::Predict)),
            ("/v1/models/m/labels/a%3Ab%20c:classify", target("m", label("a:b c"), Verb::Classify)),
            ("/v1/models/a%2Fb:regress", target("a/b", Choice::Latest, Verb::Regress)),
            ("/v1/models/m+x:predict", target("m+x", Choice::Latest, Verb::Predict)),
            ("/v1/models/m:PREDICT", Err(TargetError::Malformed)),
            ("/v1/models/m:explain", Err(TargetError::Malformed)),
            ("/v1/models/m/predict", Err(TargetError::Malformed)),
            ("/v1/models/m:predict?x=1", Err(TargetError::Malformed)),
            ("/v1/models/m:predict/", Err(TargetError::Malformed)),
            ("/v1/models/a:b:predict", Err(TargetError::Malformed)),
            ("/v1/models/:predict", Err(TargetError::Malformed)),
            ("/v1/models/m/versions/HELLO:predict", Err(TargetError::Malformed)),
            ("/v1/models/m/versions/%31:predict", Err(TargetError::Malformed)),
            ("/v1/models/m/versions/1/labels/a:predict", Err(TargetError::Malformed)),
            (
                "/v1/models/m/versions/18446744073709551615:predict",
                Err(TargetError::Version("18446744073709551615".into())),
            ),
            (
                "/v1/models/m/versions/9223372036854775807:predict",
                target("m", Choice::Version(i64::MAX), Verb::Predict),
            ),
            ("/v1/models", Err(TargetError::Malformed)),
            ("/v1/models/m", Err(TargetError::Malformed)),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse_inference(text), wanted, "{text}");
        }
    }

    #[test]
    fn targets_have_to_be_uris() {
        for target in ["/v1/models/a%2Fb:predict", "/v1/models/m?x=[1]", "/"] {
            assert!(is_uri(target), "{target}");
        }
        for target in ["/v1/models/%zz", "/v1/models/m%2", "/v1/models/m[0]", "/v1/models/mö", "/v1/models/a|b"] {
            assert!(!is_uri(target), "{target}");
        }
    }

    #[test]
    fn questions() {
        let cases = [
            ("/v1/models", Err(TargetError::MissingName)),
            ("/v1/models/", Err(TargetError::Malformed)),
            ("/v1/models/m", target("m", Choice::Latest, Verb::Status)),
            ("/v1/models/m/", Err(TargetError::Malformed)),
            ("/v1/", Err(TargetError::Malformed)),
            ("/v1/foo", Err(TargetError::Malformed)),
            ("/V1/MODELS/Half", target("Half", Choice::Latest, Verb::Status)),
            ("/v1/models/m/metadata", target("m", Choice::Latest, Verb::Metadata)),
            ("/v1/models/m/METADATA", target("m", Choice::Latest, Verb::Metadata)),
            ("/v1/models/metadata", target("metadata", Choice::Latest, Verb::Status)),
            ("/v1/models/versions", target("versions", Choice::Latest, Verb::Status)),
            ("/v1/models/versions/3", Err(TargetError::MissingName)),
            ("/v1/models/labels/x", Err(TargetError::MissingName)),
            ("/v1/models/m/versions", Err(TargetError::Malformed)),
            ("/v1/models/m/versions/", Err(TargetError::Malformed)),
            ("/v1/models/m/versions/x", Err(TargetError::Malformed)),
            ("/v1/models/m/versions/-1", Err(TargetError::Malformed)),
            ("/v1/models/m/version/3", Err(TargetError::Malformed)),
            ("/v1/models/m/versions/1", target("m", Choice::Version(1), Verb::Status)),
            ("/v1/models/m/versions/01/metadata", target("m", Choice::Version(1), Verb::Metadata)),
            ("/v1/models/m/labels/a/metadata", target("m", label("a"), Verb::Metadata)),
            ("/v1/models/m/labels/metadata", target("m", label("metadata"), Verb::Status)),
            ("/v1/models/m?x=1", target("m?x=1", Choice::Latest, Verb::Status)),
            ("/v1/models/m/metadata?x=1", Err(TargetError::Malformed)),
            ("/v1/models/m/versions/1?x=1", Err(TargetError::Malformed)),
            ("/v1/models?x", Err(TargetError::Malformed)),
            ("/v1/models/m/labels/a?x=1", target("m", label("a?x=1"), Verb::Status)),
            ("/v1/models/a%2Fb", target("a/b", Choice::Latest, Verb::Status)),
            ("/v1/models/m:predict", Err(TargetError::Malformed)),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse_question(text), wanted, "{text}");
        }
    }
}
