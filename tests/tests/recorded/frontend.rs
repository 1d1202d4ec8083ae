//! The simulated netfront and toolstack write what the stock netfront and libxl wrote.

use crate::{Recording, recordings};
use anyhow::Result;
use std::collections::BTreeMap;
use tests::prepare;
use xen::store::{Transaction, XenStore};

/// Keys that a frontend writes only where the backend offers feature-xdp-headroom or more than one queue, as the recorder does and netback
/// with one worker does not.
const NOT_ASKED_FOR: [&str; 2] = ["xdp-headroom", "multi-queue-num-queues"];

/// Keys whose values differ from boot to boot.
const OF_THE_BOOT: [&str; 9] = [
    "backend",
    "backend-id",
    "event-channel-rx",
    "event-channel-tx",
    "handle",
    "mac",
    "rx-ring-ref",
    "tx-ring-ref",
    "mtu",
];

fn comparable(key: &str, value: &str) -> String {
    if OF_THE_BOOT.contains(&key) {
        String::from("differs")
    } else {
        value.to_owned()
    }
}

/// The frontend's directory when it said Connected for the first time.
fn recorded(recording: &Recording) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    for line in recording.of("frontend") {
        let (key, value) = line.split_once(' ').expect("nothing is removed so early");
        keys.insert(key.to_owned(), comparable(key, value));
        if (key, value) == ("state", "4") {
            break;
        }
    }
    keys.retain(|key, _| !NOT_ASKED_FOR.contains(&key.as_str()));
    keys
}

#[test]
fn the_simulated_netfront_says_what_the_stock_one_says() -> Result<()> {
    let mut lab = prepare::connected(1, &["guest-a"])?;
    let directory = format!("/local/domain/{}/device/vif/0", lab.guests[0].domid);
    let store = lab.toolstack.store();
    let mut simulated = BTreeMap::new();
    for key in store.directory(Transaction::NONE, &directory)? {
        let value = store.read(Transaction::NONE, &format!("{directory}/{key}"))?;
        let value = comparable(&key, &value);
        simulated.insert(key, value);
    }
    for recording in recordings() {
        assert_eq!(simulated, recorded(&recording), "{}", recording.name);
    }
    Ok(())
}
