//! VLANs and isolation: by example, and for any ports and frames against what a port is in.
use super::*;
use crate::header::Mac;
use proptest::prelude::*;
use std::sync::Arc;

const WIRE: PortId = PortId(1);
const HOST: Mac = [2, 0, 0, 0, 0, 0xee];
const ALL: Mac = [0xff; 6];

fn mac(port: u16) -> Mac {
    [2, 0, 0, 0, 1, port as u8]
}
fn vlans(key: &str) -> Rules {
    Rules {
        vlans: Some(key.parse().unwrap()),
        isolated: false,
    }
}
/// A switch with a wire, and a guest on port 2, 3, ... for each of `rules`.
fn switch(rules: &[Rules]) -> BridgeView {
    let bridge = Bridge::new("xenbr0");
    bridge.add_port(WIRE, PortKind::Uplink);
    for (port, rules) in (2..).zip(rules) {
        bridge.add_port_with(PortId(port), PortKind::Guest(mac(port)), rules);
    }
    BridgeView::new(Arc::new(bridge))
}
fn frame(to: Mac, from: Mac, tags: &[u16]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    for vid in tags {
        frame.extend([0x81, 0, 0x60 | (vid >> 8) as u8, *vid as u8]);
    }
    frame.extend([8, 0, 1, 2, 3, 4]);
    frame
}
/// The tags of a frame once it was retagged.
fn tags(frame: &[u8], retag: Retag) -> Vec<u16> {
    let beginning = retag.beginning(frame).unwrap();
    let mut rest = &[beginning.bytes(), &frame[beginning.skip..]].concat()[12..];
    let mut tags = Vec::new();
    while let [0x81, 0, high, low, behind @ ..] = rest {
        tags.push(u16::from_be_bytes([*high, *low]) & 0xfff);
        rest = behind;
    }
    assert_eq!(rest, [8, 0, 1, 2, 3, 4]);
    tags
}
/// The ports that a frame goes to, each with the tags it has there.
fn goes(
    view: &mut BridgeView,
    ingress: u16,
    frame: &[u8],
) -> Result<Vec<(u16, Vec<u16>)>, DropReason> {
    assert!(view.has_rules());
    let ruling = view.decide_by_rules(PortId(ingress), frame, 5);
    let mut receivers = Vec::new();
    match ruling.verdict {
        Verdict::Unicast(port) => return Ok(vec![(port.0, tags(frame, ruling.retag))]),
        Verdict::Flood(flood) => {
            view.receivers(flood, PortId(ingress), ruling.vlan, &mut receivers);
        }
        Verdict::Drop(reason) => return Err(reason),
    }
    let retagged = |receiver: &Receiver| {
        let retag = ruling.vlan.retag(receiver.form);
        (receiver.port.0, tags(frame, retag))
    };
    Ok(receivers.iter().map(retagged).collect())
}

