//! The bridge against a model on hash maps, and under several workers at once.
use super::*;
use crate::header::Mac;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;

const WIRE: PortId = PortId(1);
const A: PortId = PortId(2);
const B: PortId = PortId(3);
const MAC_A: Mac = [2, 0, 0, 0, 0, 0xa];
const MAC_B: Mac = [2, 0, 0, 0, 0, 0xb];
const PEER: Mac = [2, 0, 0, 0, 0, 0xee];
const BROADCAST: Mac = [0xff; 6];
const GROUP: Verdict = Verdict::Flood(Flood::Group);
const UNKNOWN: Verdict = Verdict::Flood(Flood::Unknown);

fn frame(destination: Mac, source: Mac, vlan: Option<u16>) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    match vlan {
        Some(vlan) => frame.extend([0x81, 0, (vlan >> 8) as u8, vlan as u8, 8, 0]),
        None => frame.extend([8, 0]),
    }
    frame
}

fn bridge() -> Bridge {
    let bridge = Bridge::new("xenbr0");
    bridge.add_port(WIRE, PortKind::Uplink);
    bridge.add_port(A, PortKind::Guest(MAC_A));
    bridge.add_port(B, PortKind::Guest(MAC_B));
    bridge
}

#[test]
fn guests_reach_each_other_and_the_wire_once_it_is_heard() {
    let bridge = bridge();
    let decide = |port, to, from| bridge.decide(port, &frame(to, from, None), 5);
    assert_eq!(decide(A, MAC_B, MAC_A), Verdict::Unicast(B));
    assert_eq!(decide(A, PEER, MAC_A), UNKNOWN);
    assert_eq!(decide(WIRE, BROADCAST, PEER), GROUP);
    assert_eq!(decide(A, PEER, MAC_A), Verdict::Unicast(WIRE));
    assert_eq!(
        decide(WIRE, PEER, [2, 0, 0, 0, 0, 0xef]),
        Verdict::Drop(DropReason::SamePort)
    );
    assert_eq!(&*bridge.ports(), [WIRE, A, B]);
}

/// A worker may have a queue's packets before its port is attached, and after it was detached: a port that nobody knows has no rules.
#[test]
fn nothing_comes_in_by_a_port_that_is_not_on_the_bridge() {
    let bridge = bridge();
    let gone = Verdict::Drop(DropReason::PortGone);
    let decide = |port, to, from| bridge.decide(port, &frame(to, from, None), 5);
    assert_eq!(decide(PortId(9), BROADCAST, PEER), gone);
    assert_eq!(decide(PortId(9), MAC_B, PEER), gone);
    bridge.remove_port(A);
    assert_eq!(decide(A, BROADCAST, MAC_A), gone);
    bridge.tell_vlans_apart();
    assert_eq!(decide(A, BROADCAST, MAC_A), gone);
    assert_eq!(bridge.stats().learnt, 0);
}

#[test]
fn what_was_learnt_stays_when_vlans_are_told_apart() {
    let bridge = bridge();
    bridge.decide(WIRE, &frame(BROADCAST, PEER, None), 5);
    bridge.tell_vlans_apart();
    let to_peer = bridge.decide(A, &frame(PEER, MAC_A, None), 6);
    assert_eq!(to_peer, Verdict::Unicast(WIRE));
    let as_peer = bridge.decide(A, &frame(BROADCAST, PEER, None), 6);
    assert_eq!(as_peer, Verdict::Drop(DropReason::WireSource));
}

#[test]
fn every_drop_has_its_reason() {
    let bridge = bridge();
    let decide = |port, to, from| bridge.decide(port, &frame(to, from, None), 5);
    assert_eq!(
        bridge.decide(A, &[0; 13], 5),
        Verdict::Drop(DropReason::Runt)
    );
    assert_eq!(
        bridge.decide(A, &frame(MAC_B, MAC_A, Some(1))[..15], 5),
        Verdict::Drop(DropReason::Runt)
    );
    assert_eq!(
        decide(A, MAC_B, MAC_B),
        Verdict::Drop(DropReason::SpoofedSource)
    );
    assert_eq!(
        decide(WIRE, MAC_B, MAC_A),
        Verdict::Drop(DropReason::SpoofedSource)
    );
    assert_eq!(
        decide(A, MAC_B, [0; 6]),
        Verdict::Drop(DropReason::BadSource)
    );
    assert_eq!(
        decide(A, MAC_B, [3, 0, 0, 0, 0, 1]),
        Verdict::Drop(DropReason::BadSource)
    );
    assert_eq!(decide(A, MAC_A, MAC_A), Verdict::Drop(DropReason::SamePort));
    for last in 0..=0x0f {
        let to = [0x01, 0x80, 0xc2, 0, 0, last];
        assert_eq!(decide(A, to, MAC_A), Verdict::Drop(DropReason::LinkLocal));
    }
    assert_eq!(decide(A, [0x01, 0x80, 0xc2, 0, 0, 0x10], MAC_A), GROUP);
}

