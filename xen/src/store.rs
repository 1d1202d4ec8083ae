//! xenstore: the wire protocol over any stream (xen/include/public/io/xs_wire.h, docs/misc/xenstore.txt).
use thiserror::Error;

/// Why xenstore said no.
#[derive(Debug, Error)]
pub enum StoreError {
    /// ENOENT: the key is not there.
    #[error("xenstore has no {0}")] Missing(String),
    /// EAGAIN on the end of a transaction: somebody wrote in between; run it again.
    #[error("xenstore transaction conflicted")] Conflict,
    /// Any other error name xenstored answered (EACCES, EQUOTA, ...).
    #[error("xenstore refused {operation} {path}: {errno}")] Refused { operation: &'static str, path: String, errno: String },
    /// The stream broke.
    #[error("xenstore connection: {0}")] Io(#[from] std::io::Error),
}

/// A transaction's number; `Transaction::NONE` outside of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction(pub u32);
impl Transaction { pub const NONE: Self = Self(0); }

/// A watch that fired: the path that changed and the token given at `watch`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WatchEvent { pub path: String, pub token: String }

/// The door to xenstore. Paths are absolute, or relative to our domain's home.
pub trait XenStore: Send {
    fn read(&mut self, t: Transaction, path: &str) -> Result<String, StoreError>;
    fn write(&mut self, t: Transaction, path: &str, value: &str) -> Result<(), StoreError>;
    fn directory(&mut self, t: Transaction, path: &str) -> Result<Vec<String>, StoreError>;
    fn remove(&mut self, t: Transaction, path: &str) -> Result<(), StoreError>;
    fn begin(&mut self) -> Result<Transaction, StoreError>;
    fn end(&mut self, t: Transaction, commit: bool) -> Result<(), StoreError>;
    fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError>;
    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError>;
    /// Watch events received so far, each (path, token) once however often it fired (a guest that writes a key a million times costs one entry).
    fn events(&mut self) -> Result<Vec<WatchEvent>, StoreError>;
    /// Readable when `events` may have something new.
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

/// A connection to xenstore over any stream: `/dev/xen/xenbus` or a unix socket.
pub struct Client<S> { #[allow(dead_code)] stream: S }
