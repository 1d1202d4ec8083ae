//! The device code of `xen` in a process of its own, under the preload library, against the hypervisor process.
mod agent;
mod gntalloc;
mod granted;
mod lab;

use lab::Lab;
use sim::domain::InUse;
use sim_machine::Machine;
use sim_machine::control::{Connection, Operation};
use std::sync::atomic::Ordering;
use std::time::Duration;
use xen::grant::DomId;
use xen::store::{StoreError, Transaction, XenStore};

const EINVAL: &str = "err 22";

/// The agent's side: not a test, but what [`Lab::agent`] runs.
#[test]
#[ignore = "run by the other tests"]
fn agent() {
    let path = std::env::var_os("AGENT_SOCKET").expect("run by the other tests");
    agent::run(std::os::unix::net::UnixStream::connect(path).unwrap());
}

#[test]
fn a_granted_page_is_the_same_page() {
    let lab = Lab::new("map");
    let guest = lab.guest("guest", 4);
    let mut agent = lab.agent();
    let gref = guest.grant(2, lab.driver.id(), false).unwrap();
    let page = guest.ring_page(2);
    let words = ring::page::SharedPage::words(&page);
    assert_eq!(agent.ask(&format!("map {} {}", guest.id(), gref.0)), "ok");
    words[5].store(0xdead_beef, Ordering::SeqCst);
    assert_eq!(
        agent.ask(&format!("peek {} 5", gref.0)),
        0xdead_beef_u32.to_string()
    );
    agent.ask(&format!("poke {} 1023 77", gref.0));
    assert_eq!(words[1023].load(Ordering::SeqCst), 77);
    assert_eq!(lab.counts(guest.id()).mapped, 1);
    assert_eq!(guest.end_access(gref), Err(InUse));
    assert_eq!(agent.ask(&format!("unmap {}", gref.0)), "ok");
    assert_eq!(lab.counts(guest.id()).mapped, 0);
    assert_eq!(guest.end_access(gref), Ok(()));
    assert_eq!(agent.ask(&format!("map {} {}", guest.id(), gref.0)), EINVAL);
    assert_eq!(lab.counts(guest.id()).granted, 0);
}

#[test]
fn a_map_is_refused_as_a_copy_is() {
    let lab = Lab::new("refuse-map");
    let (guest, other) = (lab.guest("guest", 2), lab.guest("other", 2));
    let mut agent = lab.agent();
    let for_other = guest.grant(0, other.id(), false).unwrap();
    let readonly = guest.grant(0, lab.driver.id(), true).unwrap();
    let beyond = guest.grant(2, lab.driver.id(), false).unwrap();
    for (domid, gref) in [
        (guest.id().0, for_other.0),
        (guest.id().0, readonly.0),
        (guest.id().0, beyond.0),
        (guest.id().0, 32768),
        (guest.id().0, u32::MAX),
        (99, 8),
        (u16::MAX, 8),
        (0, 8),
    ] {
        assert_eq!(
            agent.ask(&format!("map {domid} {gref}")),
            EINVAL,
            "{domid} {gref}"
        );
    }
    assert_eq!(lab.counts(guest.id()).mapped, 0);
    for gref in [for_other, readonly, beyond] {
        assert_eq!(guest.end_access(gref), Ok(()));
    }
}

