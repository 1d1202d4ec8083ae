//! What Linux's NIC drivers can do with XDP.

/// One driver, by the name that `/sys/class/net/*/device/driver` leads to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Driver {
    name: &'static str,
    /// The kernel from which it runs XDP programs itself; None: it never does, and the kernel's generic mode is used.
    pub(super) native_since: Option<(u32, u32)>,
    /// The largest MTU with a program attached that wants each frame in one buffer; None: not looked up.
    pub(super) mtu_limit: Option<u64>,
}

const fn native(name: &'static str, since: (u32, u32), mtu_limit: Option<u64>) -> Driver {
    Driver {
        name,
        native_since: Some(since),
        mtu_limit,
    }
}
const fn generic(name: &'static str) -> Driver {
    Driver {
        name,
        native_since: None,
        mtu_limit: None,
    }
}

/// Limits: Intel's receive buffers of 3072 bytes less Ethernet, FCS and VLAN headers (`igb_xdp_setup`, `ixgbe_xdp_setup`,
/// `i40e_xdp_setup`); virtio_net, veth and ena: a page less XDP_PACKET_HEADROOM, skb_shared_info and headers
/// (`virtnet_xdp_set`, `veth_xdp_set`, `ENA_XDP_MAX_MTU`).
const DRIVERS: [Driver; 28] = [
    native("igb", (5, 10), Some(3046)),
    native("ixgbe", (4, 12), Some(3050)),
    native("i40e", (4, 13), Some(3046)),
    native("ice", (5, 5), None),
    native("igc", (5, 13), None),
    native("mlx4_core", (4, 8), None),
    native("mlx5_core", (4, 9), None),
    native("bnxt_en", (4, 10), None),
    native("ena", (5, 6), Some(3498)),
    native("qede", (4, 10), None),
    native("nfp", (4, 10), None),
    native("sfc", (5, 10), None),
    native("atlantic", (5, 19), None),
    native("gve", (6, 4), None),
    native("mana", (5, 17), None),
    native("stmmac", (5, 13), None),
    native("virtio_net", (4, 10), Some(3506)),
    native("veth", (4, 19), Some(3506)),
    native("vif", (5, 9), None),
    generic("e1000"),
    generic("e1000e"),
    generic("r8169"),
    generic("tg3"),
    generic("bnx2"),
    generic("8139cp"),
    generic("8139too"),
    generic("iwlwifi"),
    generic("usbnet"),
];

/// What is known of the driver.
pub(super) fn driver(name: &str) -> Option<Driver> {
    DRIVERS.iter().copied().find(|driver| driver.name == name)
}

#[cfg(test)]
mod tests {
    use super::DRIVERS;

    #[test]
    fn every_driver_is_there_once() {
        let mut names: Vec<&str> = DRIVERS.iter().map(|driver| driver.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DRIVERS.len());
    }
}
