//! Word of a device's changes, as the control thread waits for it.
mod support;

use std::time::Instant;
use support::{Namespace, PATIENCE, run};
use xsk_bridge::link::{Link, LinkEvent, LinkWatcher};

/// Reads until an event is such as is waited for, and gives it back.
fn wait<T>(watcher: &mut LinkWatcher, what: &str, wanted: impl Fn(&LinkEvent) -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut events = Vec::new();
    loop {
        watcher.read(&mut events).unwrap();
        if let Some(found) = events.iter().find_map(&wanted) {
            return found;
        }
        assert!(Instant::now() < deadline, "no word of {what}: {events:?}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn near(event: &LinkEvent) -> Option<&Link> {
    match event {
        LinkEvent::Changed(link) if link.name == "near" => Some(link),
        _ => None,
    }
}

#[test]
fn carrier_mtu_removal_and_return_are_told_with_name_and_index() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let index = Link::by_name("near").unwrap().unwrap().index;
    let mut watcher = LinkWatcher::open().unwrap();

    run("ip link set far down");
    let down = wait(&mut watcher, "a lost carrier", |event| {
        near(event).filter(|link| !link.running()).cloned()
    });
    assert_eq!((down.index, down.carrier), (index, false));
    run("ip link set far up");
    wait(&mut watcher, "the carrier's return", |event| {
        near(event).filter(|link| link.running()).cloned()
    });
    run("ip link set near down");
    let down = wait(&mut watcher, "the device down", |event| {
        near(event).filter(|link| !link.running()).cloned()
    });
    assert_eq!(down.flags & libc::IFF_UP as u32, 0);
    run("ip link set near up mtu 1400");
    wait(&mut watcher, "the MTU", |event| {
        near(event).filter(|link| link.mtu == 1400).cloned()
    });

    run("ip link del near");
    wait(&mut watcher, "the removal", |event| {
        (*event == LinkEvent::Removed { index }).then_some(())
    });
    namespace.veth("near", "far", 1);
    let back = wait(&mut watcher, "the return", |event| near(event).cloned());
    assert_ne!(back.index, index);
}

/// Many changes between two reads are told of as the last of them.
#[test]
fn a_device_that_changes_all_the_time_is_told_of_once_a_read() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let mut watcher = LinkWatcher::open().unwrap();
    for mtu in 1000..1020 {
        run(&format!("ip link set near mtu {mtu}"));
    }
    let mut events = Vec::new();
    watcher.read(&mut events).unwrap();
    let told: Vec<u32> = events
        .iter()
        .filter_map(near)
        .map(|link| link.mtu)
        .collect();
    assert_eq!(told, [1019]);
}
