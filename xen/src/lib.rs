//! The three doors to the hypervisor as traits ([`grant::GrantTable`], [`event::EventChannels`], [`store::XenStore`]),
//! and the real ones: [`linux`] on the kernel's device nodes, [`store::Client`] over any stream.
pub mod event;
pub mod grant;
pub mod linux;
pub mod store;
