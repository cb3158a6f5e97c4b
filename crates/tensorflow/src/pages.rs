//! Giving back the pages that only start-up needed.

/// Drops TensorFlow's code from resident memory; what is needed again comes back from the page cache, page by page.
///
/// Opening the libraries runs a few hundred megabytes of initialisers once. Their code would count as resident for ever,
/// though nobody executes it any more. Done once, before requests are served: coming back costs a page fault each.
#[cfg(target_os = "linux")]
pub fn release_startup_pages() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (start, end) in maps.lines().filter_map(code_of_tensorflow) {
        // SAFETY: the range is a private mapping of a file that is executed and never written, so every page in it is
        // as the file has it, and dropping one only means that it is read again.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// Elsewhere the system does as it likes.
#[cfg(not(target_os = "linux"))]
pub fn release_startup_pages() {}

/// Gives back to the system what the allocator has kept of memory that was freed: a version that has been unloaded may
/// have been most of what there was.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn release_free_memory() {
    // SAFETY: callable from any thread; it touches nothing but free memory.
    unsafe { libc::malloc_trim(0) };
}

/// Elsewhere the allocator does as it likes.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn release_free_memory() {}

/// The address range of a line of `/proc/self/maps`, if it maps TensorFlow's code.
#[cfg(target_os = "linux")]
fn code_of_tensorflow(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, permissions) = (words.next()?, words.next()?);
    let file = words.nth(3)?.rsplit('/').next()?;
    if permissions != "r-xp" || !file.starts_with("libtensorflow_") {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_tensorflow_is_given_back() {
        let line =
            |permissions: &str, file: &str| format!("7f0000001000-7f0000003000 {permissions} 00001000 fe:00 77 {file}");
        let found = code_of_tensorflow(&line("r-xp", "/a/tensorflow/libtensorflow_cc.so.2"));
        assert_eq!(found, Some((0x7f00_0000_1000, 0x7f00_0000_3000)));
        for (permissions, file) in [
            ("rw-p", "/a/tensorflow/libtensorflow_cc.so.2"),
            ("r--p", "/a/tensorflow/libtensorflow_cc.so.2"),
            ("r-xp", "/lib/libc.so.6"),
            ("r-xp", ""),
        ] {
            assert_eq!(code_of_tensorflow(&line(permissions, file)), None, "{permissions} {file}");
        }
    }
}
