//! A hypervisor and a xenstore in the heap, for the tests and benches of every crate: guests and toolstack are played by the test.
//!
//! They refuse what Xen and xenstored refuse, count what they are asked, and fail where they are told to. No two tests share one.
mod events;
mod grants;
mod own_pages;
mod store;

pub use events::{Events, Ports};
pub use grants::{Access, Call, Grants, MappedPage, Page};
pub use own_pages::{OWN_DOMID, OwnPages};
pub use store::{Connection, Quota, Request, Store};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The mutex's value, whether or not a test panicked while it held it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
