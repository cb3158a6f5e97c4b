//! The whole way through: recorded requests, and random ones.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use servable_core::dtype::DataType;
use servable_core::limits::Limits;
use servable_core::signature::{Endpoint, Signature, Slot};
use servable_core::status::{Code, Status};
use servable_core::tensor::{Shape, Tensor};

use crate::json::Dialect;
use crate::json::{Document, Format, dump, explain, write_error, write_predict};

/// Requests to small models, with what the original server answered. Where `deviates` is set, the answer is ours.
const CASES: &str = include_str!("../../../../tests/contract/json_cases.json");

fn signature(inputs: &[(&str, DataType)]) -> Signature {
    let slot = |(name, dtype): &(&str, DataType)| Slot {
        name: (*name).to_owned(),
        tensor_name: format!("{name}:0"),
        dtype: Some(*dtype),
        endpoint: Ok(Endpoint(0)),
        default: None,
    };
    Signature::new("serving_default".into(), String::new(), inputs.iter().map(slot).collect(), Vec::new())
}

type Decoded = Result<(Format, Vec<(String, Tensor)>), Status>;

/// In either way, which have to agree: in the pass that looks whether it is JSON, and afterwards.
fn decode(body: &[u8], signature: &Signature, limits: &Limits) -> Decoded {
    let read = |document: Document<'_>| {
        document.signature_name()?;
        document.inputs(signature, limits)
    };
    let late = Document::parse(body, Dialect::Original, limits).and_then(read);
    let early = Document::parse_for(body, Dialect::Original, limits, &|_| Some(signature)).and_then(read);
    assert_eq!(contents(&early), contents(&late), "{}", String::from_utf8_lossy(body));
    late
}

type Contents<'a> = (&'a str, DataType, &'a Shape, &'a [u8], Vec<Vec<u8>>);

fn contents(decoded: &Decoded) -> Result<Vec<Contents<'_>>, &Status> {
    fn of((name, tensor): &(String, Tensor)) -> Contents<'_> {
        let strings = tensor.string_values();
        let strings =
            strings.map_or_else(Vec::new, |values| (0..values.len()).map(|index| values.get(index).into()).collect());
        (name, tensor.dtype(), tensor.shape(), tensor.bytes(), strings)
    }
    decoded.as_ref().map(|(_, tensors)| tensors.iter().map(of).collect())
}

/// Tensors for the bytes of a request, by dtypes, under the default limits.
fn tensors(body: &str, inputs: &[(&str, DataType)]) -> Result<Vec<(String, Tensor)>, Status> {
    decode(body.as_bytes(), &signature(inputs), &Limits::default()).map(|(_, tensors)| tensors)
}

fn map_floats(tensors: &[&Tensor], compute: impl Fn(&[f32]) -> f32) -> Tensor {
    let columns: Vec<&[[u8; 4]]> = tensors.iter().map(|tensor| tensor.bytes().as_chunks().0).collect();
    let row = |index: usize| -> Vec<f32> { columns.iter().map(|column| f32::from_le_bytes(column[index])).collect() };
    let bytes: Vec<u8> = (0..columns[0].len()).flat_map(|index| compute(&row(index)).to_le_bytes()).collect();
    Tensor::fixed(DataType::Float, tensors[0].shape().clone(), Arc::new(bytes)).expect("shape unchanged")
}

/// What a recorded model answers to its inputs.
fn outputs(model: &str, inputs: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    match (model, inputs) {
        ("half", [(_, x)]) => vec![("y".into(), map_floats(&[x], |row| 0.5 * row[0] + 2.0))],
        ("other", [(_, x)]) => vec![("y".into(), map_floats(&[x], |row| row[0] + 100.0))],
        ("pair", [(_, a), (_, b)]) => vec![
            ("diff".into(), map_floats(&[a, b], |row| row[0] - row[1])),
            ("sum".into(), map_floats(&[a, b], |row| row[0] + row[1])),
        ],
        ("mixed", inputs) => inputs.to_vec(),
        (name, [(_, x)]) => vec![(name.into(), x.clone())],
        _ => panic!("no model {model} with {} inputs", inputs.len()),
    }
}

