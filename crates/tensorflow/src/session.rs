//! A SavedModel's session: loading it quietly, finding its tensors, running it.

use std::ffi::{CStr, c_char};
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use servable_core::predict::NamedRun;
use servable_core::servable::{Placement, Session};
use servable_core::{Code, Endpoint, Status, Tensor};

use crate::ffi::{self, Buffer, Output};
use crate::library::{Library, c_string};
use crate::tensor::OwnedTensor;

/// In `RunOptions.inter_op_thread_pool`: run in the caller's thread.
const CALLERS_THREAD: i32 = -1;

/// A session of a SavedModel, closed when dropped.
pub struct SavedModelSession {
    library: Arc<Library>,
    session: *mut ffi::Session,
    graph: *mut ffi::Graph,
    /// `RunOptions` for a run in the caller's thread, made once.
    callers_options: RunOptions,
    /// Tensors that signatures name; an endpoint is an index here. Filled while loading, read-only afterwards.
    endpoints: Vec<Output>,
}

// SAFETY: TF_SessionRun may be called from many threads at once; all else happens before the session is shared or in
// `drop`. The operations in `endpoints` belong to the graph, which lives as long as this.
unsafe impl Send for SavedModelSession {}
// SAFETY: as above.
unsafe impl Sync for SavedModelSession {}

/// A serialised `MetaGraphDef`, as TensorFlow hands it out: it may be as large as the graph, so nobody copies it.
pub struct MetaGraph(OwnedBuffer);

impl AsRef<[u8]> for MetaGraph {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// How to load a SavedModel.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The MetaGraph with exactly these tags is taken.
    pub tags: Vec<String>,
    /// A serialised `tensorflow.ConfigProto`.
    pub config: Vec<u8>,
}

impl SavedModelSession {
    /// Restores and initialises the SavedModel in folder `path`, all of it in the calling thread.
    ///
    /// Gives the session and the `MetaGraphDef` that it was made from. Errors are TensorFlow's own.
    pub fn load(library: &Arc<Library>, path: &Path, options: &LoadOptions) -> Result<(Self, MetaGraph), Status> {
        let folder = c_string("the model's path", &path.to_string_lossy())?;
        let tags = options.tags.iter().map(|tag| c_string("a tag", tag)).collect::<Result<Vec<_>, _>>()?;
        let tag_pointers: Vec<*const c_char> = tags.iter().map(|tag| tag.as_ptr()).collect();
        let session_options = SessionOptions::new(library, &options.config)?;
        let callers_options = RunOptions::new(library, CALLERS_THREAD, None);
        let meta_graph = OwnedBuffer::empty(library);
        // SAFETY: freed in `drop` of the session below, or by the error path.
        let graph = unsafe { (library.functions.new_graph)() };
        let loaded = library.checked(|functions, status| {
            // SAFETY: every pointer is alive for the call; the tags' pointers and their number belong together.
            unsafe {
                (functions.load_session)(
                    session_options.raw,
                    callers_options.0.raw,
                    folder.as_ptr(),
                    tag_pointers.as_ptr(),
                    tag_pointers.len() as i32,
                    graph,
                    meta_graph.raw,
                    status,
                )
            }
        });
        let session = loaded.inspect_err(|_| {
            // SAFETY: no session uses the graph.
            unsafe { (library.functions.delete_graph)(graph) };
        })?;
        let loaded = Self { library: Arc::clone(library), session, graph, callers_options, endpoints: Vec::new() };
        // From here on runs need not look whether the graph has grown.
        // SAFETY: the session is alive.
        library.checked(|functions, status| unsafe { (functions.extend_session)(session, status) })?;
        Ok((loaded, MetaGraph(meta_graph)))
    }

    /// The endpoint of a tensor such as `x:0`, or the error that running with it gives.
    pub fn endpoint(&mut self, tensor_name: &str) -> Result<Endpoint, Status> {
        let output = self.find(tensor_name)?;
        // A tensor has one endpoint, however many signatures name it: a call must not feed it twice.
        let known = self.endpoints.iter().position(|known| *known == output);
        let place = known.unwrap_or_else(|| {
            self.endpoints.push(output);
            self.endpoints.len() - 1
        });
        Ok(Endpoint(place as u32))
    }

    /// The tensor of this name. TensorFlow's words for one that is not there.
    fn find(&self, tensor_name: &str) -> Result<Output, Status> {
        let missing = || {
            Status::invalid_argument(format!(
                "Tensor {}, specified in either feed_devices or fetch_devices was not found in the Graph",
                if tensor_name.contains(':') { tensor_name.to_owned() } else { format!("{tensor_name}:0") }
            ))
        };
        let (operation, index) = match tensor_name.rsplit_once(':') {
            Some((operation, index)) => (operation, index.parse::<u16>().map_err(|_| missing())?),
            None => (tensor_name, 0),
        };
        let operation = self.operation(operation)?.ok_or_else(missing)?;
        Ok(Output { operation, index: i32::from(index) })
    }

