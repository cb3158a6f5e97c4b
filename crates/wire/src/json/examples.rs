//! Bodies of classify and regress: examples written as objects, and what was computed from them.
//!
//! The kind of a feature is decided by how its values are written, not by the model: `80` is an integer, `80.0` is not.

use std::sync::Arc;

use prost::encoding::{encode_varint, encoded_len_varint};
use servable_core::examples::Computed;
use servable_core::limits::Limits;
use servable_core::status::Status;
use servable_core::tensor::{PackedStrings, Tensor};

use crate::examples::{check_size, list_shape};
use crate::json::dialect::Dialect;
use crate::json::document::Document;
use crate::json::explain::json_type;
use crate::json::number::{integral, real};
use crate::json::scan::{Elements, Members};
use crate::json::text::{base64_object, decode_base64, readable, shown, unescape};
use crate::tensor::start;

mod field {
    pub(super) const FEATURES: u32 = 1;
    pub(super) const FEATURE: u32 = 1;
    pub(super) const NAME: u32 = 1;
    pub(super) const VALUE: u32 = 2;
    pub(super) const LIST_VALUE: u32 = 1;
}

/// What a feature's values are; the number is that of the list in `tensorflow.Feature`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bytes = 1,
    Float = 2,
    Int64 = 3,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Float => "float",
            Self::Int64 => "int64",
        }
    }
}

impl Document<'_> {
    /// One serialised `tensorflow.Example` for each of `examples`, with what `context` shares among them.
    pub fn examples(&self, limits: &Limits) -> Result<Tensor, Status> {
        self.examples_within(limits, &mut |_| Ok(()))
    }

    /// The same; `room` is asked for the bytes that the context takes beyond the body, before they are made.
    pub fn examples_within(
        &self,
        limits: &Limits,
        room: &mut dyn FnMut(usize) -> Result<(), Status>,
    ) -> Result<Tensor, Status> {
        let context = self.context.map(|context| example(context.text)).transpose()?;
        let Some(list) = self.examples else {
            // The original says "classify" for regress as well.
            return Err(self.wrong("When method is classify, key 'examples' is expected and was not found"));
        };
        if list.text.first() != Some(&b'[') {
            return Err(self.wrong("Expecting 'examples' value to be an list/array"));
        }
        let count = Elements::of(list.text).count();
        if count == 0 {
            return Err(self.wrong("'examples' value is an empty array"));
        }
        let context = context.unwrap_or_default();
        check_size(count, context.len(), limits)?;
        room(context.len().saturating_mul(count))?;
        let mut strings = PackedStrings::default();
        for text in Elements::of(list.text) {
            strings.bytes.extend_from_slice(&context);
            strings.push(&example(text)?);
        }
        Tensor::strings(list_shape(count)?, Arc::new(strings))
    }
}

/// A serialised `tensorflow.Example`. Of features with the same name, the last counts.
fn example(text: &[u8]) -> Result<Vec<u8>, Status> {
    if text.first() != Some(&b'{') {
        return Err(Status::invalid_argument(format!("Example must be JSON object but got JSON {}", json_type(text))));
    }
    let mut features = Vec::new();
    for (name, value) in Members::of(text) {
        let name = readable(name);
        let feature = feature(&shown(&name), value)?;
        let mut entry = Vec::with_capacity(name.len() + feature.len() + 8);
        append(field::NAME, name.as_bytes(), &mut entry);
        append(field::VALUE, &feature, &mut entry);
        append(field::FEATURE, &entry, &mut features);
    }
    let mut example = Vec::with_capacity(features.len() + 8);
    append(field::FEATURES, &features, &mut example);
    Ok(example)
}

/// A serialised `tensorflow.Feature`; one without a value has no list either.
fn feature(name: &str, value: &[u8]) -> Result<Vec<u8>, Status> {
    let mut kind = None;
    let mut list = Vec::new();
    if value.first() == Some(&b'[') {
        for item in Elements::of(value) {
            kind = Some(add_item(name, item, kind, &mut list)?);
        }
    } else {
        kind = Some(add_item(name, value, None, &mut list)?);
    }
    let mut feature = Vec::with_capacity(list.len() + 16);
    if let Some(kind) = kind {
        let mut values = Vec::with_capacity(list.len() + 8);
        match kind {
            Kind::Bytes => values = list,
            Kind::Float | Kind::Int64 => append(field::LIST_VALUE, &list, &mut values),
        }
        append(kind as u32, &values, &mut feature);
    }
    Ok(feature)
}

