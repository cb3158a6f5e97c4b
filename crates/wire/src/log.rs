//! `PredictionLog`: requests as warm-up files and request logs keep them. Reading the request out of a record, and making
//! records of requests.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes};
use prost::Message;
use serde_json::json;
use servable_core::examples::Task;
use servable_core::predict::bind;
use servable_core::signature::DEFAULT_SIGNATURE;
use servable_core::{Limits, Signature, Status, Tensor};

use crate::examples::{MultiView, TaskView};
use crate::fields::{Fields, Malformed};
use crate::json::{Dialect, Document};
use crate::messages::tensorflow::serving::model_spec::VersionChoice;
use crate::messages::tensorflow::serving::{LogMetadata, ModelSpec, SamplingConfig};
use crate::predict::{PredictView, SpecView};
use crate::span::{Pieces, Span};
use crate::tensor::{Form, TensorView, TensorWriter, delimited, start};

mod number {
    /// The logs in `PredictionLog`, of which one is there.
    pub(super) const LOGS: std::ops::RangeInclusive<u32> = 2..=7;
    pub(super) const SESSION_RUN: u32 = 5;
    /// In a log of any kind.
    pub(super) const REQUEST: u32 = 1;
    pub(super) const RESPONSE: u32 = 2;
    /// `PredictionLog.log_metadata`.
    pub(super) const METADATA: u32 = 1;
    /// `PredictRequest.output_filter`.
    pub(super) const FILTER: u32 = 3;
    /// In a request of any kind but `MultiInferenceRequest`, and in each of its tasks.
    pub(super) const SPEC: u32 = 1;
    /// `PredictRequest.inputs`.
    pub(super) const INPUTS: u32 = 2;
    pub(super) const ENTRY_KEY: u32 = 1;
    pub(super) const ENTRY_VALUE: u32 = 2;
    /// `MultiInferenceRequest.tasks`.
    pub(super) const TASKS: u32 = 1;
    pub(super) const TASK_METHOD: u32 = 2;
    /// Where a request has its examples.
    pub(super) const INPUT: u32 = 2;
    pub(super) const EXAMPLE_LIST: u32 = 1;
    pub(super) const EXAMPLES: u32 = 1;
}

/// What a request asks for; the number is that of its log in `PredictionLog`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Classify = 2,
    Regress = 3,
    MultiInference = 4,
    Predict = 6,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Classify, Self::Regress, Self::MultiInference, Self::Predict];

    fn of_log(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Regress => "regress",
            Self::MultiInference => "multi_inference",
            Self::Predict => "predict",
        }
    }
}

impl From<Task> for Kind {
    fn from(task: Task) -> Self {
        match task {
            Task::Classify => Self::Classify,
            Task::Regress => Self::Regress,
        }
    }
}

/// What a record holds.
#[derive(Debug)]
pub enum Logged {
    /// A request message, not looked into yet.
    Request(Kind, Arc<Pieces>),
    /// A log of another kind, by its number in `PredictionLog`.
    Other(u32),
    Nothing,
}

impl Logged {
    /// Finds the request in a serialised `PredictionLog`; it stays where it is.
    pub fn read(record: &Bytes) -> Result<Self, Malformed> {
        let message = Arc::new(Pieces::from(record.clone()));
        let mut found: Option<(u32, Pieces)> = None;
        for field in Fields::of(Span::of(&message)) {
            let (log, value) = field?;
            if !number::LOGS.contains(&log) {
                continue;
            }
            let (before, request) = found.get_or_insert_default();
            if *before != log {
                (*before, *request) = (log, Pieces::default());
            }
            for field in Fields::of(value.bytes()?) {
                if let (number::REQUEST, part) = field? {
                    // Parts one after another are what protobuf calls merged.
                    request.push(shared(part.bytes()?, record));
                }
            }
        }
        Ok(match found {
            None => Self::Nothing,
            Some((log, request)) => match Kind::of_log(log) {
                Some(kind) => Self::Request(kind, Arc::new(request)),
                None => Self::Other(log),
            },
        })
    }
}