#[test]
fn copies_go_both_ways_and_from_guest_to_guest() {
    let lab = Lab::new("copy");
    let (a, b) = (lab.guest("a", 4), lab.guest("b", 4));
    let mut agent = lab.agent();
    let (from, to) = (
        a.grant(1, lab.driver.id(), true).unwrap(),
        b.grant(3, lab.driver.id(), false).unwrap(),
    );
    let pattern: Vec<u8> = (0..4096u32).map(|i| (i * 7 % 251) as u8).collect();
    a.write(1, 0, &pattern);
    let (a_id, b_id) = (a.id(), b.id());
    assert_eq!(
        agent.ask(&format!("copy f{a_id}.{}.96>l4096:4000", from.0)),
        "ok 0"
    );
    assert_eq!(agent.ask("byte 4096"), pattern[96].to_string());
    assert_eq!(agent.ask("byte 8095"), pattern[4095].to_string());
    assert_eq!(agent.ask("byte 8096"), "0");
    assert_eq!(
        agent.ask(&format!(
            "copy l4096>f{b_id}.{0}.0:1000 f{a_id}.{1}.0>f{b_id}.{0}.1000:3096",
            to.0, from.0
        )),
        "ok 0 0"
    );
    let mut got = vec![0; 4096];
    b.read(3, 0, &mut got);
    assert_eq!(got[..1000], pattern[96..1096]);
    assert_eq!(got[1000..], pattern[..3096]);
    let counts = lab.counts(lab.driver.id());
    assert_eq!(
        (
            counts.copy_calls,
            counts.copy_hypercalls,
            counts.copy_operations,
            counts.copy_bytes
        ),
        (2, 2, 3, 8096)
    );
    assert_eq!((counts.copy_refused, counts.accessed_after_revoke), (0, 0));
}

#[test]
fn each_refusal_has_its_status_and_touches_nothing_else() {
    let lab = Lab::new("refuse");
    let (guest, other) = (lab.guest("guest", 4), lab.guest("other", 4));
    let mut agent = lab.agent();
    let good = guest.grant(0, lab.driver.id(), false).unwrap();
    let readonly = guest.grant(1, lab.driver.id(), true).unwrap();
    let for_other = guest.grant(1, other.id(), false).unwrap();
    let beyond = guest.grant(4, lab.driver.id(), false).unwrap();
    let revoked = guest.grant(1, lab.driver.id(), false).unwrap();
    guest.end_access(revoked).unwrap();
    guest.write(0, 0, &[9; 4096]);
    let g = guest.id();
    // Out of the guest: a read-only grant may be read.
    let side = |domid: u16, gref: u32| format!("f{domid}.{gref}.0");
    let sources = [
        (side(g.0, good.0), 0),
        (side(g.0, readonly.0), 0),
        (side(g.0, for_other.0), -1),
        (side(g.0, revoked.0), -1),
        (side(g.0, beyond.0), -9),
    ];
    let more = [
        (side(g.0, 32768), -3),
        (side(g.0, u32::MAX), -3),
        (side(99, good.0), -2),
        (side(0, good.0), -2),
        (side(u16::MAX, good.0), -2),
        (side(g.0, good.0), 0),
    ];
    let all: Vec<_> = sources.into_iter().chain(more).collect();
    let expected: String = all.iter().map(|(_, status)| format!(" {status}")).collect();
    let copies: String = all
        .iter()
        .enumerate()
        .map(|(i, (side, _))| format!(" {side}>l{}:64", i * 64))
        .collect();
    assert_eq!(agent.ask(&format!("copy{copies}")), format!("ok{expected}"));
    assert_eq!(agent.ask("byte 0"), "9");
    assert_eq!(
        agent.ask("byte 128"),
        "0",
        "a refused segment left something"
    );
    assert_eq!(
        agent.ask("byte 640"),
        "9",
        "a good segment behind refused ones"
    );
    // Into it: a read-only one may not be written.
    agent.ask("fill 5");
    assert_eq!(
        agent.ask(&format!(
            "copy l0>f{g}.{}.0:8 l0>f{g}.{}.8:8 l0>f{g}.{}.0:8",
            readonly.0, good.0, for_other.0
        )),
        "ok -1 0 -1"
    );
    let mut got = [0; 16];
    guest.read(0, 0, &mut got);
    assert_eq!(got, [9, 9, 9, 9, 9, 9, 9, 9, 5, 5, 5, 5, 5, 5, 5, 5]);
    // Guest to guest: each side is checked.
    assert_eq!(
        agent.ask(&format!(
            "copy f{g}.{0}.0>f{g}.{1}.0:8 f{g}.{1}.0>f{g}.{0}.0:8",
            good.0, readonly.0
        )),
        "ok -1 0"
    );
    assert_eq!(lab.counts(lab.driver.id()).copy_refused, 8 + 2 + 1);
}

