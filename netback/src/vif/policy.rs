//! How a vif is to be served, in the toolstack's words: every key of the vif's backend directory that asks for something is read here,
//! and nowhere else. libxl writes them (tools/libs/light/libxl_nic.c); of a kernel backend, the driver reads `mac` and `rate`
//! (drivers/net/xen-netback/xenbus.c) and the hotplug scripts the rest (tools/hotplug/Linux/vif-common.sh, xen-network-common.sh).
//!
//! A key that cannot be honoured keeps its vif from connecting: a guest that was promised a VLAN or a rate is not served without.
use super::bandwidth::Bandwidth;
use super::handshake::{exists, parse_number, read};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use xen::store::{StoreError, Transaction, XenStore};
use xsk_bridge::switch::filter::Addresses;
use xsk_bridge::switch::vlan::Vlans;

/// Every key that asks for something. The others describe the vif (`handle`, `frontend-id`, `type`), name an interface that netback
/// does not make (`vifname`), or belong to the life of the vif (`state`, `online`, `hotplug-status`).
pub const KEYS: [&str; 9] = [
    "mac",
    "bridge",
    "rate",
    "mtu",
    "vlan",
    "ip",
    "script",
    "gatewaydev",
    "forwarddev",
];
/// Keys that keep guests apart: a vif whose keys of these cannot be honoured is not served at all, not even where it was before.
const APART: [&str; 2] = ["vlan", "ip"];

/// The hotplug script of the package, which replaces the stock one in xenstore.
pub const SCRIPT: &str = "/etc/xen/scripts/vif-netback";
/// Hotplug scripts by file name that ask for nothing but a port on a bridge: libxl's default, ours, and one that does nothing.
const SCRIPTS: [&str; 3] = ["vif-bridge", "vif-netback", "true"];
/// The MTUs that an interface can have: IPv4's least (RFC 791), and what the longest packet holds behind an Ethernet header with a tag.
const MTUS: std::ops::RangeInclusive<u32> = 68..=65_517;

/// The keys as they are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys(BTreeMap<&'static str, String>);

impl Keys {
    /// Reads the keys that are there; a directory that is gone has none.
    ///
    /// # Errors
    /// xenstore does not answer, or does not let us read our own directory.
    pub fn read(store: &mut impl XenStore, backend: &str) -> Result<Self, StoreError> {
        if !exists(store, backend)? {
            return Ok(Self::default());
        }
        // One listing spares a look at each of the keys that are not there, which most are not.
        let there = match store.directory(Transaction::NONE, backend) {
            Err(StoreError::Missing(_)) => return Ok(Self::default()),
            there => there?,
        };
        let mut keys = Self::default();
        for key in KEYS
            .into_iter()
            .filter(|&key| there.iter().any(|name| name == key))
        {
            if let Some(value) = read(store, &format!("{backend}/{key}"))? {
                keys.0.insert(key, value);
            }
        }
        Ok(keys)
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| &**value)
    }

    /// The value of `key` as `parse` understands it; `None` where the key is not there.
    fn parse<T>(
        &self,
        key: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Unhonoured> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let parsed = parse(value).ok_or_else(|| Unhonoured::wrong(key, value, expected));
        parsed.map(Some)
    }

    /// The value of `key`, which says itself what is wrong with it; `None` where the key is not there.
    fn parse_str<T: FromStr<Err: fmt::Display>>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, Unhonoured> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let parsed = value.parse().map_err(|error| {
            Unhonoured::new(key, format!("{key} is {:?}: {error}", shortened(value)))
        });
        parsed.map(Some)
    }
}

/// The bridge that a vif with a key `vlan` asks for, whatever the key says; `None`: the vif has no such key.
///
/// # Errors
/// xenstore does not answer, or does not let us read our own directory.
pub fn bridge_with_vlan(
    store: &mut impl XenStore,
    backend: &str,
) -> Result<Option<String>, StoreError> {
    match exists(store, &format!("{backend}/vlan"))? {
        true => Ok(Some(
            read(store, &format!("{backend}/bridge"))?.unwrap_or_default(),
        )),
        false => Ok(None),
    }
}

/// How a vif is to be served. Every value in it is in range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The guest's MAC.
    pub mac: [u8; 6],
    /// Name of the bridge; empty: the only one.
    pub bridge: String,
    /// What the guest may send; `None`: as much as it can.
    pub rate: Option<Bandwidth>,
    /// The longest packets both ways, in bytes without the Ethernet header; `None`: what the uplink takes.
    pub mtu: Option<u32>,
    /// The VLANs of its port; `None`: those of its bridge.
    pub vlan: Option<Vlans>,
    /// The addresses that the guest may use; `None`: those of the configuration.
    pub ip: Option<Addresses>,
}

