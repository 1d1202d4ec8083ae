//! What hypervisor, guests and preload library agree upon: the memory they share ([`Machine`]), grant entries
//! ([`grant`]), event-channel ports ([`port`]) and the requests to the hypervisor process ([`control`]).
pub mod control;
pub mod grant;
mod machine;
mod mapping;
pub mod port;
mod waker;

pub use machine::{Counters, DomainArea, MAX_DOMAINS, Machine};
pub use mapping::Mapping;
pub use waker::Wakers;

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;
/// Pages that all processes of a domain together may take through `/dev/xen/gntalloc`: the driver's parameter `limit`.
pub const GNTALLOC_LIMIT: u32 = 1024;
/// The hypervisor's control socket in SIM_DIR.
pub const CONTROL_SOCKET: &str = "hypervisor.sock";
/// Dom0's xenstore socket in SIM_DIR; a domain's connection comes through [`control`].
pub const STORE_SOCKET: &str = "xenstored.sock";
