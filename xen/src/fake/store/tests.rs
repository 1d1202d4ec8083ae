use super::*;
use crate::store::{Transaction, XenStore};

const NONE: Transaction = Transaction::NONE;

fn errno<T>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Refused { errno, .. }) => errno,
        Err(StoreError::Missing(_)) => "ENOENT".into(),
        Err(StoreError::Conflict) => "EAGAIN".into(),
        Err(StoreError::Io(e)) => panic!("{e}"),
        Ok(_) => "OK".into(),
    }
}

fn events(connection: &mut Connection) -> Vec<String> {
    let events = connection.events().unwrap();
    events.into_iter().map(|event| event.path).collect()
}

#[test]
fn a_node_has_parents_and_children() {
    let store = Store::default();
    let mut connection = store.connect(DomId(3));
    connection.write(NONE, "a/b", "1").unwrap();
    connection.write(NONE, "/local/domain/3/a/c", "2").unwrap();
    assert_eq!(store.get("/local/domain/3/a/b").as_deref(), Some("1"));
    assert_eq!(connection.read(NONE, "a").unwrap(), "");
    assert_eq!(connection.directory(NONE, "a").unwrap(), ["b", "c"]);
    connection.remove(NONE, "a/b").unwrap();
    connection.remove(NONE, "a/b").unwrap();
    assert_eq!(errno(connection.remove(NONE, "x/y")), "ENOENT");
    assert_eq!(errno(connection.read(NONE, "a/b")), "ENOENT");
    assert_eq!(errno(connection.directory(NONE, "a/b")), "ENOENT");
    let home = "/local/domain/3/a";
    assert_eq!(
        store.take_changes(),
        [
            format!("{home}/b=1"),
            format!("{home}/c=2"),
            format!("-{home}/b")
        ]
    );
}

#[test]
fn watches_fire_at_once_above_a_change_and_below_a_removal() {
    let store = Store::default();
    let mut connection = store.connect(DomId(3));
    for (path, token) in [
        ("/a", "above"),
        ("/a/b/c", "below"),
        ("a", "relative"),
        ("/x", "x"),
    ] {
        connection.watch(path, token).unwrap();
    }
    assert_eq!(events(&mut connection), ["/a", "/a/b/c", "/x", "a"]);
    store.set("/a/b", "1");
    store.set("/a/b", "2");
    assert_eq!(events(&mut connection), ["/a/b"]);
    store.set("/local/domain/3/a/b", "");
    assert_eq!(events(&mut connection), ["a/b"]);
    store.remove("/a/b");
    assert_eq!(events(&mut connection), ["/a/b", "/a/b/c"]);
    store.set("/a/b", "3");
    connection.unwatch("/a", "above").unwrap();
    assert_eq!(events(&mut connection), [""; 0]);
    store.storm("/x/y");
    let before = store.listens();
    assert_eq!(events(&mut connection), [""; 0]);
    assert_eq!(events(&mut connection), ["/x/y"]);
    assert_eq!(store.listens() - before, 2);
    assert_eq!(errno(connection.watch("/x", "x")), "EEXIST");
    assert_eq!(store.watches(), 3);
    drop(connection);
    assert_eq!(store.watches(), 0);
}

#[test]
fn a_transaction_is_seen_when_it_ends_and_conflicts_with_what_it_saw() {
    let store = Store::default();
    let mut connection = store.connect(DomId(3));
    store.set("/a/b", "1");
    let t = connection.begin().unwrap();
    connection.write(t, "/a/c", "2").unwrap();
    assert_eq!(connection.read(t, "/a/c").unwrap(), "2");
    assert_eq!(store.get("/a/c"), None);
    store.set("/elsewhere", "1");
    connection.end(t, true).unwrap();
    assert_eq!(store.get("/a/c").as_deref(), Some("2"));

    for (change, result) in [("/a/b", "EAGAIN"), ("/a/b/x", "EAGAIN"), ("/a/d", "OK")] {
        let t = connection.begin().unwrap();
        connection.directory(t, "/a/b").unwrap();
        connection.write(t, "/a/e", "").unwrap();
        store.set(change, "new");
        assert_eq!(errno(connection.end(t, true)), result, "{change}");
    }
    let t = connection.begin().unwrap();
    connection.write(t, "/a/b", "never").unwrap();
    connection.end(t, false).unwrap();
    assert_eq!(store.get("/a/b").as_deref(), Some("new"));
    assert_eq!(errno(connection.end(t, true)), "EINVAL");
}

