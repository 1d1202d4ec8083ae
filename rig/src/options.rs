//! What a machine is started with.

use crate::kernel::Generation;
use crate::kind::{Kind, Wanted, value_name, value_of};
use crate::place::MAX_GUESTS;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::path::Path;

/// `xen up`.
#[derive(Args, Debug, Clone)]
pub struct Options {
    #[command(flatten)]
    pub wanted: Wanted,
    /// The NIC passed through to the driver domain.
    #[arg(long, default_value = "igb")]
    pub nic: Nic,
    /// Another NIC on the same cable, passed through as well: the tests change to it.
    #[arg(skip)]
    pub second_nic: Option<Nic>,
    /// What serves the guests' vifs in the driver domain.
    #[arg(long, default_value = "netback")]
    pub backend: Backend,
    /// How many guests.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=i64::from(MAX_GUESTS)))]
    pub guests: u8,
    /// The guests' kernels, dealt out in turn: `stock,backports` gives guest the one and guest2 the other.
    #[arg(long, value_delimiter = ',', default_value = "stock")]
    pub guest_kernel: Vec<Generation>,
    /// The driver domain's kernel.
    #[arg(long, default_value = "stock")]
    pub driver_kernel: Generation,
    /// Virtual time is instructions executed: figures repeat whatever else the machine does. The peer is then a namespace of dom0.
    #[arg(long)]
    pub icount: bool,
    /// With icount: idle time passes as on the host and not at once, so that what waits for the host's disk runs into no timeout.
    #[arg(long, requires = "icount")]
    pub patient: bool,
}

/// An emulated NIC. igb has XDP in its driver and one queue here (MSI), e1000 generic XDP only, virtio MSI-X.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Nic {
    Igb,
    E1000,
    Virtio,
}

impl Nic {
    /// Of QEMU's -device.
    pub fn device(self) -> &'static str {
        match self {
            Self::Igb => "igb",
            Self::E1000 => "e1000",
            Self::Virtio => "virtio-net-pci,disable-legacy=on,iommu_platform=on",
        }
    }
}

/// Who is the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// Ours.
    Netback,
    /// Ours, from its package, in a driver domain that systemd runs, all of it as docs/driver-domain.md says.
    Package,
    /// The kernel's, with a bridge: the reference.
    Kernel,
}

impl Options {
    /// What the machine is made of.
    pub fn kind(&self) -> Kind {
        self.wanted.or(Kind::DEFAULT)
    }

    /// The kernel of guest `number` (from 1 on).
    pub fn kernel_of(&self, number: u8) -> Generation {
        self.guest_kernel[usize::from(number - 1) % self.guest_kernel.len()]
    }

    /// Leave word for the commands that follow: the command line that means the same.
    pub fn store(&self, file: &Path) -> Result<()> {
        let kernels: Vec<&str> = self
            .guest_kernel
            .iter()
            .map(|kernel| kernel.name())
            .collect();
        let value = serde_json::json!({
            "kind": self.kind().to_json(),
            "nic": value_name(self.nic),
            "second_nic": self.second_nic.map(value_name),
            "backend": value_name(self.backend),
            "guests": self.guests,
            "guest_kernel": kernels.join(","),
            "driver_kernel": self.driver_kernel.name(),
            "icount": self.icount,
            "patient": self.patient,
        });
        std::fs::write(file, value.to_string())
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// What `store` left.
    pub fn load(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        let read = || {
            Some(Self {
                wanted: Kind::of_json(&value["kind"])?.into(),
                nic: value_of(&value["nic"])?,
                second_nic: value_of(&value["second_nic"]),
                backend: value_of(&value["backend"])?,
                guests: u8::try_from(value["guests"].as_u64()?).ok()?,
                guest_kernel: value["guest_kernel"]
                    .as_str()?
                    .split(',')
                    .map(|name| Generation::from_str(name, false).ok())
                    .collect::<Option<_>>()?,
                driver_kernel: value_of(&value["driver_kernel"])?,
                icount: value["icount"].as_bool()?,
                patient: value["patient"].as_bool()?,
            })
        };
        read().with_context(|| format!("{} is not from this version of the rig", file.display()))
    }
}
