//! Where the program is attached, and how that of an earlier version is taken over, which only a test inside the crate can attach.
use super::*;
use crate::link::Driver;
use crate::support::{ETHERTYPE, Namespace, PacketSocket, frame};

/// The verdict of the first version for a queue without a socket (linux/bpf.h, enum xdp_action).
const XDP_PASS: i32 = 2;

#[test]
fn the_program_of_an_earlier_version_is_replaced_in_its_link() {
    let namespace = Namespace::enter();
    namespace.veth("near", "far", 1);
    let near = PacketSocket::bind("near", ETHERTYPE);
    let far = PacketSocket::bind("far", ETHERTYPE);
    let device = || Link::by_name("near").unwrap().unwrap();
    let pins = Pins::new(&namespace.bpf_dir(), "near");
    bpf::prepare_dir(&namespace.bpf_dir()).unwrap();
    std::fs::create_dir_all(&pins.dir).unwrap();
    let old = MultiBuffer {
        kernel: false,
        driver: Driver::default(),
    };
    drop(install(device(), &pins, old, XDP_PASS).unwrap());
    namespace.wait_until("the first version passes", || {
        far.send(&frame(1, 60));
        near.recv().is_some()
    });

    let before = device().xdp.unwrap();
    let adopted = install_or_adopt("near", &namespace.bpf_dir()).unwrap();
    assert!(adopted.adopted());
    let after = device().xdp.unwrap();
    assert_ne!(before.id, after.id, "the program is another");
    let link = bpf::open_pinned(&pins.link()).unwrap();
    assert_eq!(bpf::link_info(link.as_fd()).unwrap().program_id, after.id);
    while near.recv().is_some() {}
    namespace.wait_until("five drops", || {
        far.send(&frame(2, 60));
        namespace.xdp_drops("near") >= 5
    });
    assert!(near.recv().is_none(), "the driver domain heard a frame");

    assert!(uninstall("near", &namespace.bpf_dir()).unwrap());
    namespace.wait_until("the stack has the device again", || {
        far.send(&frame(6, 60));
        near.recv().is_some()
    });
}

#[test]
fn a_program_does_not_belong_into_netfront() {
    let sys = std::env::temp_dir().join(format!("netback-drivers-{}", std::process::id()));
    for (ifname, driver) in [
        ("vif", "bus/xen/drivers/vif"),
        ("card", "bus/pci/drivers/igb"),
    ] {
        let device = sys.join("class/net").join(ifname).join("device");
        std::fs::create_dir_all(&device).unwrap();
        std::os::unix::fs::symlink(sys.join(driver), device.join("driver")).unwrap();
    }
    let unfit = ["vif", "card", "none"].map(|ifname| unfit_driver(&sys, ifname).is_some());
    std::fs::remove_dir_all(&sys).unwrap();
    assert_eq!(unfit, [true, false, false]);
}
