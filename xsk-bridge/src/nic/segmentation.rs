//! TCP segmentation that a device does itself (TSO), asked for with the kernel's own names of its offloads (net/ethtool/common.c).
use super::{Feature, Handle, supported};
use crate::link::Link;
use std::io;

/// TCP segmentation of a device, as it is now: ethtool(8) can change it at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    /// The device cuts TCP over IPv4.
    pub ipv4: bool,
    /// The device cuts TCP over IPv6.
    pub ipv6: bool,
    /// The device cuts packets with CWR, which only the first segment may have.
    pub ecn: bool,
    /// The device cuts no packet of this many bytes or more.
    pub max_size: u32,
    /// Most segments that the device cuts a packet into.
    pub max_segments: u32,
}

impl Segmentation {
    /// Asks the device that `link` describes.
    pub fn of(link: &Link) -> io::Result<Self> {
        let features = supported(Handle::open(&link.name)?.features())?;
        Ok(Self::from_features(link, &features.unwrap_or_default()))
    }

    fn from_features(link: &Link, features: &[Feature]) -> Self {
        let is_on = |name: &str| {
            let mut features = features.iter();
            features.any(|feature| feature.name == name && feature.on)
        };
        // Without these offloads the kernel cuts and sums in software, whatever the others say.
        let gathers = is_on("tx-scatter-gather");
        let sums = |version: &str| gathers && (is_on(version) || is_on("tx-checksum-ip-generic"));
        Self {
            ipv4: is_on("tx-tcp-segmentation") && sums("tx-checksum-ipv4"),
            ipv6: is_on("tx-tcp6-segmentation") && sums("tx-checksum-ipv6"),
            ecn: is_on("tx-tcp-ecn-segmentation"),
            max_size: link.gso_max_size,
            max_segments: link.gso_max_segments,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(names: &[&str]) -> Segmentation {
        let feature = |name: &&str| Feature {
            name: (*name).to_owned(),
            on: true,
            changeable: true,
        };
        let features: Vec<_> = names.iter().map(feature).collect();
        let lo = Link::by_name("lo").unwrap().unwrap();
        Segmentation::from_features(&lo, &features)
    }

    #[test]
    fn a_device_that_cannot_gather_or_sum_does_not_segment() {
        let all = [
            "tx-scatter-gather",
            "tx-checksum-ip-generic",
            "tx-tcp-segmentation",
            "tx-tcp6-segmentation",
        ];
        let whole = on(&all);
        assert!(whole.ipv4 && whole.ipv6 && !whole.ecn);
        let blind = on(&all[1..]);
        assert!(!blind.ipv4 && !blind.ipv6);
        let (off, v4) = (on(&[all[0], all[2], all[3]]), "tx-checksum-ipv4");
        assert!(!off.ipv4 && !off.ipv6);
        let half = on(&[all[0], all[2], all[3], v4]);
        assert!(half.ipv4 && !half.ipv6);
    }
}
