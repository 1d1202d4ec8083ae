//! The filter on frames as stacks make them, on those that pretend, and on bytes of any kind.
use super::*;
use etherparse::{
    Icmpv6Type, IpFragOffset, Ipv6FragmentHeader, NetSlice, PacketBuilder, SlicedPacket,
};
use proptest::prelude::*;

const OWN: Mac = [0x00, 0x16, 0x3e, 0, 0, 0xa];
const OTHER: Mac = [0x00, 0x16, 0x3e, 0, 0, 0xb];
const OWN4: [u8; 4] = [192, 0, 2, 7];
const OTHER4: [u8; 4] = [192, 0, 2, 9];
const ALL: Mac = [0xff; 6];

fn own6() -> [u8; 16] {
    "2001:db8::7".parse::<Ipv6Addr>().unwrap().octets()
}
fn other6() -> [u8; 16] {
    "2001:db8::9".parse::<Ipv6Addr>().unwrap().octets()
}
fn link_local() -> [u8; 16] {
    "fe80::216:3eff:fe00:a"
        .parse::<Ipv6Addr>()
        .unwrap()
        .octets()
}

fn filter(mac_lock: bool, addresses: &str) -> Filter {
    let addresses = (!addresses.is_empty()).then(|| addresses.parse().unwrap());
    Filter::new(OWN, mac_lock, addresses).unwrap()
}
fn judge(frame: &[u8]) -> Result<(), Broken> {
    filter(true, "192.0.2.7 10.1.0.0/16 2001:db8::7").judge(frame)
}