/// A part of a message that lies in one piece, without a copy.
fn shared(part: Span<'_>, whole: &Bytes) -> Bytes {
    match part.joined() {
        Cow::Borrowed(bytes) => whole.slice_ref(bytes),
        Cow::Owned(bytes) => bytes.into(),
    }
}

/// A serialised `PredictionLog` with this request and no answer.
pub fn record(kind: Kind, request: &Pieces) -> Vec<u8> {
    let log = delimited(number::REQUEST, request.len());
    let mut record = Vec::with_capacity(delimited(kind as u32, log));
    start(kind as u32, log, &mut record);
    start(number::REQUEST, request.len(), &mut record);
    Span::of(&Arc::new(request.clone())).chunks().for_each(|chunk| record.put_slice(chunk));
    record
}

/// What is known of a request that was answered, beside it and its answer.
pub struct Circumstances<'a> {
    pub model: &'a str,
    pub version: i64,
    pub signature_name: &'a str,
    pub sampling_rate: f64,
    pub time: SystemTime,
}

/// A serialised `PredictionLog` with a request and its answer.
pub fn answered(kind: Kind, request: &[u8], response: &[u8], circumstances: &Circumstances<'_>) -> Vec<u8> {
    let since = circumstances.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let metadata = LogMetadata {
        model_spec: Some(ModelSpec {
            name: circumstances.model.to_owned(),
            signature_name: circumstances.signature_name.to_owned(),
            version_choice: Some(VersionChoice::Version(circumstances.version)),
        }),
        sampling_config: Some(SamplingConfig {
            sampling_rate: circumstances.sampling_rate,
            ..SamplingConfig::default()
        }),
        timestamp_secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        ..LogMetadata::default()
    }
    .encode_to_vec();
    let log = delimited(number::REQUEST, request.len()) + delimited(number::RESPONSE, response.len());
    let mut record = Vec::with_capacity(delimited(number::METADATA, metadata.len()) + delimited(kind as u32, log));
    append(number::METADATA, &metadata, &mut record);
    start(kind as u32, log, &mut record);
    append(number::REQUEST, request, &mut record);
    append(number::RESPONSE, response, &mut record);
    record
}

/// Appends the names of the outputs that a `PredictRequest` asks for.
pub fn append_output_filter<'a>(names: impl Iterator<Item = &'a str>, request: &mut Vec<u8>) {
    names.for_each(|name| append(number::FILTER, name.as_bytes(), request));
}

/// A serialised `PredictRequest`.
pub fn predict_request<'a>(
    model: &str,
    signature_name: &str,
    inputs: impl Iterator<Item = (&'a str, &'a Tensor)>,
) -> Vec<u8> {
    let mut request = Vec::new();
    append(number::SPEC, &spec(model, signature_name), &mut request);
    for (name, tensor) in inputs {
        // TensorFlow's Python does not read strings from `tensor_content`.
        let form = if tensor.string_values().is_some() { Form::Typed } else { Form::Content };
        let tensor = TensorWriter::new(tensor, form);
        let entry = delimited(number::ENTRY_KEY, name.len()) + delimited(number::ENTRY_VALUE, tensor.len());
        start(number::INPUTS, entry, &mut request);
        append(number::ENTRY_KEY, name.as_bytes(), &mut request);
        start(number::ENTRY_VALUE, tensor.len(), &mut request);
        tensor.write(&mut request);
    }
    request
}

/// A serialised `ClassificationRequest` or `RegressionRequest`, which have the same fields; `examples` are strings.
pub fn task_request(model: &str, signature_name: &str, examples: &Tensor) -> Vec<u8> {
    let mut request = Vec::new();
    append(number::SPEC, &spec(model, signature_name), &mut request);
    append_examples(examples, &mut request);
    request
}

