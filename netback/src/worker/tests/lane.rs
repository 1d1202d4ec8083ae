//! Large packets for a device that segments them itself: whole, in order with the frames beside them, and cut where it does not.
use super::rig::{Guest, OUTSIDE, Rig, frame};
use super::segments::{HEADERS, SEGMENT, check_segments, gso_features, send_tcp, tcp};
use crate::bounds::{HOLD, LANE_RETRY, OUTBOX};
use crate::crash::{LANE_POINT, in_tests};
use crate::observe::counters::DropReason;
use crate::path::lane::{Lane, LaneTerms};
use crate::worker::messages::ToWorker;
use ring::wire::NETIF_RSP_OKAY;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use xsk_bridge::device::packet_socket::{LargeSender, Refused};
use xsk_bridge::device::vnet::VnetHeader;
use xsk_bridge::device::{Capabilities, Device, Held, Received, Rest, Sent};
use xsk_bridge::frame::FramePool;
use xsk_bridge::nic::Segmentation;
use xsk_bridge::packet::Packet;

const TERMS: LaneTerms = LaneTerms {
    segmentation: Segmentation {
        ipv4: true,
        ipv6: true,
        ecn: true,
        max_size: 65_536,
        max_segments: 65_535,
    },
    core: None,
};

/// What the device sent, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum OnWire {
    Frame(Vec<u8>),
    Large(VnetHeader, Vec<u8>),
}

/// A device with both of its doors.
#[derive(Default)]
struct Nic {
    sent: Vec<OnWire>,
    /// Frames that the kernel has not taken yet.
    ring: VecDeque<Vec<u8>>,
    /// The kernel does not take frames out of the send ring.
    stuck: bool,
    /// What becomes of large packets, instead of being sent.
    refusal: Option<Refused>,
}

#[derive(Clone, Default)]
struct Doors(Arc<Mutex<Nic>>);

impl Doors {
    fn set(&self, change: impl FnOnce(&mut Nic)) {
        change(&mut self.0.lock().unwrap());
    }

    fn take(&self) -> Vec<OnWire> {
        std::mem::take(&mut self.0.lock().unwrap().sent)
    }
}

impl LargeSender for Doors {
    fn send(&mut self, header: VnetHeader, slices: &[IoSlice<'_>]) -> Result<(), Refused> {
        let mut nic = self.0.lock().unwrap();
        assert!(nic.ring.is_empty(), "a large packet overtakes frames");
        if let Some(refusal) = nic.refusal {
            return Err(refusal);
        }
        let bytes = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        nic.sent.push(OnWire::Large(header, bytes));
        Ok(())
    }
}

struct Frames(Doors);

impl Device for Frames {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_frame: 1518,
            blank_checksum: false,
            gso: false,
        }
    }
    fn set_mtu(&mut self, _mtu: u32) {}
    fn recv(&mut self, _pool: &mut FramePool, _out: &mut Vec<Packet>, _max: usize) -> Received {
        Received::default()
    }
    fn room(&mut self, _pool: &mut FramePool) -> usize {
        64 - self.0.0.lock().unwrap().ring.len()
    }
    fn send(&mut self, packets: &mut VecDeque<Packet>, pool: &mut FramePool) -> Sent {
        let mut nic = self.0.0.lock().unwrap();
        while nic.ring.len() < 64
            && let Some(packet) = packets.pop_front()
        {
            nic.ring.push_back(packet.head(pool.umem()).to_vec());
            pool.recycle(packet);
        }
        if !nic.stuck {
            let taken = std::mem::take(&mut nic.ring);
            nic.sent.extend(taken.into_iter().map(OnWire::Frame));
        }
        let rest = match nic.ring.is_empty() {
            true => Rest::Nothing,
            false => Rest::InRing,
        };
        Sent {
            rest,
            ..Sent::default()
        }
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn pending(&mut self) -> bool {
        false
    }
    fn held(&self) -> Held {
        Held::default()
    }
}

/// A rig of so many workers whose uplink is such a device.
fn rig(workers: u8) -> (Rig, Doors) {
    let mut rig = Rig::with(workers, 4096, 1024);
    rig.turns(1);
    let doors = Doors::default();
    let uplink = rig.workers[0].fabric.uplinks[0].as_mut().unwrap();
    uplink.device = Box::new(Frames(doors.clone()));
    uplink.lane = Some(Lane::new(Box::new(doors.clone())));
    uplink.capabilities = uplink.device.capabilities();
    open(&mut rig, Some(TERMS));
    (rig, doors)
}

fn open(rig: &mut Rig, terms: Option<LaneTerms>) {
    rig.tell(0, ToWorker::SetLane(1, 0, terms));
    rig.turns(1);
}

fn large(guest: &Guest, payload: usize) -> Vec<u8> {
    tcp(OUTSIDE, guest.mac(), payload)
}

fn small(guest: &Guest, seed: u32) -> Vec<u8> {
    frame(OUTSIDE, guest.mac(), 100, seed)
}