fn arp(source: Mac, sender_mac: Mac, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = [&ALL[..], &source, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    frame.extend([&sender_mac[..], &sender, &[0; 6], &target].concat());
    frame
}
fn udp4(source: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(OWN, ALL).ipv4(source, [255; 4], 64);
    let mut frame = Vec::new();
    builder
        .udp(ports[0], ports[1])
        .write(&mut frame, &[0; 8])
        .unwrap();
    frame
}
fn udp6(source: [u8; 16]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(OWN, ALL).ipv6(source, other6(), 64);
    builder.udp(1, 2).write(&mut frame, &[0; 8]).unwrap();
    frame
}
fn icmp6(source: [u8; 16], kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(OWN, ALL).ipv6(source, other6(), 255);
    let kind = Icmpv6Type::Unknown {
        type_u8: kind,
        code_u8: 0,
        bytes5to8: [0; 4],
    };
    builder.icmpv6(kind).write(&mut frame, body).unwrap();
    frame
}
/// A solicitation or an advertisement of `target`, with a link-layer address.
fn discovery(source: [u8; 16], kind: u8, target: [u8; 16], mac: Mac) -> Vec<u8> {
    let option = [&[if kind == 135 { 1 } else { 2 }, 1][..], &mac].concat();
    icmp6(source, kind, &[&target[..], &option].concat())
}
/// The same frame with an extension header of 8 bytes in front of what IPv6 carries.
fn extended(frame: &[u8], kind: u8, bytes: [u8; 7]) -> Vec<u8> {
    let mut extended = frame.to_vec();
    let next = std::mem::replace(&mut extended[20], kind);
    let length = u16::from_be_bytes([frame[18], frame[19]]) + 8;
    extended[18..20].copy_from_slice(&length.to_be_bytes());
    let header = std::iter::once(next).chain(bytes);
    extended.splice(54..54, header);
    extended
}
fn tagged(frame: &[u8], tags: usize) -> Vec<u8> {
    let tags = [0x81, 0, 0, 7].repeat(tags);
    [&frame[..12], &tags, &frame[12..]].concat()
}

/// The frame in the form of IEEE 802.3 with a SNAP header.
fn snap(frame: &[u8], organisation: [u8; 3]) -> Vec<u8> {
    let length = (frame.len() as u16 - 6).to_be_bytes();
    let llc = [0xaa, 0xaa, 3];
    [&frame[..12], &length, &llc, &organisation, &frame[12..]].concat()
}

/// Frames that say the same in another form are judged alike.
#[test]
fn no_form_of_a_frame_hides_what_it_says() {
    let good = [
        arp(OWN, OWN, OWN4, OTHER4),
        udp4(OWN4, [1, 2]),
        udp6(own6()),
    ];
    let bad = [
        (arp(OWN, OWN, OTHER4, OWN4), Broken::Arp),
        (udp4(OTHER4, [1, 2]), Broken::Ipv4),
        (udp6(other6()), Broken::Ipv6),
    ];
    let forms = |frame: &[u8]| {
        let mut provider = tagged(frame, 1);
        provider[12] = 0x91;
        let bare = [snap(frame, [0; 3]), snap(frame, [0, 0, 0xf8])];
        [
            bare[0].clone(),
            bare[1].clone(),
            tagged(&bare[0], 1),
            provider,
        ]
    };
    for frame in good {
        for form in forms(&frame) {
            assert_eq!(judge(&form), Ok(()));
        }
    }
    for (frame, broken) in bad {
        for form in forms(&frame) {
            assert_eq!(judge(&form), Err(broken));
        }
    }
    // Another organisation's numbers are no EtherTypes, and spanning tree has no SNAP header.
    let other = snap(&udp4(OTHER4, [1, 2]), [0, 0, 0x0c]);
    assert_eq!(judge(&other), Ok(()));
    let stp = [&ALL[..], &OWN, &[0, 38, 0x42, 0x42, 3, 0, 0, 0, 8, 0]].concat();
    assert_eq!(judge(&stp), Ok(()));
}

#[test]
fn a_locked_mac_is_the_only_source() {
    let lock = filter(true, "");
    assert_eq!(lock.judge(&arp(OWN, OTHER, OTHER4, OTHER4)), Ok(()));
    assert_eq!(
        lock.judge(&arp(OTHER, OTHER, OWN4, OTHER4)),
        Err(Broken::Mac)
    );
    // What is bridged behind a guest may have a MAC of its own, where only addresses are filtered.
    let addresses = filter(false, "192.0.2.7");
    assert_eq!(addresses.judge(&arp(OTHER, OTHER, OWN4, OTHER4)), Ok(()));
    assert!(Filter::new(OWN, false, None).is_none());
}

#[test]
fn arp_speaks_for_the_guest_alone() {
    assert_eq!(judge(&arp(OWN, OWN, OWN4, OTHER4)), Ok(()));
    assert_eq!(judge(&arp(OWN, OWN, [10, 1, 200, 3], OTHER4)), Ok(()));
    assert_eq!(judge(&arp(OWN, OWN, [0; 4], OWN4)), Ok(()), "a probe");
    let mut other_kind = arp(OWN, OWN, OWN4, OTHER4);
    other_kind[14] = 6;
    for pretending in [
        arp(OWN, OWN, OTHER4, OWN4),
        arp(OWN, OTHER, OWN4, OTHER4),
        arp(OWN, OWN, [0; 4], OTHER4),
        arp(OWN, OWN, OWN4, OTHER4)[..41].to_vec(),
        other_kind,
    ] {
        assert_eq!(judge(&pretending), Err(Broken::Arp));
        assert_eq!(judge(&tagged(&pretending, 2)), Err(Broken::Arp));
    }
}

#[test]
fn ipv4_comes_from_the_guests_addresses_or_asks_for_one() {
    assert_eq!(judge(&udp4(OWN4, [1, 2])), Ok(()));
    assert_eq!(judge(&udp4([0; 4], [68, 67])), Ok(()), "DHCP");
    let mut fragment = udp4([0; 4], [68, 67]);
    fragment[20] = 0x20;
    let mut odd = udp4(OWN4, [1, 2]);
    odd[14] = 0x44;
    for pretending in [
        udp4(OTHER4, [68, 67]),
        udp4([0; 4], [67, 68]),
        udp4([0; 4], [68, 53]),
        fragment,
        odd,
        udp4(OWN4, [1, 2])[..33].to_vec(),
    ] {
        assert_eq!(judge(&pretending), Err(Broken::Ipv4));
        assert_eq!(judge(&tagged(&pretending, 1)), Err(Broken::Ipv4));
    }
    assert_eq!(judge(&tagged(&udp4(OWN4, [1, 2]), 2)), Ok(()));
    assert_eq!(judge(&tagged(&udp4(OWN4, [1, 2]), 3)), Err(Broken::Tags));
}

#[test]
fn ipv6_comes_from_the_guests_addresses() {
    for own in [own6(), link_local()] {
        assert_eq!(judge(&udp6(own)), Ok(()));
    }
    let fe80 = "fe80::1".parse::<Ipv6Addr>().unwrap().octets();
    for pretending in [
        udp6(other6()),
        udp6(fe80),
        udp6([0; 16]),
        icmp6([0; 16], 128, &[]),
    ] {
        assert_eq!(judge(&pretending), Err(Broken::Ipv6));
    }
    for before_it_has_one in [icmp6([0; 16], 143, &[0; 4]), icmp6([0; 16], 133, &[])] {
        assert_eq!(judge(&before_it_has_one), Ok(()));
    }
    // A guest with IPv4 addresses alone has its link-local one.
    let only4 = filter(false, "192.0.2.7");
    assert_eq!(only4.judge(&udp6(link_local())), Ok(()));
    assert_eq!(only4.judge(&udp6(own6())), Err(Broken::Ipv6));
}

#[test]
fn neighbour_discovery_speaks_for_the_guest_alone() {
    let refused = Err(Broken::NeighborDiscovery);
    assert_eq!(judge(&discovery(own6(), 135, other6(), OWN)), Ok(()));
    assert_eq!(judge(&discovery(own6(), 136, own6(), OWN)), Ok(()));
    assert_eq!(judge(&discovery(own6(), 136, link_local(), OWN)), Ok(()));
    assert_eq!(judge(&icmp6([0; 16], 135, &own6())), Ok(()), "is it free?");
    assert_eq!(judge(&icmp6([0; 16], 135, &other6())), refused);
    assert_eq!(judge(&discovery(own6(), 136, other6(), OWN)), refused);
    assert_eq!(judge(&discovery(own6(), 136, own6(), OTHER)), refused);
    assert_eq!(judge(&discovery(own6(), 135, other6(), OTHER)), refused);
    let mut endless = discovery(own6(), 136, own6(), OWN);
    endless[79] = 0;
    assert_eq!(judge(&endless), refused);
    let whole = discovery(own6(), 136, own6(), OWN);
    let fragment = extended(&whole, FRAGMENT, [0, 0, 1, 0, 0, 0, 7]);
    assert_eq!(judge(&fragment), refused);
    // Padding behind the packet is nobody's option.
    assert_eq!(judge(&[&whole[..], &[0; 6]].concat()), Ok(()));
}

#[test]
fn no_guest_is_a_router() {
    for kind in [134, 137] {
        let advertisement = icmp6(link_local(), kind, &[0; 32]);
        let refused = Err(Broken::RouterAdvertisement);
        assert_eq!(judge(&advertisement), refused);
        assert_eq!(judge(&tagged(&advertisement, 1)), refused);
        // Nor one behind extension headers, which is the usual way around such a filter.
        let mut hidden = advertisement.clone();
        for _ in 0..MAX_EXTENSIONS {
            hidden = extended(&hidden, DESTINATION, [0; 7]);
            assert_eq!(judge(&hidden), refused);
        }
        assert_eq!(
            judge(&extended(&hidden, HOP_BY_HOP, [0; 7])),
            Err(Broken::Ipv6)
        );
        let first = extended(&advertisement, FRAGMENT, [0, 0, 1, 0, 0, 0, 7]);
        assert_eq!(judge(&first), refused);
        // The first fragment ends in an extension header.
        let cut = extended(
            &extended(&advertisement, DESTINATION, [200; 7]),
            FRAGMENT,
            [0, 0, 1, 0, 0, 0, 7],
        );
        assert_eq!(judge(&cut), Err(Broken::Ipv6));
    }
    let ping = icmp6(own6(), 128, &[0; 8]);
    let atomic = Ipv6FragmentHeader::new(58.into(), IpFragOffset::ZERO, false, 1);
    assert_eq!(judge(&ping), Ok(()));
    assert_eq!(
        judge(&extended(
            &ping,
            FRAGMENT,
            atomic.to_bytes()[1..].try_into().unwrap()
        )),
        Ok(())
    );
    assert_eq!(
        judge(&extended(&ping, FRAGMENT, [0, 0, 8, 0, 0, 0, 7])),
        Ok(()),
        "a later fragment"
    );
}

#[test]
fn a_list_of_addresses_says_what_xl_writes() {
    for (text, shown) in [
        ("192.0.2.7", "192.0.2.7"),
        (
            " 10.0.0.0/8\t2001:DB8::/32 192.0.2.7/32 ",
            "10.0.0.0/8 192.0.2.7 2001:db8::/32",
        ),
        ("192.0.2.7/24 ::/0 0.0.0.0/0", "192.0.2.0/24 0.0.0.0/0 ::/0"),
    ] {
        let addresses: Addresses = text.parse().unwrap();
        assert_eq!(addresses.to_string(), shown);
        assert_eq!(addresses.to_string().parse(), Ok(addresses));
    }
    let entry = |entry: &str| {
        format!(
            "{entry:?} is no address and no prefix, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::7"
        )
    };
    for (text, line) in [
        ("", "it lists no address".to_owned()),
        ("  ", "it lists no address".to_owned()),
        ("guest.example", entry("guest.example")),
        ("192.0.2.7,192.0.2.8", entry("192.0.2.7,192.0.2.8")),
        ("192.0.2.256", entry("192.0.2.256")),
        ("10.0.0.0/33", entry("10.0.0.0/33")),
        ("::/129", entry("::/129")),
        ("10.0.0.0/+8", entry("10.0.0.0/+8")),
        ("10.0.0.0/", entry("10.0.0.0/")),
        (
            &"192.0.2.7 ".repeat(65),
            "it lists more than 64 addresses: use prefixes, such as 192.0.2.0/24".to_owned(),
        ),
    ] {
        assert_eq!(text.parse::<Addresses>().unwrap_err().to_string(), line);
    }
}

proptest! {
    /// Bytes of any kind, which look like something as far as they may: no panic, and nothing passes whose source, as another parser
    /// finds it, is not the guest's.
    #[test]
    fn nothing_passes_in_anothers_name(
        mut frame in proptest::collection::vec(any::<u8>(), 0..256),
        kind in 0..4usize,
        tags in 0..4usize,
        next in prop_oneof![Just(58u8), Just(0), Just(44), Just(60), Just(17)],
    ) {
        let looks: &[u8] = [&[8, 6, 0, 1, 8, 0, 6, 4][..], &[8, 0, 0x45], &[0x86, 0xdd, 0x60], &[]][kind];
        if frame.len() > 12 + looks.len() {
            frame[6..12].copy_from_slice(&OWN);
            frame[12..12 + looks.len()].copy_from_slice(looks);
        }
        if kind == 2 && frame.len() > 38 {
            frame[20] = next;
            frame[22..38].copy_from_slice(&own6());
        }
        if frame.len() > 12 {
            frame = tagged(&frame, tags);
        }
        let verdict = judge(&frame);
        if verdict.is_ok()
            && let Ok(packet) = SlicedPacket::from_ethernet(&frame)
        {
            match packet.net {
                Some(NetSlice::Ipv4(ip)) => {
                    let source = ip.header().source();
                    prop_assert!(source == OWN4 || source[..2] == [10, 1] || source == [0; 4]);
                }
                Some(NetSlice::Ipv6(ip)) => {
                    let source = ip.header().source();
                    prop_assert!([own6(), link_local(), [0; 16]].contains(&source));
                }
                Some(NetSlice::Arp(arp)) => {
                    let sender = arp.sender_protocol_addr();
                    prop_assert!(sender == OWN4 || sender.starts_with(&[10, 1]) || sender == [0; 4]);
                }
                None => {}
            }
        }
    }

    #[test]
    fn any_text_is_a_list_or_one_line(text in "[0-9a-f.:/ ]{0,40}") {
        match text.parse::<Addresses>() {
            Ok(addresses) => prop_assert_eq!(addresses.to_string().parse(), Ok(addresses)),
            Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1),
        }
    }
}