/// A serialised `MultiInferenceRequest`: what to do with the signatures of which names.
pub fn tasks_request(model: &str, tasks: &[(Task, String)], examples: &Tensor) -> Vec<u8> {
    let mut request = Vec::new();
    for (task, signature_name) in tasks {
        let mut message = Vec::new();
        append(number::SPEC, &spec(model, signature_name), &mut message);
        append(number::TASK_METHOD, task.method_name().as_bytes(), &mut message);
        append(number::TASKS, &message, &mut request);
    }
    append_examples(examples, &mut request);
    request
}

/// Appends the `Input` of a request: a list of examples.
fn append_examples(examples: &Tensor, request: &mut Vec<u8>) {
    let mut list = Vec::new();
    if let Some(strings) = examples.string_values() {
        (0..strings.len()).for_each(|index| append(number::EXAMPLES, &strings.get(index), &mut list));
    }
    start(number::INPUT, delimited(number::EXAMPLE_LIST, list.len()), request);
    append(number::EXAMPLE_LIST, &list, request);
}

fn spec(model: &str, signature_name: &str) -> Vec<u8> {
    ModelSpec { name: model.to_owned(), signature_name: signature_name.to_owned(), version_choice: None }
        .encode_to_vec()
}

fn append(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    start(number, bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// A serialised `PredictionLog` for the body of a REST request: `instances` and `inputs` make one for Predict, `examples`
/// one for what their signature is made for. `signature_name` counts where the body names none.
pub fn from_json(body: &[u8], signatures: &[Signature], signature_name: &str) -> Result<Vec<u8>, Status> {
    let limits = Limits::default();
    let document = Document::parse(body, Dialect::Original, &limits)?;
    let named = document.signature_name()?.unwrap_or_else(|| signature_name.to_owned());
    let name = if named.is_empty() { DEFAULT_SIGNATURE } else { &named };
    let signature = signatures.iter().find(|signature| signature.name == name).ok_or_else(|| {
        let names: Vec<_> = signatures.iter().map(|signature| signature.name.as_str()).collect();
        Status::invalid_argument(format!("there is no signature {name}; there are {}", names.join(", ")))
    })?;
    if document.has_examples() {
        let task = Task::from_method_name(&signature.method_name).ok_or_else(|| {
            Status::invalid_argument(format!("signature {name} takes no examples: it is for {}", signature.method_name))
        })?;
        task.check(signature, false)?;
        let request = task_request("", name, &document.examples(&limits)?);
        return Ok(record(task.into(), &request.into()));
    }
    let (_, inputs) = document.inputs(signature, &limits)?;
    let request = predict_request("", name, inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)));
    bind(signature, inputs, &[], |_, tensor| Ok(tensor))?;
    Ok(record(Kind::Predict, &request.into()))
}

/// What a serialised `PredictionLog` asks for, as JSON: see `describe_record` of the Python module.
pub fn describe(record: &Bytes) -> Result<serde_json::Value, Malformed> {
    let (kind, request) = match Logged::read(record)? {
        Logged::Request(kind, request) => (kind, request),
        Logged::Other(number::SESSION_RUN) => return Ok(json!({ "kind": "session_run" })),
        Logged::Other(_) => return Ok(json!({ "kind": "predict_streamed" })),
        Logged::Nothing => return Ok(json!({ "kind": "none" })),
    };
    let signature = |spec: Option<&SpecView<'_>>| match spec.map(|spec| &*spec.signature_name) {
        None | Some("") => DEFAULT_SIGNATURE.to_owned(),
        Some(name) => name.to_owned(),
    };
    Ok(match kind {
        Kind::Predict => {
            let request = PredictView::read(&request)?;
            let tensor = |view: &TensorView<'_>| {
                let (dtype, shape) = view.declared();
                json!({ "dtype": dtype.map_or("DT_INVALID", servable_core::DataType::proto_name), "shape": shape })
            };
            let inputs: serde_json::Map<_, _> =
                request.inputs.iter().map(|(name, view)| (name.to_string(), tensor(view))).collect();
            json!({ "kind": kind.name(), "signature": signature(request.spec.as_ref()), "inputs": inputs })
        }
        Kind::Classify | Kind::Regress => {
            let request = TaskView::read(&request)?;
            let (signature, examples) = (signature(request.spec.as_ref()), request.input.count());
            json!({ "kind": kind.name(), "signature": signature, "examples": examples })
        }
        Kind::MultiInference => {
            let request = MultiView::read(&request)?;
            let signatures: Vec<_> = request.tasks.iter().map(|(spec, _)| signature(Some(spec))).collect();
            json!({ "kind": kind.name(), "signature": signatures.join(", "), "examples": request.input.count() })
        }
    })
}

