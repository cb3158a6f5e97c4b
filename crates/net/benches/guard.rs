//! What every request passes, a case each, for `benches/guard.py`, which counts instructions.
//!
//! `guard` lists the cases, each with how often it is worth running; `guard CASE TIMES` runs one. Inputs are made before,
//! so that the difference between two numbers of times is the cases' own.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use prost::Message;
use servable_core::batching::{Batching, Mode, NoObserver, PaddingPolicy, Parameters, Scheduler};
use servable_core::predict::{Call, bind};
use servable_core::routes::{Choice, ModelRoutes, Routes, State, VersionStatus};
use servable_core::servable::{Caller, Description, Placement, Room, Servable, Session, Terms, Threads};
use servable_core::{DataType, Endpoint, Limits, Shape, Signature, Slot, Status, Tensor};
use servable_wire::json::{Dialect, Document, Format, write_predict};
use servable_wire::messages::tensorflow::serving::{ModelSpec, PredictRequest};
use servable_wire::messages::tensorflow::{TensorProto, TensorShapeProto, tensor_shape_proto::Dim};
use servable_wire::predict::{PredictView, PredictWriter, Reply};
use servable_wire::span::Pieces;
use servable_wire::target::parse_inference;
use servable_wire::tensor::Form;

const MODEL: &str = "half_plus_two";
const IMAGE: [i64; 4] = [1, 224, 224, 3];
const MANY: i64 = 10_000;
const MODELS: usize = 100;
const BATCH: usize = 8;
const OFTEN: usize = 1000;
/// As in `rest.rs`.
const WORTH_GUESSING: usize = 4 << 10;

