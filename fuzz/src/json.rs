//! Bodies of REST requests.

use std::sync::OnceLock;

use servable_core::signature::{Endpoint, Slot};
use servable_core::{Code, DataType, Signature, Status, Tensor};
use servable_wire::json::{Dialect, Document, Format, write_predict};

use super::examples::assert_examples;
use super::memory::Bound;
use super::tensor::{Contents, strings};
use super::{LIMITS, check_message};

/// A scalar of two bytes is a number of eight; a list of two bytes is a size and a place among the open ones, in lists
/// that double as they grow. The constant: the beginning of a message, and of lists.
/// A message shows a name of up to 1024 characters twice, each of which may stand for a byte that is no UTF-8, and is put
/// together in strings that double as they grow.
const BOUND: Bound = Bound { per_byte: 28, constant: (2 << 10) + (64 << 10) };

/// An object of two bytes and its comma are an example of a few, and a string of its own, in a list that doubles as it
/// grows. The constant: a context that is repeated, and a little.
const EXAMPLES_BOUND: Bound = Bound { per_byte: 32, constant: LIMITS.max_repeated_bytes + (2 << 10) };

type Named = Vec<(String, Tensor)>;

/// A signature with these inputs and no outputs.
pub(crate) fn signature(inputs: &[(&str, DataType)]) -> Signature {
    Signature::new(
        String::new(),
        String::new(),
        inputs.iter().map(|(name, dtype)| slot(name, Some(*dtype))).collect(),
        Vec::new(),
    )
}

fn slot(name: &str, dtype: Option<DataType>) -> Slot {
    Slot { name: name.to_owned(), tensor_name: String::new(), dtype, endpoint: Ok(Endpoint(0)), default: None }
}

/// One input of every type, of a type that nobody knows, several inputs, none.
fn signatures() -> &'static [Signature] {
    static SIGNATURES: OnceLock<Vec<Signature>> = OnceLock::new();
    SIGNATURES.get_or_init(|| {
        let mut all: Vec<_> = DataType::ALL.iter().map(|dtype| signature(&[("x", *dtype)])).collect();
        all.push(Signature::new(String::new(), String::new(), vec![slot("x", None)], Vec::new()));
        all.push(signature(&[("a", DataType::Float), ("b", DataType::String)]));
        all.push(signature(&[("a", DataType::Int64), ("b", DataType::Bool), ("c", DataType::Double)]));
        all.push(signature(&[]));
        all
    })
}

/// A body that is no request says why; nothing that comes from outside is the server's own mistake.
fn check_refusal(status: &Status) {
    let codes = [Code::InvalidArgument, Code::ResourceExhausted, Code::Unimplemented];
    assert!(codes.contains(&status.code), "{status}");
    check_message(status);
}

const DIALECTS: [Dialect; 2] = [Dialect::Original, Dialect::Strict];

/// What a strict reader of JSON thinks of a body: whether it is an object. `None` for one too deep for that reader, for
/// numbers near the largest, with which it is not exact, and for a byte order mark, which readers may take or refuse.
fn is_strict_object(body: &[u8]) -> Option<bool> {
    if body.starts_with(b"\xef\xbb\xbf") {
        return None;
    }
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) => Some(value.is_object()),
        Err(error) => {
            let is_unsure =
                ["recursion limit", "number out of range"].iter().any(|why| error.to_string().starts_with(why));
            (!is_unsure).then_some(false)
        }
    }
}

/// The document, whose name of a signature can be read too. The strict dialect is what others think is JSON, and part of
/// the original's.
fn document(body: &[u8], dialect: Dialect) -> Option<Document<'_>> {
    let document = BOUND.check(body.len(), || Document::parse(body, dialect, &LIMITS)).inspect_err(check_refusal).ok();
    if let Some(is_object) = is_strict_object(body) {
        match dialect {
            Dialect::Strict => assert_eq!(document.is_some(), is_object, "strictly JSON"),
            Dialect::Original => assert!(document.is_some() || !is_object, "this is JSON"),
        }
    }
    let document = document?;
    let name = BOUND.check(body.len(), || document.signature_name());
    name.inspect_err(check_refusal).ok().map(|_| document)
}

/// Reads a body as the inputs of many signatures. What was read can be printed and read again.
pub fn json_predict(body: &[u8]) {
    for dialect in DIALECTS {
        check_predict(body, dialect);
    }
}

fn check_predict(body: &[u8], dialect: Dialect) {
    let Some(document) = document(body, dialect) else {
        return check_early(body, dialect, &signatures()[0]);
    };
    for signature in signatures() {
        check_early(body, dialect, signature);
        match BOUND.check(body.len(), || document.inputs(signature, &LIMITS)) {
            Err(status) => check_refusal(&status),
            Ok((format, named)) => {
                check_printing(format, dialect, &named, signature);
                if let [(_, tensor)] = &*named {
                    check_numbers(body, tensor);
                }
            }
        }
    }
}

