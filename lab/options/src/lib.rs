//! The options of `cargo xtask demo`.
//!
//! A crate of its own because two programs read them: xtask, which refuses a wrong one before it builds anything, and the demo.
use clap::Parser;

/// Two simulated guests and a host outside, joined by the real netback.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask demo",
    bin_name = "cargo xtask demo",
    max_term_width = 80
)]
pub struct Options {
    /// One JSON object on stdout.
    #[arg(long)]
    pub json: bool,
    /// Kill the daemon under load and start it again, instead of measuring every path.
    #[arg(long)]
    pub restart: bool,
    /// Measure TCP with segmentation offload in the guests and without, with free grant copies and with charged ones.
    #[arg(long, conflicts_with_all = ["restart", "hold"])]
    pub offloads: bool,
    /// Seconds of each stream that --offloads measures.
    #[arg(long, default_value_t = 3, requires = "offloads", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub seconds: u32,
    /// Keep everything up until Ctrl-C, and print what to type to look around.
    #[arg(long, conflicts_with_all = ["json", "restart"])]
    pub hold: bool,
    /// Queues of each guest, and workers of the daemon.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub queues: u16,
}
