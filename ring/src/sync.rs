//! The atomics that both ends of a ring share: the machine's; loom's in its models; in unit tests, ones that count.
#[cfg(all(loom, not(test)))]
pub(crate) use loom::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(not(any(loom, test)))]
pub(crate) use std::sync::atomic::{AtomicU32, Ordering, fence};

#[cfg(test)]
pub(crate) use counted::{AtomicU32, Ordering, fence};

/// Atomics that log every access of their thread and can end the "process" before any store.
#[cfg(test)]
pub(crate) mod counted {
    use std::cell::{Cell, RefCell};
    use std::collections::HashMap;
    pub(crate) use std::sync::atomic::{Ordering, fence};

    /// What [`die_before_store`] throws.
    pub(crate) struct Killed;

    thread_local! {
        static LOADS: RefCell<Option<HashMap<usize, usize>>> = const { RefCell::new(None) };
        static STORES_LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Start counting this thread's loads, by address.
    pub(crate) fn count_loads() {
        LOADS.with(|loads| *loads.borrow_mut() = Some(HashMap::new()));
    }

    /// Stop counting; loads by address.
    pub(crate) fn counted_loads() -> HashMap<usize, usize> {
        LOADS.with(|loads| loads.borrow_mut().take().unwrap_or_default())
    }

    /// Let this thread make `stores` more stores and unwind with [`Killed`] before the next; `None`: for ever. Returns
    /// what was left.
    pub(crate) fn die_before_store(stores: Option<u64>) -> Option<u64> {
        STORES_LEFT.with(|left| left.replace(stores))
    }

    /// `std`'s word, observed.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct AtomicU32(std::sync::atomic::AtomicU32);

    impl AtomicU32 {
        pub const fn new(value: u32) -> Self {
            Self(std::sync::atomic::AtomicU32::new(value))
        }

        pub fn load(&self, order: Ordering) -> u32 {
            LOADS.with(|loads| {
                if let Some(loads) = loads.borrow_mut().as_mut() {
                    *loads.entry(std::ptr::from_ref(self).addr()).or_default() += 1;
                }
            });
            self.0.load(order)
        }

        pub fn store(&self, value: u32, order: Ordering) {
            STORES_LEFT.with(|left| match left.get() {
                Some(0) => {
                    left.set(None);
                    std::panic::resume_unwind(Box::new(Killed));
                }
                Some(n) => left.set(Some(n - 1)),
                None => {}
            });
            self.0.store(value, order);
        }
    }
}
