//! What a grant copy is charged.
use serde::Serialize;

/// How the simulator charges grant copies, on top of the memcpy that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cost {
    /// Grant copies cost their memcpy alone.
    Free,
    /// Grant copies cost what [`lab::daemon::COPY_COST`] says.
    Charged,
}

impl Cost {
    /// Both, in the order in which they are measured.
    pub const ALL: [Self; 2] = [Self::Free, Self::Charged];

    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Charged => "charged",
        }
    }

    /// The value of [`lab::daemon::StartOptions::copy_cost`].
    pub fn copy_cost(self) -> &'static str {
        match self {
            Self::Free => "",
            Self::Charged => lab::daemon::COPY_COST,
        }
    }
}
