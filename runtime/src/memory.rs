//! How much memory the process keeps that it does not use.
//!
//! glibc gives each thread an arena of its own. A run handles pages and batches of a megabyte on all threads, so each arena grew to hold the
//! largest, with holes: after 100,000 records 81 MiB were resident, of which 17 were in use. One arena for all took 68. The bodies of requests, a
//! megabyte or more, are outside of it: glibc would take them into the heap after the first of them.

/// A block of this size or more is a piece of memory of its own, which goes back to the system when it is let go.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: i32 = 512 << 10;

/// Call it before any thread is started.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn share_one_heap() {
    #[allow(unsafe_code, reason = "two numbers; it fails by changing nothing")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}

/// Other allocators are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn share_one_heap() {}