#[test]
fn bounds_are_checked_before_anything_is_copied() {
    let lab = Lab::new("bounds");
    let guest = lab.guest("guest", 1);
    let mut agent = lab.agent();
    let gref = guest.grant(0, lab.driver.id(), false).unwrap().0;
    guest.write(0, 0, &[1; 4096]);
    let g = guest.id();
    let good = format!("f{g}.{gref}.0>l0:64");
    for bad in [
        format!("f{g}.{gref}.4033>l0:64"),
        format!("f{g}.{gref}.0>l4095:2"),
        format!("f{g}.{gref}.0>l65536:1"),
        format!("l0>f{g}.{gref}.0:1"),
    ] {
        assert_eq!(agent.ask(&format!("copy {good} {bad}")), "refused", "{bad}");
    }
    assert_eq!(agent.ask("byte 0"), "0");
    assert_eq!(lab.counts(lab.driver.id()).copy_calls, 0);
}

#[test]
fn gntdev_itself_lies_when_a_call_fails() {
    let lab = Lab::new("lies");
    let guest = lab.guest("guest", 1);
    let mut agent = lab.agent();
    let gref = guest.grant(0, lab.driver.id(), false).unwrap().0;
    guest.write(0, 0, &[1; 4096]);
    let g = guest.id();
    // 17 good ones, of which the first 16 are issued when the 17th comes, then one across the page.
    let good: String = (0..17)
        .map(|i| format!(" f{g}.{gref}.0>l{}:1", i * 4))
        .collect();
    let reply = agent.ask(&format!(
        "raw{good} f{g}.{gref}.4095>l100:2 f{g}.{gref}.0>l200:1"
    ));
    assert_eq!(reply, format!("err 22{} 77 77", " 0".repeat(17)));
    assert_eq!(agent.ask("byte 60"), "1", "the 16th was copied");
    assert_eq!(agent.ask("byte 64"), "0", "the 17th says OKAY and was not");
    // A local side across a page is two operations.
    let before = lab.counts(lab.driver.id());
    assert_eq!(agent.ask(&format!("raw f{g}.{gref}.0>l4090:100")), "ok 0");
    let after = lab.counts(lab.driver.id());
    assert_eq!(
        (
            after.copy_operations - before.copy_operations,
            after.copy_hypercalls - before.copy_hypercalls
        ),
        (2, 1)
    );
    assert_eq!(agent.ask("byte 4189"), "1");
    // 33 are three hypercalls.
    let many: String = (0..33).map(|i| format!(" f{g}.{gref}.0>l{i}:1")).collect();
    agent.ask(&format!("raw{many}"));
    assert_eq!(
        lab.counts(lab.driver.id()).copy_hypercalls - after.copy_hypercalls,
        3
    );
    assert_eq!(agent.ask("raw l0>l4096:8"), "err 22 77");
}

