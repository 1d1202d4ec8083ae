//! Where a frame goes: one learning bridge, its ports, and named reasons for a drop.
/// A port of a bridge, unique in the process; 0 is never a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);
/// What the bridge says of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To this port alone.
    Unicast(PortId),
    /// To every port of the bridge but the ingress.
    Flood,
    /// Nowhere.
    Drop(DropReason),
}
/// Why the switch dropped a frame; the name is what `status` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason { /** Shorter than an Ethernet header. */ Runt, /** Source MAC belongs to another port. */ SpoofedSource, /** Multicast or zero source. */ BadSource, /** To the port it came from. */ SamePort, /** 01:80:c2:00:00:0x. */ LinkLocal }
/// What a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind { /** A guest's vif: its MAC is static and cannot be taken over. */ Guest([u8; 6]), /** The wire: learns and ages. */ Uplink }
/// One named bridge: fixed FDB of atomic words, lock-free for workers (shared by Arc).
#[derive(Debug)]
pub struct Bridge {}
impl Bridge {
    pub fn new(name: &str) -> Self { todo!() }
    /// Control thread: attach a port.
    pub fn add_port(&self, port: PortId, kind: PortKind) { todo!() }
    /// Control thread: detach it and forget its FDB entries.
    pub fn remove_port(&self, port: PortId) { todo!() }
    /// Worker: learn the source and decide, from the first bytes (at least 14, 18 with a VLAN tag) of a frame. `now` in seconds.
    pub fn decide(&self, ingress: PortId, header: &[u8], now: u32) -> Verdict { todo!() }
    /// The ports to flood to (a snapshot, cheap to load; includes the ingress, which the caller skips).
    pub fn ports(&self) -> std::sync::Arc<[PortId]> { todo!() }
}
