//! Room for packets that are open: what was found to be free for them is not given to packets that come later.
use super::coalesce::{arrive, cut, gso_features, port, stream};
use super::rig::{Guest, Received, Rig, frame, mac};
use super::segments::{send_tcp, tcp};
use super::tcp::{Tcp, payload};
use crate::observe::counters::DropReason;
use crate::vif::features::Features;

/// Payload that takes eleven pages and a request for an extra once its segments are merged.
const MERGED: usize = 30 * 1448;

/// A guest for which at most `backlog` bytes wait, on `worker`.
fn guest(rig: &mut Rig, worker: usize, features: Features, backlog: u32) -> Guest {
    let mut guest = Guest::new(1, worker, features, &rig.grants);
    guest.backlog.bytes = backlog;
    rig.admit(&mut guest, false);
    rig.turns(1);
    guest
}

/// Sends the guest 9000 bytes of payload from port 12345, in one packet.
fn send_large(sender: &mut Guest) {
    send_tcp(sender, &tcp(mac(1), mac(2), 9000));
}

fn of_port(received: &[Received], number: u16) -> Vec<Vec<u8>> {
    let mut packets = cut(received);
    packets.retain(|packet| port(packet) == Some(number));
    packets
}

/// What another worker received comes before what guests of this worker send. With seventeen requests there is room for both.
#[test]
fn posted_pages_found_for_a_merged_packet_are_not_given_to_a_large_one() {
    for posted in [12, 13, 16, 17] {
        let mut rig = Rig::with(2, 4096, 1024);
        let mut guest = guest(&mut rig, 1, gso_features(), 30_000);
        let mut sender = rig.guest_on(2, 1, gso_features());
        guest.post(posted);
        let segments = stream(1, false).segments(&payload(MERGED), 1448);
        arrive(&mut rig, &segments);
        send_large(&mut sender);
        rig.turns(1);
        guest.post(20);
        rig.settle();
        let received = guest.receive();
        assert_eq!(guest.stats.rx_drops.total(), 0, "{posted} posted");
        assert_eq!(received.len(), 2);
        assert!(of_port(&received, 4000) == segments);
        assert_eq!(of_port(&received, 12345).len(), 7);
        assert_eq!(rig.frames_found(), rig.frames);
    }
}

#[test]
fn room_in_the_backlog_found_for_a_merged_packet_is_not_given_to_a_large_one() {
    let mut rig = Rig::with(2, 4096, 1024);
    let mut guest = guest(&mut rig, 1, gso_features(), 50_000);
    let mut sender = rig.guest_on(2, 1, gso_features());
    sender.send(&frame(mac(1), mac(2), 100, 1));
    rig.settle();
    let segments = stream(1, false).segments(&payload(MERGED), 1448);
    arrive(&mut rig, &segments);
    send_large(&mut sender);
    rig.settle();
    guest.post(60);
    rig.settle();
    let received = guest.receive();
    assert_eq!(received.len(), 2);
    assert!(of_port(&received, 4000) == segments);
    let drops = &guest.stats.rx_drops;
    let dropped = (drops.get(DropReason::BacklogFull), drops.total());
    assert_eq!(dropped, (1, 1), "the large packet, which came last");
    assert_eq!(rig.frames_found(), rig.frames);
}

/// A large packet that is cut for the guest goes by the backlog, and what is placed after it would too.
#[test]
fn a_merged_packet_is_placed_before_segments_of_a_large_one_wait() {
    let features = Features {
        gso_tcpv4: false,
        ..gso_features()
    };
    let mut rig = Rig::with(2, 4096, 1024);
    let mut guest = guest(&mut rig, 1, features, 30_000);
    let mut sender = rig.guest_on(2, 1, gso_features());
    guest.post(40);
    let segments = stream(1, true).segments(&payload(MERGED), 1448);
    arrive(&mut rig, &segments);
    send_large(&mut sender);
    rig.settle();
    let received = guest.receive();
    assert_eq!(guest.stats.rx_drops.total(), 0);
    assert!(of_port(&received, 4000) == segments);
    assert_eq!(of_port(&received, 12345).len(), 7);
    assert_eq!(rig.frames_found(), rig.frames);
}

/// A stream's packet that was closed leaves its place to one that is opened later, and places are closed in their order.
#[test]
fn posted_pages_found_for_a_merged_packet_are_not_given_to_one_opened_later() {
    let mut rig = Rig::new();
    let mut guest = guest(&mut rig, 0, gso_features(), 30_000);
    guest.post(14);
    let merged = stream(1, false).segments(&payload(MERGED), 1448);
    let other = Tcp {
        port: 5000,
        ..stream(1, false)
    };
    let mut others = other.segments(&payload(2 * 1448), 1448);
    // Nothing merges with an acknowledgement, which closes its stream's packet.
    others.insert(1, other.packet(&[]));
    arrive(&mut rig, &others[..1]);
    arrive(&mut rig, &merged[..1]);
    arrive(&mut rig, &others[1..2]);
    arrive(&mut rig, &merged[1..]);
    arrive(&mut rig, &others[2..]);
    rig.turns(1);
    guest.post(10);
    rig.settle();
    let received = guest.receive();
    assert_eq!(guest.stats.rx_drops.total(), 0);
    assert!(of_port(&received, 4000) == merged);
    assert!(of_port(&received, 5000) == others);
    assert_eq!(guest.stats.rx_coalesced_packets.get(), 1);
    assert_eq!(rig.frames_found(), rig.frames);
}