#[cfg(test)]
mod tests {
    use servable_core::tensor::PackedStrings;
    use servable_core::{DataType, Endpoint, Shape, Slot};

    use super::*;
    use crate::messages::tensorflow::serving::{
        ClassifyLog, LogMetadata, MultiInferenceLog, PredictLog, PredictRequest, PredictionLog, SessionRunLog, input,
        prediction_log::LogType,
    };

    fn floats(values: &[f32]) -> Tensor {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = Shape::new([values.len() as i64]).expect("valid");
        Tensor::fixed(DataType::Float, shape, Arc::new(bytes)).expect("sizes agree")
    }

    fn strings(values: &[&str]) -> Tensor {
        let mut packed = PackedStrings::default();
        for value in values {
            packed.push(value.as_bytes());
        }
        Tensor::strings(Shape::new([values.len() as i64]).expect("valid"), Arc::new(packed)).expect("counts agree")
    }

    fn log(log_type: Option<LogType>) -> Bytes {
        let log_metadata = Some(LogMetadata { dc: "here".into(), ..LogMetadata::default() });
        PredictionLog { log_metadata, log_type }.encode_to_vec().into()
    }

    fn predict_log(name: &str) -> LogType {
        let model_spec = Some(ModelSpec { signature_name: name.into(), ..ModelSpec::default() });
        let request = Some(PredictRequest { model_spec, ..PredictRequest::default() });
        LogType::PredictLog(PredictLog { request, response: None })
    }

    #[test]
    fn the_request_of_a_record_is_found() {
        let Logged::Request(Kind::Predict, request) = Logged::read(&log(Some(predict_log("s")))).expect("well formed")
        else {
            panic!("it is a predict log");
        };
        let request = PredictRequest::decode(request.to_bytes()).expect("well formed");
        assert_eq!(request.model_spec.expect("it is there").signature_name, "s");
        assert!(matches!(Logged::read(&log(None)), Ok(Logged::Nothing)));
        let session_run = log(Some(LogType::SessionRunLog(SessionRunLog::default())));
        assert!(matches!(Logged::read(&session_run), Ok(Logged::Other(5))));
        assert!(Logged::read(&Bytes::from_static(b"\x0a\xff")).is_err());
        assert!(Logged::read(&Bytes::from_static(b"\x30\x01")).is_err(), "a number is no log");
    }

    #[test]
    fn the_last_kind_counts_and_parts_of_one_kind_are_merged() {
        let classify = log(Some(LogType::ClassifyLog(ClassifyLog::default())));
        let parts =
            [&*log(Some(predict_log("first"))), &classify, &log(Some(predict_log("a"))), &log(Some(predict_log("b")))];
        let merged = Bytes::from(parts.concat());
        assert_eq!(describe(&merged), Ok(json!({ "kind": "predict", "signature": "b", "inputs": {} })));
        let Ok(Logged::Request(_, request)) = Logged::read(&merged) else { panic!("it is a request") };
        assert_eq!(request.len(), 10, "{request:?}");
    }

