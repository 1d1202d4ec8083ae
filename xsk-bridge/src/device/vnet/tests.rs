use super::*;
use crate::offload::checksum::{self, Verified, pseudo_header, verify};
use etherparse::PacketBuilder;
use proptest::prelude::*;

/// A TCP or UDP packet by etherparse, its checksum blanked where `blank`.
fn packet(ipv6: bool, udp: bool, tag: bool, payload: usize, blank: bool) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let payload = vec![7; payload];
    let mut out = Vec::new();
    macro_rules! transport {
        ($ip:expr) => {
            match udp {
                true => $ip.udp(4000, 53).write(&mut out, &payload).unwrap(),
                false => $ip.tcp(4000, 80, 1, 2).write(&mut out, &payload).unwrap(),
            }
        };
    }
    macro_rules! ip {
        ($link:expr) => {
            match ipv6 {
                true => transport!($link.ipv6([0xfd; 16], [0x20; 16], 64)),
                false => transport!($link.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)),
            }
        };
    }
    match tag {
        true => ip!(ethernet.single_vlan(7.try_into().unwrap())),
        false => ip!(ethernet),
    }
    if blank {
        let transport = Transport::parse(&out, out.len()).unwrap();
        let sum = pseudo_header(&transport, &out);
        let at = transport.checksum();
        out[at..at + 2].copy_from_slice(&sum);
    }
    out
}

fn offload(checksum: Checksum, gso: Option<Gso>) -> Offload {
    Offload { checksum, gso }
}

#[test]
fn a_header_has_the_bytes_that_linux_gives_it() {
    let packet = packet(false, false, false, 3000, true);
    let gso = Gso {
        segment: 1448,
        ipv6: false,
    };
    let header =
        VnetHeader::of(&packet, packet.len(), offload(Checksum::Blank, Some(gso))).unwrap();
    let expected = [
        &[1, 1][..],
        &54u16.to_ne_bytes(),
        &1448u16.to_ne_bytes(),
        &34u16.to_ne_bytes(),
        &16u16.to_ne_bytes(),
    ]
    .concat();
    assert_eq!(header.to_bytes().as_slice(), expected);
}

#[test]
fn cwr_is_said_to_the_kernel() {
    let mut packet = packet(true, false, false, 3000, true);
    packet[14 + 40 + 13] |= 0x80;
    let gso = Gso {
        segment: 1428,
        ipv6: true,
    };
    let asked = offload(Checksum::Blank, Some(gso));
    let header = VnetHeader::of(&packet, packet.len(), asked).unwrap();
    assert_eq!(header.gso_type, 0x84);
    assert_eq!(header.offload(&packet, packet.len()), Ok(asked));
}

#[test]
fn what_cannot_be_said_is_refused_either_way() {
    let udp = packet(false, true, false, 3000, true);
    let gso = Some(Gso {
        segment: 1448,
        ipv6: false,
    });
    let refused = VnetHeader::of(&udp, udp.len(), offload(Checksum::Blank, gso));
    assert_eq!(refused, Err(Refusal::NotTcp));
    let refused = VnetHeader::of(&udp[..20], 20, offload(Checksum::Blank, None));
    assert_eq!(refused, Err(HeaderError::Truncated.into()));
    for kind in [2, 3, 5, 0x7f] {
        let header = VnetHeader {
            gso_type: kind,
            ..VnetHeader::default()
        };
        let refused = header.offload(&udp, udp.len());
        assert_eq!(refused, Err(Unsupported::Segmentation(kind)));
    }
    for (start, offset) in [(34, 16), (33, 6), (0, 0), (u16::MAX, u16::MAX)] {
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            checksum_start: start,
            checksum_offset: offset,
            ..VnetHeader::default()
        };
        assert_eq!(header.offload(&udp, udp.len()), Err(Unsupported::Checksum));
    }
}

#[test]
fn a_checksum_is_completed_where_the_header_says() {
    // An inner packet behind 50 bytes of somebody's tunnel.
    let inner = packet(false, false, false, 100, true);
    let mut tunnelled = [vec![9; 50], inner].concat();
    let header = VnetHeader {
        flags: NEEDS_CSUM,
        checksum_start: 50 + 34,
        checksum_offset: 16,
        ..VnetHeader::default()
    };
    header.complete(&mut tunnelled).unwrap();
    let verified = verify(&tunnelled[50..], std::iter::empty());
    assert_eq!(verified, Ok(Verified::Right));
    let refused = header.complete(&mut tunnelled[..100]);
    assert_eq!(refused, Err(HeaderError::Truncated));
}

#[test]
fn a_sum_of_zero_is_written_as_ffff() {
    let mut packet = [0xff, 0xff, 0, 0];
    let header = VnetHeader {
        checksum_offset: 2,
        ..VnetHeader::default()
    };
    header.complete(&mut packet).unwrap();
    assert_eq!(packet, [0xff, 0xff, 0xff, 0xff]);
}

proptest! {
    /// What a header was made of is what it says, and completing by it is completing by the packet's own headers.
    #[test]
    fn what_a_header_says_is_what_it_was_made_of(
        ipv6: bool, udp: bool, tag: bool, payload in 1usize..4000, segment in 100u16..3000, state in 0usize..3, large: bool,
    ) {
        let checksum = [Checksum::Unverified, Checksum::Blank, Checksum::Valid][state];
        let gso = (large && !udp).then_some(Gso { segment, ipv6 });
        let checksum = if gso.is_some() { Checksum::Blank } else { checksum };
        let mut packet = packet(ipv6, udp, tag, payload, checksum == Checksum::Blank);
        let asked = offload(checksum, gso);
        let header = VnetHeader::of(&packet, packet.len(), asked).unwrap();
        prop_assert_eq!(VnetHeader::from_bytes(&header.to_bytes()), header);
        prop_assert_eq!(header.offload(&packet, packet.len()), Ok(asked));
        if checksum == Checksum::Blank {
            let mut other = packet.clone();
            header.complete(&mut packet).unwrap();
            checksum::complete(&mut other, std::iter::empty()).unwrap();
            prop_assert_eq!(packet, other);
        }
    }

    #[test]
    fn no_header_and_no_packet_panics(bytes: [u8; VnetHeader::LEN], mut packet in prop::collection::vec(any::<u8>(), 0..200)) {
        let header = VnetHeader::from_bytes(&bytes);
        prop_assert_eq!(header.to_bytes(), bytes);
        let _ = header.offload(&packet, packet.len());
        let _ = header.complete(&mut packet);
    }
}