#[test]
fn a_port_is_bound_once_and_events_mask_it() {
    let lab = Lab::new("events");
    let (guest, other) = (lab.guest("guest", 1), lab.guest("other", 1));
    let (mut agent, mut second) = (lab.agent(), lab.agent());
    let far = guest.alloc_unbound(lab.driver.id()).unwrap();
    let for_other = guest.alloc_unbound(other.id()).unwrap();
    let g = guest.id();
    assert_eq!(agent.ask(&format!("bind {g} {}", for_other.0)), EINVAL);
    assert_eq!(agent.ask(&format!("bind {g} 4000")), EINVAL);
    assert_eq!(agent.ask(&format!("bind {g} {}", u32::MAX)), EINVAL);
    assert_eq!(agent.ask("bind 99 1"), "err 3");
    let near = agent.ask(&format!("bind {g} {}", far.0));
    assert_eq!(
        second.ask(&format!("bind {g} {}", far.0)),
        EINVAL,
        "the fence against two backends"
    );
    // A bind raises the first event; masked until unmasked, then what came meanwhile is delivered once.
    assert_eq!(agent.ask("pending 2000"), near);
    guest.notify(far).unwrap();
    guest.notify(far).unwrap();
    assert_eq!(agent.ask("pending 50"), "");
    agent.ask(&format!("unmask {near}"));
    assert_eq!(agent.ask("pending 2000"), near);
    agent.ask(&format!("unmask {near}"));
    assert_eq!(agent.ask("pending 50"), "");
    // The other way.
    assert_eq!(
        second.ask(&format!("notify {near}")),
        "err 107",
        "not this descriptor's port"
    );
    agent.ask(&format!("notify {near}"));
    assert_eq!(lab.pending(&guest), [far]);
    agent.ask(&format!("notify {near}"));
    assert_eq!(lab.pending_now(&guest), []);
    guest.unmask(&[far]).unwrap();
    assert_eq!(lab.pending(&guest), [far]);
    // Unbound: the guest's port can be bound anew, by the same domain.
    assert_eq!(agent.ask(&format!("unbind {near}")), "ok");
    guest.notify(far).unwrap();
    assert_ne!(second.ask(&format!("bind {g} {}", far.0)), EINVAL);
    let counts = lab.counts(g);
    assert_eq!((counts.ports, counts.bound), (2, 1));
    guest.close_port(far).unwrap();
    assert_eq!(lab.counts(g).ports, 1);
}

#[test]
fn no_wake_up_is_lost() {
    let lab = Lab::new("hammer");
    let guest = lab.guest("guest", 1);
    let mut agent = lab.agent();
    let gref = guest.grant(0, lab.driver.id(), false).unwrap();
    let far = guest.alloc_unbound(lab.driver.id()).unwrap();
    agent.ask(&format!("map {} {}", guest.id(), gref.0));
    let near = agent.ask(&format!("bind {} {}", guest.id(), far.0));
    let page = guest.ring_page(0);
    let words = ring::page::SharedPage::words(&page);
    agent.tell(&format!("serve {near} {}", gref.0));
    // Each value is written, notified (sometimes twice, sometimes in a burst), and waited for: one lost event and nobody moves.
    for value in (1..20_000u32).chain([u32::MAX]) {
        words[0].store(value, Ordering::SeqCst);
        guest.notify(far).unwrap();
        if value % 3 == 0 {
            guest.notify(far).unwrap();
        }
        if value % 7 == 0 {
            continue;
        }
        while words[1].load(Ordering::SeqCst) != value {
            let ports = lab.pending(&guest);
            assert_eq!(ports, [far], "no event came back for {value}");
            guest.unmask(&ports).unwrap();
        }
    }
    assert_eq!(agent.hear(), "0");
}

#[test]
fn a_killed_backend_leaves_nothing_and_another_binds_at_once() {
    let lab = Lab::new("kill");
    let guest = lab.guest("guest", 1);
    let gref = guest.grant(0, lab.driver.id(), false).unwrap();
    let far = guest.alloc_unbound(lab.driver.id()).unwrap();
    let before = lab.hypervisor.counts().unwrap();
    for round in 0..20 {
        let mut agent = lab.agent();
        let bound = agent.ask(&format!("bind {} {}", guest.id(), far.0));
        assert!(!bound.starts_with("err"), "round {round}: {bound}");
        assert_eq!(agent.ask(&format!("map {} {}", guest.id(), gref.0)), "ok");
        guest.notify(far).unwrap();
        agent.kill();
        guest.notify(far).unwrap();
    }
    lab.settle(|counts| {
        counts
            .domains
            .iter()
            .all(|domain| domain.mapped == 0 && domain.bound == 0)
    });
    let after = lab.hypervisor.counts().unwrap();
    assert_eq!(
        (after.nodes, after.watches, after.connections),
        (before.nodes, before.watches, before.connections)
    );
    assert_eq!(lab.counts(lab.driver.id()).ports, 0);
    assert_eq!(guest.end_access(gref), Ok(()));
}

