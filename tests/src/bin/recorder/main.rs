//! `recorder FILE`: serves one vif of a driver domain as a backend that offers everything, and writes down what its frontend does.
//!
//! A null backend: it connects, answers TCP connections as a bottomless sink so that the guest's stack sends real segment chains, and
//! forwards nothing. What stock netfronts said and sent is replayed by tests/tests/recorded.rs. Run by `cargo xtask xen record`, where no
//! other backend runs; it ends when its vif's node is gone.
//!
//! The file, a line each:
//! `toolstack KEY VALUE`: what was in the backend's directory at first; `backend KEY VALUE`: what we wrote there;
//! `frontend KEY VALUE` and `frontend KEY` (removed): what changed in the frontend's directory, in the order in which it was seen;
//! `tx WORDS,WORDS,...`: one chain of Tx requests, a request's words in hexadecimal; `rx WORDS`: a posted Rx request;
//! `rings TX_REQ_PROD RX_REQ_PROD`: the indices when the rings were mapped.

mod log;
mod memory;
mod rings;
mod sink;
mod vif;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let file = std::env::args().nth(1).context("usage: recorder FILE")?;
    let mut log = log::Log::create(&file)?;
    vif::serve(&mut log)
}