/// A body that is read for a signature from the beginning gives what it gives otherwise.
fn check_early(body: &[u8], dialect: Dialect, signature: &Signature) {
    let contents = |document: Document<'_>| {
        let inputs = document.inputs(signature, &LIMITS);
        inputs.map(|(_, named)| named.iter().map(|(_, tensor)| Contents::of(tensor)).collect::<Vec<_>>())
    };
    let by_name = |_: &str| Some(signature);
    let early = BOUND.check(body.len(), || Document::parse_for(body, dialect, &LIMITS, &by_name));
    let late = Document::parse(body, dialect, &LIMITS);
    assert_eq!(early.and_then(contents), late.and_then(contents), "{}", String::from_utf8_lossy(body));
}

fn check_printing(format: Format, dialect: Dialect, named: &Named, signature: &Signature) {
    let contents: Vec<_> = named.iter().map(|(_, tensor)| Contents::of(tensor)).collect();
    let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
    // A single output has no name in the answer; what ends so holds bytes.
    let bytes = ["x_bytes"];
    for called in [&*names, &bytes].into_iter().filter(|called| called.len() == named.len()) {
        let outputs: Vec<_> = called.iter().copied().zip(named.iter().map(|(_, tensor)| tensor)).collect();
        let printed = write_predict(format, dialect, &outputs, LIMITS.max_output_bytes);
        let printed = printed.expect("what was read can be printed");
        let (theirs, ours) = match format {
            Format::Row => ("{\n    \"predictions\": ", "{\"instances\":"),
            Format::Column => ("{\n    \"outputs\": ", "{\"inputs\":"),
        };
        let values = printed.strip_prefix(theirs.as_bytes()).expect("how an answer begins");
        let body = [ours.as_bytes(), values].concat();
        let document = Document::parse(&body, dialect, &LIMITS).expect("what was printed is JSON");
        if dialect == Dialect::Strict && named.iter().any(|(_, tensor)| has_no_text(tensor)) {
            continue;
        }
        let (_, again) = document.inputs(signature, &LIMITS).expect("what was printed can be read");
        let again: Vec<_> = again.iter().map(|(_, tensor)| Contents::of(tensor)).collect();
        assert_eq!(again, contents, "{}", String::from_utf8_lossy(&body));
    }
}

/// Whether a number in it cannot be written in strict JSON, where `null` stands for it.
fn has_no_text(tensor: &Tensor) -> bool {
    match tensor.dtype() {
        DataType::Float => tensor.bytes().as_chunks().0.iter().any(|bytes| !f32::from_le_bytes(*bytes).is_finite()),
        DataType::Double => tensor.bytes().as_chunks().0.iter().any(|bytes| !f64::from_le_bytes(*bytes).is_finite()),
        _ => false,
    }
}

/// Numbers are what the standard library makes of their text. Where a body begins so, its numbers are easy to find.
fn check_numbers(body: &[u8], tensor: &Tensor) {
    let Some(values) = body.strip_prefix(b"{\"inputs\":").and_then(|values| str::from_utf8(values).ok()) else {
        return;
    };
    if values.trim_start().starts_with('{') {
        return; // an input by name
    }
    let texts = values.split(|letter| "[]}, \n\r\t".contains(letter)).filter(|text| !text.is_empty());
    let numbers = texts.take(tensor.shape().elements());
    let real = |text: &str| -> f64 {
        let number: f64 = text.parse().expect("a number");
        // An integral zero has no sign, and neither has NaN.
        if number.is_nan() || (number == 0.0 && !text.contains(['.', 'e', 'E'])) { number.abs() } else { number }
    };
    let wanted: Vec<u8> = match tensor.dtype() {
        DataType::Float => numbers.flat_map(|text| (real(text) as f32).to_le_bytes()).collect(),
        DataType::Double => numbers.flat_map(|text| real(text).to_le_bytes()).collect(),
        DataType::Int64 => numbers.flat_map(|text| text.parse::<i64>().expect("an integer").to_le_bytes()).collect(),
        _ => return,
    };
    assert_eq!(tensor.bytes(), wanted, "{values}");
}

/// Reads a body as examples, which then are what gRPC takes for examples.
pub fn json_examples(body: &[u8]) {
    for dialect in DIALECTS {
        check_examples(body, dialect);
    }
}

fn check_examples(body: &[u8], dialect: Dialect) {
    let Some(document) = document(body, dialect) else {
        return;
    };
    match EXAMPLES_BOUND.check(body.len(), || document.examples(&LIMITS)) {
        Err(status) => check_refusal(&status),
        Ok(tensor) => assert_examples(&strings(&tensor)),
    }
}