#[test]
fn a_vlan_is_heard_by_those_who_are_in_it() {
    // 2: access 10, 3: trunk, 4: native by key, 5: native because it says nothing, 6: access 10.
    let mut view = switch(&[
        vlans("10"),
        vlans("20p/10/30-31"),
        vlans("1p/20"),
        Rules::default(),
        vlans("10"),
    ]);
    let mut goes = |ingress, to, tags: &[u16]| {
        let from = if ingress == 1 { HOST } else { mac(ingress) };
        goes(&mut view, ingress, &frame(to, from, tags))
    };
    let ten = |others: &[(u16, Vec<u16>)]| Ok(others.to_vec());
    assert_eq!(
        goes(2, ALL, &[]),
        ten(&[(1, vec![10]), (3, vec![10]), (6, vec![])])
    );
    assert_eq!(
        goes(3, ALL, &[10]),
        ten(&[(1, vec![10]), (2, vec![]), (6, vec![])])
    );
    assert_eq!(goes(3, ALL, &[]), Ok(vec![(1, vec![20]), (4, vec![20])]));
    assert_eq!(goes(5, ALL, &[]), Ok(vec![(1, vec![]), (4, vec![])]));
    assert_eq!(goes(1, ALL, &[]), Ok(vec![(4, vec![]), (5, vec![])]));
    assert_eq!(goes(1, ALL, &[1]), Ok(vec![(4, vec![]), (5, vec![])]));
    assert_eq!(goes(1, ALL, &[31]), Ok(vec![(3, vec![31])]));
    assert_eq!(goes(1, ALL, &[99]), Ok(vec![]));
    // Unicast, to a guest and to the wire.
    assert_eq!(goes(2, mac(3), &[]), Ok(vec![(3, vec![10])]));
    assert_eq!(goes(3, mac(2), &[10]), Ok(vec![(2, vec![])]));
    goes(1, ALL, &[10]).unwrap();
    assert_eq!(goes(2, HOST, &[]), Ok(vec![(1, vec![10])]));
    // To a guest of another VLAN: nobody there has the address.
    assert_eq!(goes(2, mac(5), &[]), Ok(vec![(1, vec![10])]));
    // A priority tag says no VLAN.
    assert_eq!(goes(2, mac(6), &[0]), Ok(vec![(6, vec![])]));
    assert_eq!(goes(2, mac(3), &[0]), Ok(vec![(3, vec![10])]));
}

#[test]
fn no_tag_leads_a_guest_into_anothers_vlan() {
    let mut view = switch(&[vlans("10"), vlans("20p/10"), Rules::default()]);
    for (ingress, tags) in [
        (2, &[10][..]),
        (2, &[20]),
        (3, &[20]),
        (3, &[30]),
        (4, &[10]),
        (4, &[1]),
        // The outer tag comes out on the way, and the inner one remains.
        (2, &[0, 20]),
        (3, &[10, 20]),
        (4, &[0, 10]),
    ] {
        let dropped = goes(&mut view, ingress, &frame(ALL, mac(ingress), tags));
        assert_eq!(dropped, Err(DropReason::Vlan), "{ingress} {tags:?}");
    }
    // What the wire nests is the wire's.
    let nested = goes(&mut view, 1, &frame(ALL, HOST, &[10, 5]));
    assert_eq!(nested, Ok(vec![(2, vec![5]), (3, vec![10, 5])]));
}

#[test]
fn one_mac_may_be_in_several_vlans() {
    let bridge = Bridge::new("xenbr0");
    bridge.add_port(WIRE, PortKind::Uplink);
    for (port, key) in [(2, "10"), (3, "20"), (4, "20")] {
        bridge.add_port_with(PortId(port), PortKind::Guest(mac(9)), &vlans(key));
    }
    let mut view = BridgeView::new(Arc::new(bridge));
    for (vid, port) in [(10, 2), (20, 4)] {
        let to = goes(&mut view, 1, &frame(mac(9), HOST, &[vid]));
        assert_eq!(to, Ok(vec![(port, vec![])]));
    }
    // Of two in one VLAN the later one has it.
    let from = frame(ALL, mac(9), &[]);
    assert_eq!(goes(&mut view, 3, &from), Err(DropReason::SpoofedSource));
    assert!(goes(&mut view, 2, &from).is_ok());
}

/// Two bridges on one NIC, one of them on a VLAN, whose host ports have the NIC's MAC both.
#[test]
fn a_host_port_of_a_vlan_has_that_vlan_to_itself() {
    for first in [2, 3] {
        let bridge = Bridge::new("eth0");
        bridge.add_port(WIRE, PortKind::Uplink);
        for port in [first, 5 - first] {
            let rules = if port == 3 {
                vlans("10")
            } else {
                Rules::default()
            };
            bridge.add_port_with(PortId(port), PortKind::Host(mac(9)), &rules);
        }
        let mut view = BridgeView::new(Arc::new(bridge));
        for (tag, port, left) in [
            (&[10][..], 3, vec![]),
            (&[20], 2, vec![20]),
            (&[], 2, vec![]),
        ] {
            let to = goes(&mut view, 1, &frame(mac(9), HOST, tag));
            assert_eq!(to, Ok(vec![(port, left)]), "{first} came first, {tag:?}");
        }
        for port in [2, 3] {
            assert!(goes(&mut view, port, &frame(HOST, mac(9), &[])).is_ok());
        }
    }
}

