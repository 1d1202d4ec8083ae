//! SIGHUP: what of a changed configuration is taken on by a running daemon, and what is named as needing a restart.
use super::{Control, Error};
use crate::config::{self, Config};
use crate::hypervisor::Hypervisor;
use crate::vif::id::VifId;
use crate::vif::state::Observation;
use tracing::{info, warn};
use xen::store::XenStore;

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Read the configuration anew: new bridges and uplinks are made, `[vif]` counts for whoever connects from now on, and refused
    /// vifs are tried again. Everything else is named in one line.
    pub(super) fn reload(&mut self) -> Result<(), Error> {
        let fresh = match (self.reload)() {
            Ok(fresh) => fresh,
            Err(error) => {
                warn!("not reloaded: {error}");
                return Ok(());
            }
        };
        for bridge in &fresh.bridges {
            if let Err(error) = self.reload_bridge(bridge) {
                warn!(bridge = bridge.name, "not taken on: {error}");
            }
        }
        if self.config.vif != fresh.vif {
            self.config.vif = fresh.vif;
            self.max_queues = self.config.max_queues();
            info!("[vif] counts for guests that connect from now on");
        }
        let late = needing_a_restart(&self.config, &fresh);
        if !late.is_empty() {
            warn!(
                "not taken on by a reload: {}; restart netback for that, guests do not notice",
                late.join(", ")
            );
        }
        let ids: Vec<VifId> = self.vifs.keys().copied().collect();
        for id in ids {
            self.observe(id, Observation::Retry)?;
            self.vifs.entry(id).and_modify(|vif| vif.dirty = true);
        }
        Ok(())
    }

    /// Make a bridge that is not there, or plug an uplink into one that has none; the error is one line.
    fn reload_bridge(&mut self, wanted: &config::Bridge) -> Result<(), String> {
        let named = |there: &config::Bridge| there.name == wanted.name;
        let Some(place) = self.config.bridges.iter().position(named) else {
            self.add_bridge(wanted)?;
            self.config.bridges.push(wanted.clone());
            info!(bridge = wanted.name, "added");
            return Ok(());
        };
        if self.config.bridges[place].uplink.is_some() || wanted.uplink.is_none() {
            return Ok(());
        }
        let opened = (self.open_device)(wanted)?;
        let bridge = self
            .bridges
            .iter()
            .find(|bridge| bridge.name() == wanted.name)
            .cloned()
            .ok_or("it is being made")?;
        self.add_device(&bridge, opened)?;
        self.config.bridges[place] = wanted.clone();
        Ok(())
    }
}

/// Names of what `fresh` asks for and a daemon that runs on `config` does not take on.
fn needing_a_restart(config: &Config, fresh: &Config) -> Vec<String> {
    let (daemon, workers) = (&config.daemon, &config.workers);
    let values = [
        ("daemon.run_dir", daemon.run_dir != fresh.daemon.run_dir),
        (
            "daemon.control_socket",
            daemon.control_socket != fresh.daemon.control_socket,
        ),
        ("daemon.bpf_dir", daemon.bpf_dir != fresh.daemon.bpf_dir),
        ("workers.count", workers.count != fresh.workers.count),
        ("workers.pin", workers.pin != fresh.workers.pin),
        ("workers.poll_us", workers.poll_us != fresh.workers.poll_us),
        ("umem.frames", config.umem != fresh.umem),
    ];
    let mut names: Vec<String> = values
        .iter()
        .filter(|(_, differs)| *differs)
        .map(|(name, _)| (*name).to_owned())
        .collect();
    for bridge in &config.bridges {
        let wanted = fresh.bridges.iter().find(|new| new.name == bridge.name);
        match wanted {
            None => names.push(format!("the removal of bridge {}", bridge.name)),
            Some(new) if new.uplink != bridge.uplink => {
                names.push(format!("the uplink of bridge {}", bridge.name));
            }
            Some(new) if new.xdp != bridge.xdp => {
                names.push(format!("xdp of bridge {}", bridge.name));
            }
            Some(_) => {}
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
    fn what_a_reload_does_not_take_on_is_named() {
        let running = config(
            "[[bridge]]\nname = \"a\"\nuplink = \"eth0\"\n[[bridge]]\nname = \"b\"\nuplink = \"eth1\"\n[[bridge]]\nname = \"c\"",
        );
        assert!(needing_a_restart(&running, &running).is_empty());
        let fresh = config(
            "[daemon]\nbpf_dir = \"/x\"\n[workers]\ncount = 3\n[vif]\nmax_queues = 2\n[umem]\nframes = 4096\n\
             [[bridge]]\nname = \"a\"\nuplink = \"eth2\"\n[[bridge]]\nname = \"b\"\nuplink = \"eth1\"\nxdp = \"generic\"\n\
             [[bridge]]\nname = \"d\"",
        );
        assert_eq!(
            needing_a_restart(&running, &fresh),
            [
                "daemon.bpf_dir",
                "workers.count",
                "umem.frames",
                "the uplink of bridge a",
                "xdp of bridge b",
                "the removal of bridge c"
            ]
        );
    }
}
