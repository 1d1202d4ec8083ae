//! Frames that tell a network behind which of its ports an address is now.
use crate::header::Mac;

/// Bytes of an announcement: the shortest Ethernet frame without its checksum, with a tag.
pub const ANNOUNCEMENT: usize = 64;

/// A broadcast frame from `mac`, with the tag of a VLAN where that is not 0: a RARP request (RFC 903) of an interface for its own address, as
/// hypervisors send one after a migration. Switches learn the source, and no host takes it for news.
pub fn announcement(mac: Mac, vlan: u16) -> [u8; ANNOUNCEMENT] {
    let mut frame = [0; ANNOUNCEMENT];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    let mut rest = &mut frame[12..];
    if vlan != 0 {
        let [high, low] = vlan.to_be_bytes();
        rest[..4].copy_from_slice(&[0x81, 0, high, low]);
        rest = &mut rest[4..];
    }
    // EtherType RARP; Ethernet, IPv4, lengths of their addresses; request reverse.
    rest[..10].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    rest[10..16].copy_from_slice(&mac);
    rest[20..26].copy_from_slice(&mac);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_everybody_from_and_for_the_address() {
        let mac = [0, 0x16, 0x3e, 1, 2, 3];
        let start = [[0xff; 6], mac].concat();
        // Hardware and protocol, operation 3, sender, nobody's IP, target, nobody's IP.
        let arp = [
            &[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3][..],
            &mac,
            &[0; 4],
            &mac,
            &[0; 4],
        ];
        for (vlan, tag) in [(0, &[][..]), (0x123, &[0x81, 0, 1, 0x23])] {
            let expected = [&start, tag, &arp.concat()].concat();
            let frame = announcement(mac, vlan);
            let (head, padding) = frame.split_at(expected.len());
            assert_eq!(head, expected);
            assert!(padding.iter().all(|&byte| byte == 0));
        }
    }
}
