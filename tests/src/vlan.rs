//! VLAN interfaces of a host: ip-link(8)'s where the kernel has them (CONFIG_VLAN_8021Q), else TAPs, to and from whose frames the tag is
//! added and taken here.
use crate::frames::Tap;
use anyhow::{Context, Result, bail};
use lab::Host;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sim::guest::tap;
use sim::guest::virtio::Header;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the thread of a stand-in looks whether it is to end.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// How long a frame is waited for that poll(2) has announced.
const SHORT: Duration = Duration::from_millis(5);

/// A VLAN interface; a stand-in is gone when this is dropped.
pub struct Vlan {
    stop: Arc<AtomicBool>,
    relay: Option<JoinHandle<()>>,
}

impl Vlan {
    /// Makes the interface `vlan<vid>` of the host, with an IPv4 address in a network of 256.
    pub fn add(host: &Host, vid: u16, address: &str) -> Result<Self> {
        let (name, number) = (format!("vlan{vid}"), vid.to_string());
        let stop = Arc::new(AtomicBool::new(false));
        let mut vlan = Self {
            stop: stop.clone(),
            relay: None,
        };
        let mut command = host.namespace.command("ip");
        command.args(["link", "add", "link", &host.interface, "name", &name]);
        let made = command.args(["type", "vlan", "id", &number]).output()?;
        if !made.status.success() {
            let error = String::from_utf8_lossy(&made.stderr);
            if !error.contains("Unknown device type") {
                bail!("{name} on {}: {error}", host.name);
            }
            let near = || tap::Tap::create(&name, host.mac, 1496);
            let near = host.namespace.run(near)?;
            let near = near.with_context(|| format!("{name} on {}", host.name))?;
            near.set_carrier(true)?;
            let far = Tap::open(host)?;
            vlan.relay = Some(std::thread::spawn(move || relay(&near, far, vid, &stop)));
        }
        let ip = |arguments: &[&str]| host.namespace.ip(arguments);
        ip(&["addr", "add", &format!("{address}/24"), "dev", &name])?;
        ip(&["link", "set", &name, "up"])?;
        Ok(vlan)
    }
}

impl Drop for Vlan {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(relay) = self.relay.take() {
            let _ = relay.join();
        }
    }
}

/// Carries frames between the interface `near` and VLAN `vid` of the one that `far` is on, until told to stop.
fn relay(near: &tap::Tap, mut far: Tap, vid: u16, stop: &AtomicBool) {
    let tag = [0x81, 0, (vid >> 8) as u8, vid as u8];
    let mut frame = vec![0; 65_536];
    while !stop.load(Relaxed) {
        let mut fds =
            [near.queue_fd(0), far.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let ready = poll(&mut fds, Some(&LOOK)).is_ok();
        let [to_far, to_near] = fds.map(|fd| ready && fd.revents().contains(PollFlags::IN));
        // A frame that cannot be carried is lost, as on a wire.
        if to_far && let Ok(Some((_, len))) = near.recv(0, &mut frame) {
            let _ = far.send(&[&frame[..12], &tag, &frame[12..len]].concat());
        }
        if to_near
            && let Ok(Some(frame)) = far.receive_any(SHORT)
            && frame.get(12..16) == Some(&tag)
        {
            near.send(0, Header::default(), &[&frame[..12], &frame[16..]].concat());
        }
    }
}
