//! xenstore: the wire protocol over any stream (xen/include/public/io/xs_wire.h, docs/misc/xenstore.txt).
mod client;
pub mod wire;

pub use client::Client;

use thiserror::Error;

/// Why xenstore said no.
#[derive(Debug, Error)]
pub enum StoreError {
    /// ENOENT: the key is not there.
    #[error("xenstore has no {0}")]
    Missing(String),
    /// EAGAIN on the end of a transaction: somebody wrote in between; run it again.
    #[error("xenstore transaction conflicted")]
    Conflict,
    /// Any other error name xenstored answered (EACCES, EQUOTA, ...).
    #[error("xenstore refused {operation} {path}: {errno}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Of which node.
        path: String,
        /// The error's name.
        errno: String,
    },
    /// The stream broke.
    #[error("xenstore connection: {0}")]
    Io(#[from] std::io::Error),
}

/// A transaction's number; `Transaction::NONE` outside of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction(pub u32);

impl Transaction {
    /// Outside of any transaction.
    pub const NONE: Self = Self(0);
}

/// A watch that fired: the path that changed and the token given at `watch`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WatchEvent {
    /// The node that changed, spelled as the watch was (absolute or relative).
    pub path: String,
    /// The watch's token.
    pub token: String,
}

/// Runs of a conflicting transaction before [`XenStore::transact`] gives up.
const TRANSACTION_RUNS: u32 = 100;

/// The door to xenstore. Paths are absolute, or relative to our domain's home.
pub trait XenStore: Send {
    /// The value of a key. Values that are not UTF-8 are read with replacement characters.
    fn read(&mut self, t: Transaction, path: &str) -> Result<String, StoreError>;
    /// Write a key, making it and its parents where they are not there.
    fn write(&mut self, t: Transaction, path: &str, value: &str) -> Result<(), StoreError>;
    /// The names of the children of a node.
    fn directory(&mut self, t: Transaction, path: &str) -> Result<Vec<String>, StoreError>;
    /// Remove a node and everything below; no error where it is not there but its parent is.
    fn remove(&mut self, t: Transaction, path: &str) -> Result<(), StoreError>;
    /// Begin a transaction.
    fn begin(&mut self) -> Result<Transaction, StoreError>;
    /// End it: [`StoreError::Conflict`] where somebody else changed what it touched.
    fn end(&mut self, t: Transaction, commit: bool) -> Result<(), StoreError>;
    /// Watch a node and everything below. Fires once at once.
    fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError>;
    /// Stop watching; events of this watch not yet taken are dropped.
    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError>;
    /// Watch events received so far, each (path, token) once however often it fired (a guest that writes a key a million times
    /// costs one entry). Where too many different paths fired, every watch is reported once with its own path, as when it was
    /// registered: look at everything below it.
    fn events(&mut self) -> Result<Vec<WatchEvent>, StoreError>;
    /// Readable when `events` may have something new; call `events` after any other operation too, for it may have received some.
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;

    /// Run `body` in a transaction and commit it; again from the start where it conflicted.
    fn transact<R>(
        &mut self,
        mut body: impl FnMut(&mut Self, Transaction) -> Result<R, StoreError>,
    ) -> Result<R, StoreError>
    where
        Self: Sized,
    {
        for _ in 0..TRANSACTION_RUNS {
            let t = self.begin()?;
            match body(self, t) {
                Ok(value) => match self.end(t, true) {
                    Ok(()) => return Ok(value),
                    Err(StoreError::Conflict) => {}
                    Err(e) => return Err(e),
                },
                Err(e) => {
                    // The body's error is the news; ending can only fail the same way.
                    let _ = self.end(t, false);
                    return Err(e);
                }
            }
        }
        Err(StoreError::Conflict)
    }
}
