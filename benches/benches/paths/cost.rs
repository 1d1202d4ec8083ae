//! What a grant copy is charged.
use serde::{Deserialize, Serialize};

/// How the simulator charges grant copies, on top of the memcpy that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cost {
    /// Grant copies cost their memcpy alone.
    Free,
    /// Grant copies cost what [`lab::daemon::COPY_COST`] says.
    Charged,
}

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
            Self::Charged => lab::daemon::COPY_COST.into(),
        }
    }
}
