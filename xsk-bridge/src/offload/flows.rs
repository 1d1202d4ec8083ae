//! The packets that segments are merged into for one receiver, of several TCP streams at a time, and what may not overtake them.
//!
//! Streams are told apart by a number of 32 bits. Two streams that have the same one end each other's packets, and nothing else.
use crate::header::{ETHERNET_LEN, IPV6_LEN, Protocol};

/// Packets that are open at a time, each of another stream. Linux keeps as many open for each hash that the network card computes
/// (`MAX_GRO_SKBS` in net/core/gro.c).
pub const OPEN_FLOWS: usize = 8;
const _: () = assert!(OPEN_FLOWS == u8::BITS as usize);

/// Places for open packets, and the streams they belong to.
#[derive(Debug, Default)]
pub struct Flows {
    flows: [u32; OPEN_FLOWS],
    /// Bit n: the place n is taken.
    taken: u8,
    /// The place that is to be vacated next where all are taken.
    next: u8,
}

impl Flows {
    /// Whether no packet is open.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// The place of the stream's open packet.
    #[inline]
    pub fn find(&self, flow: u32) -> Option<usize> {
        // All are compared, without a branch: the compiler does it in a few instructions.
        let mut same = 0;
        for (place, &other) in self.flows.iter().enumerate() {
            same |= u8::from(other == flow) << place;
        }
        lowest(same & self.taken)
    }

    /// The place of an open packet, if there is one.
    #[inline]
    pub fn any(&self) -> Option<usize> {
        lowest(self.taken)
    }

    /// A place for another packet. `Err`: all are taken, and the packet at this place is to be closed first.
    #[inline]
    pub fn vacant(&mut self) -> Result<usize, usize> {
        lowest(!self.taken).ok_or_else(|| {
            let place = usize::from(self.next);
            self.next = (self.next + 1) % OPEN_FLOWS as u8;
            place
        })
    }

    /// Takes a place for the stream's packet.
    #[inline]
    pub fn open(&mut self, place: usize, flow: u32) {
        self.flows[place] = flow;
        self.taken |= 1 << place;
    }

    /// Gives a place up.
    #[inline]
    pub fn close(&mut self, place: usize) {
        self.taken &= !(1 << place);
    }
}

#[inline]
fn lowest(places: u8) -> Option<usize> {
    (places != 0).then(|| places.trailing_zeros() as usize)
}

/// Which open packets a packet that is not merged must not overtake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// It is of no TCP stream.
    Nothing,
    /// It is of this stream.
    Flow(u32),
    /// Its stream cannot be told.
    Everything,
}

impl Behind {
    /// Reads the headers of a packet, of which `head` holds the first bytes.
    pub fn of(head: &[u8]) -> Self {
        const TCP: u8 = Protocol::Tcp.number();
        let told = match *head {
            [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, version, ..] => ipv4(head, version),
            [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, ..] => match head.get(20) {
                Some(&TCP) => ipv6_flow(head).map(Self::Flow),
                Some(&(UDP | ICMPV6)) => Some(Self::Nothing),
                // TCP may lie behind an extension header.
                _ => None,
            },
            // A tag of VLAN 0 says a priority and no more (IEEE 802.1Q): the packet is of the same network as those without a tag.
            [_, _, _, _, _, _, _, _, _, _, _, _, 0x81, 0x00, high, 0, ..] if high & 0x0f == 0 => {
                None
            }
            // Neither IP nor, where it is tagged, of the same network; shorter than Ethernet's header nothing is.
            _ => Some(Self::Nothing),
        };
        told.unwrap_or(Self::Everything)
    }
}

const UDP: u8 = Protocol::Udp.number();
const ICMPV6: u8 = 58;

fn ipv4(head: &[u8], version: u8) -> Option<Behind> {
    let fragment = u16::from_be_bytes([*head.get(20)?, *head.get(21)?]) & 0x3fff;
    match *head.get(23)? == Protocol::Tcp.number() {
        false => Some(Behind::Nothing),
        // Behind options ports lie elsewhere, and a fragment has none.
        true if version != 0x45 || fragment != 0 => None,
        true => ipv4_flow(head).map(Behind::Flow),
    }
}

/// The stream of a TCP packet over IPv4 without options, of which `packet` holds the headers.
#[inline]
pub(super) fn ipv4_flow(packet: &[u8]) -> Option<u32> {
    let l4 = ETHERNET_LEN + 20;
    let both: &[u8; 12] = packet.get(l4 - 8..)?.first_chunk()?;
    let (addresses, ports) = both.split_first_chunk::<8>()?;
    let ports = u32::from_ne_bytes(ports.try_into().ok()?);
    let mixed = mix(u64::from_ne_bytes(*addresses), ports.into());
    Some((mixed >> 32) as u32)
}