#[test]
fn a_backend_killed_in_the_middle_of_a_notification_leaves_no_port_deaf() {
    let lab = Lab::new("middle");
    let guest = lab.guest("guest", 1);
    let far = guest.alloc_unbound(lab.driver.id()).unwrap();
    let inside = Connection::open(lab.dir()).unwrap();
    let mut reply = inside
        .call(Operation::Attach, [lab.driver.id().0.into(), 0, 0], "")
        .unwrap();
    let machine = Machine::map(reply.take_fd().unwrap()).unwrap();
    for round in 0..3 {
        let mut agent = lab.agent();
        let near = agent.ask(&format!("bind {} {}", guest.id(), far.0));
        let near: u32 = near.parse().unwrap();
        // The first half of a notification, as the agent's process makes it; the second is a write to the guest's pipe.
        assert!(machine.notify(lab.driver.id().0, near).is_some());
        agent.kill();
        assert_eq!(lab.pending(&guest), [far], "round {round}: nobody woke it");
        assert_eq!(lab.pending_now(&guest), [], "once is enough");
        guest.unmask(&[far]).unwrap();
    }
}

#[test]
fn a_gone_guest_fails_copies_and_leaves_the_mapped_page() {
    let lab = Lab::new("gone");
    let guest = lab.guest("guest", 8);
    let mut agent = lab.agent();
    let (mapped, other) = (
        guest.grant(3, lab.driver.id(), false).unwrap(),
        guest.grant(4, lab.driver.id(), false).unwrap(),
    );
    let far = guest.alloc_unbound(lab.driver.id()).unwrap();
    let g = guest.id();
    guest.write(3, 0, &7u32.to_ne_bytes());
    agent.ask(&format!("map {g} {}", mapped.0));
    let near = agent.ask(&format!("bind {g} {}", far.0));
    assert_eq!(agent.ask(&format!("copy f{g}.{}.0>l0:8", other.0)), "ok 0");
    drop(guest);
    lab.settle(|counts| counts.domain(g).is_some_and(|domain| !domain.alive));
    assert_eq!(
        agent.ask(&format!(
            "copy f{g}.{}.0>l0:8 l0>f{g}.{}.0:8",
            other.0, mapped.0
        )),
        "refused"
    );
    assert_eq!(agent.ask(&format!("copy f{g}.{}.0>l0:8", other.0)), "ok -2");
    assert_eq!(
        agent.ask(&format!("peek {} 0", mapped.0)),
        "7",
        "a mapped page outlives its domain"
    );
    assert_eq!(agent.ask(&format!("notify {near}")), "ok");
    assert_eq!(agent.ask(&format!("map {g} {}", other.0)), EINVAL);
    agent.ask(&format!("unmap {}", mapped.0));
    assert_eq!(agent.ask(&format!("unbind {near}")), "ok");
    assert_eq!(lab.hypervisor.counts().unwrap().domain(g), None);
}

#[test]
fn destroying_the_driver_domain_hangs_up_on_its_processes() {
    let lab = Lab::new("driver");
    let guest = lab.guest("guest", 1);
    let mut agent = lab.agent();
    let gref = guest.grant(0, lab.driver.id(), false).unwrap();
    agent.ask(&format!("map {} {}", guest.id(), gref.0));
    lab.hypervisor.destroy(lab.driver.id()).unwrap();
    assert_eq!(lab.counts(guest.id()).mapped, 0);
    assert!(
        agent
            .ask(&format!("map {} {}", guest.id(), gref.0))
            .starts_with("err")
    );
    assert_eq!(
        lab.hypervisor
            .destroy(lab.driver.id())
            .unwrap_err()
            .raw_os_error(),
        Some(libc::ESRCH)
    );
}

