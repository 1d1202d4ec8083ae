//! Pages that a backend grants to its own domain, so that copies name both their sides by reference.
use super::EINVAL;
use super::lab::Lab;
use sim_machine::GNTALLOC_LIMIT;
use sim_machine::control::{Connection, Operation};

const FULL: &str = "raise /sys/module/xen_gntalloc/parameters/limit";

fn numbers(reply: &str) -> Vec<u64> {
    reply
        .split(' ')
        .map(|word| word.parse().unwrap_or_else(|_| panic!("{reply}")))
        .collect()
}

#[test]
fn a_guest_s_page_is_copied_to_ours_and_back_by_reference() {
    let lab = Lab::new("own");
    let guest = lab.guest("guest", 2);
    let mut agent = lab.agent();
    let (g, d) = (guest.id(), lab.driver.id());
    let from = guest.grant(0, d, true).unwrap().0;
    let to = guest.grant(1, d, false).unwrap().0;
    let own = numbers(&agent.ask(&format!("grant {d} 3")));
    let (page, last) = (own[0], own[2]);
    assert_eq!((own.len(), lab.counts(d).granted), (3, 3));
    assert_eq!(agent.ask(&format!("get {page} 12287 1")), "0");
    guest.write(0, 100, &[1, 2, 3, 4, 5]);
    // In, to the third page, and nothing beside it.
    assert_eq!(
        agent.ask(&format!("copy f{g}.{from}.100>f{d}.{last}.4000:5")),
        "ok 0"
    );
    assert_eq!(agent.ask(&format!("get {page} 12191 7")), "0 1 2 3 4 5 0");
    // Out, with a segment whose side is an address, and from page to page of our own.
    agent.ask(&format!("put {page} 4094 9 4"));
    agent.ask("fill 7");
    assert_eq!(
        agent.ask(&format!(
            "copy f{d}.{0}.4092>f{g}.{to}.0:4 l0>f{g}.{to}.4:2 f{d}.{1}.0>f{g}.{to}.6:4 f{d}.{last}.4000>f{d}.{page}.0:5",
            own[0], own[1]
        )),
        "ok 0 0 0 0"
    );
    let mut got = [1; 11];
    guest.read(1, 0, &mut got);
    assert_eq!(got, [0, 0, 9, 9, 7, 7, 9, 9, 0, 0, 0]);
    assert_eq!(agent.ask(&format!("get {page} 0 6")), "1 2 3 4 5 0");
    // Into memory of ours that has an address.
    assert_eq!(agent.ask(&format!("copy f{d}.{last}.4001>l64:1")), "ok 0");
    assert_eq!(agent.ask("byte 64"), "2");
    assert_eq!(agent.ask(&format!("ungrant {page}")), "ok");
    assert_eq!(lab.counts(d).granted, 0);
    assert_eq!(lab.counts(d).accessed_after_revoke, 0);
}

#[test]
fn what_is_not_granted_to_us_is_refused_though_it_is_ours() {
    let lab = Lab::new("own-refused");
    let guest = lab.guest("guest", 1);
    let mut agent = lab.agent();
    let (g, d) = (guest.id(), lab.driver.id());
    let gref = guest.grant(0, d, false).unwrap().0;
    let own = agent.ask(&format!("grant {d} 1"));
    let for_guest = agent.ask(&format!("grant {g} 1"));
    agent.ask(&format!("put {own} 0 3 1"));
    agent.ask(&format!("put {for_guest} 0 4 1"));
    assert_eq!(
        agent.ask(&format!(
            "copy f{d}.{own}.0>f{g}.{gref}.0:1 f{d}.{for_guest}.0>f{g}.{gref}.1:1 f{g}.{gref}.0>f{d}.{for_guest}.0:1 f{d}.8.0>f{g}.{gref}.1:1"
        )),
        "ok 0 -1 -1 -1"
    );
    assert_eq!(agent.ask(&format!("get {for_guest} 0 1")), "4");
    assert_eq!(agent.ask(&format!("ungrant {own}")), "ok");
    assert_eq!(
        agent.ask(&format!("copy f{d}.{own}.0>f{g}.{gref}.1:1")),
        "ok -1"
    );
    let mut got = [0; 2];
    guest.read(0, 0, &mut got);
    assert_eq!(got, [3, 0]);
}

#[test]
fn a_killed_backend_s_pages_are_the_next_one_s_at_once_and_empty() {
    let lab = Lab::new("own-kill");
    let d = lab.driver.id();
    for round in 0..3 {
        let mut agent = lab.agent();
        let own = agent.ask(&format!("grant {d} {GNTALLOC_LIMIT}"));
        assert_eq!(
            own.split(' ').count(),
            GNTALLOC_LIMIT as usize,
            "round {round}: {own}"
        );
        let page = numbers(&own)[0];
        let end = GNTALLOC_LIMIT * 4096 - 3;
        assert_eq!(agent.ask(&format!("get {page} 0 3")), "0 0 0");
        assert_eq!(agent.ask(&format!("get {page} {end} 3")), "0 0 0");
        agent.ask(&format!("put {page} 0 5 {}", GNTALLOC_LIMIT * 4096));
        assert_eq!(lab.counts(d).granted, u64::from(GNTALLOC_LIMIT));
        agent.kill();
    }
    lab.settle(|counts| counts.domain(d).is_some_and(|domain| domain.granted == 0));
}