impl Policy {
    /// What the keys ask for.
    ///
    /// # Errors
    /// A key asks for what cannot be, or for what netback does not do.
    pub fn of(keys: &Keys) -> Result<Self, Unhonoured> {
        refuse_other_scripts(keys)?;
        let address = "a unicast address as 00:16:3e:00:00:01";
        let mac = keys.parse("mac", address, parse_mac)?;
        let mac = mac.ok_or_else(|| {
            Unhonoured::new("mac", format!("mac is missing; it should be {address}"))
        })?;
        for (key, instead) in [
            (
                "gatewaydev",
                "netback bridges and does not route: take gatewaydev= out, and use bridge=",
            ),
            (
                "forwarddev",
                "netback does not do COLO: take forwarddev= out",
            ),
        ] {
            if let Some(value) = keys.get(key) {
                return Err(Unhonoured::new(
                    key,
                    format!("{key} is {:?}: {instead}", shortened(value)),
                ));
            }
        }
        let range = format!("a number from {} to {}", MTUS.start(), MTUS.end());
        let mtu = |text: &str| parse_number(text).filter(|mtu| MTUS.contains(mtu));
        Ok(Self {
            mac,
            // libxl always writes one; XAPI does not, and has one network a backend.
            bridge: keys.get("bridge").unwrap_or_default().to_owned(),
            rate: keys.parse(
                "rate",
                "<bytes>,<microseconds> as xl writes it for rate=10Mb/s",
                Bandwidth::from_key,
            )?,
            mtu: keys.parse("mtu", &range, mtu)?,
            vlan: keys.parse_str("vlan")?,
            // As to the stock script, a list of no addresses is none.
            ip: match keys.get("ip").map(str::trim) {
                None | Some("") => None,
                Some(_) => keys.parse_str("ip")?,
            },
        })
    }

    /// What the keys of a vif ask for that is connected already: one that cannot be honoured is left out and named, for the guest is
    /// not to lose its network over it.
    ///
    /// # Errors
    /// A key that keeps guests apart cannot be honoured, or the vif has no address.
    pub fn of_connected(keys: &Keys) -> Result<(Self, Option<Unhonoured>), Unhonoured> {
        let (mut keys, mut first) = (keys.clone(), None);
        loop {
            match Self::of(&keys) {
                Ok(policy) => return Ok((policy, first)),
                Err(error) if APART.contains(&error.key) || keys.0.remove(error.key).is_none() => {
                    return Err(error);
                }
                Err(error) => drop(first.get_or_insert(error)),
            }
        }
    }
}

/// A script other than libxl's default says how the vif is to be connected: by routing, NAT, another switch.
fn refuse_other_scripts(keys: &Keys) -> Result<(), Unhonoured> {
    let script = keys.get("script").unwrap_or_default();
    let name = script.rsplit('/').next().unwrap_or_default();
    if script.is_empty() || SCRIPTS.contains(&name) {
        return Ok(());
    }
    let reason = format!(
        "script is {:?}, which netback does not run: take script= out, and it is connected to its bridge",
        shortened(script)
    );
    Err(Unhonoured::new("script", reason))
}

/// Why a vif cannot be served as its keys ask; one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unhonoured {
    /// The key at fault; empty where xenstore does not let us read the keys.
    pub key: &'static str,
    reason: String,
}

impl Unhonoured {
    fn new(key: &'static str, reason: String) -> Self {
        Self { key, reason }
    }

    fn wrong(key: &'static str, value: &str, expected: &str) -> Self {
        Self::new(
            key,
            format!("{key} is {:?}, not {expected}", shortened(value)),
        )
    }
}

impl From<StoreError> for Unhonoured {
    fn from(error: StoreError) -> Self {
        Self::new("", error.to_string())
    }
}

impl fmt::Display for Unhonoured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}
impl std::error::Error for Unhonoured {}

/// As much of a value as a line of status holds.
fn shortened(value: &str) -> String {
    value.chars().take(64).collect()
}