/// Appends a value as it stands in a list of its kind, which has to be the kind of those before it.
fn add_item(name: &str, item: &[u8], before: Option<Kind>, list: &mut Vec<u8>) -> Result<Kind, Status> {
    let same = |kind: Kind| match before {
        Some(before) if before != kind => {
            let before = before.name();
            Err(Status::invalid_argument(format!(
                "Unexpected element type in feature: {name} expecting type: {before}"
            )))
        }
        _ => Ok(kind),
    };
    let unexpected = || {
        let json_type = json_type(item);
        Status::invalid_argument(format!("Feature: {name} has element with unexpected JSON type: {json_type}"))
    };
    match item {
        [b'"', inner @ .., b'"'] => {
            let kind = same(Kind::Bytes)?;
            let mut string = Vec::with_capacity(inner.len());
            unescape(inner, &mut string);
            append(field::LIST_VALUE, &string, list);
            Ok(kind)
        }
        [b'{', ..] => {
            let (encoded, _) = base64_object(item).ok_or_else(unexpected)?;
            let kind = same(Kind::Bytes)?;
            let mut bytes = Vec::new();
            if !decode_base64(encoded, &mut bytes) {
                return Err(Status::invalid_argument("Unable to base64 decode"));
            }
            append(field::LIST_VALUE, &bytes, list);
            Ok(kind)
        }
        b"true" | b"false" => {
            let kind = same(Kind::Int64)?;
            encode_varint(u64::from(item == b"true"), list);
            Ok(kind)
        }
        [b'[', ..] | b"null" => Err(unexpected()),
        number => {
            if let Some((integer, _)) = integral(number) {
                let value = integer.signed().ok_or_else(|| {
                    Status::invalid_argument(format!(
                        "Feature: {name} has uint64_t element. Only int64_t is supported."
                    ))
                })?;
                let kind = same(Kind::Int64)?;
                encode_varint(value as u64, list);
                return Ok(kind);
            }
            let (value, _) = real(number).ok_or_else(unexpected)?;
            let kind = same(Kind::Float)?;
            list.extend_from_slice(&(value as f32).to_le_bytes());
            Ok(kind)
        }
    }
}

/// Appends a length-delimited field.
fn append(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + encoded_len_varint(bytes.len() as u64) + 1);
    start(number, bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// `{"results": […]}`: pairs of label and score for each example, or a number.
pub fn write_computed(computed: &Computed, dialect: Dialect) -> Vec<u8> {
    let mut out = b"{\n    \"results\": [".to_vec();
    match computed {
        Computed::Values(values) => {
            list(values, &mut out, |value, out| dialect.float(*value, out));
            out.extend_from_slice(b"]\n}");
        }
        Computed::Classes(rows) => {
            list(rows, &mut out, |row, out| {
                out.push(b'[');
                list(row, out, |class, out| {
                    out.push(b'[');
                    dialect.string(&class.label, out);
                    out.extend_from_slice(b", ");
                    dialect.float(class.score, out);
                    out.push(b']');
                });
                out.push(b']');
            });
            out.extend_from_slice(b"\n    ]\n}");
        }
    }
    out
}

fn list<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        write(item, out);
    }
}

#[cfg(test)]
mod tests {
    use servable_core::examples::Class;

    use super::*;

    fn examples(body: &str) -> Result<Vec<Vec<u8>>, String> {
        let document = Document::parse(body.as_bytes(), Dialect::Original, &Limits::default())
            .map_err(|status| status.message.into_owned())?;
        let tensor = document.examples(&Limits::default()).map_err(|status| status.message.into_owned())?;
        let strings = tensor.string_values().expect("strings");
        Ok((0..strings.len()).map(|index| strings.get(index).to_vec()).collect())
    }