type Case = (&'static str, usize, fn(usize));

const CASES: [Case; 15] = [
    ("decode gRPC, 3 floats", OFTEN, |times| decode_grpc(&request(typed(3)), times)),
    ("decode gRPC, image as tensor_content", 20, |times| decode_grpc(&request(content(&IMAGE)), times)),
    ("decode gRPC, 10,000 floats as float_val", 20, |times| decode_grpc(&request(typed(MANY)), times)),
    ("decode JSON, 3 floats", OFTEN, |times| decode_json(br#"{"instances": [1.0, 2.0, 5.0]}"#, times)),
    ("decode JSON, image", 4, |times| decode_json(&image_as_json(256.0), times)),
    ("decode JSON, image with all digits", 4, |times| decode_json(&image_as_json(255.0), times)),
    ("encode gRPC, 3 floats", OFTEN, |times| encode_grpc(&floats(&[3]), times)),
    ("encode gRPC, 10,000 floats", 20, |times| encode_grpc(&floats(&[MANY]), times)),
    ("encode JSON, 3 floats", OFTEN, |times| encode_json(&floats(&[3]), times)),
    ("encode JSON, 10,000 floats", 10, |times| encode_json(&floats(&[MANY]), times)),
    ("route, newest version", OFTEN, |times| route(&Choice::Latest, times)),
    ("route, by label", OFTEN, |times| route(&Choice::Label("stable".to_owned()), times)),
    ("route, REST path", OFTEN, route_path),
    ("run, alone", OFTEN, |times| run(1, times)),
    ("run, a batch of 8", OFTEN, |times| run(BATCH, times)),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [name, times] = arguments.as_slice() else {
        for (name, times, _) in CASES {
            println!("{times} {name}");
        }
        return;
    };
    let (_, _, case) = CASES.iter().find(|(known, ..)| known == name).expect("one of the cases");
    case(times.parse().expect("a number"));
}

fn shape(sizes: &[i64]) -> Shape {
    Shape::new(sizes.iter().copied()).expect("sizes are small")
}

fn values(count: usize) -> impl Iterator<Item = f32> {
    (0..count).map(|index| (index % 256) as f32 / 256.0)
}

fn doubles(count: usize, divisor: f64) -> impl Iterator<Item = f64> {
    (0..count).map(move |index| (index % 256) as f64 / divisor)
}

fn floats(sizes: &[i64]) -> Tensor {
    let shape = shape(sizes);
    let bytes: Vec<u8> = values(shape.elements()).flat_map(f32::to_le_bytes).collect();
    Tensor::fixed(DataType::Float, shape, Arc::new(bytes)).expect("as many values as the shape has")
}

fn proto(sizes: &[i64]) -> TensorProto {
    let dim = sizes.iter().map(|size| Dim { size: *size, ..Dim::default() }).collect();
    let tensor_shape = Some(TensorShapeProto { dim, ..TensorShapeProto::default() });
    TensorProto { dtype: 1, tensor_shape, ..TensorProto::default() }
}

fn typed(count: i64) -> TensorProto {
    TensorProto { float_val: values(count as usize).collect(), ..proto(&[count]) }
}

fn content(sizes: &[i64]) -> TensorProto {
    TensorProto { tensor_content: floats(sizes).bytes().to_vec(), ..proto(sizes) }
}

fn request(tensor: TensorProto) -> Arc<Pieces> {
    let spec = ModelSpec { name: MODEL.to_owned(), ..ModelSpec::default() };
    let inputs = [("x".to_owned(), tensor)].into_iter().collect();
    let message = PredictRequest { model_spec: Some(spec), inputs, ..PredictRequest::default() }.encode_to_vec();
    let mut pieces = Pieces::default();
    pieces.push(Bytes::from(message));
    Arc::new(pieces)
}

fn image_as_json(divisor: f64) -> Vec<u8> {
    let shape = IMAGE.map(|size| size as usize);
    let mut numbers = doubles(shape.iter().product(), divisor).map(|value| value.to_string());
    format!(r#"{{"instances": {}}}"#, nested(&shape, &mut numbers)).into_bytes()
}

fn nested(sizes: &[usize], numbers: &mut impl Iterator<Item = String>) -> String {
    let Some((size, inner)) = sizes.split_first() else { return numbers.next().unwrap_or_default() };
    let items: Vec<String> = (0..*size).map(|_| nested(inner, numbers)).collect();
    format!("[{}]", items.join(", "))
}

fn slot(name: &str, endpoint: u32) -> Slot {
    Slot {
        name: name.to_owned(),
        tensor_name: format!("{name}:0"),
        dtype: Some(DataType::Float),
        endpoint: Ok(Endpoint(endpoint)),
        default: None,
    }
}

fn signature() -> Signature {
    let method = "tensorflow/serving/predict".to_owned();
    Signature::new("serving_default".to_owned(), method, vec![slot("x", 0)], vec![slot("y", 1)])
}

fn bound(signature: &Signature, message: &Arc<Pieces>) -> Call {
    let limits = Limits::DEFAULT;
    let view = PredictView::read(message).expect("a message");
    let read = |slot: &Slot, view: servable_wire::tensor::TensorView<'_>| view.to_tensor(&slot.name, &limits);
    bind(signature, view.inputs, &view.output_filter, read).expect("fits the signature")
}

fn decode_grpc(message: &Arc<Pieces>, times: usize) {
    let signature = signature();
    for _ in 0..times {
        black_box(bound(&signature, black_box(message)));
    }
}

fn decode_json(body: &[u8], times: usize) {
    let (signature, limits) = (signature(), Limits::DEFAULT);
    for _ in 0..times {
        let by_name = |_: &str| (body.len() >= WORTH_GUESSING).then_some(&signature);
        let document = Document::parse_for(black_box(body), Dialect::Original, &limits, &by_name).expect("valid");
        let (_, inputs) = document.inputs(&signature, &limits).expect("fits the signature");
        black_box(bind(&signature, inputs, &[], |_, tensor| Ok(tensor)).expect("fits the signature"));
    }
}

fn encode_grpc(output: &Tensor, times: usize) {
    for _ in 0..times {
        let outputs = std::iter::once(("y", black_box(output)));
        let writer = PredictWriter::new(Reply::Predict, outputs, Form::Typed, MODEL, 1, "serving_default");
        let mut buffer = BytesMut::with_capacity(writer.len());
        writer.write(&mut buffer);
        black_box(buffer);
    }
}

fn encode_json(output: &Tensor, times: usize) {
    for _ in 0..times {
        let outputs = [("y", black_box(output))];
        black_box(write_predict(Format::Row, Dialect::Original, &outputs, usize::MAX).expect("can be written"));
    }
}

fn routes() -> Routes {
    let models = (0..MODELS).map(|number| {
        let name = format!("model_{number}");
        let versions = (1..=2)
            .map(|version| {
                let servable = servable(&name, version);
                let status = VersionStatus {
                    state: State::Available,
                    error: None,
                    servable: Some(servable),
                    on_demand: false,
                    memory_bytes: 0,
                    remark: String::new(),
                };
                (version, status)
            })
            .collect();
        let labels = HashMap::from([("stable".to_owned(), 1)]);
        (name, ModelRoutes { versions, labels, configured: true })
    });
    Routes::new(models.collect())
}

fn route(choice: &Choice, times: usize) {
    let routes = routes();
    for _ in 0..times {
        black_box(routes.resolve(black_box("model_50"), black_box(choice)).expect("there"));
    }
}

fn route_path(times: usize) {
    for _ in 0..times {
        black_box(parse_inference(black_box("/v1/models/half_plus_two/versions/1:predict")).expect("a path"));
    }
}

/// Answers with its input.
struct Same;

impl Session for Same {
    fn run(&self, feeds: &[(Endpoint, Tensor)], fetches: &[Endpoint], _: Placement) -> Result<Vec<Tensor>, Status> {
        Ok(fetches.iter().map(|_| feeds[0].1.clone()).collect())
    }
}

struct Anything;

impl Room for Anything {
    fn hold(&self, _: usize) -> Result<(), Status> {
        Ok(())
    }
}

fn servable(name: &str, version: i64) -> Arc<Servable> {
    let description = Description::default();
    Arc::new(Servable::new(name.to_owned(), version, description, vec![signature()], Box::new(Same)))
}

fn batching() -> Batching {
    Batching::new(Parameters {
        pool: Arc::from("guard"),
        threads: 1,
        most_threads: None,
        largest_request: BATCH,
        largest_batch: BATCH,
        timeout: Duration::from_secs(60),
        most_batches: 2,
        allowed: Vec::new(),
        padding: PaddingPolicy::PadUp,
        pads_lengths: false,
        splits: false,
        mode: Mode::Fixed,
        falls_back: false,
        low: None,
    })
}

/// Requests of a row each that come together: one alone, or as many as make a batch.
fn run(together: usize, times: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let threads = Threads {
            runs: tokio::runtime::Handle::current(),
            batches: Scheduler::new(tokio::runtime::Handle::current(), Arc::new(NoObserver)),
        };
        let alone = Servable::new(MODEL.to_owned(), 1, Description::default(), vec![signature()], Box::new(Same));
        let servable = Arc::new(if together > 1 { alone.batched(batching()) } else { alone });
        let input = floats(&[1]);
        for _ in 0..times {
            let requests = (0..together).map(|_| {
                let signature = servable.signature("").expect("there");
                let call = bind(signature, vec![("x", input.clone())], &[], |_, tensor| Ok(tensor)).expect("fits");
                let caller = Caller::waiting(Terms::default(), Arc::new(Anything), Arc::default());
                Arc::clone(&servable).run(call, caller, &threads)
            });
            for answer in join_all(requests).await {
                black_box(answer.expect("an answer").tensors());
            }
        }
    });
}
