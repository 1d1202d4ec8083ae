//! The Internet checksum of TCP and UDP over packets in one piece or several: complete a blank one, verify one.
use super::sum::Sum;
use crate::frame::Umem;
use crate::header::{HeaderError, IpVersion, Protocol, Transport};
use crate::packet::{Checksum, Packet};

/// Completes a blank checksum: the field holds the folded sum of the pseudo-header, as a Linux sender leaves it
/// (`CHECKSUM_PARTIAL`, include/linux/skbuff.h), and the sum over the segment, field included, takes its place.
///
/// `head` starts with the Ethernet header and holds all headers; `rest` is what follows it. What cannot be completed is refused unchanged,
/// and is to be dropped, as Linux does where `skb_checksum_setup` fails. VLAN-tagged packets and atomic IPv6 fragments are completed.
pub fn complete<'a>(
    head: &mut [u8],
    rest: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<(), HeaderError> {
    let (at, field) = completion(head, rest)?;
    head[at..at + 2].copy_from_slice(&field);
    Ok(())
}

/// Where in `head` the checksum field is, and what [`complete`] puts there.
pub fn completion<'a>(
    head: &[u8],
    rest: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<(usize, [u8; 2]), HeaderError> {
    let len = head.len() + rest.clone().map(<[u8]>::len).sum::<usize>();
    let transport = Transport::parse(head, len)?;
    let sum = segment_sum(&transport, head, rest).finish();
    let mut field = (!u16::from_ne_bytes(sum)).to_ne_bytes();
    // RFC 768: zero on the wire means that there is no checksum.
    if transport.protocol == Protocol::Udp && field == [0, 0] {
        field = [0xff, 0xff];
    }
    Ok((transport.checksum(), field))
}

/// What a look at a checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// The sum is right.
    Right,
    /// The sum is wrong.
    Wrong,
    /// There is none (UDP over IPv4 with a zero field), or its pseudo-header is not in the IP header (source routing).
    Unknown,
}

/// Check the TCP or UDP checksum of a packet; `head` and `rest` as in [`complete`].
pub fn verify<'a>(
    head: &[u8],
    rest: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<Verified, HeaderError> {
    let len = head.len() + rest.clone().map(<[u8]>::len).sum::<usize>();
    let transport = Transport::parse(head, len)?;
    let at = transport.checksum();
    let absent = transport.protocol == Protocol::Udp && head[at..at + 2] == [0, 0];
    if transport.source_routed || (absent && transport.ip == IpVersion::V4) {
        return Ok(Verified::Unknown);
    }
    if absent {
        // RFC 8200 section 8.1: over IPv6 a UDP checksum is not optional.
        return Ok(Verified::Wrong);
    }
    let mut sum = segment_sum(&transport, head, rest);
    sum.add_finished(pseudo_header(&transport, head));
    Ok(if sum.finish() == [0xff, 0xff] {
        Verified::Right
    } else {
        Verified::Wrong
    })
}

/// The folded sum of the pseudo-header, as a sender leaves it in the field of a blank checksum.
pub fn pseudo_header(transport: &Transport, head: &[u8]) -> [u8; 2] {
    let mut sum = Sum::default();
    sum.add(transport.addresses(head));
    sum.add_word(u16::from(transport.protocol.number()));
    // At most 65 535 by IP's own length fields, so one word is enough over IPv6 too.
    sum.add_word(transport.l4_len as u16);
    sum.finish()
}

/// Sum from the transport header to the end of the IP packet.
fn segment_sum<'a>(
    transport: &Transport,
    head: &[u8],
    rest: impl Iterator<Item = &'a [u8]>,
) -> Sum {
    let mut sum = Sum::default();
    let mut left = transport.l4_len;
    let mut add = |slice: &[u8]| {
        let slice = &slice[..slice.len().min(left)];
        sum.add(slice);
        left -= slice.len();
    };
    add(&head[transport.l4..]);
    rest.for_each(add);
    sum
}

