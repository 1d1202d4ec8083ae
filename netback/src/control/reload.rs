//! SIGHUP: the configuration is read anew. The daemon changes what it can while it runs, begins anew in the same process for the rest, which
//! guests do not notice, and names what only a new process can change.
use super::{Control, Error};
use crate::config::{self, Config};
use crate::hypervisor::Hypervisor;
use crate::vif::id::VifId;
use crate::vif::state::Observation;
use std::time::Instant;
use tracing::{info, warn};
use xen::store::XenStore;
use xsk_bridge::link::Link;

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Reads the configuration anew and takes it on: `[vif]` counts for guests that connect from then on, new bridges and uplinks are
    /// made, and refused vifs are tried again. Returns the configuration to begin anew with, where it asks for more than that.
    pub(super) fn reload(&mut self) -> Result<Option<Config>, Error> {
        let mut fresh = match (self.reload)() {
            Ok(fresh) => fresh,
            Err(error) => {
                warn!("not reloaded: {error}");
                return Ok(None);
            }
        };
        let late = needing_a_process(&self.config, &fresh);
        if !late.is_empty() {
            warn!(
                "not taken on by a reload: {}; restart netback for that, guests do not notice",
                late.join(", ")
            );
            fresh.daemon = self.config.daemon.clone();
        }
        let anew = needing_a_beginning(&self.config, &fresh);
        if !anew.is_empty() {
            info!(
                "beginning anew, guests stay connected: the reload changes {}",
                anew.join(", ")
            );
            return Ok(Some(fresh));
        }
        if fresh == self.config && late.is_empty() {
            info!("reloaded: nothing in the configuration has changed");
        }
        self.take_on(&fresh);
        self.retry_refused()?;
        Ok(None)
    }

    /// Takes on the part of the configuration that a running daemon can change.
    fn take_on(&mut self, fresh: &Config) {
        for bridge in &fresh.bridges {
            if let Err(error) = self.reload_bridge(bridge) {
                warn!(bridge = bridge.name, "not taken on: {error}");
            }
        }
        self.look_at_bulk();
        if self.config.vif != fresh.vif {
            let rate_in = fresh.vif.rate_in;
            if self.config.vif.rate_in != rate_in {
                let now = Instant::now();
                let services = self.vifs.values().filter_map(|vif| vif.service.as_ref());
                services.for_each(|service| service.limits.set_rx(rate_in, now));
            }
            self.config.vif = fresh.vif.clone();
            self.max_queues = self.config.max_queues();
            info!(
                "[vif]: what guests may send and receive counts at once, the rest for guests that connect from now on"
            );
            self.renew_access();
        }
    }

    /// Makes a bridge that is not there, or plugs an uplink into one that has none; the error is one line.
    fn reload_bridge(&mut self, wanted: &config::Bridge) -> Result<(), String> {
        let named = |there: &config::Bridge| there.name == wanted.name;
        let Some(place) = self.config.bridges.iter().position(named) else {
            self.add_bridge(wanted)?;
            self.config.bridges.push(wanted.clone());
            info!(bridge = wanted.name, "added");
            return Ok(());
        };
        self.config.bridges[place].bulk = wanted.bulk;
        if self.config.bridges[place].uplink.is_some() || wanted.uplink.is_none() {
            return Ok(());
        }
        let mut bridges = self.bridges.iter();
        let bridge = bridges
            .find(|bridge| bridge.name == wanted.name)
            .ok_or("it is being made")?;
        let switch = bridge.switch.clone();
        self.open_uplinks(&switch, wanted)?;
        let mut bridges = self.bridges.iter_mut();
        if let Some(bridge) = bridges.find(|bridge| bridge.name == wanted.name) {
            bridge.uplink.clone_from(&wanted.uplink);
        }
        let uplink = wanted.uplink.as_deref().unwrap_or_default();
        if let Ok(Some(link)) = Link::by_name(uplink) {
            self.host_follows_device(&wanted.name, &link);
        }
        self.config.bridges[place] = wanted.clone();
        Ok(())
    }

    /// Tries refused vifs again, for the configuration may now have what they were refused for want of.
    fn retry_refused(&mut self) -> Result<(), Error> {
        let ids: Vec<VifId> = self.vifs.keys().copied().collect();
        for id in ids {
            self.observe(id, Observation::Retry)?;
            self.vifs.entry(id).and_modify(|vif| vif.dirty = true);
        }
        Ok(())
    }
}

/// The names of those of `(name, differs)` that differ.
fn differing(values: &[(&str, bool)]) -> Vec<String> {
    let differing = values.iter().filter(|(_, differs)| *differs);
    differing.map(|(name, _)| (*name).to_owned()).collect()
}

/// Names of what `fresh` asks for that only a new process takes on: its lock, and where its clients and its successor find things.
fn needing_a_process(config: &Config, fresh: &Config) -> Vec<String> {
    let (daemon, new) = (&config.daemon, &fresh.daemon);
    differing(&[
        ("daemon.run_dir", daemon.run_dir != new.run_dir),
        (
            "daemon.control_socket",
            daemon.control_socket != new.control_socket,
        ),
        ("daemon.bpf_dir", daemon.bpf_dir != new.bpf_dir),
    ])
}

