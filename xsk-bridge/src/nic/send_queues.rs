//! Which of a device's send queues the kernel takes for packets of a packet socket that bypasses the queueing discipline
//! (net/packet/af_packet.c, `packet_pick_tx_queue`): the queue that transmit packet steering has for the sending core (XPS,
//! net/core/dev.c, `get_xps_queue`), else the one whose number is the core's modulo the number of queues.
use super::{Handle, supported};
use std::io;
use std::path::Path;

/// Drivers that leave the choice to the kernel and send a packet by the queue that was chosen; others may choose by the packet.
///
/// None of them has an `ndo_select_queue` in Linux 6.1 and 6.12, except ixgbe, whose own (drivers/net/ethernet/intel/ixgbe/ixgbe_main.c,
/// `ixgbe_select_queue`) chooses for Fibre Channel over Ethernet and asks the kernel for everything else. Each one's transmit function
/// takes the ring from `skb->queue_mapping` alone, by driver: aq_nic.c `aq_nic_xmit`, be_main.c `be_xmit`, bnxt.c `bnxt_start_xmit`,
/// ena_netdev.c `ena_start_xmit`, igb_main.c `igb_tx_queue_mapping`, igc_main.c `igc_tx_queue_mapping`, ixgbe_main.c
/// `ixgbe_xmit_frame`, ixgbevf_main.c `ixgbevf_xmit_frame`, tg3.c `tg3_start_xmit`, veth.c `veth_xmit`, virtio_net.c `start_xmit`,
/// vmxnet3_drv.c `vmxnet3_xmit_frame`.
const LEAVE_THE_CHOICE: &[&str] = &[
    "atlantic",
    "be2net",
    "bnxt_en",
    "ena",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "tg3",
    "veth",
    "virtio_net",
    "vmxnet3",
];

/// Drivers that have several rings of the hardware behind one send queue, and choose among them by what is left to do to a packet's
/// checksum (drivers/net/ethernet/sfc/tx.c, `efx_hard_start_xmit`, and its namesakes in falcon/ and siena/): large packets would overtake
/// AF_XDP's frames even where there is one queue.
const SPLIT_A_QUEUE: &[&str] = &["sfc", "sfc_falcon", "sfc_siena"];

/// The send queues of a device, as they are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendQueues {
    driver: String,
    /// What each queue is configured for, by its number.
    queues: Vec<SendQueue>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct SendQueue {
    /// The cores that are steered to the queue.
    cores: Vec<usize>,
    /// The queue is for a traffic class of its own (mqprio).
    classed: bool,
}

/// Why it is not known which queue the kernel takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Unpredictable {
    #[error("its driver {0} may choose a send queue of its own for each packet")]
    Driver(String),
    #[error("its send queues are split into traffic classes (mqprio)")]
    Classes,
    #[error("core {0} is steered to several of its send queues (xps_cpus)")]
    Steering(usize),
}

impl SendQueues {
    /// Looks at the device's queues below `sys` (`/sys`), which shows the devices of the namespace that it was mounted in.
    pub fn read(sys: &Path, ifname: &str) -> io::Result<Self> {
        let driver = supported(Handle::open(ifname)?.driver())?.unwrap_or_default();
        let directory = sys.join("class/net").join(ifname).join("queues");
        let mut queues = Vec::new();
        loop {
            let queue = directory.join(format!("tx-{}", queues.len()));
            if !queue.exists() {
                break;
            }
            let text = |file: &str| std::fs::read_to_string(queue.join(file)).unwrap_or_default();
            queues.push(SendQueue {
                cores: cores(text("xps_cpus").trim()),
                classed: !matches!(text("traffic_class").trim(), "" | "0"),
            });
        }
        match queues.is_empty() {
            true => Err(io::ErrorKind::NotFound.into()),
            false => Ok(Self { driver, queues }),
        }
    }

    /// Whether there is only one queue, which packets take wherever they are sent from.
    pub fn is_one(&self) -> bool {
        self.queues.len() == 1 && !SPLIT_A_QUEUE.contains(&&*self.driver)
    }

    /// The queue of packets that are sent on `core`.
    pub fn of_core(&self, core: usize) -> Result<usize, Unpredictable> {
        if self.is_one() {
            return Ok(0);
        }
        if !LEAVE_THE_CHOICE.contains(&&*self.driver) {
            return Err(Unpredictable::Driver(self.driver.clone()));
        }
        if self.queues.iter().any(|queue| queue.classed) {
            return Err(Unpredictable::Classes);
        }
        let mut steered = (0..self.queues.len()).filter(|&n| self.queues[n].cores.contains(&core));
        match (steered.next(), steered.next()) {
            (None, _) => Ok(core % self.queues.len()),
            (Some(queue), None) => Ok(queue),
            (Some(_), Some(_)) => Err(Unpredictable::Steering(core)),
        }
    }
}

/// The cores of a mask as the kernel prints it: words of 32 bits in hexadecimal, the highest first, with commas between them.
fn cores(mask: &str) -> Vec<usize> {
    let words = mask.rsplit(',').map(|word| u32::from_str_radix(word, 16));
    let bits = words.enumerate().flat_map(|(n, word)| {
        let word = word.unwrap_or(0);
        (0..32).filter_map(move |bit| (word >> bit & 1 == 1).then_some(n * 32 + bit))
    });
    bits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(driver: &str, masks: &[&str]) -> SendQueues {
        let queue = |mask: &&str| SendQueue {
            cores: cores(mask),
            classed: false,
        };
        SendQueues {
            driver: driver.into(),
            queues: masks.iter().map(queue).collect(),
        }
    }

    #[test]
    fn a_mask_has_its_lowest_cores_in_its_last_word() {
        assert_eq!(cores("5"), [0, 2]);
        assert_eq!(cores("00000001,00000000,80000000"), [31, 64]);
        assert!(cores("").is_empty());
        assert!(cores("0,nonsense").is_empty());
    }

    #[test]
    fn a_core_has_the_queue_it_is_steered_to_or_that_of_its_number() {
        let plain = queues("veth", &["0", "0"]);
        assert_eq!(
            [0, 1, 2].map(|core| plain.of_core(core)),
            [Ok(0), Ok(1), Ok(0)]
        );
        let steered = queues("igb", &["2", "1", "0"]);
        assert_eq!(
            [0, 1, 5].map(|core| steered.of_core(core)),
            [Ok(1), Ok(0), Ok(2)]
        );
    }

    #[test]
    fn a_queue_that_somebody_else_chooses_is_not_predicted() {
        let several = queues("veth", &["1", "1"]);
        assert_eq!(several.of_core(0), Err(Unpredictable::Steering(0)));
        let driver = queues("hv_netvsc", &["0", "0"]);
        let chooses = Unpredictable::Driver("hv_netvsc".into());
        assert_eq!(driver.of_core(0), Err(chooses));
        assert_eq!(queues("hv_netvsc", &["0"]).of_core(7), Ok(0));
        let split = queues("sfc", &["0"]);
        assert!(!split.is_one(), "two rings are behind it");
        assert_eq!(split.of_core(0), Err(Unpredictable::Driver("sfc".into())));
        let mut classed = queues("igb", &["0", "0"]);
        classed.queues[1].classed = true;
        assert_eq!(classed.of_core(0), Err(Unpredictable::Classes));
    }
}
