//! How much memory a call takes at its peak, by counting what its thread allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes in use, and the most there have been. Negative in a thread that frees what others have allocated.
    static USE: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(change: isize) {
    USE.with(|counts| {
        let (used, peak) = counts.get();
        let used = used.wrapping_add(change);
        counts.set((used, peak.max(used)));
    });
}

// SAFETY: the system's allocator does all the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may have to lie beside each other for a while.
        count(size.cast_signed());
        count(-layout.size().cast_signed());
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The most bytes that decoding may have in use: so many for each byte of its input, and so many for any input.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) per_byte: usize,
    pub(crate) constant: usize,
}

impl Bound {
    /// Decodes an input of so many bytes.
    pub(crate) fn check<T>(self, input: usize, decode: impl FnOnce() -> T) -> T {
        let (before, _) = USE.get();
        USE.set((before, before));
        let decoded = decode();
        let peak = USE.get().1.wrapping_sub(before).cast_unsigned();
        let most = self.per_byte * input + self.constant;
        assert!(peak <= most, "{input} bytes took {peak} bytes of memory to decode; {most} are fair");
        decoded
    }
}
