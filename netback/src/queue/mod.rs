//! One queue of a vif: its two rings and what waits for it.
use crate::hypervisor::Hypervisor;
use crate::vif_file::FileShadow;
use ring::back::BackRing;
use ring::page::{PageWords, SharedPage};
use ring::wire::{Rx, Tx};
use xen::event::Port;
use xen::grant::GrantTable;

/// What is left of a queue that a worker gave up: drop it on the control thread, which unmaps the rings (a slow hypercall),
/// then unbind the ports. The vif's file is untouched.
pub struct Remains<H: Hypervisor> {
    /// Local ports, still bound on the worker's event channels; the same one twice where the frontend does not split.
    pub tx_port: Port,
    /// See `tx_port`.
    pub rx_port: Port,
    _rings: (TxRing<H>, RxRing<H>),
}

/// The mapped page behind a ring.
pub(crate) struct RingPage<P>(pub(crate) P);

impl<P: AsRef<PageWords>> SharedPage for RingPage<P> {
    fn words(&self) -> &PageWords {
        self.0.as_ref()
    }
}

type Page<H> = RingPage<<<H as Hypervisor>::Grants as GrantTable>::Page>;
pub(crate) type TxRing<H> = BackRing<Tx, Page<H>, FileShadow>;
pub(crate) type RxRing<H> = BackRing<Rx, Page<H>, FileShadow>;
