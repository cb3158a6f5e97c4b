//! Tensors across the C API: values are lent, never copied, but for strings, which TensorFlow keeps in cells of its own.

use std::borrow::Cow;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use servable_core::tensor::{AlignedBytes, StringArray, Values, aligned_bytes};
use servable_core::{Code, DataType, Shape, Status, Tensor};

use crate::ffi::{RawTensor, StringCell};
use crate::library::Library;

/// A tensor on TensorFlow's side, freed when dropped.
pub(crate) struct OwnedTensor {
    library: Arc<Library>,
    raw: *mut RawTensor,
}

// SAFETY: TensorFlow's tensors may be used and freed from any thread; nothing here changes one.
unsafe impl Send for OwnedTensor {}
// SAFETY: as above; shared use only reads.
unsafe impl Sync for OwnedTensor {}

impl Drop for OwnedTensor {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        unsafe { (self.library.functions.delete_tensor)(self.raw) };
    }
}

type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

impl OwnedTensor {
    /// Lends the values of `tensor` to TensorFlow.
    pub(crate) fn from_tensor(library: &Arc<Library>, tensor: &Tensor) -> Result<Self, Status> {
        match tensor.values() {
            Values::Fixed(bytes) => Self::from_bytes(library, tensor, bytes),
            Values::Strings(strings) => Self::from_strings(library, tensor, &**strings),
        }
    }

    pub(crate) fn raw(&self) -> *mut RawTensor {
        self.raw
    }

    /// Takes over a tensor that the C API handed out.
    pub(crate) fn adopt(library: &Arc<Library>, raw: *mut RawTensor) -> Self {
        Self { library: Arc::clone(library), raw }
    }

    fn from_bytes(library: &Arc<Library>, tensor: &Tensor, bytes: &SharedBytes) -> Result<Self, Status> {
        /// Gives our share of the values back.
        unsafe extern "C" fn release(_: *mut c_void, _: usize, argument: *mut c_void) {
            // SAFETY: the argument is the box made below; TensorFlow calls this once.
            drop(unsafe { Box::from_raw(argument.cast::<SharedBytes>()) });
        }
        let share = Box::new(Arc::clone(bytes));
        let data = (**share).as_ref();
        let (pointer, length) = (data.as_ptr().cast_mut().cast::<c_void>(), data.len());
        // SAFETY: the share keeps the values in place until `release`. TensorFlow does not write to memory that it
        // does not own: a tensor made like this is never a candidate for in-place results.
        unsafe { Self::new(library, tensor, pointer, length, release, Box::into_raw(share).cast()) }
    }

    fn from_strings(library: &Arc<Library>, tensor: &Tensor, strings: &dyn StringArray) -> Result<Self, Status> {
        /// The cells of a string tensor, and who knows how to free them.
        struct Cells {
            library: Arc<Library>,
            memory: AlignedBytes,
        }

        /// Frees the strings in the cells, then the cells.
        unsafe extern "C" fn release(data: *mut c_void, length: usize, argument: *mut c_void) {
            // SAFETY: the argument is the box made below; TensorFlow calls this once.
            let cells = unsafe { Box::from_raw(argument.cast::<Cells>()) };
            for index in 0..length / size_of::<StringCell>() {
                // SAFETY: `data` points at the initialised cells, which nobody uses any more.
                unsafe { (cells.library.functions.string_free)(data.cast::<StringCell>().add(index)) };
            }
            drop(cells.memory);
        }

        let length = strings.len() * size_of::<StringCell>();
        let mut memory = aligned_bytes(length);
        memory.resize(length, 0);
        let mut cells = Box::new(Cells { library: Arc::clone(library), memory });
        #[expect(clippy::cast_ptr_alignment, reason = "aligned memory is aligned for 64 bytes, a cell wants 8")]
        let first = cells.memory.as_mut_ptr().cast::<StringCell>();
        for index in 0..strings.len() {
            let value = strings.get(index);
            // SAFETY: there are as many cells as strings, aligned for them; copying takes the bytes as they are.
            unsafe {
                let cell = first.add(index);
                (library.functions.string_init)(cell);
                (library.functions.string_copy)(cell, value.as_ptr().cast(), value.len());
            }
        }
        // SAFETY: the box keeps the cells in place until `release`.
        unsafe { Self::new(library, tensor, first.cast(), length, release, Box::into_raw(cells).cast()) }
    }

