//! Who segments large packets for each queue of an uplink, decided by what the device is and can do now.
use super::Control;
use crate::config::Bulk;
use crate::hypervisor::Hypervisor;
use crate::observe::status;
use crate::path::lane::LaneTerms;
use crate::worker::messages::ToWorker;
use std::io;
use std::path::Path;
use tracing::info;
use xen::store::XenStore;
use xsk_bridge::nic::{Segmentation, SendQueues};

/// How packets that are to be segmented leave by one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BulkWay {
    /// Through the lane, for the device to segment them.
    Device(LaneTerms),
    /// In segments that netback makes, for this reason.
    Netback(String),
}

impl Default for BulkWay {
    /// What a worker does with a new queue until it is told otherwise.
    fn default() -> Self {
        Self::Netback("nobody has asked the device yet".into())
    }
}

impl BulkWay {
    fn terms(&self) -> Option<LaneTerms> {
        match self {
            Self::Device(terms) => Some(*terms),
            Self::Netback(_) => None,
        }
    }

    /// The words that `status` shows.
    pub fn report(&self) -> status::Bulk {
        match self {
            Self::Device(_) => status::Bulk {
                segmented_by: "device".into(),
                reason: None,
            },
            Self::Netback(reason) => status::Bulk {
                segmented_by: "netback".into(),
                reason: Some(reason.clone()),
            },
        }
    }
}

/// What the decision depends on that is the same for all queues of a device.
struct Device<'a> {
    wanted: Bulk,
    zero_copy: bool,
    segmentation: &'a io::Result<Segmentation>,
    queues: &'a io::Result<SendQueues>,
}

/// What the decision depends on that is a queue's own.
struct Queue<'a> {
    number: usize,
    /// Why the queue has no socket for large packets; `None`: it has one.
    no_lane: Option<&'a str>,
    /// The core that the queue's worker is pinned to.
    core: Option<usize>,
}

impl Device<'_> {
    /// The way of large packets by one queue.
    fn way(&self, queue: &Queue<'_>) -> BulkWay {
        match self.terms(queue) {
            Ok(terms) => BulkWay::Device(terms),
            Err(reason) => BulkWay::Netback(reason),
        }
    }

    fn terms(&self, queue: &Queue<'_>) -> Result<LaneTerms, String> {
        if self.wanted == Bulk::Off {
            return Err("the configuration says bulk = \"off\"".into());
        }
        if self.zero_copy {
            return Err("the driver reads frames itself (zero-copy)".into());
        }
        if let Some(reason) = queue.no_lane {
            return Err(reason.into());
        }
        let unknown = |error: &io::Error| format!("the device cannot be asked: {error}");
        let segmentation = *self.segmentation.as_ref().map_err(unknown)?;
        if !segmentation.ipv4 && !segmentation.ipv6 {
            return Err(
                "TCP segmentation of the device is off, or it has none (`ethtool -k`)".into(),
            );
        }
        let queues = self.queues.as_ref().map_err(unknown)?;
        if queues.is_one() {
            return Ok(LaneTerms {
                segmentation,
                core: None,
            });
        }
        let core = queue.core.ok_or(
            "the device has several send queues, and workers are not pinned (workers.pin)",
        )?;
        let taken = queues.of_core(core).map_err(|error| error.to_string())?;
        if taken != queue.number {
            return Err(format!(
                "the kernel would send its large packets by queue {taken}, as core {core} is steered there (tx-{taken}/xps_cpus)"
            ));
        }
        Ok(LaneTerms {
            segmentation,
            core: Some(core),
        })
    }
}

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Looks at what every uplink's device segments itself, and tells workers and log what has changed.
    pub(super) fn look_at_bulk(&mut self) {
        let pinned = self.config.workers.pin;
        for uplink in &mut self.uplinks {
            let mut bridges = self.config.bridges.iter();
            // All queues of an uplink say the same.
            let bridge = bridges.find(|bridge| {
                let mut interfaces = bridge.interfaces();
                interfaces.any(|ifname| *ifname == *uplink.ifname)
            });
            let device = Device {
                wanted: bridge.map(|bridge| bridge.bulk).unwrap_or_default(),
                zero_copy: uplink.zero_copy,
                segmentation: &Segmentation::of(&uplink.device),
                queues: &SendQueues::read(Path::new("/sys"), &uplink.ifname),
            };
            let (mut changed, mut first) = (false, false);
            for (number, queue) in uplink.queues.iter_mut().enumerate() {
                let way = device.way(&Queue {
                    number,
                    no_lane: queue.no_lane.as_deref(),
                    core: pinned.then_some(queue.worker.into()),
                });
                if queue.bulk == way {
                    continue;
                }
                first |= queue.bulk == BulkWay::default();
                let message = ToWorker::SetLane(uplink.device.index, number as u16, way.terms());
                self.pool.send(queue.worker, message);
                queue.bulk = way;
                changed = true;
            }
            if changed && (first || uplink.may_log()) {
                for (queue, kept) in uplink.queues.iter().enumerate() {
                    let status::Bulk {
                        segmented_by,
                        reason,
                    } = kept.bulk.report();
                    let reason = reason.unwrap_or_default();
                    info!(
                        uplink = uplink.ifname,
                        queue, segmented_by, reason, "large packets"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TSO: Segmentation = Segmentation {
        ipv4: true,
        ipv6: true,
        ecn: true,
        max_size: 65_536,
        max_segments: 65_535,
    };

    fn reason(device: &Device<'_>, queue: &Queue<'_>) -> String {
        device.terms(queue).unwrap_err()
    }

    #[test]
    fn the_device_segments_only_where_nothing_speaks_against_it() {
        let unknown = Err(io::ErrorKind::NotFound.into());
        let mut device = Device {
            wanted: Bulk::Auto,
            zero_copy: false,
            segmentation: &Ok(TSO),
            queues: &unknown,
        };
        let mut queue = Queue {
            number: 0,
            no_lane: None,
            core: Some(0),
        };
        assert!(reason(&device, &queue).contains("cannot be asked"));
        let none = Ok(Segmentation {
            ipv4: false,
            ipv6: false,
            ..TSO
        });
        device.segmentation = &none;
        assert!(reason(&device, &queue).contains("ethtool -k"));
        queue.no_lane = Some("no packet socket: not allowed");
        assert!(reason(&device, &queue).contains("not allowed"));
        device.zero_copy = true;
        assert!(reason(&device, &queue).contains("zero-copy"));
        device.wanted = Bulk::Off;
        assert!(reason(&device, &queue).contains("bulk = \"off\""));
    }
}
