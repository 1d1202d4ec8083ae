//! Clients of the control socket, served between other work: none of them can hold the control thread up.
use super::socket::{Listener, Request};
use rustix::event::{PollFd, PollFlags};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Clients served at once; further ones wait in the listener's queue.
const CLIENTS: usize = 16;
/// How long a client may take in all: to send its request and to read the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest request, in bytes.
const REQUEST: usize = 4096;

/// One client, which sends a line and is answered with a line. Then the connection is closed.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    deadline: Instant,
    /// What came of the request so far.
    request: Vec<u8>,
    /// The part of the answer that is still to be written; `None` while the request is not complete.
    answer: Option<Vec<u8>>,
}

/// How far a client is after it was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The client has to send or to read first.
    Waits,
    /// The client has its answer, or cannot be served.
    Ended,
}

impl Client {
    /// Reads what the client sent. Returns the request once it is complete; the error is why it cannot become one.
    fn read(&mut self) -> Option<Result<Request, String>> {
        let mut bytes = [0; REQUEST];
        loop {
            let room = REQUEST - self.request.len();
            match self.stream.read(&mut bytes[..room]) {
                Ok(0) => return Some(self.parse()),
                Ok(n) => self.request.extend(&bytes[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(format!("no request came: {error}"))),
            }
            // A full buffer without a line's end is no request either.
            if self.request.contains(&b'\n') || self.request.len() == REQUEST {
                return Some(self.parse());
            }
        }
    }

    fn parse(&self) -> Result<Request, String> {
        serde_json::from_slice(&self.request).map_err(|error| format!("not a request: {error}"))
    }

    /// Writes what the client takes of its answer.
    fn write(&mut self) -> Progress {
        let Some(answer) = &mut self.answer else {
            return Progress::Waits;
        };
        while !answer.is_empty() {
            match self.stream.write(answer) {
                Ok(n @ 1..) => drop(answer.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Waits,
                // The client does not listen any more, which harms only itself.
                _ => return Progress::Ended,
            }
        }
        Progress::Ended
    }
}

/// The listener and the clients that are being served.
#[derive(Debug)]
pub(super) struct Clients {
    listener: Listener,
    clients: Vec<Client>,
}

impl Clients {
    pub fn new(listener: Listener) -> Self {
        Self {
            listener,
            clients: Vec::with_capacity(CLIENTS),
        }
    }

    /// What to poll for: a new client if there is room for one, the rest of a request, room for the rest of an answer.
    pub fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let more = (self.clients.len() < CLIENTS)
            .then(|| PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN));
        let clients = self.clients.iter().map(|client| {
            let flags = match client.answer {
                None => PollFlags::IN,
                Some(_) => PollFlags::OUT,
            };
            PollFd::from_borrowed_fd(client.stream.as_fd(), flags)
        });
        more.into_iter().chain(clients)
    }

    /// When the first client has used up its time.
    pub fn deadline(&self) -> Option<Instant> {
        self.clients.iter().map(|client| client.deadline).min()
    }

    /// Takes on the clients that wait, as many as are served at once.
    pub fn accept(&mut self, now: Instant) {
        while self.clients.len() < CLIENTS
            && let Some(stream) = self.listener.accept()
        {
            self.clients.push(Client {
                stream,
                deadline: now + PATIENCE,
                request: Vec::new(),
                answer: None,
            });
        }
    }

    /// Returns the next complete request and its client's number, by which it is answered; the inner error is why it is no request.
    pub fn next_request(&mut self) -> Option<(usize, Result<Request, String>)> {
        let mut clients = self.clients.iter_mut().enumerate();
        clients.find_map(|(number, client)| match client.answer {
            None => Some((number, client.read()?)),
            Some(_) => None,
        })
    }

    /// Answers a request of [`next_request`](Self::next_request).
    pub fn answer(&mut self, client: usize, answer: &Value) {
        self.clients[client].answer = Some(format!("{answer}\n").into_bytes());
    }

    /// Writes what clients take of their answers, and closes the connections of those that have their answer or have used up their time.
    pub fn write(&mut self, now: Instant) {
        self.clients
            .retain_mut(|client| client.write() == Progress::Waits && now < client.deadline);
    }
}