/// Without blanks outside of strings.
fn compact(json: &[u8]) -> Vec<u8> {
    let mut in_string = false;
    let mut is_escaped = false;
    let keep = |byte: &u8| -> bool {
        if in_string {
            in_string = is_escaped || *byte != b'"';
            is_escaped = *byte == b'\\' && !is_escaped;
            return true;
        }
        in_string = *byte == b'"';
        !byte.is_ascii_whitespace()
    };
    json.iter().copied().filter(keep).collect()
}

fn body(case: &Value) -> Vec<u8> {
    if let Some(text) = case["body"].as_str() {
        return text.as_bytes().to_vec();
    }
    if let Some(text) = case["body_base64"].as_str() {
        return STANDARD.decode(text).expect("base64");
    }
    let parts = case["body_repeat"].as_array().expect("some kind of body");
    let part = |part: &Value| part[0].as_str().expect("text").repeat(part[1].as_u64().expect("times") as usize);
    parts.iter().map(part).collect::<String>().into_bytes()
}

fn answer(case: &Value, signature: &Signature) -> Result<Vec<u8>, Status> {
    let (format, inputs) = decode(&body(case), signature, &Limits::default())?;
    let outputs = outputs(case["model"].as_str().expect("a model that can answer"), &inputs);
    let outputs: Vec<(&str, &Tensor)> = outputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    write_predict(format, Dialect::Original, &outputs, usize::MAX)
}