/// The address of a host on the wire is not for a guest that sends from it, and a guest that moved here has its own at once.
#[test]
fn a_guest_hears_nothing_of_a_host_whose_address_it_sends_from() {
    let bridge = bridge();
    let decide = |port, to, from, now| bridge.decide(port, &frame(to, from, None), now);
    for second in 0..200 {
        if second % 30 == 0 {
            assert_eq!(decide(WIRE, BROADCAST, PEER, second), GROUP);
        }
        let spoofed = decide(B, BROADCAST, PEER, second);
        assert_eq!(spoofed, Verdict::Drop(DropReason::WireSource));
        assert_eq!(decide(A, PEER, MAC_A, second), Verdict::Unicast(WIRE));
    }
    // A guest is migrated to this machine: its address was the wire's until now.
    let here = PortId(9);
    bridge.add_port(here, PortKind::Guest(PEER));
    assert_eq!(decide(A, PEER, MAC_A, 200), Verdict::Unicast(here));
    assert_eq!(decide(here, MAC_A, PEER, 200), Verdict::Unicast(A));
}

#[test]
fn a_port_that_goes_is_forgotten_and_a_shared_mac_falls_back() {
    let bridge = bridge();
    let decide = |port, to, from| bridge.decide(port, &frame(to, from, None), 5);
    decide(WIRE, BROADCAST, PEER);
    let late = PortId(9);
    bridge.add_port(late, PortKind::Guest(MAC_A));
    assert_eq!(decide(B, MAC_A, MAC_B), Verdict::Unicast(late));
    bridge.remove_port(late);
    assert_eq!(decide(B, MAC_A, MAC_B), Verdict::Unicast(A));
    bridge.remove_port(WIRE);
    assert_eq!(decide(A, PEER, MAC_A), UNKNOWN);
    assert_eq!(bridge.stats().learnt, 0);
    bridge.remove_port(A);
    assert_eq!(decide(B, MAC_A, MAC_B), UNKNOWN);
    assert_eq!(&*bridge.ports(), [B]);
}

#[test]
fn one_guest_cannot_fill_the_table() {
    let bridge = bridge();
    let from = |n: u32| {
        let [a, b, c, d] = n.to_be_bytes();
        [6, 0, a, b, c, d]
    };
    for n in 0..10_000 {
        assert_eq!(bridge.decide(A, &frame(BROADCAST, from(n), None), 5), GROUP);
    }
    let full = BridgeStats {
        learnt: MAX_LEARNT as usize,
        not_learnt: 10_000 - u64::from(MAX_LEARNT),
    };
    assert_eq!(bridge.stats(), full);
    // What aged makes room again, also where it moved to another port.
    bridge.decide(WIRE, &frame(BROADCAST, from(0), None), 6);
    bridge.decide(A, &frame(BROADCAST, from(20_000), None), 6);
    assert_eq!(bridge.stats().learnt, MAX_LEARNT as usize + 1);
    bridge.sweep(6 + AGEING);
    assert_eq!(bridge.stats().learnt, 0);
    for n in 0..MAX_LEARNT + 1 {
        bridge.decide(A, &frame(BROADCAST, from(n), None), 1000);
    }
    assert_eq!(bridge.stats().learnt, MAX_LEARNT as usize);
}

/// Source addresses as a wire full of machines has them, or somebody who makes them up.
fn stranger(n: u32) -> Mac {
    let [a, b, c, d] = n.to_be_bytes();
    [6, 0x77, a, b, c, d]
}

