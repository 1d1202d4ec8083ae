//! The control socket: one request a connection, a line of JSON each way, for root only.
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::Permissions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// How long a client may keep the control thread waiting, for each of its request and its answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a client waits: the daemon may be connecting many vifs.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
/// Longest request.
const REQUEST: u64 = 4096;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Everything there is to tell.
    Status,
    /// Let guests go.
    Disconnect {
        /// Which, as `status` names it; `None`: all.
        vif: Option<String>,
    },
}

/// The answer to what cannot be done.
pub fn refused(reason: String) -> Value {
    serde_json::json!({ "error": reason })
}

/// The daemon's end.
#[derive(Debug)]
pub struct Listener(UnixListener);

impl Listener {
    /// Listen on `path`; a socket that a dead predecessor left there is replaced (the caller holds the lock of the run directory).
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

    /// The next client, if one waits.
    pub fn accept(&self) -> Option<Connection> {
        let (stream, _) = self.0.accept().ok()?;
        // A blocking stream with a limit; one that cannot be made so is not served.
        stream.set_nonblocking(false).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_write_timeout(Some(PATIENCE)).ok()?;
        Some(Connection(stream))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A client.
#[derive(Debug)]
pub struct Connection(UnixStream);

impl Connection {
    /// What it asks.
    pub fn request(&mut self) -> Result<Request, String> {
        let mut line = String::new();
        let mut reader = BufReader::new((&self.0).take(REQUEST));
        reader
            .read_line(&mut line)
            .map_err(|error| format!("no request came: {error}"))?;
        serde_json::from_str(&line).map_err(|error| format!("not a request: {error}"))
    }

    /// Answer and hang up; a client that does not listen is its own loss.
    pub fn answer(mut self, answer: &Value) {
        let _ = self.0.write_all(format!("{answer}\n").as_bytes());
    }
}

/// Ask the daemon that listens on `path`. The outer error is that there is no answer, the inner one that the daemon refused; each is one
/// line.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_and_its_answer_go_over_a_socket_of_root_alone() {
        let path = std::env::temp_dir().join(format!("netback-socket-{}", std::process::id()));
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let daemon = std::thread::spawn(move || {
            for _ in 0..3 {
                let mut connection = loop {
                    match listener.accept() {
                        Some(connection) => break connection,
                        None => std::thread::yield_now(),
                    }
                };
                let answer = match connection.request() {
                    Ok(request) => serde_json::json!({ "asked": request }),
                    Err(reason) => refused(reason),
                };
                connection.answer(&answer);
            }
        });
        let disconnect = Request::Disconnect {
            vif: Some("3/0".into()),
        };
        assert_eq!(
            ask(&path, &Request::Status).unwrap().unwrap()["asked"]["command"],
            "status"
        );
        assert_eq!(
            ask(&path, &disconnect).unwrap().unwrap()["asked"]["vif"],
            "3/0"
        );
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"{\"command\":\"dance\"}\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.contains("not a request: unknown variant `dance`"),
            "{answer}"
        );
        daemon.join().unwrap();
        let error = ask(&path, &Request::Status).unwrap_err();
        assert!(error.starts_with("no netback listens on "), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
}
