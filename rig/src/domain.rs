//! The driver domain and the guests: their configuration for xl, and their boot.

use crate::kernel::Generation;
use crate::machine::{BOOT_PATIENCE, LINUX, Machine};
use crate::options::value_name;
use crate::place::Place;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// PCI address of the NIC under test (see `Machine::cable`).
const NIC: &str = "00:08.0";

/// Boot the driver domain with the NIC passed through.
pub fn start_driver_domain(machine: &Machine) -> Result<()> {
    eprintln!("xen: booting the driver domain");
    machine.must(Place::Dom0, &format!("xl pci-assignable-add {NIC} 2>&1"))?;
    let backend = value_name(machine.options.backend);
    let text = format!(
        "{}vif=['mac=00:16:3e:00:00:02,bridge=xenbr0']\npci=['{NIC},permissive=1']\ndriver_domain=1\n",
        base(
            Place::DriverDomain,
            machine.options.driver_kernel,
            512,
            &format!("rig.backend={backend} iommu=soft swiotlb=8192")
        )
    );
    create(machine, Place::DriverDomain, &text)
}

/// Boot guest `number`: one vif of dom0's to reach its agent by, and the one under test.
pub fn start_guest(machine: &Machine, number: u8) -> Result<()> {
    let kernel = machine.options.kernel_of(number);
    eprintln!(
        "xen: booting {} ({} kernel)",
        Place::Guest(number),
        kernel.name()
    );
    create(machine, Place::Guest(number), &guest(number, kernel))?;
    machine.must(Place::Guest(number), MARK_LOG).map(drop)
}

/// Notes in a guest how long its kernel's log is now: what comes after is what the backend makes it say.
pub const MARK_LOG: &str = "sleep 1; dmesg | wc -l > /run/dmesg.mark";

/// Removes netfront and inserts it, under traffic. The agent is out of reach meanwhile: its own vif goes too. Each bound device holds
/// the module, so they are unbound first.
const RELOAD: &str = r#"set -e
arg() { sed -n "s/.*rig\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
load() { for m; do modprobe $m; done; }
ping -q -i 0.01 10.9.0.1 >/dev/null & sleep 1
cd /sys/bus/xen/drivers/vif; for d in vif-*; do echo $d > unbind; done
rmmod xen-netfront; modprobe xen-netfront; . /rig/init-guest
kill %1; touch /run/reloaded
"#;

/// Remove a guest's netfront module and insert it again.
pub fn reload_netfront(machine: &Machine, guest: Place) -> Result<()> {
    machine.write(guest, "/run/reload", RELOAD)?;
    machine.must(
        guest,
        "rm -f /run/reloaded; setsid bash /run/reload </dev/null >/run/reload.log 2>&1 &",
    )?;
    let start = Instant::now();
    while machine.must(guest, "cat /run/reloaded").is_err() {
        ensure!(
            start.elapsed() < BOOT_PATIENCE,
            "netfront did not come back in {guest}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// The configuration of guest `number`.
fn guest(number: u8, kernel: Generation) -> String {
    let place = Place::Guest(number);
    format!(
        "{}vif=['mac=00:16:3e:00:00:1{number},bridge=xenbr0','mac={},bridge=xenbr0,backend=driver-domain']\n",
        base(
            place,
            kernel,
            384,
            &format!("rig.number={}", place.tested())
        ),
        tested_mac(number),
    )
}

/// The MAC of guest `number`'s vif under test.
pub fn tested_mac(number: u8) -> String {
    format!("00:16:3e:09:00:{number:02x}")
}

/// What every domain's configuration has.
fn base(place: Place, kernel: Generation, memory: u16, arguments: &str) -> String {
    let role = match place {
        Place::Guest(_) => "guest",
        _ => "driver-domain",
    };
    format!(
        "name='{place}'\ntype='pv'\nkernel='/rig/boot/vmlinux-{kernel}'\nramdisk='/rig/boot/initramfs-{kernel}'\n\
         extra='{LINUX} rig.role={role} rig.ip=10.0.2.{address} {arguments}'\nmemory={memory}\nvcpus=1\ntsc_mode='native'\n\
         disk=['phy:/dev/vdb,xvda,r']\non_crash='preserve'\non_reboot='restart'\n",
        kernel = kernel.name(),
        address = place.management(),
    )
}

/// A guest that has nothing but a vif: up in seconds, for tests that come and go.
pub fn brief(name: &str) -> String {
    format!(
        "name='{name}'\ntype='pv'\nkernel='/rig/boot/vmlinux-stock'\nramdisk='/rig/boot/initramfs-stock'\n\
         extra='{LINUX} rig.role=brief'\nmemory=160\nvcpus=1\non_crash='destroy'\n\
         vif=['mac=00:16:3e:09:00:f0,bridge=xenbr0,backend=driver-domain']\n"
    )
}

fn create(machine: &Machine, place: Place, text: &str) -> Result<()> {
    let file = format!("/tmp/{place}.cfg");
    machine.write(Place::Dom0, &file, text)?;
    machine.must(Place::Dom0, &format!("xl create -q {file} 2>&1"))?;
    machine.await_agent(place)
}