/// A table that the wire has filled keeps no guest from being learnt, and turns no guest's unicast into a flood over the guests.
#[test]
fn a_table_full_of_the_wires_addresses_costs_guests_nothing() {
    let bridge = Arc::new(bridge());
    let mut view = BridgeView::new(bridge.clone());
    let to_everybody = |port, from| bridge.decide(port, &frame(BROADCAST, from, None), 5);
    to_everybody(A, [2, 0xa, 0, 0, 0, 1]);
    for n in 0..200_000 {
        assert_eq!(to_everybody(WIRE, stranger(n)), GROUP);
    }
    let stats = bridge.stats();
    assert_eq!(stats.learnt as u64 + stats.not_learnt, 200_001);
    assert!(stats.not_learnt > 160_000, "the table is not full");
    // What is bridged behind guests is learnt all the same, however often the wire goes on.
    for n in 0..MAX_LEARNT as u8 {
        to_everybody(B, [2, 0xb, 0, 0, 0, n]);
    }
    for n in 200_000..400_000 {
        to_everybody(WIRE, stranger(n));
    }
    let mut decide = |port, to, from| view.decide(port, &frame(to, from, None), 5);
    assert_eq!(decide(B, [2, 0xa, 0, 0, 0, 1], MAC_B), Verdict::Unicast(A));
    for n in 0..MAX_LEARNT as u8 {
        assert_eq!(decide(A, [2, 0xb, 0, 0, 0, n], MAC_A), Verdict::Unicast(B));
    }
    // A guest reaches whoever is on the wire, known or not, and no guest hears of it that stands for itself alone.
    let late = PortId(9);
    bridge.add_port(late, PortKind::Guest([2, 0, 0, 0, 0, 0xc]));
    let mut unknown = 0;
    for n in 0..200_000 {
        match view.decide(A, &frame(stranger(n), MAC_A, None), 5) {
            Verdict::Unicast(WIRE) => {}
            verdict => {
                assert_eq!(verdict, UNKNOWN);
                unknown += 1;
            }
        }
    }
    assert!(unknown > 160_000);
    assert_eq!(&**view.flood(Flood::Unknown), [WIRE, A, B]);
    assert_eq!(&**view.flood(Flood::Group), [WIRE, A, B, late]);
}

/// The list for unknown unicast follows what is learnt behind guests, and a port that changes what it is stays on it.
#[test]
fn unknown_unicast_goes_to_the_wire_and_to_guests_with_others_behind_them() {
    let bridge = Arc::new(bridge());
    let mut view = BridgeView::new(bridge.clone());
    let mut unknown = || view.flood(Flood::Unknown).to_vec();
    assert_eq!(unknown(), [WIRE]);
    bridge.decide(A, &frame(PEER, MAC_A, None), 5);
    assert_eq!(unknown(), [WIRE], "its own address is not learnt");
    bridge.decide(A, &frame(PEER, stranger(1), None), 5);
    assert_eq!(unknown(), [WIRE, A]);
    // The address moves; the sweep finds nobody behind A any more.
    bridge.decide(B, &frame(PEER, stranger(1), None), 6);
    assert_eq!(unknown(), [WIRE, A, B]);
    bridge.sweep(6);
    assert_eq!(unknown(), [WIRE, B]);
    bridge.add_port(B, PortKind::Guest([2, 0, 0, 0, 0, 0xd]));
    assert_eq!(unknown(), [WIRE, B], "its entries are still there");
    bridge.sweep(6 + AGEING);
    assert_eq!(unknown(), [WIRE]);
    bridge.decide(B, &frame(PEER, stranger(1), None), 6 + AGEING);
    assert_eq!(unknown(), [WIRE, B]);
    bridge.remove_port(B);
    assert_eq!(unknown(), [WIRE]);
}