#[test]
fn quotas_are_of_what_a_domain_owns_and_watches() {
    let store = Store::default();
    let mut connection = store.connect(DomId(3));
    store.set("/local/domain/3", "");
    store.set_for(DomId(3), "/local/domain/3/given", "");
    store.set_quota(Quota {
        nodes: 3,
        watches: 1,
    });
    assert_eq!(errno(connection.write(NONE, "a/b/c", "")), "EQUOTA");
    connection.write(NONE, "a/b", "").unwrap();
    assert_eq!(store.nodes_of(DomId(3)), 3);
    assert_eq!(errno(connection.write(NONE, "c", "")), "EQUOTA");
    connection.write(NONE, "a", "a node that is there").unwrap();
    let t = connection.begin().unwrap();
    assert_eq!(errno(connection.write(t, "c", "")), "EQUOTA");
    connection.watch("a", "1").unwrap();
    assert_eq!(errno(connection.watch("a", "2")), "EQUOTA");
    connection.remove(NONE, "a").unwrap();
    connection.write(NONE, "c", "").unwrap();
}

#[test]
fn a_directory_that_fits_no_answer_is_too_big() {
    let store = Store::default();
    let mut connection = store.connect(DomId(3));
    (0..1024).for_each(|n| store.set(&format!("/a/{n:03x}"), ""));
    assert_eq!(connection.directory(NONE, "/a").unwrap().len(), 1024);
    store.set("/a/one-more", "");
    assert_eq!(errno(connection.directory(NONE, "/a")), "E2BIG");
    assert_eq!(connection.read(NONE, "/a/one-more").unwrap(), "");
    assert_eq!(
        errno(connection.write(NONE, "/b", &"x".repeat(4097))),
        "E2BIG"
    );
}

#[test]
fn what_is_hidden_or_read_only_is_refused() {
    let store = Store::default();
    let mut connection = store.connect(DomId(3));
    store.set("/a/b", "1");
    store.set("/ab", "2");
    connection.watch("/a", "").unwrap();
    connection.events().unwrap();
    store.make_read_only("/a");
    assert_eq!(connection.read(NONE, "/a/b").unwrap(), "1");
    assert_eq!(errno(connection.write(NONE, "/a/c", "")), "EACCES");
    store.hide("/a");
    assert_eq!(events(&mut connection), ["/a"]);
    assert_eq!(errno(connection.read(NONE, "/a/b")), "EACCES");
    assert_eq!(errno(connection.directory(NONE, "/a")), "EACCES");
    assert_eq!(connection.read(NONE, "/ab").unwrap(), "2");
}

#[test]
fn requests_are_counted_and_fail_as_often_as_they_are_told_to() {
    let store = Store::default();
    let mut connection = store.connect(DomId(3));
    store.set("/a", "1");
    store.fail(Request::Read, "/a", "EIO", 2);
    store.fail(Request::End, "", "EAGAIN", 1);
    assert_eq!(errno(connection.directory(NONE, "/a")), "OK");
    assert_eq!(errno(connection.read(NONE, "/a")), "EIO");
    assert_eq!(errno(connection.read(NONE, "/b")), "ENOENT");
    assert_eq!(errno(connection.read(NONE, "/a")), "EIO");
    assert_eq!(errno(connection.read(NONE, "/a")), "OK");
    let runs = std::cell::Cell::new(0);
    connection
        .transact(|store, t| {
            runs.set(runs.get() + 1);
            store.write(t, "/c", "")
        })
        .unwrap();
    assert_eq!(runs.get(), 2);
    use Request::*;
    assert_eq!(
        store.take_requests(),
        [
            Directory, Read, Read, Read, Read, Begin, Write, End, Begin, Write, End
        ]
    );
}