    fn operation(&self, name: &str) -> Result<Option<*mut ffi::Operation>, Status> {
        let name = c_string("a tensor's name", name)?;
        // SAFETY: graph and name are alive; looking a name up is guarded by a lock of the graph's.
        let operation = unsafe { (self.library.functions.operation_by_name)(self.graph, name.as_ptr()) };
        Ok((!operation.is_null()).then_some(operation))
    }

    fn output(&self, endpoint: Endpoint) -> Result<Output, Status> {
        self.endpoints.get(endpoint.0 as usize).copied().ok_or_else(|| Status::internal("endpoint of another session"))
    }
}

impl Session for SavedModelSession {
    fn run(
        &self,
        feeds: &[(Endpoint, Tensor)],
        fetches: &[Endpoint],
        placement: Placement,
    ) -> Result<Vec<Tensor>, Status> {
        let inputs = feeds.iter().map(|(endpoint, _)| self.output(*endpoint)).collect::<Result<Vec<_>, _>>()?;
        let outputs = fetches.iter().map(|endpoint| self.output(*endpoint)).collect::<Result<Vec<_>, _>>()?;
        let own_options;
        let options = match placement {
            Placement::Caller => &self.callers_options,
            Placement::Pool { timeout } => {
                own_options = RunOptions::new(&self.library, 0, timeout);
                &own_options
            }
        };
        self.run_raw(&inputs, feeds.iter().map(|(_, tensor)| tensor), &outputs, &[], options)
    }

    fn run_named(&self, run: &NamedRun, timeout: Option<Duration>) -> Result<Vec<Tensor>, Status> {
        let inputs = run.feeds.iter().map(|(name, _)| self.find(name)).collect::<Result<Vec<_>, _>>()?;
        let outputs = run.fetches.iter().map(|name| self.find(name)).collect::<Result<Vec<_>, _>>()?;
        let target = |name: &String| {
            let missing =
                || Status::new(Code::NotFound, format!("the graph has no operation {name}, which is a target"));
            self.operation(name)?.ok_or_else(missing)
        };
        let targets = run.targets.iter().map(target).collect::<Result<Vec<_>, _>>()?;
        let options = RunOptions::new(&self.library, 0, timeout);
        self.run_raw(&inputs, run.feeds.iter().map(|(_, tensor)| tensor), &outputs, &targets, &options)
    }
}

impl SavedModelSession {
    /// `inputs` and `values` belong together, one by one.
    fn run_raw<'a>(
        &self,
        inputs: &[Output],
        values: impl Iterator<Item = &'a Tensor>,
        outputs: &[Output],
        targets: &[*mut ffi::Operation],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>, Status> {
        let values =
            values.map(|tensor| OwnedTensor::from_tensor(&self.library, tensor)).collect::<Result<Vec<_>, _>>()?;
        let value_pointers: Vec<_> = values.iter().map(OwnedTensor::raw).collect();
        let mut results = vec![ptr::null_mut(); outputs.len()];
        let outcome = self.library.checked(|functions, status| {
            // SAFETY: every array is as long as the number beside it says and outlives the call; `results` takes one
            // tensor per output, or stays null on failure.
            unsafe {
                (functions.run)(
                    self.session,
                    options.0.raw,
                    inputs.as_ptr(),
                    value_pointers.as_ptr(),
                    inputs.len() as i32,
                    outputs.as_ptr(),
                    results.as_mut_ptr(),
                    outputs.len() as i32,
                    targets.as_ptr().cast(),
                    targets.len() as i32,
                    ptr::null_mut(),
                    status,
                );
            }
        });
        let results: Vec<_> = results
            .into_iter()
            .filter(|raw| !raw.is_null())
            .map(|raw| OwnedTensor::adopt(&self.library, raw))
            .collect();
        outcome?;
        if results.len() != outputs.len() {
            return Err(Status::new(Code::Unknown, "Predict internal error"));
        }
        results.into_iter().map(OwnedTensor::into_tensor).collect()
    }
}

impl Drop for SavedModelSession {
    fn drop(&mut self) {
        // Failing to close is nothing that anybody could act on: the session goes in any case.
        // SAFETY: whoever drops this is its last user, so no run is under way; session first, then its graph.
        let _ = self.library.checked(|functions, status| unsafe { (functions.close_session)(self.session, status) });
        // SAFETY: as above.
        let _ = self.library.checked(|functions, status| unsafe { (functions.delete_session)(self.session, status) });
        // SAFETY: as above.
        unsafe { (self.library.functions.delete_graph)(self.graph) };
    }
}

/// Makes TensorFlow create its process-wide thread pools now, from this thread.
///
/// Threads inherit their creator's priority. Pools first made while a version loads on a thread of low priority would
/// serve requests with that low priority for ever.
pub fn create_thread_pools(library: &Arc<Library>, config: &[u8]) -> Result<(), Status> {
    static CREATED: Mutex<bool> = Mutex::new(false);
    let mut created = CREATED.lock().unwrap_or_else(PoisonError::into_inner);
    if *created {
        return Ok(());
    }
    let made = with_empty_session(library, config, |_| Ok(()));
    *created = made.is_ok();
    made
}