#[test]
fn the_host_keeps_its_own_address_and_hears_what_the_wire_hears() {
    let bridge = bridge();
    let (host, mac) = (PortId(4), [2, 0, 0, 0, 0, 0xf]);
    bridge.add_port(host, PortKind::Host(mac));
    let mut view = BridgeView::new(Arc::new(bridge));
    let mut decide = |port, to, from| view.decide(port, &frame(to, from, None), 5);
    assert_eq!(decide(A, mac, MAC_A), Verdict::Unicast(host));
    assert_eq!(decide(WIRE, mac, PEER), Verdict::Unicast(host));
    assert_eq!(decide(host, PEER, mac), Verdict::Unicast(WIRE));
    for port in [A, WIRE] {
        let taken = decide(port, BROADCAST, mac);
        assert_eq!(taken, Verdict::Drop(DropReason::SpoofedSource));
    }
    // Addresses behind the host are learnt, as many as behind a guest, and the others reach it as unknown.
    for n in 0..2 * MAX_LEARNT {
        assert_eq!(decide(host, BROADCAST, stranger(n)), GROUP);
    }
    assert_eq!(decide(A, stranger(0), MAC_A), Verdict::Unicast(host));
    assert_eq!(decide(A, stranger(2 * MAX_LEARNT - 1), MAC_A), UNKNOWN);
    assert_eq!(&**view.flood(Flood::Unknown), [WIRE, host]);
}

