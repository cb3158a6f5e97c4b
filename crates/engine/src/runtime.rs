//! TensorFlow and the servables that it makes, as Python objects.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use memchr::memmem;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use servable_core::Status;
use servable_core::batching::Batching;
use servable_core::servable::Servable as CoreServable;
use servable_net::{Warmup, WarmupError};
use servable_tensorflow::{
    Library, LoadOptions, SavedModelSession, create_thread_pools, devices, release_free_memory, release_startup_pages,
};
use servable_wire::saved_model;

use crate::batching::{self, BatchingSpec};
use crate::error::raised;

/// How much lower than usual the priority of loading is.
const LOADING_NICENESS: i32 = 10;
/// The op that batches inside a graph. Its first run makes the threads that all its batches will run on.
const BATCHING_OP: &[u8] = b"BatchFunction";
/// TensorFlow's kernels expect as much as a thread usually has.
const STACK_BYTES: usize = 8 << 20;
/// How often a wait for requests looks whether they are done.
const UNLOAD_CHECK: Duration = Duration::from_millis(5);

#[pyclass(frozen, module = "servable._engine")]
pub(crate) struct Runtime {
    library: Arc<Library>,
}

/// `servable.types.SessionSpec`.
#[derive(FromPyObject)]
struct SessionSpec {
    tags: Vec<String>,
    config: Vec<u8>,
    quiet: bool,
}

#[pymethods]
impl Runtime {
    #[staticmethod]
    fn open(python: Python<'_>, framework: PathBuf, library: PathBuf) -> PyResult<Self> {
        let library = python.detach(|| Library::open(&framework, &library)).map_err(raised)?;
        Ok(Self { library })
    }

    #[getter]
    fn version(&self) -> &str {
        self.library.version()
    }

    fn devices(&self, python: Python<'_>, config: Vec<u8>) -> PyResult<Vec<(String, u64)>> {
        python.detach(|| devices(&self.library, &config)).map_err(raised)
    }

    fn register_ops(&self, python: Python<'_>, library: &str) -> PyResult<()> {
        python.detach(|| self.library.register_ops(library)).map_err(raised)
    }

    #[pyo3(signature = (name, version, path, session, batching = None))]
    fn load(
        &self,
        python: Python<'_>,
        name: String,
        version: i64,
        path: PathBuf,
        session: SessionSpec,
        batching: Option<BatchingSpec>,
    ) -> PyResult<Servable> {
        let batching = batching.map(BatchingSpec::parameters).transpose()?.map(Batching::new);
        let library = Arc::clone(&self.library);
        let (servable, quiet) =
            python.detach(|| loaded_aside(library, name, version, path, session)).map_err(raised)?;
        let servable = match batching {
            Some(batching) => servable.batched(batching),
            None => servable,
        };
        Ok(Servable {
            name: servable.name().to_owned(),
            version: servable.version(),
            quiet,
            handle: Mutex::new(Handle { servable: Some(Arc::new(servable)), retired: false }),
        })
    }
}

/// Loads a SavedModel beside whatever else is done; quietly if it may be. Says whether its warm-up may be quiet as well.
fn loaded_aside(
    library: Arc<Library>,
    name: String,
    version: i64,
    path: PathBuf,
    session: SessionSpec,
) -> Result<(CoreServable, bool), Status> {
    static FIRST_LOAD: Once = Once::new();
    let SessionSpec { tags, config, quiet } = session;
    let options = LoadOptions { tags, config };
    create_thread_pools(&library, &options.config)?;
    let (servable, makes_threads) = aside(quiet, move || load(&library, name, version, &path, &options))??;
    FIRST_LOAD.call_once(release_startup_pages);
    Ok((servable, quiet && !makes_threads))
}

/// Does work on a thread of its own; of low priority if it is to be quiet, which the pools that serve must not inherit.
fn aside<T: Send + 'static>(quiet: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    let work = move || {
        if quiet {
            lower_priority();
        }
        work()
    };
    let thread = thread::Builder::new().name("servable-load".to_owned()).stack_size(STACK_BYTES).spawn(work);
    let thread = thread.map_err(|error| Status::internal(format!("no thread to load with: {error}")))?;
    thread.join().map_err(|_| Status::internal("loading the SavedModel panicked: this is a bug"))
}

