//! An uplink that is itself a vif: Linux's netfront, in a domain to which no card is passed through.
use std::fs;
use std::path::Path;
use xen::store::{StoreError, Transaction, XenStore};

/// The key by which a frontend asks for room before the packets of its Rx pages (drivers/net/xen-netback/xenbus.c,
/// `read_xenbus_frontend_xdp`).
const KEY: &str = "xdp-headroom";
/// The bytes that netfront asks for while an XDP program is on it (`XDP_PACKET_HEADROOM`, include/uapi/linux/bpf.h).
const HEADROOM: &str = "256";

/// The directory in xenstore of the frontend that `ifname` is; `None` for every other interface. `sys` is where sysfs is mounted.
pub(crate) fn directory(sys: &Path, ifname: &str) -> Option<String> {
    let node = sys.join("class/net").join(ifname).join("device/nodename");
    let node = fs::read_to_string(node).ok()?;
    let node = node.trim_end();
    node.starts_with("device/vif/").then(|| node.to_owned())
}

/// Asks the backend of the frontend at `directory` for room before packets. To be called before a program is put on the interface:
/// netfront itself announces the change first and writes the key after that (drivers/net/xen-netfront.c, `xennet_xdp_set`), so that a
/// backend which reads it in between leaves no room. The program then sees the bytes behind each packet in the packet's place.
pub(crate) fn ask_for_headroom(
    store: &mut impl XenStore,
    directory: &str,
) -> Result<(), StoreError> {
    store.write(Transaction::NONE, &format!("{directory}/{KEY}"), HEADROOM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xen::fake::Store;
    use xen::grant::DomId;

    #[test]
    fn the_room_is_asked_for_where_the_backend_looks() {
        let world = Store::default();
        let mut store = world.connect(DomId(1));
        ask_for_headroom(&mut store, "device/vif/1").unwrap();
        let key = "/local/domain/1/device/vif/1/xdp-headroom";
        assert_eq!(store.read(Transaction::NONE, key).unwrap(), "256");
    }

    #[test]
    fn a_card_is_no_frontend() {
        let sys = std::env::temp_dir().join(format!("netback-netfront-{}", std::process::id()));
        let device = |ifname: &str| sys.join("class/net").join(ifname).join("device");
        for ifname in ["vif", "disk", "card"] {
            fs::create_dir_all(device(ifname)).unwrap();
        }
        fs::write(device("vif").join("nodename"), "device/vif/1\n").unwrap();
        fs::write(device("disk").join("nodename"), "device/vbd/51712\n").unwrap();
        let found = ["vif", "disk", "card", "none"].map(|ifname| directory(&sys, ifname));
        fs::remove_dir_all(&sys).unwrap();
        assert_eq!(found, [Some("device/vif/1".into()), None, None, None]);
    }
}
