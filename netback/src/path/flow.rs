//! Which of a guest's queues a packet goes to: the same for a flow and for its answers.
use xsk_bridge::header::{ETHERNET_LEN, HeaderError, Transport};

/// A hash over addresses and ports that does not change when source and destination change places; over the MACs where the packet is
/// not IP. `head` holds the packet's headers, `len` is the whole packet's.
pub fn hash(head: &[u8], len: usize) -> u32 {
    let folded = match Transport::parse(head, len) {
        Ok(transport) => {
            let ports = head
                .get(transport.l4..transport.l4 + 4)
                .map_or(0, |ports| fold(ports, 2));
            fold_pair(transport.addresses(head))
                ^ ports << 32
                ^ u64::from(transport.protocol.number())
        }
        // Every fragment of a datagram, and what has no ports, by its MACs: a fragment has no ports, so its first piece must not use
        // them either.
        Err(HeaderError::Truncated) if head.len() < ETHERNET_LEN => 0,
        Err(_) => fold_pair(&head[..12]),
    };
    // The finalizer of MurmurHash3: every bit of the result depends on all of the input.
    let mixed = (folded ^ folded >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (mixed >> 32) as u32
}

/// Fold two halves into a word that does not tell which was first.
fn fold_pair(both: &[u8]) -> u64 {
    fold(both, both.len() / 2)
}

fn fold(both: &[u8], half: usize) -> u64 {
    let (a, b) = both.split_at(half);
    word(a) ^ word(b)
}

/// Bytes into a word, eight at a time.
fn word(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0, |sum: u64, chunk| {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        sum.wrapping_mul(31)
            .wrapping_add(u64::from_le_bytes(padded))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(from: [u8; 4], to: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend(from);
        frame.extend(to);
        frame.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        frame.extend([0, 8, 0, 0]);
        frame
    }

    #[test]
    fn both_directions_of_a_flow_agree_and_flows_spread() {
        let mut seen = [0; 4];
        for port in 1000..1400 {
            let there = udp([10, 0, 0, 1], [10, 0, 0, 2], [port, 53]);
            let back = udp([10, 0, 0, 2], [10, 0, 0, 1], [53, port]);
            assert_eq!(hash(&there, 42), hash(&back, 42));
            seen[hash(&there, 42) as usize % 4] += 1;
        }
        assert!(seen.iter().all(|&count| count > 50), "{seen:?}");
    }

    #[test]
    fn what_is_not_ip_goes_by_its_macs_and_short_heads_are_fine() {
        let mut frame = udp([10, 0, 0, 1], [10, 0, 0, 2], [1, 2]);
        frame[12..14].copy_from_slice(&[8, 6]);
        let one = hash(&frame, 42);
        frame[30] ^= 1;
        assert_eq!(hash(&frame, 42), one);
        for len in 0..frame.len() {
            hash(&frame[..len], len);
        }
    }
}