    /// `{features: {feature: {key: name, value: {<list>: …}}}}`, by hand.
    fn example_of(name: &[u8], feature: &[u8]) -> Vec<u8> {
        let delimited = |tag: u8, bytes: &[u8]| [&[tag, bytes.len() as u8], bytes].concat();
        let entry = [delimited(0x0a, name), delimited(0x12, feature)].concat();
        delimited(0x0a, &delimited(0x0a, &entry))
    }

    #[test]
    fn values_become_features_of_the_kind_that_they_are_written_as() {
        let cases: [(&str, &[u8]); 8] = [
            ("1.5", b"\x12\x06\x0a\x04\0\0\xc0\x3f"),
            ("[1, true, false, -1]", b"\x1a\x0f\x0a\x0d\x01\x01\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
            ("\"a\"", b"\x0a\x03\x0a\x01a"),
            ("[\"a\", {\"b64\": \"/w==\"}]", b"\x0a\x06\x0a\x01a\x0a\x01\xff"),
            ("[]", b""),
            ("[Infinity]", b"\x12\x06\x0a\x04\0\0\x80\x7f"),
            ("1e0", b"\x12\x06\x0a\x04\0\0\x80\x3f"),
            ("18446744073709551616", b"\x12\x06\x0a\x04\0\0\x80\x5f"),
        ];
        for (value, feature) in cases {
            let body = format!("{{\"examples\": [{{\"x\": {value}}}]}}");
            assert_eq!(examples(&body), Ok(vec![example_of(b"x", feature)]), "{value}");
        }
    }

    #[test]
    fn the_context_comes_before_each_example() {
        let got = examples(r#"{"context": {"q": 1}, "examples": [{}, {"q": 2}]}"#).expect("valid");
        let (one, two) = (example_of(b"q", b"\x1a\x03\x0a\x01\x01"), example_of(b"q", b"\x1a\x03\x0a\x01\x02"));
        assert_eq!(got, [[one.clone(), b"\x0a\0".to_vec()].concat(), [one, two].concat()]);
    }

    #[test]
    fn what_is_no_example_is_named() {
        let cases = [
            (r#"{"examples": [[1]]}"#, "Example must be JSON object but got JSON Array"),
            (r#"{"context": null, "examples": []}"#, "Example must be JSON object but got JSON Null"),
            (r#"{"examples": [{"x": [1.0, 2]}]}"#, "Unexpected element type in feature: x expecting type: float"),
            (r#"{"examples": [{"x": ["a", 2]}]}"#, "Unexpected element type in feature: x expecting type: bytes"),
            (r#"{"examples": [{"x": [10, null]}]}"#, "Feature: x has element with unexpected JSON type: Null"),
            (r#"{"examples": [{"x": [{"t": 1}]}]}"#, "Feature: x has element with unexpected JSON type: Object"),
            (
                r#"{"examples": [{"x": [18446744073709551615]}]}"#,
                "Feature: x has uint64_t element. Only int64_t is supported.",
            ),
            (r#"{"examples": [{"x": {"b64": "%"}}]}"#, "Unable to base64 decode"),
        ];
        for (body, message) in cases {
            assert_eq!(examples(body), Err(message.to_owned()), "{body}");
        }
        let tails = [
            ("{}", "key 'examples' is expected and was not found"),
            (r#"{"examples": 1}"#, "Expecting 'examples' value to be an list/array"),
            (r#"{"examples": []}"#, "'examples' value is an empty array"),
        ];
        for (body, tail) in tails {
            assert!(examples(body).expect_err(body).ends_with(tail), "{body}");
        }
    }

    #[test]
    fn results_are_laid_out_as_the_originals() {
        assert_eq!(
            write_computed(&Computed::Values(vec![80.0, 1.5]), Dialect::Original),
            b"{\n    \"results\": [80.0, 1.5]\n}"
        );
        let class = |label: &str, score| Class { label: label.into(), score };
        let rows = vec![vec![class("lo", 0.5), class("", 0.25)], vec![]];
        let wanted = b"{\n    \"results\": [[[\"lo\", 0.5], [\"\", 0.25]], []\n    ]\n}";
        assert_eq!(write_computed(&Computed::Classes(rows), Dialect::Original), wanted);
    }
}
