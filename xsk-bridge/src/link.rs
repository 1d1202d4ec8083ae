//! A device as the kernel describes it, and word of its changes (rtnetlink; linux/rtnetlink.h, linux/if_link.h).
mod change;
mod driver;

pub use change::{Change, delete};
pub use driver::Driver;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

const HEADER: usize = 16; // struct nlmsghdr
const IFINFO: usize = 16; // struct ifinfomsg
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_TRUST: u16 = 9;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_VF: u32 = 1;
const IFLA_CARRIER: u16 = 33;
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const XDP_ATTACHED_SKB: u8 = 2;
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// A program on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpProgram {
    /// The kernel's number of the program; 0 where several modes have one each.
    pub id: u32,
    /// It runs in the stack, not in the driver.
    pub generic: bool,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// IFF_* (net/if.h).
    pub flags: u32,
    /// ARPHRD_* (net/if_arp.h): 1 is Ethernet, 772 loopback.
    pub hardware: u16,
    /// Bytes without the Ethernet header.
    pub mtu: u32,
    /// All zero where it has none of six bytes.
    pub mac: [u8; 6],
    /// False: no cable, or the far side is down.
    pub carrier: bool,
    /// Index of the device it is enslaved to.
    pub master: Option<u32>,
    /// What kind of virtual device it is ("bond", "bridge", "veth"); `None`: a real one.
    pub kind: Option<String>,
    /// As what it is enslaved ("bond", "bridge").
    pub slave_kind: Option<String>,
    /// The XDP program on it.
    pub xdp: Option<XdpProgram>,
    /// Bytes from which on it segments no packet itself.
    pub gso_max_size: u32,
    /// Most segments into which it cuts a packet itself.
    pub gso_max_segments: u32,
}

impl Link {
    /// Administratively up and with carrier: packets go.
    pub fn running(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0 && self.carrier
    }

    /// The device called `name`, `None` where there is none.
    pub fn by_name(name: &str) -> io::Result<Option<Link>> {
        Ok(Self::all()?.into_iter().find(|link| link.name == name))
    }

    /// Every device of this network namespace.
    pub fn all() -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        dump(|body| links.extend(parse(body)))?;
        Ok(links)
    }
}

/// Whether the physical function `ifname` trusts its virtual function number `vf`; `None` where it does not say.
pub(crate) fn trusts(ifname: &str, vf: u32) -> io::Result<Option<bool>> {
    let mut trust = None;
    dump(|body| {
        if parse(body).is_some_and(|link| link.name == ifname) {
            trust = parse_trust(body, vf);
        }
    })?;
    Ok(trust)
}

/// Ask for every device, and show the body of each answer.
fn dump(mut show: impl FnMut(&[u8])) -> io::Result<()> {
    let mut socket = open(SocketFlags::empty(), 0)?;
    socket.write_all(&dump_request())?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = socket.read(&mut buffer)?;
        for message in Messages(&buffer[..n]) {
            match message.kind {
                libc::RTM_NEWLINK => show(message.body),
                DONE => return Ok(()),
                ERROR => return Err(reported(message.body)),
                _ => {}
            }
        }
    }
}

const DONE: u16 = libc::NLMSG_DONE as u16;
const ERROR: u16 = libc::NLMSG_ERROR as u16;

/// What happened to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// The device appeared or something about it changed; this is how it is now.
    Changed(Link),
    /// The device is gone. One of the same name that comes later has another index.
    Removed {
        /// The index that the device had.
        index: u32,
    },
    /// Events were lost: look at every device again.
    Lost,
}

/// Most datagrams that one [`LinkWatcher::read`] takes from the kernel.
const DATAGRAMS_PER_READ: usize = 64;

/// Word of every change to a device of this network namespace.
#[derive(Debug)]
pub struct LinkWatcher {
    socket: File,
    buffer: Vec<u8>,
}

impl LinkWatcher {
    /// Starts to listen.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: open(SocketFlags::NONBLOCK, libc::RTMGRP_LINK as u32)?,
            buffer: vec![0; 1 << 16],
        })
    }

    /// Appends to `events` what happened since the last call; never blocks. However often a device changes, `events` has its latest state
    /// only, and one call takes a bounded part of what waits: the socket stays readable where there is more.
    pub fn read(&mut self, events: &mut Vec<LinkEvent>) -> io::Result<()> {
        for _ in 0..DATAGRAMS_PER_READ {
            let n = match self.socket.read(&mut self.buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    note(events, LinkEvent::Lost);
                    continue;
                }
                Err(e) => return Err(e),
            };
            for event in Messages(&self.buffer[..n]).filter_map(event) {
                note(events, event);
            }
        }
        Ok(())
    }
}