#[test]
fn isolated_guests_reach_the_wire_alone() {
    let isolated = Rules {
        isolated: true,
        vlans: None,
    };
    let mut view = switch(&[
        isolated.clone(),
        isolated,
        Rules::default(),
        Rules::default(),
    ]);
    let mut goes = |ingress, to, tags: &[u16]| {
        let from = if ingress == 1 { HOST } else { mac(ingress) };
        goes(&mut view, ingress, &frame(to, from, tags))
    };
    let to =
        |ports: &[u16], tags: &[u16]| Ok(ports.iter().map(|&port| (port, tags.to_vec())).collect());
    // No VLANs: tags are payload, as ever.
    for tags in [&[][..], &[7], &[7, 8]] {
        assert_eq!(goes(2, ALL, tags), to(&[1], tags));
        assert_eq!(goes(4, ALL, tags), to(&[1, 5], tags));
        assert_eq!(goes(1, ALL, tags), to(&[2, 3, 4, 5], tags));
        assert_eq!(goes(1, mac(2), tags), to(&[2], tags));
        assert_eq!(goes(2, HOST, tags), to(&[1], tags));
        assert_eq!(goes(2, mac(3), tags), Err(DropReason::Isolated));
        assert_eq!(goes(2, mac(4), tags), Err(DropReason::Isolated));
        assert_eq!(goes(4, mac(2), tags), Err(DropReason::Isolated));
        assert_eq!(goes(4, mac(5), tags), to(&[5], tags));
    }
}

#[test]
fn a_switch_tells_vlans_apart_when_asked_to_or_a_port_is_in_one() {
    let bridge = Arc::new(Bridge::new("xenbr0"));
    bridge.add_port(WIRE, PortKind::Uplink);
    bridge.add_port(PortId(2), PortKind::Guest(mac(2)));
    let mut view = BridgeView::new(bridge.clone());
    let tagged = frame(ALL, mac(2), &[10]);
    assert!(!view.has_rules());
    assert_eq!(
        view.decide(PortId(2), &tagged, 5),
        Verdict::Flood(Flood::Group)
    );
    bridge.add_port_with(PortId(3), PortKind::Guest(mac(3)), &vlans("10"));
    assert_eq!(
        view.decide(PortId(2), &tagged, 5),
        Verdict::Drop(DropReason::Vlan)
    );
    bridge.remove_port(PortId(3));
    assert!(!view.has_rules());
    bridge.tell_vlans_apart();
    assert_eq!(goes(&mut view, 2, &tagged), Err(DropReason::Vlan));
}

/// What a guest's port is in: VLANs without a tag, the first one that of frames without any, and VLANs with one.
#[derive(Debug, Clone)]
struct In {
    untagged: Vec<u16>,
    tagged: Vec<u16>,
    isolated: bool,
}

fn port() -> impl Strategy<Value = In> {
    (
        1..6u16,
        proptest::collection::btree_set(1..6u16, 0..4),
        0..3usize,
        any::<bool>(),
    )
        .prop_map(|(pvid, mut others, more, isolated)| {
            others.remove(&pvid);
            let others: Vec<u16> = others.into_iter().collect();
            let more = more.min(others.len());
            let untagged = [&[pvid], &others[..more]].concat();
            let tagged = others[more..].to_vec();
            In {
                untagged,
                tagged,
                isolated,
            }
        })
}