/// Loads here and now. Says whether runs of the model make threads that live as long as it.
fn load(
    library: &Arc<Library>,
    name: String,
    version: i64,
    path: &Path,
    options: &LoadOptions,
) -> Result<(CoreServable, bool), Status> {
    let (mut session, meta_graph) = SavedModelSession::load(library, path, options)?;
    let makes_threads = memmem::find(meta_graph.as_ref(), BATCHING_OP).is_some();
    let signatures = saved_model::signatures(meta_graph.as_ref(), |tensor| session.endpoint(tensor))?;
    let description = saved_model::description(Bytes::from_owner(meta_graph))?;
    let servable = CoreServable::new(name, version, description, signatures, Box::new(session));
    Ok((if makes_threads { servable.waiting_for_others() } else { servable }, makes_threads))
}

/// Closes a session and gives its memory back to the system, which for a large one takes a while: at low priority.
fn close_quietly(servable: CoreServable) {
    // Without a thread to do it with, what was to be done is dropped, and with it the session.
    let _ = aside(true, move || {
        drop(servable);
        release_free_memory();
    });
}

/// Not at low priority: whoever allocates meanwhile may have to wait for it.
#[pyfunction]
pub(crate) fn release_memory(python: Python<'_>) {
    python.detach(release_free_memory);
}

/// A thread that may not be slowed down loads at full speed: noisier, but right.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), LOADING_NICENESS);
    }
}

#[pyclass(frozen, module = "servable._engine")]
pub(crate) struct Servable {
    name: String,
    version: i64,
    /// Warm-up may be done at low priority.
    quiet: bool,
    handle: Mutex<Handle>,
}

struct Handle {
    /// Gone once unloaded.
    servable: Option<Arc<CoreServable>>,
    /// Whether unloading has begun: nobody new may get hold of the servable then.
    retired: bool,
}

impl Servable {
    /// For the routes; `None` once unloading has begun.
    pub(crate) fn share(&self) -> Option<Arc<CoreServable>> {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if handle.retired { None } else { handle.servable.clone() }
    }

    fn loaded(&self) -> PyResult<Arc<CoreServable>> {
        let unloaded = || Status::failed_precondition(format!("version {} of {} is unloaded", self.version, self.name));
        self.share().ok_or_else(|| raised(unloaded()))
    }

    fn close_when_unused(&self, end: Option<Instant>) -> bool {
        if let Some(servable) = self.share() {
            servable.close();
        }
        loop {
            {
                let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
                handle.retired = true;
                let Some(servable) = handle.servable.take() else { return true };
                match Arc::try_unwrap(servable) {
                    Ok(unused) => {
                        drop(handle);
                        close_quietly(unused);
                        return true;
                    }
                    Err(in_use) => handle.servable = Some(in_use),
                }
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return false;
            }
            thread::sleep(UNLOAD_CHECK);
        }
    }
}

#[pymethods]
impl Servable {
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    #[getter]
    fn version(&self) -> i64 {
        self.version
    }

    #[getter]
    fn idle_s(&self) -> f64 {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        handle.servable.as_ref().map_or(0.0, |servable| servable.idle().as_secs_f64())
    }

    fn signatures(&self, python: Python<'_>) -> PyResult<String> {
        let servable = self.loaded()?;
        let summaries = python.detach(|| saved_model::signature_summaries(&servable.description().signature_map));
        summaries.map(|summaries| summaries.to_string()).map_err(raised)
    }

    fn batching(&self) -> Option<String> {
        self.share()?.batching().map(|batching| batching::report(batching).to_string())
    }

    #[pyo3(signature = (record, iterations = 1, check_method_names = false))]
    fn warm_up(
        &self,
        python: Python<'_>,
        record: PyBackedBytes,
        iterations: u32,
        check_method_names: bool,
    ) -> PyResult<()> {
        let servable = self.loaded()?;
        let record = Bytes::from_owner(record);
        let warmup = Warmup { iterations, check_method_names };
        let outcome = python.detach(|| aside(self.quiet, move || warmup.run(&servable, &record)));
        outcome.map_err(raised)?.map_err(|error| match error {
            WarmupError::Malformed => PyValueError::new_err("the record is no PredictionLog"),
            WarmupError::Failed(status) => raised(status),
        })
    }

    #[pyo3(signature = (timeout_s))]
    fn unload(&self, python: Python<'_>, timeout_s: Option<f64>) -> bool {
        let timeout = timeout_s.and_then(|timeout| Duration::try_from_secs_f64(timeout).ok());
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        python.detach(|| self.close_when_unused(end))
    }

    fn __repr__(&self) -> String {
        format!("Servable(name={:?}, version={})", self.name, self.version)
    }
}