/// Appends an event in place of those that say less: earlier states of its device, or another loss.
fn note(events: &mut Vec<LinkEvent>, event: LinkEvent) {
    let says_less = |earlier: &LinkEvent| match (earlier, &event) {
        (LinkEvent::Changed(before), LinkEvent::Changed(now)) => before.index == now.index,
        (LinkEvent::Changed(before), LinkEvent::Removed { index }) => before.index == *index,
        (earlier, event) => earlier == event,
    };
    events.retain(|earlier| !says_less(earlier));
    events.push(event);
}

impl AsFd for LinkWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn event(message: Message<'_>) -> Option<LinkEvent> {
    // A bridge tells of its ports by the same messages, of family AF_BRIDGE and with other attributes.
    if message.body.first() != Some(&(libc::AF_UNSPEC as u8)) {
        return None;
    }
    let link = parse(message.body)?;
    match message.kind {
        libc::RTM_NEWLINK => Some(LinkEvent::Changed(link)),
        libc::RTM_DELLINK => Some(LinkEvent::Removed { index: link.index }),
        _ => None,
    }
}

/// A socket that hears of these groups of rtnetlink.
fn open(flags: SocketFlags, groups: u32) -> io::Result<File> {
    // No protocol is protocol 0, which is NETLINK_ROUTE.
    open_protocol(None, flags, groups)
}

/// A socket of one of netlink's protocols, as a file: read(2) and write(2) are all that a netlink socket needs.
fn open_protocol(protocol: Option<Protocol>, flags: SocketFlags, groups: u32) -> io::Result<File> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let flags = flags | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, kind, flags, protocol)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(File::from(socket))
}