/// The stream of a TCP packet over IPv6 without extension headers, of which `packet` holds the headers.
#[inline]
pub(super) fn ipv6_flow(packet: &[u8]) -> Option<u32> {
    let l4 = ETHERNET_LEN + IPV6_LEN;
    let both: &[u8; 36] = packet.get(l4 - 32..)?.first_chunk()?;
    let (addresses, ports) = both.split_first_chunk::<32>()?;
    let ports = u32::from_ne_bytes(ports.try_into().ok()?);
    let words = addresses.as_chunks::<8>().0;
    let [a, b, c, d] = std::array::from_fn(|n| u64::from_ne_bytes(words[n]));
    let mixed = mix(mix(a, b) ^ mix(c, d).rotate_left(16), ports.into());
    Some((mixed >> 32) as u32)
}

/// Two words into one, of which every bit depends on most bits of both: the halves of their product, folded.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    // Odd numbers without a pattern, so that neither factor is small: fractions of the golden ratio and of the square root of 2.
    let product = u128::from(a ^ 0x9e37_79b9_7f4a_7c15) * u128::from(b ^ 0x6a09_e667_f3bc_c909);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::tcp::Tcp;

    #[test]
    fn places_are_taken_found_and_vacated_one_after_the_other() {
        let mut flows = Flows::default();
        for flow in 0..OPEN_FLOWS as u32 {
            assert_eq!(flows.find(flow), None);
            let place = flows.vacant().unwrap();
            flows.open(place, flow);
            assert_eq!(flows.find(flow), Some(place));
        }
        let vacated: Vec<_> = (0..OPEN_FLOWS + 1)
            .map(|_| flows.vacant().unwrap_err())
            .collect();
        let all: Vec<_> = (0..OPEN_FLOWS).chain([0]).collect();
        assert_eq!(vacated, all);
        flows.close(5);
        assert_eq!((flows.find(5), flows.vacant()), (None, Ok(5)));
        while let Some(place) = flows.any() {
            flows.close(place);
        }
        assert!(flows.is_empty());
    }

    #[test]
    fn streams_differ_by_addresses_and_ports() {
        for ipv6 in [false, true] {
            let mut seen = std::collections::HashSet::new();
            let flow = |packet: &[u8]| match ipv6 {
                false => ipv4_flow(packet).unwrap(),
                true => ipv6_flow(packet).unwrap(),
            };
            let tcp = Tcp {
                ipv6,
                ..Tcp::default()
            };
            let packet = tcp.packet(&[0; 100]);
            seen.insert(flow(&packet));
            let addresses = if ipv6 { 22..54 } else { 26..34 };
            let ports = tcp.l4()..tcp.l4() + 4;
            for bit in
                (8 * addresses.start..8 * addresses.end).chain(8 * ports.start..8 * ports.end)
            {
                let mut other = packet.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                assert!(seen.insert(flow(&other)), "bit {bit}");
            }
        }
    }

    #[test]
    fn what_is_not_merged_stays_behind_its_stream_or_behind_all() {
        let plain = Tcp::default();
        let packet = plain.packet(&[]);
        assert_eq!(
            Behind::of(&packet),
            Behind::Flow(ipv4_flow(&packet).unwrap())
        );
        let six = Tcp {
            ipv6: true,
            ..plain.clone()
        };
        let packet = six.packet(&[]);
        assert_eq!(
            Behind::of(&packet),
            Behind::Flow(ipv6_flow(&packet).unwrap())
        );
        let unclear = [
            Tcp {
                ip_options: 1,
                ..plain.clone()
            },
            Tcp {
                fragment: 0x2000,
                ..plain.clone()
            },
            Tcp {
                fragment: 1,
                ..plain.clone()
            },
            Tcp {
                ipv6: true,
                extensions: vec![(0, 8)],
                ..plain.clone()
            },
        ];
        for tcp in unclear {
            assert_eq!(Behind::of(&tcp.packet(&[1])), Behind::Everything, "{tcp:?}");
        }
        let tagged = Tcp {
            tags: vec![(0x8100, 5)],
            ..plain.clone()
        };
        assert_eq!(Behind::of(&tagged.packet(&[1])), Behind::Nothing);
        let mut udp = plain.packet(&[1]);
        udp[23] = 17;
        let mut arp = plain.packet(&[1]);
        arp[13] = 6;
        for other in [udp, arp] {
            assert_eq!(Behind::of(&other), Behind::Nothing);
        }
        let whole = plain.packet(&[]);
        for len in 15..38 {
            assert_eq!(Behind::of(&whole[..len]), Behind::Everything, "{len}");
        }
    }
}
