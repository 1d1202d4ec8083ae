//! What a frontend says of its vif in xenstore (xen/include/public/io/netif.h), read strictly: a number that is not plain decimal
//! has the handshake refused with a reason.
use super::policy::{self, Unhonoured};
use super::state::{Frontend, World, Xenbus};
use crate::vif::features::Features;
use crate::vif::file::RingIdentity;
use crate::vif::id::VifId;
use std::fmt;
use xen::grant::DomId;
use xen::store::{StoreError, Transaction, XenStore};

/// Where a vif is in xenstore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Our directory.
    pub backend: String,
    /// The frontend's directory.
    pub frontend: String,
}

/// What the frontend wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What the frontend can take and asked for.
    pub features: Features,
    /// The rings and event channels of each queue.
    pub queues: Vec<RingIdentity>,
}

/// Why a handshake is refused; one line.
#[derive(Debug)]
pub enum Refusal {
    /// xenstore itself failed.
    Store(StoreError),
    /// A key has a value that cannot be.
    Key {
        /// The key.
        key: String,
        /// The key's value, shortened; `None`: the key is missing.
        value: Option<String>,
        /// What the value should be.
        expected: String,
    },
}
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "{error}"),
            Self::Key {
                key,
                value: Some(value),
                expected,
            } => write!(f, "{key} is {value:?}, not {expected}"),
            Self::Key {
                key,
                value: None,
                expected,
            } => write!(f, "{key} is missing; it should be {expected}"),
        }
    }
}
impl std::error::Error for Refusal {}
impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Reads a key's value; `None` where the key is missing.
pub fn read(store: &mut impl XenStore, path: &str) -> Result<Option<String>, StoreError> {
    match store.read(Transaction::NONE, path) {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether there is a node of this name. Its value is read and its children are not listed: a guest can have more of them than
/// one answer of xenstore holds.
pub(super) fn exists(store: &mut impl XenStore, path: &str) -> Result<bool, StoreError> {
    Ok(read(store, path)?.is_some())
}

/// What a look at the frontend's directory found. The C xenstored refuses to show what a dead domain owned (EACCES) before it removes it:
/// then there is nothing.
fn hidden_is_gone<T>(result: Result<T, StoreError>, gone: T) -> Result<T, StoreError> {
    match result {
        Err(StoreError::Refused { errno, .. }) if errno == "EACCES" => Ok(gone),
        result => result,
    }
}

/// The path of the frontend's directory, as a key of our own directory says; `None` where our directory is gone.
pub fn paths(
    store: &mut impl XenStore,
    backend: &str,
    id: VifId,
) -> Result<Option<Paths>, Refusal> {
    if !exists(store, backend)? {
        return Ok(None);
    }
    let key = format!("{backend}/frontend");
    let frontend = read(store, &key)?;
    // Only the toolstack writes here; what is of another domain is its mistake, and following it would be ours.
    let home = format!("/local/domain/{}/", id.domid.0);
    match frontend {
        Some(frontend) if frontend.starts_with(&home) => Ok(Some(Paths {
            backend: backend.into(),
            frontend,
        })),
        value => Err(refusal("frontend", value, &format!("a path below {home}"))),
    }
}

/// Reads what xenstore says of a vif now, from single nodes alone. Where xenstore does not let us read the frontend's nodes, our own still
/// count, and the frontend is taken to be as it was `last` seen, or in no state.
///
/// # Errors
/// A broken connection, or our own node cannot be read.
pub fn look(
    store: &mut impl XenStore,
    paths: &Paths,
    last: Option<Frontend>,
) -> Result<World, StoreError> {
    let own = read(store, &format!("{}/state", paths.backend))?;
    let own = match own {
        Some(state) => Some(Xenbus::parse(&state)),
        None => exists(store, &paths.backend)?.then_some(Xenbus::Unknown),
    };
    let frontend = match look_at_frontend(store, &paths.frontend) {
        Err(StoreError::Refused { .. }) => last.unwrap_or(Frontend::Is(Xenbus::Unknown)),
        frontend => frontend?,
    };
    let online = read(store, &format!("{}/online", paths.backend))?.as_deref() == Some("1");
    Ok(World {
        frontend,
        online,
        own,
    })
}

fn look_at_frontend(store: &mut impl XenStore, directory: &str) -> Result<Frontend, StoreError> {
    let state = read(store, &format!("{directory}/state"));
    if let Some(state) = hidden_is_gone(state, None)? {
        return Ok(Frontend::Is(Xenbus::parse(&state)));
    }
    Ok(match hidden_is_gone(exists(store, directory), false)? {
        true => Frontend::Is(Xenbus::Unknown),
        false => Frontend::Gone,
    })
}

/// Writes in one transaction what we offer, and that the vif may be connected or, with an `obstacle`, why it may not. A key whose value is
/// what netif.h takes an absent key for is not written: a domain may have 1000 nodes, and each vif takes about twenty.
///
/// `xl devd` runs the vif's script once it sees InitWait, and finds ours there: the stock one fails for want of an interface, and would
/// write over `hotplug-status`.
pub fn advertise(
    store: &mut impl XenStore,
    paths: &Paths,
    max_queues: u16,
    obstacle: Option<&Unhonoured>,
) -> Result<(), StoreError> {
    let max_queues = max_queues.to_string();
    let mut keys = vec![
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
        ("feature-ipv6-csum-offload", "1"),
        ("feature-rx-copy", "1"),
        ("feature-multicast-control", "1"),
        // Exactly `1`: Windows reads it in base 2.
        ("feature-dynamic-multicast-control", "1"),
        ("feature-split-event-channels", "1"),
    ];
    if max_queues != "1" {
        keys.push(("multi-queue-max-queues", &max_queues));
    }
    keys.push(("state", "2"));
    if obstacle.is_none_or(|obstacle| obstacle.key != "script") {
        keys.push(("script", policy::SCRIPT));
    }
    let error = obstacle.map(|obstacle| obstacle.to_string());
    store.transact(|store, t| {
        for &(key, value) in &keys {
            store.write(t, &format!("{}/{key}", paths.backend), value)?;
        }
        write_hotplug(store, t, paths, error.as_deref())?;
        // A predecessor with more queues may have left it.
        if max_queues == "1" {
            return remove_key(
                store,
                t,
                &format!("{}/multi-queue-max-queues", paths.backend),
            );
        }
        Ok(())
    })
}

/// Removes a key. A key that is not there is no error.
fn remove_key<S: XenStore + ?Sized>(
    store: &mut S,
    t: Transaction,
    path: &str,
) -> Result<(), StoreError> {
    match store.remove(t, path) {
        Err(StoreError::Missing(_)) => Ok(()),
        result => result,
    }
}

/// What to do where xenstore refuses a node, as the end of a line.
pub fn cure(error: &StoreError) -> &'static str {
    match error {
        // oxenstored's name for it, and the C xenstored's.
        StoreError::Refused { errno, .. } if errno == "EQUOTA" || errno == "ENOSPC" => {
            ": this domain has as many nodes as xenstore's quota allows; raise it in dom0 (quota-maxentity in oxenstored.conf, \
             --entry-nb of xenstored), it is tried again by itself"
        }
        _ => "; it is tried again by itself",
    }
}

/// Writes our state, unless the node is gone: writing would make the node anew.
pub fn write_state(
    store: &mut impl XenStore,
    paths: &Paths,
    state: Xenbus,
) -> Result<(), StoreError> {
    store.transact(|store, t| {
        store.read(t, &format!("{}/frontend", paths.backend))?;
        store.write(
            t,
            &format!("{}/state", paths.backend),
            &state.number().to_string(),
        )
    })
}

/// Says in xenstore why the vif is not served, or (`None`) that it may be, as a hotplug script would.
pub fn write_reason(
    store: &mut impl XenStore,
    paths: &Paths,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    store.transact(|store, t| {
        store.read(t, &format!("{}/frontend", paths.backend))?;
        write_hotplug(store, t, paths, reason)
    })
}

fn write_hotplug<S: XenStore + ?Sized>(
    store: &mut S,
    t: Transaction,
    paths: &Paths,
    error: Option<&str>,
) -> Result<(), StoreError> {
    let key = |name: &str| format!("{}/{name}", paths.backend);
    match error {
        None => {
            remove_key(store, t, &key("hotplug-error"))?;
            store.write(t, &key("hotplug-status"), "connected")
        }
        Some(error) => {
            store.write(t, &key("hotplug-error"), error)?;
            store.write(t, &key("hotplug-status"), "error")
        }
    }
}

/// Writes the MTU where the frontend reads it, and the key `carrier` in our directory (netif.h: 0 where packets lead nowhere, 1 or absent
/// where they do). A key that has its value already is not written.
pub fn write_network(
    store: &mut impl XenStore,
    paths: &Paths,
    mtu: Option<u32>,
    carrier: bool,
) -> Result<(), StoreError> {
    let key = format!("{}/carrier", paths.backend);
    let before = read(store, &key)?.is_none_or(|value| value != "0");
    if before != carrier {
        let value = u8::from(carrier).to_string();
        store.transact(|store, t| {
            store.read(t, &format!("{}/frontend", paths.backend))?;
            store.write(t, &key, &value)
        })?;
    }
    let Some(mtu) = mtu.map(|mtu| mtu.to_string()) else {
        return Ok(());
    };
    let key = format!("{}/mtu", paths.frontend);
    // libxl makes the key and lets us write it; where it is not there, it is not ours to make.
    match hidden_is_gone(read(store, &key), None)? {
        Some(before) if before != mtu => store.write(Transaction::NONE, &key, &mtu),
        _ => Ok(()),
    }
}

/// Removes our node if its state is Closed, for another node of the same name may be there by now, and the domain's node if ours was its
/// last.
pub fn remove_node(store: &mut impl XenStore, paths: &Paths) -> Result<(), StoreError> {
    store.transact(|store, t| {
        let state = store.read(t, &format!("{}/state", paths.backend))?;
        match Xenbus::parse(&state) {
            Xenbus::Closed => store.remove(t, &paths.backend),
            _ => Ok(()),
        }
    })?;
    let Some((domain, _)) = paths.backend.rsplit_once('/') else {
        return Ok(());
    };
    match store.directory(Transaction::NONE, domain) {
        // It may be the toolstack's own: then it sees to it.
        Ok(others) if others.is_empty() => match store.remove(Transaction::NONE, domain) {
            Err(StoreError::Refused { .. } | StoreError::Missing(_)) => Ok(()),
            result => result,
        },
        Err(StoreError::Io(error)) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Reads what the frontend offers: at most `max_queues` queues, and no more than a predecessor advertised.
pub fn offer(store: &mut impl XenStore, paths: &Paths, max_queues: u16) -> Result<Offer, Refusal> {
    let advertised = read(store, &format!("{}/multi-queue-max-queues", paths.backend))?;
    let advertised = advertised.as_deref().and_then(parse_number);
    let mut keys = Keys {
        store,
        directory: &paths.frontend,
    };
    if !keys.flag("request-rx-copy")? {
        return Err(refusal(
            "request-rx-copy",
            keys.text("request-rx-copy")?,
            "1: grant copy is the only mode",
        ));
    }
    let count = match advertised {
        // Without the key netfront writes no number (drivers/net/xen-netfront.c, talk_to_netback): one that is there is from a connection
        // before, when more were offered.
        None => 1,
        Some(advertised) => {
            let most = u32::from(max_queues)
                .max(advertised)
                .min(crate::vif::file::MAX_QUEUES as u32);
            let count = keys.number(
                "multi-queue-num-queues",
                &format!("a number from 1 to {most}"),
                |count| (1..=most).contains(&count),
            )?;
            count.unwrap_or(1)
        }
    };
    let mut queues = Vec::with_capacity(count as usize);
    let mut split = false;
    for queue in 0..count {
        let prefix = if count == 1 {
            String::new()
        } else {
            format!("queue-{queue}/")
        };
        let (identity, is_split) = ring(&mut keys, &prefix)?;
        split |= is_split;
        queues.push(identity);
    }
    let features = Features {
        sg: keys.flag("feature-sg")?,
        gso_tcpv4: keys.flag("feature-gso-tcpv4")?,
        gso_tcpv6: keys.flag("feature-gso-tcpv6")?,
        csum_ipv4: !keys.flag("feature-no-csum-offload")?,
        csum_ipv6: keys.flag("feature-ipv6-csum-offload")?,
        rx_notify: keys.flag("feature-rx-notify")?,
        multicast_control: keys.flag(REQUEST_MULTICAST_CONTROL)?,
        split_event_channels: split,
    };
    Ok(Offer { features, queues })
}

/// The frontend's wish that multicast it did not subscribe to be kept from it.
const REQUEST_MULTICAST_CONTROL: &str = "request-multicast-control";

/// Whether a connected frontend wants its multicast filtered now.
pub fn multicast_control(store: &mut impl XenStore, paths: &Paths) -> Result<bool, Refusal> {
    let mut keys = Keys {
        store,
        directory: &paths.frontend,
    };
    keys.flag(REQUEST_MULTICAST_CONTROL)
}

/// Reads one queue's keys, and whether its event channels are split.
fn ring<S: XenStore>(
    keys: &mut Keys<'_, S>,
    prefix: &str,
) -> Result<(RingIdentity, bool), Refusal> {
    let gref = "a grant reference";
    let tx_gref = keys.required(&format!("{prefix}tx-ring-ref"), gref, |_| true)?;
    let rx_gref = keys.required(&format!("{prefix}rx-ring-ref"), gref, |_| true)?;
    let channel = "an event channel";
    // Port 0 is never valid (xen/include/public/event_channel.h).
    let is_port = |port: u32| port != 0;
    if let Some(tx_port) = keys.number(&format!("{prefix}event-channel-tx"), channel, is_port)? {
        let rx_port = keys.required(&format!("{prefix}event-channel-rx"), channel, is_port)?;
        return Ok((
            RingIdentity {
                tx_gref,
                rx_gref,
                tx_port,
                rx_port,
            },
            tx_port != rx_port,
        ));
    }
    let port = keys.required(&format!("{prefix}event-channel"), channel, is_port)?;
    Ok((
        RingIdentity {
            tx_gref,
            rx_gref,
            tx_port: port,
            rx_port: port,
        },
        false,
    ))
}

/// The keys of one directory.
struct Keys<'a, S> {
    store: &'a mut S,
    directory: &'a str,
}
impl<S: XenStore> Keys<'_, S> {
    fn text(&mut self, key: &str) -> Result<Option<String>, StoreError> {
        hidden_is_gone(read(self.store, &format!("{}/{key}", self.directory)), None)
    }

    /// Reads a number that passes `check`; `None` where the key is missing.
    fn number(
        &mut self,
        key: &str,
        expected: &str,
        check: impl Fn(u32) -> bool,
    ) -> Result<Option<u32>, Refusal> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        match parse_number(&text).filter(|&number| check(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(refusal(key, Some(text), expected)),
        }
    }

    fn required(
        &mut self,
        key: &str,
        expected: &str,
        check: impl Fn(u32) -> bool,
    ) -> Result<u32, Refusal> {
        self.number(key, expected, check)?
            .ok_or_else(|| refusal(key, None, expected))
    }

    /// Reads whether a feature is on: a missing key is 0, and any number but 0 is 1.
    fn flag(&mut self, key: &str) -> Result<bool, Refusal> {
        Ok(self.number(key, "0 or 1", |_| true)?.unwrap_or(0) != 0)
    }
}

/// Reads a plain decimal number: digits only, no leading zero, at most 32 bits.
pub fn parse_number(text: &str) -> Option<u32> {
    let plain = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

/// Reads the vif's name, `<domid>/<devid>`, at the end of a backend path.
pub fn parse_id(domid: &str, devid: &str) -> Option<VifId> {
    let domid = DomId(u16::try_from(parse_number(domid)?).ok()?);
    Some(VifId {
        domid,
        devid: parse_number(devid)?,
    })
}

fn refusal(key: &str, value: Option<String>, expected: &str) -> Refusal {
    // A guest writes up to 4 KiB; a line of status holds a little of it.
    let value = value.map(|value| value.chars().take(32).collect());
    Refusal::Key {
        key: key.into(),
        value,
        expected: expected.into(),
    }
}