#[test]
fn recorded_requests_get_the_recorded_answers() {
    let cases: Vec<Value> = serde_json::from_str(CASES).expect("valid cases");
    assert!(!cases.is_empty());
    let mut failures = Vec::new();
    for case in &cases {
        let inputs: Vec<(&str, DataType)> = case["inputs"]
            .as_object()
            .expect("inputs")
            .iter()
            .map(|(name, dtype)| {
                let is_named = |known: &&DataType| Some(known.name()) == dtype.as_str();
                (name.as_str(), *DataType::ALL.iter().find(is_named).expect("a known type"))
            })
            .collect();
        let (code, text) = match answer(case, &signature(&inputs)) {
            Ok(answer) => ("OK", compact(&answer)),
            Err(status) => (status.code.name(), status.message.as_bytes().to_vec()),
        };
        let wanted = match case["answer"].as_str() {
            Some(text) => text.as_bytes().to_vec(),
            None => STANDARD.decode(case["answer_base64"].as_str().expect("an answer")).expect("base64"),
        };
        // Where key order is free, the parsed answers count.
        let parsed = |text: &[u8]| serde_json::from_slice::<Value>(text).ok();
        let is_equal =
            text == wanted || code == "OK" && parsed(&text).is_some_and(|ours| parsed(&wanted) == Some(ours));
        if Some(code) != case["status"].as_str() || !is_equal {
            let (text, wanted) = (String::from_utf8_lossy(&text), String::from_utf8_lossy(&wanted));
            failures.push(format!("{}: {code} {text}\n  wanted {} {wanted}", case["id"], case["status"]));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_was_read_for_another_signature_is_not_kept() {
    let (x, other) = (signature(&[("x", DataType::Float)]), signature(&[("x", DataType::Int32)]));
    let by_name = |name: &str| if name.is_empty() { Some(&x) } else { Some(&other) };
    let parse =
        |body: &'static str| Document::parse_for(body.as_bytes(), Dialect::Original, &Limits::default(), &by_name);
    for (body, is_early) in [
        (r#"{"instances":[1,2]}"#, true),
        (r#"{"instances":[1,2],"signature_name":""}"#, true),
        (r#"{"instances":[1,2],"signature_name":"other"}"#, false),
        (r#"{"signature_name":"other","instances":[1,2]}"#, true),
        (r#"{"instances":[1,2],"signature_name":7}"#, false),
    ] {
        assert_eq!(parse(body).expect(body).early.is_some(), is_early, "{body}");
    }
    let late = parse(r#"{"instances":[1,2],"signature_name":"other"}"#).expect("valid");
    let (_, tensors) = late.inputs(&other, &Limits::default()).expect("fits");
    assert_eq!(tensors[0].1.dtype(), DataType::Int32);
}

#[test]
fn syntax_errors_say_why_and_where() {
    for (body, reason) in [
        ("", "The document is empty"),
        ("  ", "The document is empty. at offset: 2"),
        ("]", "The document is empty. at offset: 0"),
        ("{", "Missing a name for object member. at offset: 1"),
        (r#"{"a""#, "Missing a colon after a name of object member. at offset: 4"),
        (r#"{"a" 1}"#, "Missing a colon after a name of object member. at offset: 5"),
        (r#"{"a":"#, "Invalid value. at offset: 5"),
        (r#"{"a":}"#, "Invalid value. at offset: 5"),
        (r#"{"a":1"#, "Missing a comma or '}' after an object member. at offset: 6"),
        (r#"{"a":1 "b":2}"#, "Missing a comma or '}' after an object member. at offset: 7"),
        (r#"{"a":1,}"#, "Missing a name for object member. at offset: 7"),
        (r#"{"a":{"b":1,}}"#, "Missing a name for object member. at offset: 12"),
        (r#"{"a":{"b":1]}"#, "Missing a comma or '}' after an object member. at offset: 11"),
        (r#"{"a":[1,]}"#, "Invalid value. at offset: 8"),
        (r#"{"a":[1}"#, "Missing a comma or ']' after an array element. at offset: 7"),
        (r#"{"a":[1 2]}"#, "Missing a comma or ']' after an array element. at offset: 8"),
        (r#"{"a":nan}"#, "Invalid value. at offset: 6"),
        (r#"{"a":tru}"#, "Invalid value. at offset: 8"),
        (r#"{"a":Infini}"#, "Invalid value. at offset: 11"),
        (r#"{"a":-Na}"#, "Invalid value. at offset: 8"),
        (r#"{"a":1.}"#, "Miss fraction part in number. at offset: 7"),
        (r#"{"a":1e}"#, "Miss exponent in number. at offset: 7"),
        (r#"{"a":1e+}"#, "Miss exponent in number. at offset: 8"),
        (r#"{"a":-1e309}"#, "Number too big to be stored in double. at offset: 5"),
        (r#"{"a":"\"#, "Invalid escape character in string. at offset: 6"),
        (r#"{"a":"\u12"#, "Incorrect hex digit after \\u escape in string. at offset: 6"),
        (r#"{"a":"\ud800\u12"#, "Incorrect hex digit after \\u escape in string. at offset: 6"),
        (r#"{"a":"\udc00"}"#, "The surrogate pair in string is invalid. at offset: 6"),
        ("{\"a\":\"01234567\n\"}", "Invalid escape character in string. at offset: 14"),
        ("{\"a\0\":1}", "Missing a closing quotation mark in string. at offset: 3"),
    ] {
        let status = Document::parse(body.as_bytes(), Dialect::Original, &Limits::default()).expect_err(body);
        assert_eq!(status, Status::invalid_argument(format!("JSON Parse error: {reason}")), "{body}");
    }
}

#[test]
fn limits_are_named_when_they_are_passed() {
    let limits = Limits { max_json_depth: 3, max_tensor_elements: 4, ..Limits::default() };
    let x = signature(&[("x", DataType::Float)]);
    let refused = |body: &str| decode(body.as_bytes(), &x, &limits).expect_err(body);
    assert!(decode(br#"{"inputs":[[1,2],[3,4]]}"#, &x, &limits).is_ok());
    let deep = refused(r#"{"inputs":[1],"unused":[[[]]]}"#);
    assert_eq!(deep.code, Code::InvalidArgument);
    assert!(deep.message.contains("max_json_depth is 3"), "{deep}");
    for body in [r#"{"inputs":[1,2,3,4,5]}"#, r#"{"instances":[1,2,3,4,5]}"#, r#"{"inputs":{"x":[1,2,3,4,5]}}"#] {
        let many = refused(body);
        assert_eq!(many.code, Code::ResourceExhausted);
        assert!(many.message.contains("Input x") && many.message.contains("max_tensor_elements"), "{many}");
    }
    let (_, tensors) = decode(br#"{"inputs":[1,2,3,4]}"#, &x, &limits).expect("four is enough");
    let error = write_predict(Format::Column, Dialect::Original, &[("y", &tensors[0].1)], 10).expect_err("ten is not");
    assert_eq!(error.code, Code::ResourceExhausted);
    assert!(error.message.contains("max_output_bytes"), "{error}");
}

#[test]
fn names_may_be_escaped_and_the_first_of_equals_counts() {
    let read = |body, inputs: &[(&str, DataType)]| tensors(body, inputs).expect(body);
    let first_float = |tensors: &[(String, Tensor)]| tensors[0].1.bytes().as_chunks().0[0];
    let x = [("x", DataType::Float)];
    for body in [
        r#"{"\u0069nputs":[1],"inputs":[2]}"#,
        r#"{"inputs":{"\u0078":[1],"x":["not looked at"]}}"#,
        r#"{"instances":[{"x":1,"x":2},{"x":3,"x":[[]]}]}"#,
        r#"{"instances":[ { "x" : 1 } , { "x" : 2 } ] , "other" : {} }"#,
    ] {
        assert_eq!(first_float(&read(body, &x)), 1_f32.to_le_bytes(), "{body}");
    }
    let document =
        |body: &'static str| Document::parse(body.as_bytes(), Dialect::Original, &Limits::default()).expect(body);
    assert_eq!(document(r#"{"signature_name":"\u00e9"}"#).signature_name(), Ok(Some("é".to_owned())));
    assert_eq!(document(r#"{"signature_name":""}"#).signature_name(), Ok(None));
    assert_eq!(document("{}").signature_name(), Ok(None));
}

#[test]
fn rows_are_stacked_along_a_new_first_dimension() {
    let inputs = [("f", DataType::Float), ("s", DataType::String)];
    let read = tensors(r#"{"instances":[{"f":[1,2],"s":"a"},{"s":{"b64":"Yg=="},"f":[3,4]}]}"#, &inputs);
    let read = read.expect("valid");
    assert_eq!(read[0].1.shape().sizes(), [2, 2]);
    assert_eq!(read[1].1.shape().sizes(), [2]);
    assert_eq!(&*read[1].1.string_values().expect("strings").get(1), b"b");
    let deep = |levels: usize| format!(r#"{{"instances":[{{"f":{}1{}}}]}}"#, "[".repeat(levels), "]".repeat(levels));
    assert_eq!(tensors(&deep(253), &inputs[..1]).expect("valid")[0].1.shape().rank(), 254);
    let refused = Status::invalid_argument("tensor parsing error: f");
    assert_eq!(tensors(&deep(254), &inputs[..1]).expect_err("too deep"), refused);
    assert_eq!(tensors(&deep(255), &inputs[..1]).expect_err("too deep"), refused);
}

#[test]
fn answers_are_split_by_rows_or_left_whole() {
    let tensor = |body: &str, dtype| tensors(body, &[("x", dtype)]).expect(body).remove(0).1;
    let matrix = tensor(r#"{"inputs":[[1,2.5],[3,4]]}"#, DataType::Float);
    let strings = tensor(r#"{"inputs":["a","é\n"]}"#, DataType::String);
    let scalar = tensor(r#"{"inputs":-7}"#, DataType::Int64);
    let three = tensor(r#"{"inputs":[true,false,true]}"#, DataType::Bool);
    let hollow = tensor(r#"{"inputs":[[],[]]}"#, DataType::Double);
    let halves = Tensor::fixed(DataType::Half, Shape::new([1]).expect("valid"), Arc::new([0_u8; 2])).expect("valid");
    let write = |format, outputs: &[(&str, &Tensor)]| {
        write_predict(format, Dialect::Original, outputs, usize::MAX)
            .map(|text| String::from_utf8(text).expect("UTF-8"))
    };
    let fails = |format, outputs: &[(&str, &Tensor)]| write(format, outputs).expect_err("not writable").message;
    let many = &[("m", &matrix), ("s", &strings), ("s_bytes", &strings)][..];
    for (format, outputs, wanted) in [
        (Format::Row, &[("m", &matrix)][..], "{@1'predictions': [[1.0, 2.5], [3.0, 4.0]@1]@0}"),
        (Format::Column, &[("m", &matrix)], "{@1'outputs': [@2[@3 1.0,@3 2.5@2],@2[@3 3.0,@3 4.0@2]@1]@0}"),
        (
            Format::Row,
            many,
            "{@1'predictions': [@2{@3'm': [1.0, 2.5],@3's': 'a',@3's_bytes': {@4'b64': 'YQ=='@3}@2},\
             @2{@3'm': [3.0, 4.0],@3's': 'é\\n',@3's_bytes': {@4'b64': 'w6kK'@3}@2}@1]@0}",
        ),
        (
            Format::Column,
            &[("n", &scalar), ("t", &three)],
            "{@1'outputs': {@2'n': -7,@2't': [@3true,@3false,@3true@2]@1}@0}",
        ),
        (Format::Column, &[("n", &scalar)], "{@1'outputs': -7@0}"),
        (Format::Row, &[("h", &hollow)], "{@1'predictions': [[], []@1]@0}"),
        (Format::Column, &[("h", &hollow)], "{@1'outputs': [@2[],@2[]@1]@0}"),
        (Format::Column, &[], "{@1'outputs': {}@0}"),
    ] {
        // Short for a line at that level, and for quotes.
        let mut wanted = wanted.replace("@3 ", "@3").replace('\'', "\"");
        (0..5).for_each(|level| wanted = wanted.replace(&format!("@{level}"), &format!("\n{}", "    ".repeat(level))));
        assert_eq!(write(format, outputs), Ok(wanted));
    }
    assert_eq!(fails(Format::Row, &[("n", &scalar)]), "Tensor name: n has no shape information ");
    assert_eq!(
        fails(Format::Row, &[("m", &matrix), ("t", &three)]),
        "Tensor name: t has inconsistent batch size: 3 expecting: 2"
    );
    assert_eq!(fails(Format::Column, &[("h", &halves)]), "Failed to write JSON value for tensor type: half");
}

/// A small generator of pseudo-random numbers; the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    fn value(&mut self, depth: usize) -> String {
        let blank = self.pick(&["", " ", "\n\t"]);
        let list = |random: &mut Self, member: &dyn Fn(&mut Self) -> String| {
            (0..random.below(4)).map(|_| member(random)).collect::<Vec<_>>().join(",")
        };
        match self.below(if depth == 0 { 6 } else { 9 }) {
            0 => "null".into(),
            1 => self.pick(&["true", "false"]).into(),
            2 | 3 => {
                self.pick(&["0", "-0.0", "12", "-7.5", "1e3", "2.5E-3", "123456789012", "0.30000000000000004"]).into()
            }
            4 | 5 => self.pick(&[r#""""#, r#""a""#, r#""é\n\"\\""#, r#""\u20ac\ud83d\ude00""#, r#""{[,]}""#]).into(),
            6 | 7 => format!("[{blank}{}{blank}]", list(self, &|random| random.value(depth - 1))),
            _ => format!(
                "{{{blank}{}{blank}}}",
                list(self, &|random| format!(
                    "{}: {}",
                    random.pick(&[r#""a""#, r#""b64""#, r#""c""#]),
                    random.value(depth - 1)
                ))
            ),
        }
    }
}

#[test]
fn what_a_common_parser_takes_is_taken_and_shown_alike() {
    let mut random = Random(7);
    for _ in 0..3000 {
        let text = random.value(4);
        let body = format!(r#"{{"x": {text}}}"#);
        assert!(Document::parse(body.as_bytes(), Dialect::Original, &Limits::default()).is_ok(), "{body}");
        let cut = &body.as_bytes()[..random.below(body.len())];
        assert!(Document::parse(cut, Dialect::Original, &Limits::default()).is_err(), "{body}");
        let shown = dump(text.as_bytes());
        if shown.len() < 256 {
            let parsed = |text: &str| serde_json::from_str::<Value>(text).expect(text);
            assert_eq!(parsed(&shown), parsed(&text), "{text}");
        }
    }
}

/// Both walks must agree on what is fine.
fn assert_nothing_to_explain(body: &[u8], signature: &Signature) {
    let document = Document::parse(body, Dialect::Original, &Limits::default()).expect("valid");
    let reason = match (&*signature.inputs, document.instances, document.inputs) {
        ([_, _, ..], Some(rows), None) => explain::object_rows(signature, rows.text),
        ([only], Some(rows), None) if !rows.text.contains(&b'{') => explain::plain_rows(only, rows.text),
        ([only], None, Some(inputs)) if !inputs.text.contains(&b'{') => explain::whole(only, inputs.text),
        _ => return,
    };
    assert_eq!(reason.code, Code::Internal, "{}: {reason}", String::from_utf8_lossy(body));
}

#[test]
fn broken_bodies_are_refused_for_a_reason() {
    let seeds = [
        r#"{"signature_name": "s", "instances": [{"x": [1.5, -2e3], "s": "a\u00e9"}, {"x": [3, 4], "s": {"b64": "aGk="}}]}"#,
        r#"{"instances": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]}"#,
        r#"{"inputs": {"x": [[], []], "s": ["\ud83d\ude00", "b"]}, "other": [NaN, -Infinity, null, true]}"#,
        r#"{"inputs": [[[1]], [[2]]]}"#,
        r#"{"instances": ["a", {"b64": "/w=="}, "c"]}"#,
    ];
    let both = signature(&[("s", DataType::String), ("x", DataType::Float)]);
    let signatures: Vec<Signature> =
        DataType::ALL.iter().map(|dtype| signature(&[("x", *dtype)])).chain([both]).collect();
    let alphabet: &[u8] = b"[]{},:\"\\ 0123456789-+.eEuNaInfbdtrs\n\x01\x00\xff";
    let limits = Limits { max_json_depth: 8, max_tensor_elements: 12, ..Limits::default() };
    let mut random = Random(11);
    for round in 0..60_000 {
        let mut body = seeds[random.below(seeds.len())].as_bytes().to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(body.len().max(1));
            let byte = alphabet[random.below(alphabet.len())];
            match random.below(5) {
                _ if body.is_empty() => body.push(byte),
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                2 => _ = body.remove(at),
                3 => body.truncate(at.max(1)),
                _ => {
                    let end = at + random.below(body.len() - at);
                    let copy = body[at..end].to_vec();
                    body.splice(at..at, copy);
                }
            }
        }
        let signature = if round % 2 == 0 { signatures.last() } else { signatures.get(random.below(signatures.len())) };
        let signature = signature.expect("one of them");
        match decode(&body, signature, &limits) {
            Ok((format, tensors)) => {
                assert_nothing_to_explain(&body, signature);
                let outputs: Vec<(&str, &Tensor)> =
                    tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
                _ = write_predict(format, Dialect::Original, &outputs, 100);
            }
            Err(status) => {
                let shown = String::from_utf8_lossy(&body);
                assert_ne!(status.code, Code::Internal, "{shown}: {status}");
                let answer = write_error(&status);
                assert!(serde_json::from_slice::<Value>(&answer).is_ok(), "{shown}: {status}");
            }
        }
    }
}

#[test]
fn strictly_only_json_is_read() {
    let parse = |body: &[u8], dialect: Dialect| {
        Document::parse(body, dialect, &Limits::default()).map(|_| ()).map_err(|status| status.message.into_owned())
    };
    for (body, refusal) in [
        (&b"{\"inputs\": [NaN]}"[..], "Invalid value. at offset: 12"),
        (b"{\"inputs\": [-Infinity]}", "Invalid value. at offset: 13"),
        (b"{} {}", "The document root must not be followed by other values. at offset: 3"),
        (b"{}\0", "The document root must not be followed by other values. at offset: 2"),
        (b"{\"a\": \"\xff\"}", "Invalid encoding in string. at offset: 7"),
    ] {
        assert_eq!(parse(body, Dialect::Original), Ok(()));
        assert_eq!(parse(body, Dialect::Strict), Err(format!("JSON Parse error: {refusal}")));
    }
    for body in [&b" {\"inputs\": [1.5, -0, 1e3, \"\xc3\xa9\", null]} \n"[..], b"\xef\xbb\xbf{}"] {
        assert_eq!(parse(body, Dialect::Strict), Ok(()));
    }
}
