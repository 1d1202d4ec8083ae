//! The client against a server that a test scripts, sane or not.
use super::*;
use crate::store::wire::message;
use proptest::prelude::*;
use std::os::unix::net::UnixStream;
use std::thread;

/// A client whose server answers each request with what `serve` makes of (kind, request, transaction, payload).
fn client(
    mut serve: impl FnMut(Kind, u32, u32, &[u8]) -> Vec<u8> + Send + 'static,
) -> Client<UnixStream> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let (mut inbox, mut bytes) = (Inbox::default(), [0; 512]);
        loop {
            let n = theirs.read(&mut bytes).unwrap_or(0);
            if n == 0 {
                return;
            }
            inbox.extend(&bytes[..n]);
            while let Some((header, payload)) = inbox.next_message().unwrap() {
                let kind = Kind::from_number(header.kind).unwrap();
                let reply = serve(kind, header.request, header.transaction, payload);
                if theirs.write_all(&reply).is_err() {
                    return;
                }
            }
        }
    });
    Client::new(ours)
}

fn event(path: &str, token: &str) -> Vec<u8> {
    message(
        Kind::WatchEvent,
        0,
        0,
        format!("{path}\0{token}\0").as_bytes(),
    )
}

fn found(path: &str, token: &str) -> WatchEvent {
    WatchEvent {
        path: path.into(),
        token: token.into(),
    }
}

#[test]
fn requests_look_as_the_protocol_says() {
    let mut store = client(|kind, request, transaction, payload| {
        let reply: &[u8] = match (kind, transaction, payload) {
            (Kind::Read, 0, b"domid\0") => b"7",
            (Kind::Write, 5, b"/a\0value") => b"OK\0",
            (Kind::Directory, 0, b"/a\0") => b"b\0c\0",
            (Kind::Directory, 0, b"/empty\0") => b"",
            (Kind::TransactionStart, 0, b"\0") => b"5\0",
            (Kind::TransactionEnd, 5, b"T\0") => b"OK\0",
            (Kind::SetPerms, 0, b"/a\0n1\0r2\0") => b"OK\0",
            (Kind::Watch, 0, b"/a\0tok\0") => b"OK\0",
            other => panic!("{other:?}"),
        };
        message(kind, request, transaction, reply)
    });
    assert_eq!(store.domid().unwrap(), DomId(7));
    store
        .transact(|store, t| store.write(t, "/a", "value"))
        .unwrap();
    assert_eq!(
        store.directory(Transaction::NONE, "/a").unwrap(),
        ["b", "c"]
    );
    assert!(
        store
            .directory(Transaction::NONE, "/empty")
            .unwrap()
            .is_empty()
    );
    store
        .set_permissions(Transaction::NONE, "/a", &["n1", "r2"])
        .unwrap();
    store.watch("/a", "tok").unwrap();
}

#[test]
fn errors_have_their_names() {
    let mut store = client(|_, request, t, payload| {
        message(Kind::Error, request, t, &[&payload[1..], b"\0"].concat())
    });
    assert!(
        matches!(store.read(Transaction::NONE, "/ENOENT"), Err(StoreError::Missing(path)) if path == "/ENOENT")
    );
    assert!(matches!(
        store.read(Transaction::NONE, "/EAGAIN"),
        Err(StoreError::Conflict)
    ));
    let error = store.write(Transaction::NONE, "/EACCES", "").unwrap_err();
    assert_eq!(error.to_string(), "xenstore refused write /EACCES: EACCES");
}

#[test]
fn a_conflicting_transaction_runs_again() {
    let mut ends = 0;
    let mut store = client(move |kind, request, t, _| match kind {
        Kind::TransactionStart => message(kind, request, t, b"9\0"),
        _ => {
            ends += 1;
            let (kind, reply): (_, &[u8]) = if ends < 3 {
                (Kind::Error, b"EAGAIN\0")
            } else {
                (kind, b"OK\0")
            };
            message(kind, request, t, reply)
        }
    });
    let mut runs = 0;
    store
        .transact(|_, t| {
            runs += 1;
            assert_eq!(t, Transaction(9));
            Ok(())
        })
        .unwrap();
    assert_eq!(runs, 3);
}

