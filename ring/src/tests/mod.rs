//! What only counted atomics can show: the order of writes to memory that outlives us, and single reads.
mod single_read;
mod take_over;

use crate::page::PageWords;
use crate::sync::AtomicU32;
use std::sync::Arc;

fn page() -> Arc<PageWords> {
    Arc::new(std::array::from_fn(|_| AtomicU32::new(0)))
}