/// Names of what `fresh` asks for that needs everything but the guests' connections to be made anew.
fn needing_a_beginning(config: &Config, fresh: &Config) -> Vec<String> {
    let (workers, new) = (&config.workers, &fresh.workers);
    let mut names = differing(&[
        ("workers.count", workers.count != new.count),
        ("workers.pin", workers.pin != new.pin),
        ("workers.poll_us", workers.poll_us != new.poll_us),
        ("umem.frames", config.umem != fresh.umem),
        // The kernel does not take the packet memory of a daemon without uplinks for AF_XDP.
        (
            "the first uplink",
            !config.may_have_uplinks() && fresh.may_have_uplinks(),
        ),
    ]);
    for bridge in &config.bridges {
        let wanted = fresh.bridges.iter().find(|new| new.name == bridge.name);
        match wanted {
            None => names.push(format!("the removal of bridge {}", bridge.name)),
            Some(new) if bridge.uplink.is_some() && !new.interfaces().eq(bridge.interfaces()) => {
                names.push(format!("the uplink of bridge {}", bridge.name));
            }
            Some(new) if new.vlan != bridge.vlan => {
                names.push(format!("the VLAN of bridge {}", bridge.name));
            }
            // The bridge's guests would have to move to another switch.
            Some(new) if bridge.uplink.is_none() && config.has_uplink(new.uplink.as_deref()) => {
                names.push(format!("the uplink of bridge {}", bridge.name));
            }
            Some(new) if bridge.uplink.is_some() && new.xdp != bridge.xdp => {
                names.push(format!("xdp of bridge {}", bridge.name));
            }
            Some(_) => {}
        }
        if wanted.is_some_and(|new| new.host != bridge.host) {
            names.push(format!("the host port of bridge {}", bridge.name));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse("test.toml".as_ref(), text).unwrap()
    }

    #[test]
    fn what_a_running_daemon_does_not_change_is_named() {
        let running = config(
            "[[bridge]]\nname = \"a\"\nuplink = \"eth0\"\n[[bridge]]\nname = \"b\"\nuplink = \"eth1\"\n[[bridge]]\nname = \"c\"",
        );
        assert!(needing_a_process(&running, &running).is_empty());
        assert!(needing_a_beginning(&running, &running).is_empty());
        let fresh = config(
            "[daemon]\nbpf_dir = \"/x\"\n[workers]\ncount = 3\n[vif]\nmax_queues = 2\n[umem]\nframes = 4096\n\
             [[bridge]]\nname = \"a\"\nuplink = \"eth2\"\n[[bridge]]\nname = \"b\"\nuplink = \"eth1\"\nxdp = \"generic\"\n\
             [[bridge]]\nname = \"d\"",
        );
        assert_eq!(needing_a_process(&running, &fresh), ["daemon.bpf_dir"]);
        assert_eq!(
            needing_a_beginning(&running, &fresh),
            [
                "workers.count",
                "umem.frames",
                "the uplink of bridge a",
                "xdp of bridge b",
                "the removal of bridge c"
            ]
        );
    }

    #[test]
    fn a_running_daemon_adds_a_bridge_on_another_vlan_of_its_uplink() {
        let one = "[[bridge]]\nname = \"a\"\nuplink = \"eth0\"\n[[bridge]]\nname = \"b\"\n";
        let running = config(one);
        let added = config(&format!(
            "{one}[[bridge]]\nname = \"c\"\nuplink = \"eth0\"\nvlan = 10"
        ));
        assert!(needing_a_beginning(&running, &added).is_empty());
        let moved = config(
            "[[bridge]]\nname = \"a\"\nuplink = \"eth0\"\nvlan = 5\n[[bridge]]\nname = \"b\"\nuplink = \"eth0\"",
        );
        assert_eq!(
            needing_a_beginning(&running, &moved),
            ["the VLAN of bridge a", "the uplink of bridge b"]
        );
    }

    #[test]
    fn a_running_daemon_adds_bridges_and_uplinks_once_it_has_one() {
        let wired = config("[[bridge]]\nname = \"a\"\nuplink = \"eth0\"\n[[bridge]]\nname = \"b\"");
        let more = config(
            "[vif]\nmax_queues = 2\n[[bridge]]\nname = \"a\"\nuplink = \"eth0\"\n[[bridge]]\nname = \"b\"\nuplink = \"eth1\"\n\
             [[bridge]]\nname = \"c\"\nuplink = \"eth2\"",
        );
        assert!(needing_a_beginning(&wired, &more).is_empty());
        let hosted = config(
            "[[bridge]]\nname = \"a\"\nuplink = \"eth0\"\nhost = true\n[[bridge]]\nname = \"b\"",
        );
        for (from, to) in [(&wired, &hosted), (&hosted, &wired)] {
            assert_eq!(needing_a_beginning(from, to), ["the host port of bridge a"]);
        }
        let bare = config("[[bridge]]\nname = \"a\"\n[[bridge]]\nname = \"b\"");
        assert_eq!(needing_a_beginning(&bare, &more), ["the first uplink"]);
    }
}
