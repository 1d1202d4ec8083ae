//! Clients of the control socket: several at once, and none that holds up the rest.
use super::super::socket::ask;
use super::*;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

type Answer = Result<Result<Value, String>, String>;

/// Has the daemon work until `client` is through in a thread of its own; what came of it.
fn work_for<T: Send + 'static>(
    daemon: &mut Daemon,
    client: impl FnOnce() -> T + Send + 'static,
) -> T {
    let outcome = Arc::new(Mutex::new(None));
    let (slot, waker) = (outcome.clone(), daemon.waker.clone());
    let thread = std::thread::spawn(move || {
        *slot.lock().unwrap() = Some(client());
        // The daemon has nothing more to do for it, and may be asleep.
        waker.wake();
    });
    until(daemon, "the client's end", |_| {
        outcome.lock().unwrap().is_some()
    });
    thread.join().unwrap();
    outcome.lock().unwrap().take().unwrap()
}

impl House {
    fn socket(&self) -> PathBuf {
        self.dir.join("control")
    }
    fn client(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }
    /// A request, and what it is answered.
    fn ask(&self, daemon: &mut Daemon, request: Request) -> Answer {
        let socket = self.socket();
        work_for(daemon, move || ask(&socket, &request))
    }
    /// What a client that sends `bytes` is answered.
    fn answer_to(&self, daemon: &mut Daemon, bytes: &[u8]) -> String {
        let mut stream = self.client();
        stream.write_all(bytes).unwrap();
        work_for(daemon, move || {
            let mut answer = String::new();
            // Hung up on with something unread is a reset; what came before counts.
            let _ = stream.read_to_string(&mut answer);
            answer
        })
    }
}

#[test]
fn a_request_and_its_answer_go_over_a_socket_of_root_alone() {
    let house = House::new();
    let mut daemon = house.daemon();
    let mode = std::fs::metadata(house.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let status = house.ask(&mut daemon, Request::Status);
    assert_eq!(status.unwrap().unwrap()["domid"], 1);
    let disconnect = Request::Disconnect {
        vif: Some("9/0".into()),
    };
    let refused = house.ask(&mut daemon, disconnect).unwrap();
    assert!(refused.unwrap_err().contains("there is no vif 9/0"));
    for (bytes, reason) in [
        (&b"{\"command\":\"dance\"}\n"[..], "unknown variant `dance`"),
        (b"status\n", "not a request"),
        (b"\n", "not a request"),
        (&[b'['; 5000], "not a request"),
    ] {
        let answer = house.answer_to(&mut daemon, bytes);
        assert!(answer.contains(reason), "{answer}");
        assert_eq!(answer.lines().count(), 1);
    }
    daemon.stop().unwrap();
    let error = ask(&house.socket(), &Request::Status).unwrap_err();
    assert!(error.starts_with("no netback listens on "), "{error}");
}

#[test]
fn a_client_that_trickles_holds_up_nobody() {
    let house = House::new();
    let mut daemon = house.daemon();
    let mut trickling = house.client();
    // A byte at a time until it is hung up on.
    let trickler = std::thread::spawn(move || {
        while trickling.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    for _ in 0..3 {
        let answer = house.ask(&mut daemon, Request::Status);
        answer.expect("an answer").expect("a status");
    }
    work_for(&mut daemon, || trickler.join().unwrap());
    daemon.stop().unwrap();
}

#[test]
fn clients_that_say_nothing_or_read_nothing_are_bounded_in_number_and_time() {
    let house = House::new();
    let guests: Vec<Guest> = (3..40).map(|domid| Guest::new(domid, 1)).collect();
    guests.iter().for_each(|guest| house.make(guest));
    let mut daemon = house.daemon();
    let silent: Vec<UnixStream> = (0..10).map(|_| house.client()).collect();
    let deaf: Vec<UnixStream> = (0..10)
        .map(|_| {
            let mut stream = house.client();
            stream.write_all(b"{\"command\":\"status\"}\n").unwrap();
            stream
        })
        .collect();
    let answer = house.ask(&mut daemon, Request::Status);
    assert!(answer.unwrap().unwrap()["vifs"].is_array());
    drop((silent, deaf));
    daemon.stop().unwrap();
}