/// Six bytes in hexadecimal; a guest's address is unicast and not zero.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts
            .next()
            .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(pairs: &[(&'static str, &str)]) -> Keys {
        let mac = [("mac", "00:16:3e:00:00:0a")];
        let pairs = mac.iter().chain(pairs);
        Keys(pairs.map(|&(key, value)| (key, value.to_owned())).collect())
    }

    #[test]
    fn what_libxl_writes_by_default_is_honoured() {
        let policy = Policy::of(&keys(&[
            ("bridge", "xenbr0"),
            ("script", "/etc/xen/scripts/vif-bridge"),
        ]))
        .unwrap();
        let expected = Policy {
            mac: [0, 0x16, 0x3e, 0, 0, 0x0a],
            bridge: "xenbr0".into(),
            rate: None,
            mtu: None,
            vlan: None,
            ip: None,
        };
        assert_eq!(policy, expected);
        assert_eq!(Policy::of(&keys(&[])).unwrap().bridge, "");
        let policy = Policy::of(&keys(&[("rate", "62500,50000"), ("mtu", "9000")])).unwrap();
        assert_eq!(
            (policy.rate.unwrap().bytes, policy.mtu),
            (62_500, Some(9000))
        );
        let policy = Policy::of(&keys(&[("vlan", "10p/20"), ("ip", "192.0.2.7")])).unwrap();
        assert_eq!(policy.vlan.unwrap().to_string(), "10p/20");
        assert_eq!(policy.ip.unwrap().to_string(), "192.0.2.7");
        assert_eq!(Policy::of(&keys(&[("ip", " ")])).unwrap().ip, None);
    }

    #[test]
    fn a_key_that_cannot_be_honoured_is_named_in_one_line() {
        for (key, value, line) in [
            (
                "mac",
                "01:00:5e:00:00:01",
                "mac is \"01:00:5e:00:00:01\", not a unicast address as 00:16:3e:00:00:01",
            ),
            (
                "rate",
                "10Mb/s",
                "rate is \"10Mb/s\", not <bytes>,<microseconds> as xl writes it for rate=10Mb/s",
            ),
            ("mtu", "67", "mtu is \"67\", not a number from 68 to 65517"),
            (
                "mtu",
                "65518",
                "mtu is \"65518\", not a number from 68 to 65517",
            ),
            (
                "vlan",
                "10/20",
                "vlan is \"10/20\": none of its VLANs is marked p as that of frames without a tag",
            ),
            (
                "ip",
                "guest.example",
                "ip is \"guest.example\": \"guest.example\" is no address and no prefix, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::7",
            ),
            (
                "script",
                "/etc/xen/scripts/vif-route",
                "script is \"/etc/xen/scripts/vif-route\", which netback does not run: take script= out, and it is connected to its bridge",
            ),
            (
                "gatewaydev",
                "eth0",
                "gatewaydev is \"eth0\": netback bridges and does not route: take gatewaydev= out, and use bridge=",
            ),
        ] {
            let error = Policy::of(&keys(&[(key, value)])).unwrap_err();
            assert_eq!((error.key, &*error.to_string()), (key, line));
        }
        let long = "\n".repeat(4096);
        for key in KEYS {
            let error = match Policy::of(&keys(&[(key, &long)])) {
                Err(error) => error.to_string(),
                Ok(_) => continue,
            };
            assert!(error.len() < 300 && !error.contains('\n'), "{error}");
        }
        let missing = Policy::of(&Keys::default()).unwrap_err().to_string();
        assert!(missing.starts_with("mac is missing"), "{missing}");
    }

    #[test]
    fn a_connected_guest_keeps_its_network_unless_it_would_leave_its_place() {
        let (policy, named) =
            Policy::of_connected(&keys(&[("rate", "much"), ("mtu", "big"), ("bridge", "b")]))
                .unwrap();
        assert_eq!(
            (policy.rate, policy.mtu, &*policy.bridge),
            (None, None, "b")
        );
        assert_eq!(named.unwrap().key, "rate");
        assert_eq!(
            Policy::of_connected(&keys(&[("rate", "much"), ("vlan", "x")]))
                .unwrap_err()
                .key,
            "vlan"
        );
        assert!(Policy::of_connected(&keys(&[])).unwrap().1.is_none());
        assert_eq!(
            Policy::of_connected(&Keys::default()).unwrap_err().key,
            "mac"
        );
    }

    #[test]
    fn a_mac_is_six_hexadecimal_bytes_of_a_unicast_address() {
        assert_eq!(
            parse_mac("00:16:3E:00:00:0a"),
            Some([0, 0x16, 0x3e, 0, 0, 0x0a])
        );
        for wrong in [
            "",
            "00:16:3e:00:00",
            "00:16:3e:00:00:0a:00",
            "01:16:3e:00:00:0a",
            "00:00:00:00:00:00",
            "0:16:3e:00:00:0a",
            "00:16:3e:00:00:+a",
        ] {
            assert_eq!(parse_mac(wrong), None, "{wrong:?}");
        }
    }
}
