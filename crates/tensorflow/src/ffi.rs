//! TensorFlow's C API, as far as it is used here: declarations only.
//!
//! Names, types and ownership rules are those of TensorFlow's `c_api.h`, `tf_tensor.h` and `tf_tstring.h`; the same in
//! every release from 2.16 on.

use std::ffi::{c_char, c_int, c_void};

/// Declares an opaque type of the C side.
macro_rules! opaque {
    ($($name:ident),*) => {
        $(#[repr(C)] pub(crate) struct $name { _private: [u8; 0] })*
    };
}

opaque!(DeviceList, Graph, LibraryHandle, Operation, RawTensor, Session, SessionOptions, StatusHandle);

/// `TF_Buffer`: bytes that the side which made them frees.
#[repr(C)]
pub(crate) struct Buffer {
    pub(crate) data: *const c_void,
    pub(crate) length: usize,
    deallocator: Option<unsafe extern "C" fn(*mut c_void, usize)>,
}

/// `TF_Output`: one output of an operation.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) operation: *mut Operation,
    pub(crate) index: c_int,
}

/// `TF_TString`: a string in a string tensor, 24 bytes that only the functions below look into.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct StringCell {
    _private: [u8; 24],
}

pub(crate) type Deallocator = unsafe extern "C" fn(data: *mut c_void, length: usize, argument: *mut c_void);

/// Declares the table of functions and how it is filled from a library.
macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        pub(crate) struct Functions {
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Functions {
            /// Looks every function up; the error names the first that is missing.
            ///
            /// # Safety
            /// The library must be TensorFlow's, whose functions have the signatures above, and stay open.
            pub(crate) unsafe fn find(library: &libloading::Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    $($field: {
                        // SAFETY: the caller vouches that this symbol has the declared signature.
                        *unsafe { library.get(concat!($symbol, "\0")) }?
                    },)*
                })
            }
        }
    };
}

functions! {
    version = "TF_Version": fn() -> *const c_char;
    new_status = "TF_NewStatus": fn() -> *mut StatusHandle;
    delete_status = "TF_DeleteStatus": fn(*mut StatusHandle);
    status_code = "TF_GetCode": fn(*const StatusHandle) -> c_int;
    status_message = "TF_Message": fn(*const StatusHandle) -> *const c_char;
    new_buffer = "TF_NewBuffer": fn() -> *mut Buffer;
    new_buffer_from = "TF_NewBufferFromString": fn(*const c_void, usize) -> *mut Buffer;
    delete_buffer = "TF_DeleteBuffer": fn(*mut Buffer);
    new_graph = "TF_NewGraph": fn() -> *mut Graph;
    delete_graph = "TF_DeleteGraph": fn(*mut Graph);
    operation_by_name = "TF_GraphOperationByName": fn(*mut Graph, *const c_char) -> *mut Operation;
    new_options = "TF_NewSessionOptions": fn() -> *mut SessionOptions;
    delete_options = "TF_DeleteSessionOptions": fn(*mut SessionOptions);
    set_config = "TF_SetConfig": fn(*mut SessionOptions, *const c_void, usize, *mut StatusHandle);
    new_session = "TF_NewSession": fn(*mut Graph, *const SessionOptions, *mut StatusHandle) -> *mut Session;
    load_session = "TF_LoadSessionFromSavedModel": fn(
        *const SessionOptions, *const Buffer, *const c_char, *const *const c_char, c_int, *mut Graph, *mut Buffer,
        *mut StatusHandle
    ) -> *mut Session;
    close_session = "TF_CloseSession": fn(*mut Session, *mut StatusHandle);
    delete_session = "TF_DeleteSession": fn(*mut Session, *mut StatusHandle);
    extend_session = "TF_ExtendSession": fn(*mut Session, *mut StatusHandle);
    run = "TF_SessionRun": fn(
        *mut Session, *const Buffer, *const Output, *const *mut RawTensor, c_int, *const Output, *mut *mut RawTensor,
        c_int, *const *const Operation, c_int, *mut Buffer, *mut StatusHandle
    );
    new_tensor = "TF_NewTensor": fn(
        c_int, *const i64, c_int, *mut c_void, usize, Deallocator, *mut c_void
    ) -> *mut RawTensor;
    delete_tensor = "TF_DeleteTensor": fn(*mut RawTensor);
    tensor_type = "TF_TensorType": fn(*const RawTensor) -> c_int;
    rank = "TF_NumDims": fn(*const RawTensor) -> c_int;
    dimension = "TF_Dim": fn(*const RawTensor, c_int) -> i64;
    tensor_bytes = "TF_TensorByteSize": fn(*const RawTensor) -> usize;
    tensor_data = "TF_TensorData": fn(*const RawTensor) -> *mut c_void;
    string_init = "TF_StringInit": fn(*mut StringCell);
    string_copy = "TF_StringCopy": fn(*mut StringCell, *const c_char, usize);
    string_data = "TF_StringGetDataPointer": fn(*const StringCell) -> *const c_char;
    string_size = "TF_StringGetSize": fn(*const StringCell) -> usize;
    string_free = "TF_StringDealloc": fn(*mut StringCell);
    session_devices = "TF_SessionListDevices": fn(*mut Session, *mut StatusHandle) -> *mut DeviceList;
    delete_devices = "TF_DeleteDeviceList": fn(*mut DeviceList);
    device_count = "TF_DeviceListCount": fn(*const DeviceList) -> c_int;
    device_type = "TF_DeviceListType": fn(*const DeviceList, c_int, *mut StatusHandle) -> *const c_char;
    device_memory = "TF_DeviceListMemoryBytes": fn(*const DeviceList, c_int, *mut StatusHandle) -> i64;
    load_library = "TF_LoadLibrary": fn(*const c_char, *mut StatusHandle) -> *mut LibraryHandle;
}
