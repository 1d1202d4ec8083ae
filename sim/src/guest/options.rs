//! The command line of `sim-guest`.
use super::generator::Stream;
use super::layout::Layout;
use super::netfront::Settings;
use clap::Parser;
use std::path::PathBuf;

/// A simulated guest: Linux's netfront with a TAP, or a packet generator and sink, behind it.
#[derive(Debug, Clone, Parser)]
#[command(name = "sim-guest", version)]
pub struct Options {
    /// Directory of the hypervisor to be a guest of.
    #[arg(long)]
    pub sim_dir: PathBuf,
    /// Name of the domain, and of the control socket guest-NAME.sock in the directory.
    #[arg(long)]
    pub name: String,
    /// Network namespace to live in (see ip-netns(8)).
    #[arg(long)]
    pub netns: Option<String>,
    /// Lend this interface to the namespace's stack; once for each vif, in the order of their device ids.
    #[arg(long)]
    pub tap: Vec<String>,
    /// Vifs without a TAP, which send only what --generate says and count what arrives.
    #[arg(long, default_value_t = 0)]
    pub sinks: u32,
    /// Send frames: size=64,rate=0,count=1000,dst-mac=00:16:3e:00:00:02 (rate in frames a second, 0: as fast as can be).
    #[arg(long)]
    pub generate: Option<Stream>,
    /// Most queues of a vif.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub queues: u16,
    /// MTU of the TAPs.
    #[arg(long, default_value_t = 1500)]
    pub mtu: u32,
    /// One event channel a queue, even where the backend would split.
    #[arg(long)]
    pub single_event_channel: bool,
    /// Do not say feature-sg.
    #[arg(long)]
    pub no_sg: bool,
    /// Do not say feature-gso-tcpv4 and -tcpv6, and send no such packets even where the backend would take them.
    #[arg(long)]
    pub no_gso: bool,
    /// Say feature-no-csum-offload: IPv4 packets must come with complete checksums.
    #[arg(long)]
    pub no_csum_offload: bool,
    /// Do not say feature-ipv6-csum-offload: IPv6 packets must come with complete checksums.
    #[arg(long)]
    pub no_ipv6_csum_offload: bool,
    /// Ask for multicast control: nothing comes but what was subscribed to.
    #[arg(long)]
    pub multicast_control: bool,
    /// Shape of packets in the ring: linux, linear, scatter=BYTES (of each slot).
    #[arg(long, default_value = "linux")]
    pub layout: Layout,
    /// Post no more than this many Rx buffers a queue; 0 starves the ring.
    #[arg(long, default_value_t = u32::MAX)]
    pub rx_limit: u32,
}

impl Options {
    /// How many vifs the guest has: those with a TAP first, then the sinks; at least one.
    pub fn vifs(&self) -> u32 {
        (self.tap.len() as u32 + self.sinks).max(1)
    }

    /// Settings of vif `devid`.
    pub fn settings(&self, devid: u32) -> Settings {
        let mut settings = Settings {
            devid,
            max_queues: self.queues,
            split: !self.single_event_channel,
            scatter_gather: !self.no_sg,
            gso: !self.no_gso,
            csum_ipv4: !self.no_csum_offload,
            csum_ipv6: !self.no_ipv6_csum_offload,
            multicast_control: self.multicast_control,
            layout: self.layout,
            rx_limit: self.rx_limit,
            first_page: 0,
        };
        settings.first_page = devid * settings.pages();
        settings
    }
}