/// Appends an attribute to a message.
fn append(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(((value.len() + 4) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Sends a message whose length is not in its header yet.
fn send(socket: &mut File, mut message: Vec<u8>) -> io::Result<()> {
    let len = message.len() as u32;
    message[0..4].copy_from_slice(&len.to_ne_bytes());
    socket.write_all(&message)
}

/// An RTM_GETLINK for all devices, with what the physical ones say of their virtual functions.
fn dump_request() -> [u8; HEADER + IFINFO + 8] {
    let mut request = [0; HEADER + IFINFO + 8];
    let len = request.len() as u32;
    request[0..4].copy_from_slice(&len.to_ne_bytes());
    request[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request[8..12].copy_from_slice(&1u32.to_ne_bytes());
    request[32..34].copy_from_slice(&8u16.to_ne_bytes());
    request[34..36].copy_from_slice(&IFLA_EXT_MASK.to_ne_bytes());
    request[36..40].copy_from_slice(&RTEXT_FILTER_VF.to_ne_bytes());
    request
}

fn reported(body: &[u8]) -> io::Error {
    io::Error::from_raw_os_error(u32_at(body, 0).map_or(libc::EPROTO, |e| -(e as i32)))
}

struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

/// The messages of one datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = u32_at(self.0, 0)? as usize;
        let kind = u16_at(self.0, 4)?;
        let body = self.0.get(HEADER..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, body })
    }
}

/// The attributes of a message or of a nest in one.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let len = u16_at(self.0, 0)? as usize;
        let kind = u16_at(self.0, 2)? & NLA_TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// An RTM_NEWLINK or RTM_DELLINK message: struct ifinfomsg, then attributes.
fn parse(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: u32_at(body, 4)?,
        name: String::new(),
        flags: u32_at(body, 8)?,
        hardware: u16_at(body, 2)?,
        mtu: 0,
        mac: [0; 6],
        carrier: true,
        master: None,
        kind: None,
        slave_kind: None,
        xdp: None,
        gso_max_size: u32::MAX,
        gso_max_segments: u32::MAX,
    };
    for (kind, value) in Attributes(body.get(IFINFO..)?) {
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_MASTER => link.master = u32_at(value, 0),
            IFLA_CARRIER => link.carrier = value.first() != Some(&0),
            IFLA_LINKINFO => parse_kinds(value, &mut link),
            IFLA_XDP => link.xdp = parse_xdp(value),
            // Since Linux 6.3 there is one for each version of IP.
            IFLA_GSO_MAX_SIZE | IFLA_GSO_IPV4_MAX_SIZE => {
                link.gso_max_size = link.gso_max_size.min(u32_at(value, 0)?);
            }
            IFLA_GSO_MAX_SEGS => link.gso_max_segments = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(link)
}

fn parse_kinds(nest: &[u8], link: &mut Link) {
    for (kind, value) in Attributes(nest) {
        match kind {
            IFLA_INFO_KIND => link.kind = Some(text(value)),
            IFLA_INFO_SLAVE_KIND => link.slave_kind = Some(text(value)),
            _ => {}
        }
    }
}

fn parse_xdp(nest: &[u8]) -> Option<XdpProgram> {
    let find = |kind| {
        Attributes(nest)
            .find(|(k, _)| *k == kind)
            .map(|(_, value)| value)
    };
    let attached = *find(IFLA_XDP_ATTACHED)?.first()?;
    (attached != 0).then(|| XdpProgram {
        id: find(IFLA_XDP_PROG_ID)
            .and_then(|id| u32_at(id, 0))
            .unwrap_or(0),
        generic: attached == XDP_ATTACHED_SKB,
    })
}

/// struct ifla_vf_trust { vf u32, setting u32 } of function `vf`, in the list of them all.
fn parse_trust(body: &[u8], vf: u32) -> Option<bool> {
    let list = |kind| move |(k, value): (u16, _)| (k == kind).then_some(value);
    Attributes(body.get(IFINFO..)?)
        .filter_map(list(IFLA_VFINFO_LIST))
        .flat_map(|functions| Attributes(functions).filter_map(list(IFLA_VF_INFO)))
        .flat_map(|function| Attributes(function).filter_map(list(IFLA_VF_TRUST)))
        .find(|trust| u32_at(trust, 0) == Some(vf))
        .and_then(|trust| u32_at(trust, 4))
        .map(|setting| setting == 1)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there_and_has_its_hardware_type() {
        let lo = Link::by_name("lo")
            .unwrap()
            .expect("every namespace has lo");
        assert_eq!((lo.index, lo.hardware), (1, libc::ARPHRD_LOOPBACK));
        assert_eq!(Link::by_name("no such device").unwrap(), None);
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(&mut bytes, kind, value);
        bytes
    }

    #[test]
    fn trust_is_that_of_the_function_asked_for() {
        let function = |vf: u32, setting: u32| {
            let trust = [vf.to_ne_bytes(), setting.to_ne_bytes()].concat();
            attribute(IFLA_VF_INFO, &attribute(IFLA_VF_TRUST, &trust))
        };
        let functions = [function(0, 1), function(1, 0), function(2, u32::MAX)].concat();
        let mut body = vec![0; IFINFO];
        body.extend(attribute(IFLA_MTU, &1500u32.to_ne_bytes()));
        body.extend(attribute(IFLA_VFINFO_LIST, &functions));
        assert_eq!(parse_trust(&body, 0), Some(true));
        assert_eq!(parse_trust(&body, 1), Some(false));
        assert_eq!(parse_trust(&body, 3), None);
        assert_eq!(parse_trust(&body[..IFINFO], 0), None);
        assert_eq!(trusts("lo", 0).unwrap(), None);
    }

    #[test]
    fn a_short_or_lying_message_ends_the_walk() {
        assert!(Messages(&[16, 0, 0]).next().is_none());
        let mut lying = dump_request();
        lying[0] = 200;
        assert!(Messages(&lying).next().is_none());
        lying[0] = 3;
        assert!(Messages(&lying).next().is_none());
        assert!(Attributes(&[0, 0, 1, 0]).next().is_none());
        assert!(parse(&[0; 10]).is_none());
    }

    #[test]
    fn the_latest_state_of_a_device_takes_the_place_of_earlier_ones() {
        let link = |index: u32, mtu: u32| {
            let mut body = vec![0; IFINFO];
            body[4..8].copy_from_slice(&index.to_ne_bytes());
            body.extend(attribute(IFLA_MTU, &mtu.to_ne_bytes()));
            LinkEvent::Changed(parse(&body).unwrap())
        };
        let mut events = Vec::new();
        for mtu in 0..1000 {
            note(&mut events, link(7, mtu));
            note(&mut events, link(8, mtu));
            note(&mut events, LinkEvent::Lost);
        }
        assert_eq!(events, [link(7, 999), link(8, 999), LinkEvent::Lost]);
        note(&mut events, LinkEvent::Removed { index: 7 });
        note(&mut events, link(7, 1));
        let gone = LinkEvent::Removed { index: 7 };
        assert_eq!(events, [link(8, 999), LinkEvent::Lost, gone, link(7, 1)]);
    }

    #[test]
    fn nothing_happens_without_an_event() {
        let mut watcher = LinkWatcher::open().unwrap();
        let mut events = Vec::new();
        watcher.read(&mut events).unwrap();
        // Other tests make devices in namespaces of their own; this one may still see the machine's.
        assert!(!events.contains(&LinkEvent::Lost));
    }
}
