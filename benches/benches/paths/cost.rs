//! What a grant copy is charged.
use serde::{Deserialize, Serialize};

/// How the simulator charges grant copies, on top of the memcpy that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cost {
    /// Not at all.
    Free,
    /// As the constants below say.
    Charged,
}

/// Nanoseconds a call of the ioctl: one system call, measured as 170 ns on the 2-core shared machine of docs/benchmarks.md.
const CALL: u32 = 170;
/// Nanoseconds a hypercall, of at most 16 operations. No public figure: a PV guest's hypercall enters Xen by SYSCALL, so it is at
/// least [`CALL`]; an exit from a PVH or HVM guest costs several times that. With 16 operations a hypercall it is 1/16 of the charge.
const HYPERCALL: u32 = 500;
/// Nanoseconds an operation: what kernel netback spends on one a packet, by the packet rates of Oracle's series for UEK with and
/// without grant copies (Tx 1.24 against 3.6 million a second is 0.53 us, Rx 1.02 against 2.04 is 0.49 us).
const OPERATION: u32 = 500;

impl Cost {
    /// As in JSON and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Charged => "charged",
        }
    }

    /// The value of SIM_COPY_COST.
    pub fn environment(self) -> String {
        match self {
            Self::Free => String::new(),
            Self::Charged => format!("{CALL},{HYPERCALL},{OPERATION}"),
        }
    }
}
