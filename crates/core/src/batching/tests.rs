//! Batching as its callers see it: servables with sessions that compute something simple, a clock that is stopped.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::pool::locked;
use super::*;
use crate::dtype::DataType;
use crate::predict::bind;
use crate::servable::{Caller, Description, Placement, Priority, Room, Servable, Session, Terms, Threads};
use crate::signature::{Endpoint, Signature, Slot};
use crate::status::{Code, Status};
use crate::tensor::{Shape, Tensor};

const MODEL: &str = "doubled";
/// A value that the session refuses, and with it the batch that has it.
const POISON: f32 = -1.0;

/// Doubles its input; notes what it was asked.
#[derive(Default)]
struct Doubling {
    /// Rows of each run.
    runs: Arc<Mutex<Vec<usize>>>,
    /// What it answers: by default, a row for each row.
    answers: Answers,
    running: AtomicUsize,
    /// Runs do not end while this is set.
    is_held_up: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Answers {
    #[default]
    Rows,
    Sum,
}

impl Session for Doubling {
    fn run(&self, feeds: &[(Endpoint, Tensor)], fetches: &[Endpoint], _: Placement) -> Result<Vec<Tensor>, Status> {
        self.running.fetch_add(1, Ordering::Relaxed);
        let (_, input) = &feeds[0];
        let values = floats(input);
        self.runs.lock().expect("sane").push(input.row_count().unwrap_or(0));
        while self.is_held_up.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        if values.contains(&POISON) {
            return Err(Status::invalid_argument("poison"));
        }
        let output = match self.answers {
            Answers::Rows => tensor(input.shape().sizes(), &values.iter().map(|value| value * 2.0).collect::<Vec<_>>()),
            Answers::Sum => tensor(&[], &[values.iter().sum()]),
        };
        Ok(fetches.iter().map(|_| output.clone()).collect())
    }
}

struct Anything;

impl Room for Anything {
    fn hold(&self, _: usize) -> Result<(), Status> {
        Ok(())
    }
}

fn tensor(sizes: &[i64], values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::fixed(DataType::Float, Shape::new(sizes.iter().copied()).expect("valid"), Arc::new(bytes)).expect("fits")
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.bytes().as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

fn parameters() -> Parameters {
    Parameters::simple(4, Duration::from_millis(100))
}

/// A servable with batching, and what its session was asked.
struct Scene {
    servable: Arc<Servable>,
    threads: Arc<Threads>,
    runs: Arc<Mutex<Vec<usize>>>,
    is_held_up: Arc<AtomicBool>,
}

type Outcome = Result<Vec<f32>, Status>;

impl Scene {
    fn new(parameters: Parameters, answers: Answers) -> Self {
        let slot = |name: &str, endpoint| Slot {
            name: name.to_owned(),
            tensor_name: format!("{name}:0"),
            dtype: Some(DataType::Float),
            endpoint: Ok(Endpoint(endpoint)),
            default: None,
        };
        let signature = Signature::new(
            "serving_default".to_owned(),
            String::new(),
            vec![slot("x", 0)],
            vec![slot("y", 1), slot("z", 2)],
        );
        let session = Doubling { answers, ..Doubling::default() };
        let (runs, is_held_up) = (Arc::clone(&session.runs), Arc::clone(&session.is_held_up));
        let servable = Servable::new(MODEL.to_owned(), 1, Description::default(), vec![signature], Box::new(session));
        let batches = Scheduler::new(Handle::current(), Arc::new(NoObserver));
        let threads = Arc::new(Threads { runs: Handle::current(), batches });
        Self { servable: Arc::new(servable.batched(Batching::new(parameters))), threads, runs, is_held_up }
    }

    /// Asks for the outputs of this input; a task, as each request is.
    fn ask(&self, input: Tensor, terms: Terms, filter: &'static [&'static str]) -> JoinHandle<Outcome> {
        self.ask_in(Arc::new(Anything), input, terms, filter)
    }

    fn ask_in(
        &self,
        room: Arc<Anything>,
        input: Tensor,
        terms: Terms,
        filter: &'static [&'static str],
    ) -> JoinHandle<Outcome> {
        let (servable, threads) = (Arc::clone(&self.servable), Arc::clone(&self.threads));
        tokio::spawn(async move {
            let signature = servable.signature("").expect("there");
            let call = bind(signature, vec![("x", input)], filter, |_, tensor| Ok(tensor))?;
            let answer =
                Arc::clone(&servable).run(call, Caller::waiting(terms, room, Arc::default()), &threads).await?;
            Ok(floats(&answer.tensors()[0]))
        })
    }

