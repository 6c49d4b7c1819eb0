//! The memory of the component.
//!
//! A page of GitLab becomes thousands of short strings that live for milliseconds. The allocator of the standard library looks for the best
//! place for each and joins neighbours again when they go, which took a quarter of all computing in the component. Here a small block
//! comes from a list of free blocks of its size, and goes back to it: a few instructions each. Large blocks stay with the standard
//! library's.
//!
//! What a list holds never becomes a block of another size. That bounds nothing, but a run does the same work over and over, so the
//! lists stay as long as the busiest moment made them.

#![allow(
    unsafe_code,
    reason = "an allocator hands out memory; there is one thread, so nothing can interrupt it"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::null_mut;

#[global_allocator]
static LISTS: Lists = Lists {
    state: UnsafeCell::new(State {
        free: [null_mut(); SIZES],
        fresh: null_mut(),
        left: 0,
    }),
};

/// Sizes are multiples of this, and every block is aligned to it.
const STEP: usize = 16;
/// Larger blocks come from the standard library.
const LARGEST: usize = 512;
const SIZES: usize = LARGEST / STEP;
/// What is taken from the standard library at a time, to be cut into blocks.
const CHUNK: usize = 32 << 10;

struct Lists {
    state: UnsafeCell<State>,
}

struct State {
    /// The first free block of each size; a free block begins with the address of the next.
    free: [*mut u8; SIZES],
    /// The part of the present chunk that has not been cut yet.
    fresh: *mut u8,
    left: usize,
}

// SAFETY: WebAssembly without threads; the component is compiled for nothing else.
unsafe impl Sync for Lists {}

/// The list of a layout; `None` for the standard library.
#[inline(always)]
fn list_of(layout: Layout) -> Option<usize> {
    // Also for a size of zero, which no caller has: its index would be far outside.
    (layout.size().wrapping_sub(1) < LARGEST && layout.align() <= STEP)
        .then(|| (layout.size() - 1) / STEP)
}

// SAFETY: a block belongs to one list or to its owner, never both; a list holds blocks of its size alone, aligned to `STEP`; what is not
// from a list is the standard library's, and the layout that tells which is the same at both ends of a block's life.
unsafe impl GlobalAlloc for Lists {
    // Taking a block is inlined, giving it back is not: the one is a fortieth more code, the other a seventh.
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(list) = list_of(layout) else {
            return unsafe { System.alloc(layout) };
        };
        let state = unsafe { &mut *self.state.get() };
        let block = state.free[list];
        if block.is_null() {
            return unsafe { state.cut((list + 1) * STEP) };
        }
        state.free[list] = unsafe { block.cast::<*mut u8>().read() };
        block
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(list) = list_of(layout) else {
            return unsafe { System.dealloc(block, layout) };
        };
        let state = unsafe { &mut *self.state.get() };
        unsafe { block.cast::<*mut u8>().write(state.free[list]) };
        state.free[list] = block;
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (list_of(layout), list_of(wanted)) {
            (None, None) => return unsafe { System.realloc(block, layout, size) },
            (before, after) if before == after => return block,
            _ => {}
        }
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            let kept = layout.size().min(size);
            unsafe {
                block.copy_to_nonoverlapping(moved, kept);
                self.dealloc(block, layout);
            }
        }
        moved
    }
}

impl State {
    /// A block that was never used. What is left of a chunk that is too short for it goes to the list that it fits.
    #[cold]
    #[inline(never)]
    unsafe fn cut(&mut self, size: usize) -> *mut u8 {
        if self.left < size {
            if self.left >= STEP {
                let rest = self.left / STEP - 1;
                unsafe { self.fresh.cast::<*mut u8>().write(self.free[rest]) };
                self.free[rest] = self.fresh;
            }
            let chunk = unsafe { System.alloc(Layout::from_size_align_unchecked(CHUNK, STEP)) };
            if chunk.is_null() {
                self.left = 0;
                return chunk;
            }
            (self.fresh, self.left) = (chunk, CHUNK);
        }
        let block = self.fresh;
        self.fresh = unsafe { block.add(size) };
        self.left -= size;
        block
    }
}
