//! The process's allocator: the system's, which also counts what each thread allocates and frees.
//!
//! It is how [`super::guard`] knows what a session keeps. Two additions to a thread's own counter an allocation are its
//! whole cost.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static NET: Cell<i64> = const { Cell::new(0) };
}

/// Bytes that this thread has allocated less those it has freed. Only differences mean something: memory may be freed
/// by another thread.
pub fn net_of_thread() -> i64 {
    NET.with(Cell::get)
}

fn count(bytes: usize, sign: i64) {
    // A thread that is ending has no counter any more.
    let _ = NET.try_with(|net| net.set(net.get().wrapping_add(sign * bytes as i64)));
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, 1);
        count(layout.size(), -1);
        unsafe { System.realloc(at, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_counted_and_what_is_freed_is_not() {
        let before = net_of_thread();
        let mut kept = vec![0u8; 1 << 20];
        assert_eq!(net_of_thread() - before, 1 << 20);
        kept.reserve_exact(1 << 21);
        assert_eq!(net_of_thread() - before, 3 << 20);
        drop(kept);
        assert_eq!(net_of_thread(), before);
    }
}