    #[test]
    fn prost_reads_what_is_made() {
        let (x, s) = (floats(&[1.0, 2.0]), strings(&["a", ""]));
        let request = predict_request("m", "sig", [("x", &x), ("s", &s)].into_iter());
        let made = PredictionLog::decode(&*record(Kind::Predict, &request.into())).expect("well formed");
        let Some(LogType::PredictLog(PredictLog { request: Some(request), .. })) = made.log_type else {
            panic!("it is a predict log");
        };
        let spec = request.model_spec.expect("it is there");
        assert_eq!((spec.name.as_str(), spec.signature_name.as_str()), ("m", "sig"));
        assert_eq!(request.inputs["x"].tensor_content, x.bytes());
        assert_eq!(request.inputs["s"].string_val, [&b"a"[..], b""]);

        let request = task_request("m", "", &strings(&["\n\0", ""]));
        let made = PredictionLog::decode(&*record(Task::Classify.into(), &request.into())).expect("well formed");
        let Some(LogType::ClassifyLog(ClassifyLog { request: Some(request), .. })) = made.log_type else {
            panic!("it is a classify log");
        };
        let Some(input::Kind::ExampleList(list)) = request.input.expect("it is there").kind else {
            panic!("it is a list");
        };
        assert_eq!(list.examples.len(), 2);

        let tasks = [(Task::Classify, "a".to_owned()), (Task::Regress, "b".to_owned())];
        let made = record(Kind::MultiInference, &tasks_request("m", &tasks, &strings(&[""])).into());
        let Some(LogType::MultiInferenceLog(MultiInferenceLog { request: Some(request), .. })) =
            PredictionLog::decode(&*made).expect("well formed").log_type
        else {
            panic!("it is a multi-inference log");
        };
        assert_eq!(request.tasks[1].method_name, "tensorflow/serving/regress");
        assert_eq!(
            describe(&made.into()),
            Ok(json!({ "kind": "multi_inference", "signature": "a, b", "examples": 1 }))
        );
    }

    fn slot(name: &str, dtype: DataType) -> Slot {
        Slot {
            name: name.into(),
            tensor_name: format!("{name}:0"),
            dtype: Some(dtype),
            endpoint: Ok(Endpoint(0)),
            default: None,
        }
    }

    #[test]
    fn bodies_become_records() {
        let signatures = [
            Signature::new(
                DEFAULT_SIGNATURE.into(),
                "tensorflow/serving/predict".into(),
                vec![slot("x", DataType::Float)],
                vec![slot("y", DataType::Float)],
            ),
            Signature::new(
                "classify".into(),
                "tensorflow/serving/classify".into(),
                vec![slot("inputs", DataType::String)],
                vec![slot("scores", DataType::Float)],
            ),
        ];
        let made = |body: &str, name: &str| {
            from_json(body.as_bytes(), &signatures, name)
                .map(|record| describe(&record.into()).expect("well formed"))
                .map_err(|status| status.message.into_owned())
        };
        assert_eq!(
            made(r#"{"instances": [1, 2.5]}"#, ""),
            Ok(json!({ "kind": "predict", "signature": "serving_default",
                       "inputs": { "x": { "dtype": "DT_FLOAT", "shape": [2] } } }))
        );
        let classified = Ok(json!({ "kind": "classify", "signature": "classify", "examples": 2 }));
        assert_eq!(made(r#"{"examples": [{"a": 1}, {}]}"#, "classify"), classified);
        assert_eq!(made(r#"{"signature_name": "classify", "examples": [{}, {}]}"#, ""), classified);
        for (body, reason) in [
            ("{", "JSON Parse error"),
            (r#"{"signature_name": "no", "inputs": 1}"#, "there is no signature no; there are"),
            (r#"{"examples": [{}]}"#, "takes no examples"),
            (r#"{"inputs": {"z": 1}}"#, "x"),
            ("{}", "Missing 'inputs' or 'instances' key"),
        ] {
            let error = made(body, "").expect_err(body);
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn damaged_records_are_refused_or_read_but_nothing_worse() {
        let request = predict_request("m", "", [("x", &floats(&[1.0])), ("s", &strings(&["abc"]))].into_iter());
        let whole = record(Kind::Predict, &request.into());
        for length in 0..whole.len() {
            let _ = describe(&Bytes::copy_from_slice(&whole[..length]));
        }
        for bit in 0..8 * whole.len() {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = describe(&damaged.into());
        }
    }
}