#[test]
fn duplicates_and_probes_are_the_devices_too() {
    let lab = Lab::new("dup");
    let guest = lab.guest("guest", 1);
    let mut agent = lab.agent();
    let far = guest.alloc_unbound(lab.driver.id()).unwrap();
    let near = agent.ask(&format!("dup {} {}", guest.id(), far.0));
    assert_eq!(agent.ask("pending 2000"), near);
    assert_eq!(agent.ask(&format!("notify {near}")), "ok");
    assert_eq!(lab.pending(&guest), [far]);
    assert_eq!(agent.ask("exists /dev/xen/gntdev"), "true");
    assert_eq!(agent.ask("exists /dev/xen/gntalloc"), "true");
    assert_eq!(agent.ask("exists /dev/xen/other"), "false");
    // A module that is not loaded.
    let without = lab.dir().join("without-gntalloc");
    std::fs::write(&without, "").unwrap();
    assert_eq!(agent.ask("exists /dev/xen/gntalloc"), "false");
    assert_eq!(agent.ask("open"), "err 2");
    std::fs::remove_file(&without).unwrap();
    assert_eq!(agent.ask("exists /dev/xen/gntalloc"), "true");
}

#[test]
fn xenstore_is_the_domain_s_own() {
    let lab = Lab::new("store");
    let guest = lab.guest("guest", 1);
    let mut agent = lab.agent();
    assert_eq!(agent.ask("read domid"), lab.driver.id().to_string());
    assert_eq!(
        agent.ask(&format!("read /local/domain/{}/name", guest.id())),
        format!(
            "xenstore refused read /local/domain/{}/name: EACCES",
            guest.id()
        )
    );
    let mut store = guest.store().unwrap();
    assert_eq!(store.read(Transaction::NONE, "name").unwrap(), "guest");
    assert!(
        matches!(store.write(Transaction::NONE, "name", "x"), Err(StoreError::Refused { errno, .. }) if errno == "EACCES")
    );
    store.write(Transaction::NONE, "data/a", "1").unwrap();
    assert_eq!(
        store
            .read(
                Transaction::NONE,
                &format!("/local/domain/{}/data/a", guest.id())
            )
            .unwrap(),
        "1"
    );
}

#[test]
fn watches_tell_at_once_and_transactions_conflict() {
    let lab = Lab::new("watch");
    let guest = lab.guest("guest", 1);
    let (mut one, mut two) = (guest.store().unwrap(), guest.store().unwrap());
    one.watch("data", "t").unwrap();
    let events = lab.events(&mut one, 1);
    assert_eq!(events[0].path, "data");
    for _ in 0..1000 {
        two.write(Transaction::NONE, "data/state", "4").unwrap();
    }
    two.remove(Transaction::NONE, "data/state").unwrap();
    let paths: Vec<_> = lab
        .events(&mut one, 1)
        .into_iter()
        .map(|event| event.path)
        .collect();
    assert_eq!(paths, ["data/state"]);
    let t = one.begin().unwrap();
    assert!(matches!(one.read(t, "data/x"), Err(StoreError::Missing(_))));
    two.write(Transaction::NONE, "data/x", "theirs").unwrap();
    one.write(t, "data/x", "mine").unwrap();
    assert!(matches!(one.end(t, true), Err(StoreError::Conflict)));
    one.transact(|store, t| store.write(t, "data/x", "mine"))
        .unwrap();
    assert_eq!(two.read(Transaction::NONE, "data/x").unwrap(), "mine");
    for i in 0..99 {
        one.watch("data", &format!("{i}")).unwrap();
    }
    assert!(
        matches!(one.watch("data", "more"), Err(StoreError::Refused { errno, .. }) if errno == "EQUOTA")
    );
}