/// The large packets among what was sent, and the segments, in order.
fn large_ones(sent: &[OnWire]) -> Vec<Vec<u8>> {
    let large = sent.iter().filter_map(|packet| match packet {
        OnWire::Large(_, bytes) => Some(bytes.clone()),
        OnWire::Frame(_) => None,
    });
    large.collect()
}

fn frames(sent: Vec<OnWire>) -> Vec<Vec<u8>> {
    let frames = sent.into_iter().map(|packet| match packet {
        OnWire::Frame(bytes) => bytes,
        OnWire::Large(header, _) => panic!("not cut: {header:?}"),
    });
    frames.collect()
}

#[test]
fn a_large_packet_goes_whole_to_a_device_that_segments_it() {
    let (mut rig, nic) = rig(1);
    let mut guest = rig.guest(1);
    let bytes = large(&guest, 65_160 - HEADERS);
    rig.grants.take_calls();
    send_tcp(&mut guest, &bytes);
    rig.settle();
    let sent = nic.take();
    let [OnWire::Large(header, whole)] = &sent[..] else {
        panic!("{} packets", sent.len())
    };
    assert!(*whole == bytes);
    let expected = VnetHeader {
        flags: 1,
        gso_type: 1,
        header_len: HEADERS as u16,
        gso_size: SEGMENT,
        checksum_start: 34,
        checksum_offset: 16,
    };
    assert_eq!(*header, expected);
    let operations: usize = rig
        .grants
        .take_calls()
        .iter()
        .map(|call| call.segments)
        .sum();
    assert!(operations <= 20, "{operations}");
    let stats = &rig.uplink;
    assert_eq!(
        (stats.lane_packets.get(), stats.lane_bytes.get()),
        (1, 65_160)
    );
    assert_eq!((stats.send_packets.get(), stats.cut_packets.get()), (1, 0));
    assert_eq!(guest.take_statuses(), [NETIF_RSP_OKAY; 17]);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn what_the_device_does_not_segment_is_cut() {
    type Change = fn(&mut LaneTerms);
    let changes: [(Change, usize); 6] = [
        (|terms| terms.segmentation.ipv4 = false, 20_000),
        (|terms| terms.segmentation.max_size = 20_000, 20_000),
        (|terms| terms.segmentation.max_segments = 13, 20_000),
        // No worker of a test runs there.
        (|terms| terms.core = Some(100_000), 20_000),
        (|_| {}, 3 * usize::from(SEGMENT)),
        (|_| {}, 2000),
    ];
    for (change, payload) in changes {
        let (mut rig, nic) = rig(1);
        let mut guest = rig.guest(1);
        let mut terms = TERMS;
        change(&mut terms);
        open(&mut rig, Some(terms));
        let bytes = large(&guest, payload);
        send_tcp(&mut guest, &bytes);
        rig.settle();
        check_segments(&frames(nic.take()), &bytes);
        assert_eq!(rig.uplink.lane_packets.get(), 0);
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

#[test]
fn cwr_is_for_devices_that_know_it() {
    for ecn in [false, true] {
        let (mut rig, nic) = rig(1);
        let mut guest = rig.guest(1);
        let mut terms = TERMS;
        terms.segmentation.ecn = ecn;
        open(&mut rig, Some(terms));
        let mut bytes = large(&guest, 20_000);
        bytes[34 + 13] |= 0x80;
        send_tcp(&mut guest, &bytes);
        rig.settle();
        assert_eq!(large_ones(&nic.take()).len(), usize::from(ecn));
    }
}

#[test]
fn frames_and_large_packets_keep_their_order_whatever_the_kernel_has_room_for() {
    // A machine that stalls for longer than a packet is kept has it cut, which is another test's subject.
    let kept = (0..50).any(|_| keep_their_order());
    assert!(kept, "something was cut each time");
}

/// Sends frames and large packets to a kernel that has room now and then; false where a large packet had to be cut.
fn keep_their_order() -> bool {
    let (mut rig, nic) = rig(1);
    let mut guest = rig.guest(1);
    let mut expected = Vec::new();
    for round in 0..40u32 {
        match round % 4 {
            0 => nic.set(|nic| nic.refusal = Some(Refused::Full)),
            1 => nic.set(|nic| nic.stuck = true),
            _ => nic.set(|nic| (nic.stuck, nic.refusal) = (false, None)),
        }
        let first = small(&guest, 3 * round);
        let bytes = large(&guest, 9000 + round as usize);
        let last = small(&guest, 3 * round + 1);
        guest.send(&first);
        send_tcp(&mut guest, &bytes);
        guest.send(&last);
        expected.extend([first, bytes, last]);
        rig.turns(2);
        sleep(LANE_RETRY);
        guest.read_answers();
    }
    nic.set(|nic| (nic.stuck, nic.refusal) = (false, None));
    for _ in 0..100 {
        rig.turns(1);
        sleep(LANE_RETRY);
    }
    let sent = nic.take().into_iter().map(|packet| match packet {
        OnWire::Frame(bytes) | OnWire::Large(_, bytes) => bytes,
    });
    let sent: Vec<_> = sent.collect();
    if rig.uplink.cut_packets.get() > 0 {
        return false;
    }
    assert_eq!(sent.len(), expected.len());
    assert!(sent == expected);
    assert!(rig.uplink.lane_refusals.get() > 0);
    assert_eq!(rig.frames_found(), rig.frames);
    true
}

#[test]
fn a_lane_that_closes_has_what_it_kept_cut_in_order() {
    let (mut rig, nic) = rig(1);
    let mut guest = rig.guest(1);
    nic.set(|nic| nic.refusal = Some(Refused::Full));
    let (bytes, behind) = (large(&guest, 30_000), small(&guest, 7));
    send_tcp(&mut guest, &bytes);
    guest.send(&behind);
    rig.settle();
    assert!(nic.take().is_empty());
    open(&mut rig, None);
    rig.settle();
    let mut sent = frames(nic.take());
    assert!(sent.pop() == Some(behind));
    check_segments(&sent, &bytes);
    send_tcp(&mut guest, &bytes);
    rig.settle();
    check_segments(&frames(nic.take()), &bytes);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn a_packet_that_the_lane_does_not_take_for_long_is_cut() {
    let (mut rig, nic) = rig(1);
    let mut guest = rig.guest(1);
    nic.set(|nic| nic.refusal = Some(Refused::Full));
    let bytes = large(&guest, 30_000);
    send_tcp(&mut guest, &bytes);
    rig.settle();
    assert!(nic.take().is_empty());
    sleep(HOLD);
    rig.turns(2);
    check_segments(&frames(nic.take()), &bytes);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn what_the_kernel_does_not_take_at_all_is_cut_and_a_dead_link_takes_nothing() {
    let (mut rig, nic) = rig(1);
    let mut guest = rig.guest(1);
    let bytes = large(&guest, 30_000);
    nic.set(|nic| nic.refusal = Some(Refused::Unfit));
    send_tcp(&mut guest, &bytes);
    rig.settle();
    check_segments(&frames(nic.take()), &bytes);
    nic.set(|nic| nic.refusal = Some(Refused::LinkDown));
    send_tcp(&mut guest, &bytes);
    rig.settle();
    assert!(nic.take().is_empty());
    assert_eq!(rig.uplink.send_drops.get(DropReason::LinkDown), 1);
    nic.set(|nic| nic.refusal = None);
    send_tcp(&mut guest, &bytes);
    rig.settle();
    assert!(large_ones(&nic.take()) == [bytes]);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn what_a_full_lane_keeps_is_bounded_and_its_senders_wait() {
    let (mut rig, nic) = rig(1);
    let mut guest = rig.guest(1);
    nic.set(|nic| nic.refusal = Some(Refused::Full));
    let bytes = large(&guest, 65_000);
    for _ in 0..14 {
        send_tcp(&mut guest, &bytes);
    }
    let most = |rig: &Rig| {
        let uplink = rig.workers[0].fabric.uplinks[0].as_ref();
        assert!(uplink.unwrap().frames() <= 64 + OUTBOX);
    };
    for _ in 0..20 {
        rig.turns(1);
        most(&rig);
    }
    assert!(guest.unanswered() > 0, "the rest waits in the guest's ring");
    nic.set(|nic| nic.refusal = None);
    for _ in 0..20 {
        sleep(LANE_RETRY);
        rig.turns(1);
        guest.read_answers();
    }
    assert_eq!(large_ones(&nic.take()).len(), 14);
    assert_eq!(rig.uplink.send_drops.total(), 0);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn another_workers_large_packets_take_the_lane_too() {
    let (mut rig, nic) = rig(2);
    let mut guest = rig.guest_on(1, 1, gso_features());
    let bytes = large(&guest, 60_000);
    send_tcp(&mut guest, &bytes);
    rig.settle();
    assert!(large_ones(&nic.take()) == [bytes]);
    assert_eq!(rig.frames_found(), rig.frames);
}

#[test]
fn what_died_behind_the_lane_is_sent_again_and_answered_once() {
    let (mut rig, nic) = rig(1);
    let mut guest = rig.guest(1);
    let bytes = large(&guest, 30_000);
    send_tcp(&mut guest, &bytes);
    in_tests::at(Some((LANE_POINT, 1)));
    let died = catch_unwind(AssertUnwindSafe(|| rig.turns(1))).is_err();
    assert!(died && large_ones(&nic.take()) == std::slice::from_ref(&bytes));
    assert!(guest.take_statuses().is_empty());
    // The successor's device segments nothing.
    let mut rig = rig.successor();
    rig.admit(&mut guest, true);
    rig.settle();
    check_segments(&rig.sent_to_wire(), &bytes);
    assert_eq!(guest.take_statuses(), [NETIF_RSP_OKAY; 9]);
    assert_eq!(rig.frames_found(), rig.frames);
}