    /// # Safety
    /// `data` must hold `length` bytes of values of the tensor's type until `release` is called with `argument`.
    unsafe fn new(
        library: &Arc<Library>,
        tensor: &Tensor,
        data: *mut c_void,
        length: usize,
        release: crate::ffi::Deallocator,
        argument: *mut c_void,
    ) -> Result<Self, Status> {
        let sizes = tensor.shape().sizes();
        let dtype = tensor.dtype() as i32;
        // SAFETY: sizes and their number belong together; the caller vouches for the rest.
        let raw = unsafe {
            (library.functions.new_tensor)(dtype, sizes.as_ptr(), sizes.len() as i32, data, length, release, argument)
        };
        if raw.is_null() {
            return Err(Status::internal(format!("TensorFlow refused {tensor:?}")));
        }
        Ok(Self::adopt(library, raw))
    }

    /// The same tensor in the words of the domain; its values stay where they are.
    pub(crate) fn into_tensor(self) -> Result<Tensor, Status> {
        let functions = &self.library.functions;
        // SAFETY: the tensor is alive; these only read it.
        let (number, rank) = unsafe { ((functions.tensor_type)(self.raw), (functions.rank)(self.raw)) };
        // SAFETY: as above, and `axis` is below the rank.
        let sizes = (0..rank.max(0)).map(|axis| unsafe { (functions.dimension)(self.raw, axis) });
        let shape =
            Shape::new(sizes).ok_or_else(|| Status::internal("TensorFlow answered a tensor of unknown shape"))?;
        let dtype = DataType::from_number(number).ok_or_else(|| {
            Status::new(Code::Unimplemented, format!("an output has data type number {number}, which cannot be served"))
        })?;
        match dtype {
            DataType::String => {
                let count = shape.elements();
                Tensor::strings(shape, Arc::new(TensorStrings { tensor: self, count }))
            }
            _ if dtype.size().is_none() => {
                Err(Status::unimplemented(format!("an output of type {dtype} cannot leave its graph")))
            }
            _ => Tensor::fixed(dtype, shape, Arc::new(TensorBytes(self))),
        }
    }

    fn data(&self) -> *const c_void {
        // SAFETY: the tensor is alive.
        unsafe { (self.library.functions.tensor_data)(self.raw) }
    }
}

/// The values of a numeric tensor.
struct TensorBytes(OwnedTensor);

impl AsRef<[u8]> for TensorBytes {
    fn as_ref(&self) -> &[u8] {
        let data = self.0.data();
        if data.is_null() {
            return &[];
        }
        // SAFETY: the tensor is alive and nobody writes to it; data and size are its own.
        unsafe {
            let length = (self.0.library.functions.tensor_bytes)(self.0.raw);
            &*ptr::slice_from_raw_parts(data.cast::<u8>(), length)
        }
    }
}

/// The strings of a string tensor.
struct TensorStrings {
    tensor: OwnedTensor,
    count: usize,
}

impl StringArray for TensorStrings {
    fn len(&self) -> usize {
        self.count
    }

    fn get(&self, index: usize) -> Cow<'_, [u8]> {
        assert!(index < self.count, "string {index} of {}: this is a bug", self.count);
        let functions = &self.tensor.library.functions;
        // SAFETY: a string tensor's data are as many cells as it has elements; a cell's bytes live as long as the tensor.
        unsafe {
            let cell = self.tensor.data().cast::<StringCell>().add(index);
            let (data, length) = ((functions.string_data)(cell), (functions.string_size)(cell));
            Cow::Borrowed(if length == 0 { &[] } else { &*ptr::slice_from_raw_parts(data.cast::<u8>(), length) })
        }
    }
}
