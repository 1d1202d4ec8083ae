//! Host ports: shown, changed by the kernel's word, and made anew by a reload.
use super::links::link;
use super::*;
use xsk_bridge::device::Cable;
use xsk_bridge::link::{Link, LinkEvent};

/// The TAP's index.
const INDEX: u32 = 99;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// Opens a host port of one queue, with the MTU of the uplink beside it; none on the bridge `occupied`.
pub fn opener() -> OpenHostPort {
    Box::new(|bridge, beside| {
        if bridge.name == "occupied" {
            return Err("occupied is a bridge of the kernel".into());
        }
        Ok(OpenHost {
            link: Link {
                mac: MAC,
                mtu: beside.map_or(1500, |uplink| uplink.mtu),
                ..link(INDEX, &bridge.name)
            },
            bridge: bridge.name.clone(),
            made: false,
            queues: vec![Box::new(Cable::pair(64).0)],
        })
    })
}

fn hosted() -> (House, Daemon) {
    let house = House::new();
    *house.bridges.lock().unwrap() =
        "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth7\"\nhost = true\n".into();
    let daemon = house.daemon();
    (house, daemon)
}

#[test]
fn a_host_port_is_shown_and_follows_what_the_kernel_says_of_it() {
    let (_house, mut daemon) = hosted();
    let status = daemon.status();
    assert!(status.bridges[0].host && status.bridges[0].ports == 2);
    let host = |daemon: &Daemon| {
        let host = &daemon.status().hosts[0];
        (host.link_up, host.mtu, host.mac.clone())
    };
    assert_eq!(host(&daemon), (true, 1500, "02:00:00:00:00:07".into()));
    assert!(
        status
            .to_string()
            .contains("bridge   xenbr0: eth7, host port, 2 ports")
    );
    assert!(
        status
            .to_string()
            .contains("host     xenbr0: link up, mtu 1500, mac 02:00:00:00:00:07, 1 queues")
    );
    let changed = Link {
        mac: [2, 0, 0, 0, 0, 8],
        mtu: 1400,
        carrier: false,
        ..link(INDEX, "xenbr0")
    };
    daemon.link_event(&LinkEvent::Changed(changed)).unwrap();
    assert_eq!(host(&daemon), (false, 1400, "02:00:00:00:00:08".into()));
}

#[test]
fn a_host_port_that_was_removed_has_the_daemon_begin_anew() {
    let (_house, mut daemon) = hosted();
    daemon
        .link_event(&LinkEvent::Removed { index: INDEX })
        .unwrap();
    assert!(!daemon.status().hosts[0].link_up);
    let deadline = Instant::now() + Duration::from_secs(20);
    let back = loop {
        if let Some(back) = daemon.uplink_back() {
            break back;
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(back, "xenbr0");
}

#[test]
fn a_reload_that_changes_the_host_port_begins_anew_and_one_that_cannot_have_it_does_nothing() {
    let (house, mut daemon) = hosted();
    let mut reload = |text: &str| {
        *house.bridges.lock().unwrap() = text.into();
        daemon.reload().unwrap().is_some()
    };
    let wired = "[[bridge]]\nname = \"xenbr0\"\nuplink = \"eth7\"\n";
    assert!(reload(wired));
    let hosted = format!("{wired}host = true\n");
    assert!(!reload(&hosted));
    let more = format!("{hosted}[[bridge]]\nname = \"occupied\"\nuplink = \"eth8\"\nhost = true\n");
    assert!(!reload(&more));
    let status = daemon.status();
    assert_eq!((status.bridges.len(), status.uplinks.len()), (1, 1));
}