#[test]
fn events_between_replies_are_kept_once_and_in_order() {
    let mut store = client(|kind, request, t, _| {
        let mut reply: Vec<u8> = (0..1000)
            .flat_map(|i| event(["/b", "/a"][i % 2], "t"))
            .collect();
        reply.extend(message(kind, request, t, b"OK\0"));
        reply.extend(event("/c", "t"));
        reply
    });
    store.write(Transaction::NONE, "/x", "1").unwrap();
    store.write(Transaction::NONE, "/x", "1").unwrap();
    let mut events = store.events().unwrap();
    // The last `/c` may still be under way; it was there once at least.
    events.truncate(3);
    assert_eq!(
        events,
        [found("/b", "t"), found("/a", "t"), found("/c", "t")]
    );
}

#[test]
fn too_many_paths_collapse_into_the_watches() {
    let mut store = client(|kind, request, t, _| {
        let mut reply = Vec::new();
        if kind == Kind::Write {
            reply = (0..EVENTS_MAX + 1)
                .flat_map(|i| event(&format!("/w/{i}"), "t"))
                .collect();
        }
        reply.extend(message(kind, request, t, b"OK\0"));
        reply
    });
    store.watch("/w", "t").unwrap();
    store.watch("/v", "u").unwrap();
    store.write(Transaction::NONE, "/w", "1").unwrap();
    assert_eq!(
        store.events().unwrap(),
        [found("/w", "t"), found("/v", "u")]
    );
    assert!(store.events().unwrap().is_empty());
}

#[test]
fn unwatch_drops_what_it_fired() {
    let mut store = client(|kind, request, t, _| {
        let mut reply = if kind == Kind::Watch {
            [event("/w/a", "t"), event("/x", "t")].concat()
        } else {
            Vec::new()
        };
        reply.extend(message(kind, request, t, b"OK\0"));
        reply
    });
    store.watch("/w", "t").unwrap();
    store.unwatch("/w", "t").unwrap();
    assert_eq!(store.events().unwrap(), [found("/x", "t")]);
}

#[test]
fn impossible_requests_are_not_sent() {
    let mut store = client(|_, _, _, _| panic!("a request was sent"));
    assert!(store.read(Transaction::NONE, "/a\0/b").is_err());
    assert!(
        store
            .write(Transaction::NONE, "/a", &"x".repeat(PAYLOAD_MAX))
            .is_err()
    );
    assert!(
        store
            .read(Transaction::NONE, &"x".repeat(PAYLOAD_MAX))
            .is_err()
    );
}

#[test]
fn a_server_that_hangs_up_is_an_error_for_good() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut store = Client::new(ours);
    drop(theirs);
    assert!(matches!(
        store.read(Transaction::NONE, "/a"),
        Err(StoreError::Io(_))
    ));
    assert!(matches!(store.events(), Err(StoreError::Io(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest wrote is a value; whatever a server sends is a reply or an error. Nothing panics or hangs.
    #[test]
    fn any_value_is_read(value in prop::collection::vec(any::<u8>(), 0..PAYLOAD_MAX)) {
        let expected = String::from_utf8_lossy(&value).into_owned();
        let mut store = client(move |kind, request, t, _| message(kind, request, t, &value));
        prop_assert_eq!(store.read(Transaction::NONE, "/a").unwrap(), expected);
        let _ = store.directory(Transaction::NONE, "/a").unwrap();
        let _ = store.begin();
    }

    #[test]
    fn noise_is_an_error(noise in prop::collection::vec(any::<u8>(), 16..6000)) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&noise).unwrap();
        drop(theirs);
        let mut store = Client::new(ours);
        prop_assert!(store.read(Transaction::NONE, "/a").is_err());
    }
}

#[test]
fn a_flood_of_events_is_taken_in_a_part_at_a_time() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut store = Client::new(ours);
    // As many messages as the socket takes, the writer never far behind.
    let writer = thread::spawn(move || {
        for number in 0..20_000 {
            if theirs
                .write_all(&event(&format!("/{number}"), "t"))
                .is_err()
            {
                break;
            }
        }
        theirs
    });
    let mut taken = 0;
    while taken < 20_000 {
        let events = store.events().unwrap();
        // A message has 16 bytes and more.
        assert!(
            events.len() <= READS_MAX * READ / HEADER,
            "{}",
            events.len()
        );
        taken += events.len();
    }
    drop(writer.join().unwrap());
}