/// What a bridge is, without bounds on its table.
#[derive(Default)]
struct Model {
    ports: Vec<(PortId, PortKind)>,
    fdb: HashMap<(Mac, u16), (PortId, u32)>,
    /// Ports behind which an address was learnt since a sweep last found none.
    listed: HashSet<PortId>,
}
impl Model {
    fn owner(&self, mac: Mac) -> Option<PortId> {
        self.ports
            .iter()
            .rev()
            .find(|(_, kind)| [PortKind::Guest(mac), PortKind::Host(mac)].contains(kind))
            .map(|(id, _)| *id)
    }
    fn is(&self, port: PortId, is: impl Fn(PortKind) -> bool) -> bool {
        let mut ports = self.ports.iter();
        ports.any(|&(id, kind)| id == port && is(kind))
    }
    /// A guest sends from an address that lives on the wire.
    fn on_the_wire(&self, ingress: PortId, from: Mac, vlan: u16, now: u32) -> bool {
        let entry = self.fdb.get(&(from, vlan));
        entry.is_some_and(|&(port, heard)| {
            now < heard + WIRE_FRESH
                && self.is(port, |kind| !matches!(kind, PortKind::Guest(_)))
                && self.is(ingress, |kind| matches!(kind, PortKind::Guest(_)))
        })
    }
    fn decide(&mut self, ingress: PortId, to: Mac, from: Mac, vlan: u16, now: u32) -> Verdict {
        if from[0] & 1 == 1 || from == [0; 6] {
            return Verdict::Drop(DropReason::BadSource);
        }
        match self.owner(from) {
            Some(owner) if owner != ingress => return Verdict::Drop(DropReason::SpoofedSource),
            Some(_) => {}
            None if self.ports.iter().all(|(id, _)| *id != ingress) => {
                return Verdict::Drop(DropReason::PortGone);
            }
            None if self.on_the_wire(ingress, from, vlan, now) => {
                return Verdict::Drop(DropReason::WireSource);
            }
            None => {
                self.fdb.insert((from, vlan), (ingress, now));
                self.listed.insert(ingress);
            }
        }
        if to[0] & 1 == 1 {
            return if to[..5] == [1, 0x80, 0xc2, 0, 0] && to[5] < 16 {
                Verdict::Drop(DropReason::LinkLocal)
            } else {
                GROUP
            };
        }
        let learnt = || {
            self.fdb
                .get(&(to, vlan))
                .filter(|(_, heard)| now < heard + AGEING)
                .map(|(port, _)| *port)
        };
        match self.owner(to).or_else(learnt) {
            Some(port) if port == ingress => Verdict::Drop(DropReason::SamePort),
            Some(port) => Verdict::Unicast(port),
            None => UNKNOWN,
        }
    }
    fn sweep(&mut self, now: u32) {
        self.fdb.retain(|_, (_, heard)| now < *heard + AGEING);
        self.listed
            .retain(|port| self.fdb.values().any(|(other, _)| other == port));
    }
    fn forget(&mut self, gone: PortId) {
        self.ports.retain(|(id, _)| *id != gone);
        self.fdb.retain(|_, (id, _)| *id != gone);
        self.listed.remove(&gone);
    }
    /// What a flood goes to.
    fn flood(&self, flood: Flood) -> Vec<PortId> {
        let takes = |(id, kind): &&(PortId, PortKind)| {
            flood == Flood::Group || !matches!(kind, PortKind::Guest(_)) || self.listed.contains(id)
        };
        self.ports.iter().filter(takes).map(|(id, _)| *id).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Frame {
        bridge: usize,
        ingress: u16,
        to: u8,
        from: u8,
        vlan: Option<u16>,
    },
    Attach {
        bridge: usize,
        port: u16,
        kind: PortKind,
    },
    Detach {
        bridge: usize,
        port: u16,
    },
    Later(u32),
    Sweep,
}

fn mac(n: u8) -> Mac {
    match n {
        0 => [0; 6],
        1 => BROADCAST,
        2 => [0x01, 0x80, 0xc2, 0, 0, 3],
        3 => [0x33, 0x33, 0, 0, 0, 1],
        n => [2, 0, 0, 0, 0, n],
    }
}

fn kind() -> impl Strategy<Value = PortKind> {
    prop_oneof![
        Just(PortKind::Uplink),
        (4..10u8).prop_map(|n| PortKind::Host(mac(n))),
        (4..10u8).prop_map(|n| PortKind::Guest(mac(n))),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let vlan = prop_oneof![Just(None), Just(Some(0)), (1..4u16).prop_map(Some)];
    prop_oneof![
        12 => (0..2usize, 1..6u16, 0..12u8, 0..12u8, vlan)
            .prop_map(|(bridge, ingress, to, from, vlan)| Step::Frame { bridge, ingress, to, from, vlan }),
        2 => (0..2usize, 1..6u16, kind()).prop_map(|(bridge, port, kind)| Step::Attach { bridge, port, kind }),
        1 => (0..2usize, 1..6u16).prop_map(|(bridge, port)| Step::Detach { bridge, port }),
        1 => prop_oneof![Just(1), Just(WIRE_FRESH), Just(100), Just(AGEING)].prop_map(Step::Later),
        1 => Just(Step::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Two bridges, each with its own model: the same verdict for every frame, so nothing of one is ever seen by the other.
    #[test]
    fn two_bridges_decide_as_their_models_do(steps in proptest::collection::vec(step(), 1..200)) {
        let bridges = [Bridge::new("a"), Bridge::new("b")].map(Arc::new);
        let mut views = bridges.clone().map(BridgeView::new);
        let mut models = [Model::default(), Model::default()];
        let mut now = 1000;
        for step in steps {
            match step {
                Step::Frame { bridge, ingress, to, from, vlan } => {
                    let header = frame(mac(to), mac(from), vlan);
                    let got = bridges[bridge].decide(PortId(ingress), &header, now);
                    let want = models[bridge].decide(PortId(ingress), mac(to), mac(from), vlan.unwrap_or(0).max(NATIVE), now);
                    prop_assert_eq!(got, want);
                }
                Step::Attach { bridge, port, kind } => {
                    bridges[bridge].add_port(PortId(port), kind);
                    models[bridge].ports.retain(|(id, _)| *id != PortId(port));
                    models[bridge].ports.push((PortId(port), kind));
                }
                Step::Detach { bridge, port } => {
                    bridges[bridge].remove_port(PortId(port));
                    models[bridge].forget(PortId(port));
                }
                Step::Later(seconds) => now += seconds,
                Step::Sweep => {
                    bridges.iter().for_each(|bridge| bridge.sweep(now));
                    models.iter_mut().for_each(|model| model.sweep(now));
                }
            }
            for ((bridge, view), model) in bridges.iter().zip(&mut views).zip(&models) {
                for flood in [Flood::Group, Flood::Unknown] {
                    prop_assert_eq!(&**view.flood(flood), &*model.flood(flood));
                }
                prop_assert_eq!(&*bridge.ports(), &*model.flood(Flood::Group));
            }
        }
    }
}

proptest! {
    /// Bursts of frames, decided once each and frame by frame, alternate at will: the same verdict for each.
    #[test]
    fn a_burst_is_decided_as_its_frames_are(
        bursts in proptest::collection::vec((1..4usize, 1..4u16, 0..8u8, 0..8u8, prop_oneof![Just(None), Just(Some(1)), Just(Some(2))]), 1..60),
    ) {
        let (one, other) = (Arc::new(bridge()), bridge());
        let (mut view, mut recent) = (BridgeView::new(one), Recent::<Verdict>::default());
        for (frames, ingress, to, from, vlan) in bursts {
            let address = |n: u8| [MAC_A, MAC_B, PEER].get(usize::from(n)).copied().unwrap_or_else(|| mac(n - 3));
            let header = frame(address(to), address(from), vlan);
            for _ in 0..frames {
                let got = recent.decide(&mut view, PortId(ingress), &header, 7);
                prop_assert_eq!(got, other.decide(PortId(ingress), &header, 7));
            }
        }
    }
}

/// Four workers learn, move and look up while the control thread attaches, detaches and sweeps: a guest's own address never leads
/// anywhere but to it, a learnt one never to a port that did not send it.
#[test]
fn workers_and_control_at_once_keep_addresses_apart() {
    let bridge = bridge();
    for port in 10..14 {
        bridge.add_port(PortId(port), PortKind::Uplink);
    }
    let wanderer = PortId(50);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4u16)
            .map(|worker| {
                let bridge = &bridge;
                scope.spawn(move || {
                    let port = PortId(10 + worker);
                    for round in 0..20_000u32 {
                        // Each worker's wire sends its own address, and one that all of them share.
                        let own = [2, 1, 0, 0, worker as u8, (round % 16) as u8];
                        bridge.decide(port, &frame(BROADCAST, own, None), round / 1000);
                        bridge.decide(port, &frame(BROADCAST, PEER, None), round / 1000);
                        assert_eq!(
                            bridge.decide(port, &frame(MAC_A, own, None), round / 1000),
                            Verdict::Unicast(A)
                        );
                        let other = [2, 1, 0, 0, (worker as u8 + 1) % 4, (round % 16) as u8];
                        let to_other = bridge.decide(port, &frame(other, own, None), round / 1000);
                        let other_port = PortId(10 + (worker + 1) % 4);
                        assert!(
                            [UNKNOWN, Verdict::Unicast(other_port)].contains(&to_other),
                            "{to_other:?}"
                        );
                        match bridge.decide(port, &frame(PEER, own, None), round / 1000) {
                            Verdict::Unicast(PortId(10..14))
                            | UNKNOWN
                            | Verdict::Drop(DropReason::SamePort) => {}
                            verdict => panic!("{verdict:?}"),
                        }
                    }
                })
            })
            .collect();
        // At least once, also where the machine lets the workers finish first.
        scope.spawn(|| {
            loop {
                bridge.add_port(wanderer, PortKind::Guest([2, 9, 9, 9, 9, 9]));
                bridge.sweep(0);
                bridge.remove_port(wanderer);
                if done.load(Relaxed) {
                    break;
                }
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Relaxed);
    });
    assert_eq!(
        &*bridge.ports(),
        [WIRE, A, B, PortId(10), PortId(11), PortId(12), PortId(13)]
    );
    for worker in 0..4u8 {
        for n in 0..16 {
            let to = [2, 1, 0, 0, worker, n];
            assert_eq!(
                bridge.decide(A, &frame(to, MAC_A, None), 20),
                Verdict::Unicast(PortId(10 + u16::from(worker)))
            );
        }
    }
}

#[test]
fn a_deaf_port_hears_no_floods_and_what_is_for_it_alone() {
    let bridge = Arc::new(bridge());
    let mut view = BridgeView::new(bridge.clone());
    let mut hear = |flood| {
        let mut receivers = Vec::new();
        view.receivers(flood, WIRE, tag::InVlan::default(), &mut receivers);
        let ports: Vec<PortId> = receivers.iter().map(|receiver| receiver.port).collect();
        ports
    };
    // Somebody is bridged behind A, so that unknown unicast goes there.
    bridge.decide(A, &frame(BROADCAST, [2, 0, 0, 0, 0, 0xac], None), 0);
    assert_eq!(
        (hear(Flood::Group), hear(Flood::Unknown)),
        (vec![A, B], vec![A])
    );
    for rules in [
        Rules::default(),
        Rules {
            isolated: true,
            ..Rules::default()
        },
    ] {
        bridge.add_port_with(A, PortKind::Guest(MAC_A), &rules);
        bridge.set_deaf(A, true);
        assert_eq!(
            (hear(Flood::Group), hear(Flood::Unknown)),
            (vec![B], vec![])
        );
        let verdict = bridge.decide(WIRE, &frame(MAC_A, PEER, None), 0);
        assert_eq!(verdict, Verdict::Unicast(A));
        assert_eq!(bridge.ports().len(), 3);
    }
    bridge.set_deaf(A, false);
    assert_eq!(hear(Flood::Group).len(), 2);
}