#[test]
fn a_vif_is_made_as_libxl_makes_it_and_taken_away() {
    let mut lab = Lab::new("vif");
    let guest = lab.guest("guest", 1);
    let (driver, g) = (lab.driver.clone(), guest.id());
    let nodes = lab.hypervisor.counts().unwrap().nodes;
    lab.toolstack
        .create_vif(driver.id(), g, 0, &Default::default())
        .unwrap();
    let (back, front) = (
        format!("/local/domain/{}/backend/vif/{g}/0", driver.id()),
        format!("/local/domain/{g}/device/vif/0"),
    );
    let (mut ours, mut theirs) = (driver.store().unwrap(), guest.store().unwrap());
    let none = Transaction::NONE;
    assert_eq!(ours.read(none, &format!("{back}/frontend")).unwrap(), front);
    assert_eq!(theirs.read(none, "device/vif/0/backend").unwrap(), back);
    assert_eq!(
        ours.directory(none, &format!("backend/vif/{g}")).unwrap(),
        ["0"]
    );
    assert!(
        ours.write(none, &format!("{front}/state"), "4").is_err(),
        "the frontend's state is the guest's"
    );
    ours.write(none, &format!("{front}/mtu"), "9000").unwrap();
    theirs.write(none, "device/vif/0/state", "4").unwrap();
    assert_eq!(ours.read(none, &format!("{front}/state")).unwrap(), "4");
    assert!(theirs.write(none, &format!("{back}/state"), "4").is_err());
    assert_eq!(theirs.read(none, &format!("{back}/state")).unwrap(), "1");
    // A backend that does its part.
    let answer = std::thread::spawn(move || {
        ours.watch(&back, "b").unwrap();
        while ours.read(none, &format!("{back}/state")).unwrap() != "5" {
            std::thread::sleep(Duration::from_millis(1));
        }
        ours.write(none, &format!("{back}/state"), "6").unwrap();
        ours.remove(none, &back).unwrap();
    });
    assert!(
        lab.toolstack
            .detach_vif(driver.id(), g, 0, Duration::from_secs(10))
            .unwrap()
    );
    answer.join().unwrap();
    drop(theirs);
    // `backend`, `backend/vif` and `device/vif` stay, as on Xen.
    assert_eq!(lab.hypervisor.counts().unwrap().nodes, nodes + 3);
}

#[test]
fn a_gone_guest_s_backend_is_told_to_close() {
    let mut lab = Lab::new("release");
    let guest = lab.guest("guest", 1);
    let (driver, g) = (lab.driver.clone(), guest.id());
    lab.toolstack
        .create_vif(driver.id(), g, 0, &Default::default())
        .unwrap();
    let nodes = lab.hypervisor.counts().unwrap().nodes;
    drop(guest);
    lab.settle(|counts| counts.domain(g).is_none());
    let (mut store, none, back) = (
        driver.store().unwrap(),
        Transaction::NONE,
        format!("/local/domain/{}/backend/vif/{g}", driver.id()),
    );
    assert_eq!(store.read(none, &format!("{back}/0/state")).unwrap(), "5");
    assert_eq!(store.read(none, &format!("{back}/0/online")).unwrap(), "0");
    assert!(
        store
            .read(none, &format!("/local/domain/{g}/device/vif/0/state"))
            .is_err()
    );
    store.remove(none, &format!("{back}/0")).unwrap();
    assert!(
        matches!(store.read(none, &back), Err(StoreError::Missing(_))),
        "the empty directory is swept"
    );
    assert!(lab.hypervisor.counts().unwrap().nodes < nodes);
}

#[test]
fn domain_numbers_come_again_only_after_all_others() {
    let lab = Lab::new("numbers");
    let mut last = lab.driver.id();
    for _ in 0..300 {
        let guest = lab.guest("short-lived", 1);
        let gref = guest.grant(0, lab.driver.id(), false).unwrap();
        assert_ne!(guest.id(), last);
        assert_ne!(guest.id(), lab.driver.id());
        assert_ne!(guest.id(), DomId(0));
        assert_eq!(lab.counts(guest.id()).granted, 1, "{gref:?}");
        last = guest.id();
    }
    lab.settle(|counts| counts.domains.len() == 1);
}

#[test]
fn copies_are_cheap() {
    let lab = Lab::new("cost");
    let guest = lab.guest("guest", 1);
    let mut agent = lab.agent();
    let gref = guest.grant(0, lab.driver.id(), false).unwrap().0;
    for (batch, len) in [(64, 64), (1, 64), (64, 1500)] {
        println!(
            "batch {batch}, {len} B: {} ns a segment",
            agent.ask(&format!("bench {} {gref} {batch} {len}", guest.id()))
        );
    }
    let counts = lab.counts(lab.driver.id());
    assert_eq!(counts.copy_calls, 6000);
    assert_eq!(counts.copy_operations, 2000 * 129);
    assert_eq!(counts.copy_hypercalls, 2000 * (4 + 1 + 4));
}