#[test]
fn all_backends_of_a_domain_share_the_driver_s_limit() {
    let lab = Lab::new("own-limit");
    let d = lab.driver.id();
    let (mut agent, mut second) = (lab.agent(), lab.agent());
    let own = numbers(&agent.ask(&format!("grant {d} 1000")));
    let refused = second.ask(&format!("grant {d} 25"));
    assert!(
        refused.contains("could not grant 25 pages") && refused.ends_with(FULL),
        "{refused}"
    );
    let rest = numbers(&second.ask(&format!("grant {d} 24")));
    assert_eq!(lab.counts(d).granted, 1024);
    let both: std::collections::HashSet<_> = own.iter().chain(&rest).collect();
    assert_eq!(both.len(), 1024, "a grant was given twice");
    agent.ask(&format!("ungrant {}", own[0]));
    assert_eq!(lab.counts(d).granted, 24);
    assert_eq!(numbers(&second.ask(&format!("grant {d} 1000"))).len(), 1000);
}

#[test]
fn a_page_stays_as_long_as_it_is_listed_or_mapped() {
    let lab = Lab::new("own-users");
    let d = lab.driver.id();
    let granted = || lab.counts(d).granted;
    let mut agent = lab.agent();
    let fd = agent.ask("open");
    let one = numbers(&agent.ask(&format!("alloc {fd} {d} 2")));
    let two = numbers(&agent.ask(&format!("alloc {fd} {d} 1")));
    let (first, second) = (one[0], two[0]);
    assert_eq!(second, first + 8192, "offsets go on");
    // What the driver refuses.
    let refusals = [
        (format!("alloc {fd} {d} 1025"), "err 28"),
        (format!("alloc {fd} {d} 4294967295"), "err 28"),
        (format!("strange {fd}"), "err 25"),
        (format!("mmap {fd} {first} 1 private"), EINVAL),
        (format!("mmap {fd} {first} 4 shared"), "err 2"),
        (format!("mmap {fd} {} 1 shared", second + 4096), "err 2"),
        (format!("dealloc {fd} {first} 4"), EINVAL),
        (format!("dealloc {fd} {} 1", second + 4096), EINVAL),
    ];
    for (command, refusal) in refusals {
        assert_eq!(agent.ask(&command), refusal, "{command}");
    }
    assert_eq!(granted(), 3);
    // Mapped over both requests; given up while mapped.
    let at = agent.ask(&format!("mmap {fd} {first} 3 shared"));
    assert_eq!(agent.ask(&format!("dealloc {fd} {first} 2")), "0");
    assert_eq!(agent.ask(&format!("dealloc {fd} {first} 2")), EINVAL);
    assert_eq!(granted(), 3);
    assert_eq!(agent.ask(&format!("munmap {at} 3")), "0");
    assert_eq!(granted(), 1);
    // A mapping outlives the descriptor.
    let at = agent.ask(&format!("mmap {fd} {second} 1 shared"));
    assert_eq!(agent.ask(&format!("close {fd}")), "0");
    assert_eq!(granted(), 1);
    assert_eq!(agent.ask(&format!("munmap {at} 1")), "0");
    lab.settle(|counts| counts.domain(d).is_some_and(|domain| domain.granted == 0));
}

#[test]
fn a_page_that_its_guest_has_mapped_is_kept_from_others() {
    let lab = Lab::new("own-mapped");
    let (g, d) = (lab.guest("guest", 1), lab.driver.id());
    let mut agent = lab.agent();
    let page: u32 = agent.ask(&format!("grant {} 1", g.id())).parse().unwrap();
    let inside = Connection::open(lab.dir()).unwrap();
    inside
        .call(Operation::Attach, [g.id().0.into(), 0, 0], "")
        .unwrap();
    let reply = inside.call(Operation::Map, [d.0.into(), page, 0], "");
    assert_eq!(reply.unwrap().words[1], 0, "not mapped");
    agent.ask(&format!("ungrant {page}"));
    assert_eq!(lab.counts(d).granted, 1);
    let full = agent.ask(&format!("grant {d} {GNTALLOC_LIMIT}"));
    assert!(full.ends_with(FULL), "{full}");
    inside
        .call(Operation::Unmap, [d.0.into(), page, 0], "")
        .unwrap();
    let own = agent.ask(&format!("grant {d} {GNTALLOC_LIMIT}"));
    assert_eq!(numbers(&own).len(), GNTALLOC_LIMIT as usize);
}
