//! The three doors to the hypervisor as traits ([`grant::GrantTable`], [`event::EventChannels`], [`store::XenStore`]),
//! and the real ones: [`linux`] on the kernel's device nodes, [`store::Client`] over any stream. With the feature `fake`, `fake` has
//! ones in the heap, for tests.
pub mod event;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod grant;
pub mod linux;
pub mod store;