#[test]
fn grants_taken_back_in_mid_copy_crash_nobody() {
    let lab = Lab::new("revoke");
    let guest = lab.guest("guest", 1);
    let mut agent = lab.agent();
    let gref = guest.grant(0, lab.driver.id(), false).unwrap();
    agent.tell(&format!("bench {} {} 64 4096", guest.id(), gref.0));
    // Guests that take grants back in mid-copy, and other pages that do not exist: nobody crashes.
    for i in 0..200_000u32 {
        guest
            .regrant(
                gref,
                if i % 2 == 0 { 0 } else { u32::MAX },
                lab.driver.id(),
                i % 3 == 0,
            )
            .unwrap();
    }
    assert!(agent.hear().parse::<u64>().is_ok());
    let counts = lab.counts(lab.driver.id());
    assert_eq!(counts.copy_operations, 2000 * 64);
}

#[test]
fn a_charged_copy_takes_what_it_is_charged() {
    let lab = Lab::new("charged");
    let guest = lab.guest("guest", 1);
    let mut agent = lab.agent_charged("1000000,500000,1000");
    let gref = guest.grant(0, lab.driver.id(), false).unwrap().0;
    let segments: String = (0..17)
        .map(|i| format!(" f{}.{gref}.0>l{i}:1", guest.id()))
        .collect();
    let start = std::time::Instant::now();
    for _ in 0..10 {
        agent.ask(&format!("copy{segments}"));
    }
    // A call, two hypercalls, 17 operations.
    assert!(start.elapsed() >= Duration::from_nanos(10 * (1_000_000 + 2 * 500_000 + 17 * 1000)));
}

#[test]
fn noise_on_the_sockets_harms_nobody_else() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let lab = Lab::new("noise");
    let guest = lab.guest("guest", 1);
    let mut store = guest.store().unwrap();
    let connections = lab.hypervisor.counts().unwrap().connections;
    let oversized = xen::store::wire::Header {
        kind: 2,
        request: 1,
        transaction: 0,
        len: 4097,
    }
    .encode();
    for kind in 0..40 {
        for payload in [
            &b""[..],
            b"\0",
            b"/",
            b"/\0",
            b"\xff\0\xff\0",
            b"/a\0b\0c\0",
            b"99999999999999999999\0",
            b"T\0",
        ] {
            let mut raw = UnixStream::connect(lab.dir().join("xenstored.sock")).unwrap();
            for transaction in [0, 1, u32::MAX] {
                let header = xen::store::wire::Header {
                    kind,
                    request: 7,
                    transaction,
                    len: payload.len() as u32,
                };
                raw.write_all(&[&header.encode(), payload].concat())
                    .unwrap();
                let mut reply = [0; 16];
                raw.read_exact(&mut reply).unwrap();
            }
            raw.write_all(&oversized).unwrap();
            let mut rest = Vec::new();
            // Hung up on: the end, or a reset where it had not read all.
            let _ = raw.read_to_end(&mut rest);
        }
    }
    assert_eq!(store.read(Transaction::NONE, "name").unwrap(), "guest");
    lab.settle(|counts| counts.connections == connections);
}

#[test]
fn a_key_written_over_and_over_is_one_event_and_no_memory() {
    let lab = Lab::new("storm");
    let guest = lab.guest("guest", 1);
    let (mut watcher, mut writer) = (guest.store().unwrap(), guest.store().unwrap());
    watcher.watch("data", "t").unwrap();
    let resident = || lab.resident_pages();
    writer.write(Transaction::NONE, "data/state", "0").unwrap();
    let before = resident();
    for i in 0..100_000u32 {
        writer
            .write(Transaction::NONE, "data/state", &i.to_string())
            .unwrap();
    }
    assert!(
        resident() < before + 1024,
        "{before} -> {} pages",
        resident()
    );
    let mut paths: Vec<_> = lab
        .events(&mut watcher, 2)
        .into_iter()
        .map(|event| event.path)
        .collect();
    paths.sort();
    assert_eq!(paths, ["data", "data/state"]);
}