    fn rows(&self, values: &[f32]) -> JoinHandle<Outcome> {
        self.ask(tensor(&[values.len() as i64], values), Terms::default(), &["y"])
    }

    fn by(&self, values: &[f32], deadline: Duration) -> JoinHandle<Outcome> {
        let deadline = Some(tokio::time::Instant::now().into_std() + deadline);
        self.ask(tensor(&[values.len() as i64], values), Terms { deadline, ..Terms::default() }, &["y"])
    }

    fn runs(&self) -> Vec<usize> {
        self.runs.lock().expect("sane").clone()
    }

    fn counters(&self) -> Counters {
        self.servable.batching().expect("there").report().remove(0).counters
    }
}

async fn outcomes(requests: Vec<JoinHandle<Outcome>>) -> Vec<Outcome> {
    let mut all = Vec::new();
    for request in requests {
        all.push(request.await.expect("no panic"));
    }
    all
}

/// Lets everything happen that can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn told(outcome: &Outcome) -> String {
    outcome.as_ref().expect_err("refused").to_string()
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_each_other_and_no_longer_than_they_have_to() {
    let scene = Scene::new(parameters(), Answers::Rows);
    let start = tokio::time::Instant::now();
    let asked = vec![scene.rows(&[1.0]), scene.rows(&[2.0, 3.0])];
    assert_eq!(outcomes(asked).await, [Ok(vec![2.0]), Ok(vec![4.0, 6.0])]);
    assert!(start.elapsed() >= Duration::from_millis(100), "nobody else came");
    let start = tokio::time::Instant::now();
    let asked = vec![scene.rows(&[1.0]), scene.rows(&[2.0, 3.0]), scene.rows(&[4.0])];
    assert_eq!(outcomes(asked).await, [Ok(vec![2.0]), Ok(vec![4.0, 6.0]), Ok(vec![8.0])]);
    assert_eq!(start.elapsed(), Duration::ZERO, "the batch was full");
    assert_eq!(scene.runs(), [3, 4]);
    let cuts: Vec<_> = scene.counters().cuts().filter(|(_, count)| *count > 0).collect();
    assert_eq!(cuts, [(Reason::Full, 1), (Reason::Timeout, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_does_not_wait_for_the_timeout() {
    let scene = Scene::new(parameters(), Answers::Rows);
    let start = tokio::time::Instant::now();
    assert_eq!(scene.by(&[1.0], Duration::from_millis(50)).await.expect("no panic"), Ok(vec![2.0]));
    assert!(start.elapsed() < Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn other_outputs_are_another_queue() {
    let scene = Scene::new(parameters(), Answers::Rows);
    let input = || tensor(&[2], &[1.0, 2.0]);
    let asked = vec![scene.ask(input(), Terms::default(), &["y"]), scene.ask(input(), Terms::default(), &["z"])];
    assert!(outcomes(asked).await.iter().all(Result::is_ok));
    assert_eq!(scene.runs(), [2, 2]);
    let asked =
        vec![scene.ask(input(), Terms::default(), &["z", "y"]), scene.ask(input(), Terms::default(), &["y", "z"])];
    assert!(outcomes(asked).await.iter().all(Result::is_ok));
    assert_eq!(scene.runs(), [2, 2, 4], "their order does not matter");
    let reports = scene.servable.batching().expect("there").report();
    let names: Vec<_> = reports.iter().map(|report| (report.signature.as_deref(), report.outputs.join(","))).collect();
    assert_eq!(names, [(None, "y:0".into()), (None, "z:0".into()), (Some("serving_default"), "y:0,z:0".into())]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_batched_is_refused_or_run_on_its_own() {
    let scene = Scene::new(parameters(), Answers::Rows);
    let scalar = scene.ask(tensor(&[], &[1.0]), Terms::default(), &["y"]).await.expect("no panic");
    assert!(told(&scalar).ends_with("input tensors must have at least one dimension"));
    let large = scene.rows(&[0.0; 5]).await.expect("no panic");
    assert_eq!(told(&large), "INVALID_ARGUMENT: Task size 5 is larger than maximum input batch size 4");
    assert_eq!(scene.rows(&[]).await.expect("no panic"), Ok(vec![]), "no rows are nothing to wait with");
    let scene = Scene::new(Parameters { falls_back: true, ..parameters() }, Answers::Rows);
    let scalar = scene.ask(tensor(&[], &[1.0]), Terms::default(), &["y"]).await.expect("no panic");
    assert_eq!((scalar, scene.rows(&[1.0; 5]).await.expect("no panic")), (Ok(vec![2.0]), Ok(vec![2.0; 5])));
}

#[tokio::test(start_paused = true)]
async fn outputs_without_rows_are_refused_or_run_on_their_own() {
    let scene = Scene::new(parameters(), Answers::Sum);
    let refused = outcomes(vec![scene.rows(&[1.0, 2.0]), scene.rows(&[3.0, 4.0])]).await;
    for outcome in &refused {
        assert_eq!(told(outcome), "FAILED_PRECONDITION: Batched output tensor has 0 dimensions");
    }
    let scene = Scene::new(Parameters { falls_back: true, ..parameters() }, Answers::Sum);
    let asked = vec![scene.rows(&[1.0, 2.0]), scene.rows(&[3.0, 4.0])];
    assert_eq!(outcomes(asked).await, [Ok(vec![3.0]), Ok(vec![7.0])]);
    for _ in 0..3 {
        assert_eq!(scene.rows(&[4.0, 5.0]).await.expect("no panic"), Ok(vec![9.0]));
    }
    let before = scene.runs().len();
    assert_eq!(scene.rows(&[5.0]).await.expect("no panic"), Ok(vec![5.0]), "and from then on at once");
    assert_eq!((scene.runs().len() - before, scene.counters().unbatched), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_bad_request_fails_alone() {
    let scene = Scene::new(Parameters { allowed: vec![2, 4], ..parameters() }, Answers::Rows);
    let asked = vec![scene.rows(&[1.0]), scene.rows(&[POISON]), scene.rows(&[2.0, 3.0])];
    let outcomes = outcomes(asked).await;
    assert_eq!((&outcomes[0], &outcomes[2]), (&Ok(vec![2.0]), &Ok(vec![4.0, 6.0])));
    assert_eq!(told(&outcomes[1]), "INVALID_ARGUMENT: poison");
    assert_eq!(scene.runs(), [4, 2, 2, 2], "each with an allowed size");
    let counters = scene.counters();
    assert_eq!((counters.failed_batches, counters.retried), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn unlike_rows_are_padded_or_run_apart() {
    let input = |width: usize| tensor(&[1, width as i64], &vec![1.0; width]);
    for (pads_lengths, runs) in [(true, vec![2]), (false, vec![1, 1])] {
        let scene = Scene::new(Parameters { pads_lengths, ..parameters() }, Answers::Rows);
        let asked = vec![scene.ask(input(1), Terms::default(), &["y"]), scene.ask(input(2), Terms::default(), &["y"])];
        let outcomes = outcomes(asked).await;
        assert_eq!(outcomes[1], Ok(vec![2.0; 2]));
        assert_eq!(outcomes[0], Ok(vec![2.0; if pads_lengths { 2 } else { 1 }]), "padding is not taken off");
        assert_eq!(scene.runs(), runs);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_and_forgets_who_has_gone() {
    let scene =
        Scene::new(Parameters { most_batches: 1, timeout: Duration::from_secs(5), ..parameters() }, Answers::Rows);
    let first = scene.rows(&[1.0, 2.0, 3.0]);
    settle().await;
    let refused = scene.rows(&[1.0, 2.0]).await.expect("no panic");
    assert_eq!(refused.as_ref().expect_err("refused").code, Code::Unavailable);
    assert!(told(&refused).ends_with("currently 1 batches enqueued and max_enqueued_batches is 1"));
    first.abort();
    settle().await;
    assert_eq!(scene.rows(&[1.0, 2.0]).await.expect("no panic"), Ok(vec![2.0, 4.0]));
    assert_eq!(scene.runs(), [2]);
    let counters = scene.counters();
    assert_eq!((counters.refused, counters.cancelled), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn who_has_gone_or_is_late_is_not_run() {
    let given = Parameters { low: None, timeout: Duration::from_secs(5), ..parameters() };
    let scene = Scene::new(given, Answers::Rows);
    let gone = scene.rows(&[1.0]);
    settle().await;
    gone.abort();
    settle().await;
    assert_eq!(scene.rows(&[2.0, 3.0, 4.0]).await.expect("no panic"), Ok(vec![4.0, 6.0, 8.0]));
    assert_eq!(scene.runs(), [3]);
}

#[tokio::test(start_paused = true)]
async fn who_has_gone_leaves_nothing_behind() {
    let scene = Scene::new(Parameters { timeout: Duration::from_secs(3600), ..parameters() }, Answers::Rows);
    let gone = scene.rows(&[1.0]);
    settle().await;
    assert_eq!(scene.servable.batching().expect("there").report()[0].queued_rows, 1);
    gone.abort();
    settle().await;
    assert_eq!(scene.servable.batching().expect("there").report()[0].queued_rows, 0);
    assert_eq!(Arc::strong_count(&scene.servable), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pool_has_as_many_threads_as_the_newest_parameters_say() {
    let scene = Scene::new(parameters(), Answers::Rows);
    let batches = &scene.threads.batches;
    let pool = batches.pool(&parameters());
    assert!(Arc::ptr_eq(&pool, &batches.pool(&Parameters { threads: 7, ..parameters() })));
    assert_eq!(locked(&pool.state).size(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_large_request_is_split_and_put_together_again() {
    let given = Parameters { splits: true, largest_request: 100, most_batches: 10, ..parameters() };
    let scene = Scene::new(given, Answers::Rows);
    let values: Vec<f32> = (0..11_u8).map(f32::from).collect();
    let asked = vec![scene.rows(&[50.0]), scene.rows(&values)];
    let outcomes = outcomes(asked).await;
    assert_eq!(outcomes[0], Ok(vec![100.0]));
    assert_eq!(outcomes[1], Ok(values.iter().map(|value| value * 2.0).collect()));
    assert_eq!(scene.runs(), [4, 4, 4]);
}

#[tokio::test(start_paused = true)]
async fn unloading_does_not_wait_for_others() {
    let scene = Scene::new(Parameters { timeout: Duration::from_secs(3600), ..parameters() }, Answers::Rows);
    let start = tokio::time::Instant::now();
    let asked = scene.rows(&[1.0]);
    settle().await;
    scene.servable.close();
    assert_eq!(asked.await.expect("no panic"), Ok(vec![2.0]));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn requests_of_low_priority_wait_longer() {
    let low = LowPriority {
        largest_request: 4,
        timeout: Duration::from_secs(1),
        most_batches: 1,
        allowed: Vec::new(),
        mixing: Mixing::UpToLargest,
    };
    let scene = Scene::new(Parameters { low: Some(low), ..parameters() }, Answers::Rows);
    let low = || {
        let terms = Terms { priority: Priority::Low, ..Terms::default() };
        scene.ask(tensor(&[2], &[1.0, 2.0]), terms, &["y"])
    };
    let start = tokio::time::Instant::now();
    assert_eq!(low().await.expect("no panic"), Ok(vec![2.0, 4.0]));
    assert!(start.elapsed() >= Duration::from_secs(1));
    let start = tokio::time::Instant::now();
    let asked = vec![low(), scene.rows(&[3.0])];
    assert!(outcomes(asked).await.iter().all(Result::is_ok));
    assert_eq!(scene.runs(), [2, 3], "they ride along");
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn queues_are_served_in_turn() {
    let given =
        Parameters { timeout: Duration::ZERO, largest_batch: 1, largest_request: 1, most_batches: 100, ..parameters() };
    let scene = Scene::new(given, Answers::Rows);
    let asked: Vec<_> = (0..10)
        .map(|number| scene.ask(tensor(&[1], &[1.0]), Terms::default(), if number < 8 { &["y"] } else { &["z"] }))
        .collect();
    assert!(outcomes(asked).await.iter().all(Result::is_ok));
    let reports = scene.servable.batching().expect("there").report();
    assert_eq!(reports.iter().map(|report| report.counters.batches).collect::<Vec<_>>(), [8, 2]);
}

#[tokio::test]
async fn batching_that_tunes_itself_does_not_wait() {
    let mode = Mode::SelfTuning { objective: Some(Duration::from_millis(50)) };
    let scene = Scene::new(Parameters { mode, falls_back: true, largest_batch: 64, ..parameters() }, Answers::Rows);
    for round in 0..200 {
        let asked: Vec<_> = (0..32_u8).map(|value| scene.rows(&[f32::from(value)])).collect();
        for (value, outcome) in outcomes(asked).await.into_iter().enumerate() {
            assert_eq!(outcome, Ok(vec![value as f32 * 2.0]), "round {round}");
        }
    }
    let report = scene.servable.batching().expect("there").report().remove(0);
    assert_eq!(report.counters.rows, 200 * 32);
    assert!(report.limit > 1 && report.counters.batches < 200 * 32, "they came together: {}", report.counters.batches);
}

/// A generator of numbers that are as good as random, and the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

/// For random parameters, requests, cancellations and failures every caller gets its own rows, in order, once.
#[tokio::test(start_paused = true)]
async fn everybody_gets_their_own_rows() {
    for seed in 0..150 {
        let mut numbers = Numbers(seed);
        let largest_batch = 1 + numbers.below(12);
        let splits = numbers.below(2) == 0;
        let low = LowPriority {
            largest_request: largest_batch,
            timeout: Duration::from_millis(numbers.below(20) as u64),
            most_batches: 1 + numbers.below(3),
            allowed: Vec::new(),
            mixing: [Mixing::UpToLargest, Mixing::UpToAllowed, Mixing::Never, Mixing::Merged][numbers.below(4)],
        };
        let allowed: BTreeSet<usize> = (0..numbers.below(4)).map(|_| 1 + numbers.below(largest_batch)).collect();
        let given = Parameters {
            threads: 1 + numbers.below(3),
            largest_batch,
            largest_request: if splits { largest_batch * 3 } else { largest_batch },
            most_batches: 1 + numbers.below(4),
            timeout: Duration::from_millis(numbers.below(3) as u64 * 5),
            allowed: allowed.into_iter().chain([largest_batch]).collect::<BTreeSet<_>>().into_iter().collect(),
            padding: [PaddingPolicy::PadUp, PaddingPolicy::BatchDown, PaddingPolicy::MinimizeCost][numbers.below(3)],
            splits,
            mode: if numbers.below(3) == 0 { Mode::SelfTuning { objective: None } } else { Mode::Fixed },
            low: (numbers.below(2) == 0).then_some(low),
            ..parameters()
        };
        let (largest, described) = (given.largest_request, format!("seed {seed}: {given:?}"));
        let scene = Scene::new(given, Answers::Rows);
        let mut asked = Vec::new();
        let mut value = 0.0;
        for _ in 0..60 {
            let rows = 1 + numbers.below(largest + 1);
            let mut values: Vec<f32> = (0..rows).map(|row| value + row as f32).collect();
            value += rows as f32;
            if numbers.below(10) == 0 {
                values[rows - 1] = POISON;
            }
            let deadline = (numbers.below(5) == 0)
                .then(|| tokio::time::Instant::now().into_std() + Duration::from_millis(1 + numbers.below(20) as u64));
            let priority = if numbers.below(3) == 0 { Priority::Low } else { Priority::High };
            let request = scene.ask(tensor(&[rows as i64], &values), Terms { deadline, priority }, &["y"]);
            match numbers.below(8) {
                0 => request.abort(),
                1 => {
                    tokio::time::sleep(Duration::from_millis(numbers.below(10) as u64)).await;
                    request.abort();
                }
                _ => asked.push((values, request)),
            }
            if numbers.below(4) == 0 {
                tokio::time::sleep(Duration::from_millis(numbers.below(10) as u64)).await;
            }
        }
        for (values, request) in asked {
            // A request that is never answered ends here: the clock goes on by itself once nothing else can happen.
            let outcome = tokio::time::timeout(Duration::from_secs(3600), request).await;
            let outcome = outcome.unwrap_or_else(|_| panic!("no answer; {described}")).expect("no panic");
            match outcome {
                Ok(results) => {
                    assert!(!values.contains(&POISON), "{described}");
                    assert_eq!(results, values.iter().map(|value| value * 2.0).collect::<Vec<_>>(), "{described}");
                }
                Err(status) => match status.code {
                    Code::InvalidArgument => assert!(values.contains(&POISON) || values.len() > largest, "{described}"),
                    Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => {}
                    _ => panic!("{status}; {described}"),
                },
            }
        }
        // What nobody waits for any more leaves when its time is up.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for report in scene.servable.batching().expect("there").report() {
            assert_eq!(report.queued_rows, 0, "{described}");
        }
        let mut servable = scene.servable;
        let end = Instant::now() + Duration::from_secs(10);
        while let Err(in_use) = Arc::try_unwrap(servable) {
            assert!(Instant::now() < end, "somebody keeps the servable; {described}");
            servable = in_use;
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_waits_for_keeps_its_room_until_its_batch_has_run() {
    let scene = Scene::new(parameters(), Answers::Rows);
    let room = Arc::new(Anything);
    let ask = |count: u8| {
        let values: Vec<f32> = (0..count).map(f32::from).collect();
        scene.ask_in(Arc::clone(&room), tensor(&[i64::from(count)], &values), Terms::default(), &["y"])
    };
    let waiting = ask(1);
    settle().await;
    waiting.abort();
    settle().await;
    assert_eq!((Arc::strong_count(&room), scene.runs()), (1, vec![]), "it has left its queue");

    scene.is_held_up.store(true, Ordering::Relaxed);
    let running = ask(4);
    while scene.runs().is_empty() {
        tokio::task::yield_now().await;
    }
    running.abort();
    settle().await;
    assert_eq!(Arc::strong_count(&room), 2, "it is at work");
    scene.is_held_up.store(false, Ordering::Relaxed);
    while Arc::strong_count(&room) > 1 {
        tokio::task::yield_now().await;
    }
}