impl In {
    fn rules(&self) -> Rules {
        let untagged = self.untagged[1..].iter().map(|vid| format!("/{vid}u"));
        let tagged = self.tagged.iter().map(|vid| format!("/{vid}"));
        let key = format!("{}p", self.untagged[0]) + &untagged.chain(tagged).collect::<String>();
        Rules {
            isolated: self.isolated,
            ..vlans(&key)
        }
    }
    /// The tags of a frame of VLAN `vid` on the port.
    fn tags(&self, vid: u16) -> Option<Vec<u16>> {
        match (self.untagged.contains(&vid), self.tagged.contains(&vid)) {
            (true, _) => Some(vec![]),
            (_, true) => Some(vec![vid]),
            _ => None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// Whatever ports are in and whatever was learnt before: a frame of a guest is in one VLAN, which its tag names or its port, and goes
    /// out by ports of that VLAN only, as each of them has it.
    #[test]
    fn a_frame_never_leaves_its_vlan(
        ports in proptest::collection::vec(port(), 2..5),
        frames in proptest::collection::vec((1..6u16, 1..8u16, any::<bool>(), proptest::collection::vec(0..7u16, 0..3)), 1..40),
    ) {
        let rules: Vec<Rules> = ports.iter().map(In::rules).collect();
        let mut view = switch(&rules);
        for (ingress, to, behind, header) in frames {
            let ingress = 1 + ingress % (ports.len() as u16 + 1);
            let guest = |port: u16| ports.get(usize::from(port).wrapping_sub(2));
            // Others are bridged behind guests, and the wire has any number of hosts.
            let from = if behind || ingress == 1 { [2, 0, 0, 0, 2, ingress as u8] } else { mac(ingress) };
            let to = if to == 7 { ALL } else { mac(to) };
            let got = goes(&mut view, ingress, &frame(to, from, &header));
            let first = header.first().copied().filter(|vid| *vid != 0);
            let vid = match (guest(ingress), first) {
                (None, vid) => vid.unwrap_or(1),
                (Some(port), None) => port.untagged[0],
                (Some(_), Some(vid)) => vid,
            };
            if let Some(port) = guest(ingress) {
                let allowed = first.is_none_or(|vid| port.tagged.contains(&vid)) && header.len() < 2;
                prop_assert_eq!(got == Err(DropReason::Vlan), !allowed);
            }
            for (port, tags) in got.into_iter().flatten() {
                prop_assert!(port != ingress);
                let expected = match guest(port) {
                    Some(receiver) => {
                        let apart = guest(ingress).is_some_and(|from| from.isolated || receiver.isolated);
                        prop_assert!(!apart);
                        receiver.tags(vid)
                    }
                    None if vid == 1 => Some(vec![]),
                    None => Some(vec![vid]),
                };
                let inner = header.get(1..).unwrap_or_default();
                prop_assert_eq!(expected.map(|tags| [&tags, inner].concat()), Some(tags));
            }
        }
    }
}

proptest! {
    /// Bursts of frames with any tags, of which some are cut off behind the addresses or in a tag, come from any port: each frame is ruled
    /// on as if it came alone.
    #[test]
    fn a_burst_is_ruled_on_as_its_frames_are(
        ports in proptest::collection::vec(port(), 2..4),
        vlans in any::<bool>(),
        frames in proptest::collection::vec((1..4u16, 1..5u16, 1..5u16, proptest::collection::vec(0..4u16, 0..3), 14..30usize, any::<bool>()), 1..60),
    ) {
        let isolated = |port: &In| Rules { vlans: None, isolated: port.isolated };
        let rules = |port: &In| if vlans { port.rules() } else { isolated(port) };
        let rules: Vec<Rules> = ports.iter().map(rules).collect();
        let (mut one, mut other) = (switch(&rules), switch(&rules));
        let mut recent = Recent::<Ruling>::default();
        for (ingress, to, from, tags, len, service) in frames {
            let ingress = 1 + ingress % (ports.len() as u16 + 1);
            let mut header = frame(mac(to), mac(from), &tags);
            if service {
                header[12..14].copy_from_slice(&[0x88, 0xa8]);
            }
            header.truncate(len);
            for _ in 0..2 {
                let got = recent.decide(&mut one, PortId(ingress), &header, 7);
                prop_assert_eq!(got, other.decide_by_rules(PortId(ingress), &header, 7));
            }
        }
    }
}
