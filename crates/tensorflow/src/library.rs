//! Finding TensorFlow's functions in the libraries of an installed TensorFlow.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use servable_core::{Code, Status};

use crate::ffi::{Functions, StatusHandle};

/// TensorFlow, opened. Lives as long as the process: its libraries cannot be unloaded safely.
pub struct Library {
    pub(crate) functions: Functions,
    version: String,
    /// Op libraries that have been registered; registering twice is an error in TensorFlow.
    registered: Mutex<HashSet<String>>,
}

static OPENED: OnceLock<Arc<Library>> = OnceLock::new();
/// Two threads must not open the libraries at the same time.
static OPENING: Mutex<()> = Mutex::new(());

impl Library {
    /// Opens the framework library for all to see, then the one with the C API. Later calls get the first result.
    ///
    /// `FAILED_PRECONDITION` if a file does not load or is no TensorFlow of 2.16 or newer.
    pub fn open(framework: &Path, c_api: &Path) -> Result<Arc<Self>, Status> {
        let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = OPENED.get() {
            return Ok(Arc::clone(library));
        }
        let library = Arc::new(Self::load(framework, c_api)?);
        Ok(Arc::clone(OPENED.get_or_init(|| library)))
    }

    fn load(framework: &Path, c_api: &Path) -> Result<Self, Status> {
        let refused = |path: &Path, error: &libloading::Error| {
            Status::failed_precondition(format!("TensorFlow's library {} cannot be used: {error}", path.display()))
        };
        // Op libraries look for TensorFlow's symbols among the global ones, so the framework has to be global.
        // SAFETY: opening runs the library's initialisers; TensorFlow's are made to run like this.
        let framework_library = unsafe { open_globally(framework) }.map_err(|error| refused(framework, &error))?;
        // SAFETY: as above.
        let c_api_library = unsafe { libloading::Library::new(c_api) }.map_err(|error| refused(c_api, &error))?;
        // SAFETY: these are TensorFlow's libraries, and they stay open, since both handles are forgotten below.
        let functions = unsafe { Functions::find(&c_api_library) }.map_err(|error| refused(c_api, &error))?;
        std::mem::forget(framework_library);
        std::mem::forget(c_api_library);
        // SAFETY: TF_Version gives a string that is never freed.
        let version = unsafe { CStr::from_ptr((functions.version)()) }.to_string_lossy().into_owned();
        Ok(Self { functions, version, registered: Mutex::default() })
    }

    /// TensorFlow's version, such as `2.21.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Loads a library that registers custom ops. Again is no error.
    pub fn register_ops(&self, path: &str) -> Result<(), Status> {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        if registered.contains(path) {
            return Ok(());
        }
        let name = c_string("the library's path", path)?;
        self.checked(|functions, status| {
            // SAFETY: `name` ends with NUL and outlives the call. The handle is kept for ever, as the ops are.
            unsafe { (functions.load_library)(name.as_ptr(), status) };
        })?;
        registered.insert(path.to_owned());
        Ok(())
    }

    /// Makes a call that reports through a status, and turns that into a result.
    pub(crate) fn checked<T>(&self, call: impl FnOnce(&Functions, *mut StatusHandle) -> T) -> Result<T, Status> {
        // SAFETY: a new status is freed below, on every path but a panic, which leaks it.
        let handle = unsafe { (self.functions.new_status)() };
        let value = call(&self.functions, handle);
        // SAFETY: the handle is valid; the message is copied before the status goes.
        let outcome = unsafe {
            match Code::from_number((self.functions.status_code)(handle)) {
                Code::Ok => Ok(value),
                code => {
                    let message = CStr::from_ptr((self.functions.status_message)(handle));
                    Err(Status::new(code, message.to_string_lossy().into_owned()))
                }
            }
        };
        // SAFETY: made above, used by nobody any more.
        unsafe { (self.functions.delete_status)(handle) };
        outcome
    }
}

/// A string for C; one with a NUL inside cannot be.
pub(crate) fn c_string(what: &str, text: &str) -> Result<CString, Status> {
    CString::new(text)
        .map_err(|_| Status::invalid_argument(format!("{what} must not contain a NUL character: {text:?}")))
}

#[cfg(unix)]
unsafe fn open_globally(path: &Path) -> Result<libloading::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: passed on to the caller.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map(Into::into)
}
