//! The control socket: one request a connection, a line of JSON each way, for root only.
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// How long a client waits: the daemon may be connecting many vifs.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// A request of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// The whole report.
    Status,
    /// The report on one vif.
    Vif {
        /// The vif's name, as in `status`.
        vif: String,
    },
    /// Has a vif's rings looked at and its guest notified, whatever the rings say.
    Kick {
        /// The vif's name, as in `status`.
        vif: String,
    },
    /// A forwarding database, or a change to it.
    Fdb {
        /// The bridge; `None`: the only one, or every one where they are shown or flushed.
        bridge: Option<String>,
        /// What to do.
        change: FdbRequest,
    },
    /// Disconnects guests.
    Disconnect {
        /// The vif's name, as in `status`; `None`: all vifs.
        vif: Option<String>,
    },
}

/// What to do with a forwarding database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum FdbRequest {
    /// Shows every entry.
    Show,
    /// Makes a static entry.
    Add {
        /// The address.
        mac: String,
        /// The VLAN; 0 where frames have no tag.
        vlan: u16,
        /// The port's name: a vif, or the interface of an uplink.
        port: String,
    },
    /// Takes an entry out.
    Del {
        /// The address.
        mac: String,
        /// The VLAN; 0 where frames have no tag.
        vlan: u16,
    },
    /// Takes out everything that was learnt.
    Flush,
}

/// The answer to a request that is refused.
pub fn refused(reason: String) -> Value {
    serde_json::json!({ "error": reason })
}

/// The daemon's end of the control socket.
#[derive(Debug)]
pub struct Listener(UnixListener);

impl Listener {
    /// Listens on `path`. A socket that a dead predecessor left there is replaced: the caller holds the lock of the run directory.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// The next client that waits, as a stream that never blocks.
    pub fn accept(&self) -> Option<UnixStream> {
        let (stream, _) = self.0.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends a request to the daemon that listens on `path`. The outer error is that there is no answer, the inner one that the daemon refused;
/// each is one line.
pub fn ask(path: &Path, request: &Request) -> Result<Result<Value, String>, String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!(
                "no netback listens on {}: start it with `netback run` (as a service: systemctl start netback)",
                path.display()
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("no permission for {}: run as root", path.display())
        }
        _ => format!("{}: {error}", path.display()),
    };
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    stream
        .set_read_timeout(Some(CLIENT_PATIENCE))
        .map_err(failed)?;
    let request = serde_json::to_string(request).map_err(|error| error.to_string())?;
    stream
        .write_all(format!("{request}\n").as_bytes())
        .map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let answer: Value = serde_json::from_str(&answer)
        .map_err(|_| format!("netback on {} hung up without an answer", path.display()))?;
    Ok(match answer.get("error").and_then(Value::as_str) {
        Some(reason) => Err(reason.to_owned()),
        None => Ok(answer),
    })
}
