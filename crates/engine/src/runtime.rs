//! TensorFlow and the servables that it makes, as Python objects.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pyo3::prelude::*;
use servable_core::Status;
use servable_core::servable::Servable as CoreServable;
use servable_tensorflow::{
    Library, LoadOptions, SavedModelSession, create_thread_pools, devices, release_free_memory, release_startup_pages,
};
use servable_wire::saved_model;

use crate::error::raised;

/// How much lower than usual the priority of loading is.
const LOADING_NICENESS: i32 = 10;
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

    fn load(
        &self,
        python: Python<'_>,
        name: String,
        version: i64,
        path: PathBuf,
        session: SessionSpec,
    ) -> PyResult<Servable> {
        let library = Arc::clone(&self.library);
        let servable = python.detach(|| loaded_aside(library, name, version, path, session)).map_err(raised)?;
        Ok(Servable {
            name: servable.name().to_owned(),
            version: servable.version(),
            handle: Mutex::new(Handle { servable: Some(Arc::new(servable)), retired: false }),
        })
    }
}

/// Loads on a thread of its own; of low priority if that is to be quiet, which the pools that serve must not inherit.
fn loaded_aside(
    library: Arc<Library>,
    name: String,
    version: i64,
    path: PathBuf,
    session: SessionSpec,
) -> Result<CoreServable, Status> {
    static FIRST_LOAD: Once = Once::new();
    let SessionSpec { tags, config, quiet } = session;
    let options = LoadOptions { tags, config };
    create_thread_pools(&library, &options.config)?;
    let loading = move || {
        if quiet {
            lower_priority();
        }
        load(&library, name, version, &path, &options)
    };
    let loader = thread::Builder::new().name("servable-load".to_owned()).stack_size(STACK_BYTES).spawn(loading);
    let loader = loader.map_err(|error| Status::internal(format!("no thread to load with: {error}")))?;
    let servable = loader.join().map_err(|_| Status::internal("loading the SavedModel panicked: this is a bug"))??;
    FIRST_LOAD.call_once(release_startup_pages);
    Ok(servable)
}

fn load(
    library: &Arc<Library>,
    name: String,
    version: i64,
    path: &Path,
    options: &LoadOptions,
) -> Result<CoreServable, Status> {
    let (mut session, meta_graph) = SavedModelSession::load(library, path, options)?;
    let signatures = saved_model::signatures(meta_graph.as_ref(), |tensor| session.endpoint(tensor))?;
    let description = saved_model::description(Bytes::from_owner(meta_graph))?;
    Ok(CoreServable::new(name, version, description, signatures, Box::new(session)))
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

    fn close_when_unused(&self, end: Option<Instant>) -> bool {
        loop {
            {
                let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
                handle.retired = true;
                let Some(servable) = handle.servable.take() else { return true };
                match Arc::try_unwrap(servable) {
                    Ok(unused) => {
                        drop(handle);
                        drop(unused); // closes the session, here and not on a thread that serves requests
                        release_free_memory();
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