/// The kinds and bytes of memory of the devices that TensorFlow finds, such as `("GPU", 17_179_869_184)`.
///
/// The first session of a process decides how much of a device is taken, so its `ConfigProto` is asked for.
pub fn devices(library: &Arc<Library>, config: &[u8]) -> Result<Vec<(String, u64)>, Status> {
    create_thread_pools(library, config)?;
    with_empty_session(library, config, |session| {
        // SAFETY: the session is alive; the list is freed below.
        let list = library.checked(|functions, status| unsafe { (functions.session_devices)(session, status) })?;
        // SAFETY: the list is alive.
        let count = unsafe { (library.functions.device_count)(list) };
        let device = |index| {
            // SAFETY: the list is alive and `index` below its length; the text belongs to the list and is copied.
            let kind = library.checked(|functions, status| unsafe { (functions.device_type)(list, index, status) })?;
            // SAFETY: as above.
            let kind = unsafe { CStr::from_ptr(kind) }.to_string_lossy().into_owned();
            // SAFETY: as above.
            let bytes =
                library.checked(|functions, status| unsafe { (functions.device_memory)(list, index, status) })?;
            Ok((kind, u64::try_from(bytes).unwrap_or(0)))
        };
        let devices = (0..count).map(device).collect();
        // SAFETY: made above, used by nobody any more.
        unsafe { (library.functions.delete_devices)(list) };
        devices
    })
}

/// Does something with a session of an empty graph.
fn with_empty_session<T>(
    library: &Arc<Library>,
    config: &[u8],
    work: impl FnOnce(*mut ffi::Session) -> Result<T, Status>,
) -> Result<T, Status> {
    let options = SessionOptions::new(library, config)?;
    // SAFETY: an empty graph and a session of it, both freed below.
    let graph = unsafe { (library.functions.new_graph)() };
    // SAFETY: graph and options are alive.
    let made = library.checked(|functions, status| unsafe { (functions.new_session)(graph, options.raw, status) });
    let outcome = made.and_then(|session| {
        let outcome = work(session);
        // SAFETY: nobody else has the session.
        let _ = library.checked(|functions, status| unsafe { (functions.delete_session)(session, status) });
        outcome
    });
    // SAFETY: its session is gone.
    unsafe { (library.functions.delete_graph)(graph) };
    outcome
}

struct SessionOptions {
    library: Arc<Library>,
    raw: *mut ffi::SessionOptions,
}

impl SessionOptions {
    fn new(library: &Arc<Library>, config: &[u8]) -> Result<Self, Status> {
        // SAFETY: freed in `drop`.
        let raw = unsafe { (library.functions.new_options)() };
        let options = Self { library: Arc::clone(library), raw };
        library.checked(|functions, status| {
            // SAFETY: the bytes outlive the call, which parses and copies them.
            unsafe { (functions.set_config)(raw, config.as_ptr().cast(), config.len(), status) };
        })?;
        Ok(options)
    }
}

impl Drop for SessionOptions {
    fn drop(&mut self) {
        // SAFETY: made in `new`, owned by this alone.
        unsafe { (self.library.functions.delete_options)(self.raw) };
    }
}

/// A `TF_Buffer`, freed when dropped.
struct OwnedBuffer {
    library: Arc<Library>,
    raw: *mut Buffer,
}

// SAFETY: a buffer is memory and nothing else: whoever owns it may read and free it from any thread.
unsafe impl Send for OwnedBuffer {}

impl OwnedBuffer {
    fn empty(library: &Arc<Library>) -> Self {
        // SAFETY: freed in `drop`.
        Self { library: Arc::clone(library), raw: unsafe { (library.functions.new_buffer)() } }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer is alive, and nobody writes to it once the call that filled it has returned.
        unsafe {
            let Buffer { data, length, .. } = &*self.raw;
            if data.is_null() { &[] } else { &*ptr::slice_from_raw_parts(data.cast::<u8>(), *length) }
        }
    }
}

impl Drop for OwnedBuffer {
    fn drop(&mut self) {
        // SAFETY: owned by this alone.
        unsafe { (self.library.functions.delete_buffer)(self.raw) };
    }
}

/// Serialised `tensorflow.RunOptions`.
struct RunOptions(OwnedBuffer);

impl RunOptions {
    const TIMEOUT_IN_MS: u32 = 2;
    const INTER_OP_THREAD_POOL: u32 = 3;

    /// A timeout shorter than a millisecond counts as one: 0 would mean none.
    fn new(library: &Arc<Library>, thread_pool: i32, timeout: Option<Duration>) -> Self {
        let mut bytes = Vec::with_capacity(24);
        if let Some(timeout) = timeout {
            let milliseconds = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX).max(1);
            prost::encoding::int64::encode(Self::TIMEOUT_IN_MS, &milliseconds, &mut bytes);
        }
        if thread_pool != 0 {
            prost::encoding::int32::encode(Self::INTER_OP_THREAD_POOL, &thread_pool, &mut bytes);
        }
        // SAFETY: the call copies the bytes; the result is freed in `drop`.
        let raw = unsafe { (library.functions.new_buffer_from)(bytes.as_ptr().cast(), bytes.len()) };
        Self(OwnedBuffer { library: Arc::clone(library), raw })
    }
}