impl Packet {
    /// Complete a blank checksum in place; a packet without one is left as it is. Refused: drop the packet.
    pub fn complete_checksum(&mut self, umem: &Umem) -> Result<(), HeaderError> {
        if self.offload.checksum != Checksum::Blank {
            return Ok(());
        }
        // The rest may be as long as it is: nothing of it is written.
        let (head, rest) = self.head_and_rest(umem);
        complete(head, rest)?;
        self.offload.checksum = Checksum::Valid;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    /// A packet of the given shape with a right checksum, by etherparse.
    fn packet(ip6: bool, udp: bool, vlan: bool, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut out = Vec::new();
        let mut v6 = ([0xfd; 16], [0x20; 16]);
        v6.1[15] = 9;
        macro_rules! transport {
            ($ip:expr) => {
                if udp {
                    $ip.udp(4000, 53).write(&mut out, payload).unwrap()
                } else {
                    $ip.tcp(4000, 80, 1, 2).write(&mut out, payload).unwrap()
                }
            };
        }
        match (vlan, ip6) {
            (false, false) => transport!(ethernet.ipv4([10, 0, 0, 1], [192, 168, 3, 4], 64)),
            (false, true) => transport!(ethernet.ipv6(v6.0, v6.1, 64)),
            (true, false) => transport!(ethernet.single_vlan(7.try_into().unwrap()).ipv4(
                [10, 0, 0, 1],
                [10, 0, 0, 2],
                64
            )),
            (true, true) => transport!(
                ethernet
                    .single_vlan(7.try_into().unwrap())
                    .ipv6(v6.0, v6.1, 64)
            ),
        }
        out
    }

    /// Put what a sender leaves behind into the checksum field.
    fn blank(packet: &mut [u8]) {
        let transport = Transport::parse(packet, packet.len()).unwrap();
        let at = transport.checksum();
        let sum = pseudo_header(&transport, packet);
        packet[at..at + 2].copy_from_slice(&sum);
    }

    /// The checksum that etherparse computes and the one in the packet.
    fn oracle(packet: &[u8]) -> (u16, u16) {
        let sliced = SlicedPacket::from_ethernet(packet).unwrap();
        let net = sliced.net.unwrap();
        match sliced.transport.unwrap() {
            TransportSlice::Tcp(tcp) => {
                let header = tcp.to_header();
                let want = match &net {
                    etherparse::NetSlice::Ipv4(ip) => {
                        header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload())
                    }
                    etherparse::NetSlice::Ipv6(ip) => {
                        header.calc_checksum_ipv6(&ip.header().to_header(), tcp.payload())
                    }
                    _ => unreachable!(),
                };
                (want.unwrap(), header.checksum)
            }
            TransportSlice::Udp(udp) => {
                let header = udp.to_header();
                let want = match &net {
                    etherparse::NetSlice::Ipv4(ip) => {
                        header.calc_checksum_ipv4(&ip.header().to_header(), udp.payload())
                    }
                    etherparse::NetSlice::Ipv6(ip) => {
                        header.calc_checksum_ipv6(&ip.header().to_header(), udp.payload())
                    }
                    _ => unreachable!(),
                };
                (want.unwrap(), header.checksum)
            }
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn a_blank_checksum_is_completed_to_what_etherparse_computes(
            ip6: bool, udp: bool, vlan: bool, payload in proptest::collection::vec(any::<u8>(), 0..3000), padding in 0..20usize, cut in 100..1500usize,
        ) {
            let mut bytes = packet(ip6, udp, vlan, &payload);
            let whole = bytes.clone();
            blank(&mut bytes);
            bytes.resize(bytes.len() + padding, 0xee);
            let cut = cut.min(bytes.len());
            let (head, rest) = bytes.split_at_mut(cut);
            let (one, two) = rest.split_at(rest.len() / 3);
            complete(head, [one, two].into_iter()).unwrap();
            prop_assert_eq!(verify(&bytes, std::iter::empty()), Ok(Verified::Right));
            bytes.truncate(whole.len());
            prop_assert_eq!(&bytes, &whole);
            let (want, got) = oracle(&bytes);
            prop_assert_eq!(want, got);
        }

        #[test]
        fn a_changed_bit_is_noticed(ip6: bool, udp: bool, payload in proptest::collection::vec(any::<u8>(), 1..300), at in 0..300usize, bit in 0..8u8) {
            let mut bytes = packet(ip6, udp, false, &payload);
            let end = bytes.len();
            bytes[end - 1 - at % payload.len()] ^= 1 << bit;
            prop_assert_eq!(verify(&bytes, std::iter::empty()), Ok(Verified::Wrong));
        }
    }

    #[test]
    fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
        // Choose the payload word so that everything else sums up to 0xffff and the complement is zero.
        let mut bytes = packet(false, true, false, &[0, 0]);
        blank(&mut bytes);
        let transport = Transport::parse(&bytes, bytes.len()).unwrap();
        let sum = u16::from_be_bytes(segment_sum(&transport, &bytes, std::iter::empty()).finish());
        let end = bytes.len();
        bytes[end - 2..].copy_from_slice(&(!sum).to_be_bytes());
        complete(&mut bytes, std::iter::empty()).unwrap();
        let at = transport.checksum();
        assert_eq!(bytes[at..at + 2], [0xff, 0xff]);
        assert_eq!(verify(&bytes, std::iter::empty()), Ok(Verified::Right));
    }

    #[test]
    fn an_absent_udp_checksum_is_unknown_over_ipv4_and_wrong_over_ipv6() {
        for (ip6, expected) in [(false, Verified::Unknown), (true, Verified::Wrong)] {
            let mut bytes = packet(ip6, true, false, b"x");
            let at = Transport::parse(&bytes, bytes.len()).unwrap().checksum();
            bytes[at..at + 2].fill(0);
            assert_eq!(verify(&bytes, std::iter::empty()), Ok(expected));
        }
    }

    #[test]
    fn a_fragment_is_refused_and_left_as_it_is() {
        let mut bytes = packet(false, false, false, b"payload");
        bytes[20] |= 0x20;
        let before = bytes.clone();
        assert_eq!(
            complete(&mut bytes, std::iter::empty()),
            Err(HeaderError::Fragment)
        );
        assert_eq!(bytes, before);
    }
}
