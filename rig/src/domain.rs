//! The driver domain and the guests: their configuration for xl, and their boot.

use crate::disks;
use crate::kernel::Generation;
use crate::kind::{DomainType, DriverType, value_name};
use crate::machine::{BOOT_PATIENCE, LINUX, Machine};
use crate::options::{Backend, Options};
use crate::place::Place;
use anyhow::{Result, ensure};
use std::time::Duration;

/// PCI addresses of the NIC under test, and of the second one (see `Machine::cable`).
const NICS: [&str; 2] = ["00:08.0", "00:0a.0"];

/// Boot the driver domain with its uplink: the NIC passed through, or a vif on dom0's bridge.
pub fn start_driver_domain(machine: &Machine) -> Result<()> {
    let kind = machine.kind();
    if kind.driver == DriverType::Dom0 {
        return Ok(());
    }
    eprintln!("xen: booting the driver domain");
    let mut vifs = vec![management_vif(machine, "00:16:3e:00:00:02")];
    let mut more = String::from("driver_domain=1\n");
    if kind.passed_through() {
        let count = 1 + usize::from(machine.options.second_nic.is_some());
        let mut list = Vec::new();
        for nic in &NICS[..count] {
            machine.must(Place::Dom0, &format!("xl pci-assignable-add {nic} 2>&1"))?;
            list.push(format!("'{nic},permissive=1'"));
        }
        more += &format!("pci=[{}]\n", list.join(","));
    } else {
        vifs.push("mac=00:16:3e:0a:00:02,bridge=wire".into());
    }
    let text = base(&machine.options, Place::DriverDomain, 512) + &vif_list(&vifs) + &more;
    create(machine, Place::DriverDomain, &text, None)?;
    if !kind.passed_through() {
        // What is larger than a frame does not reach netback, and that a checksum is blank an XDP program does not see.
        machine.must(
            Place::Dom0,
            "ethtool -K vif$(xl domid driver-domain).1 tx off tso off gso off",
        )?;
    }
    Ok(())
}

/// Boot guest `number`: one vif to reach its agent by, and the one under test.
pub fn start_guest(machine: &Machine, number: u8) -> Result<()> {
    start_guest_with(machine, number, &[], None)
}

/// Boot guest `number` with `more` vifs; `paused` is what dom0 executes between its creation and its start.
pub fn start_guest_with(
    machine: &Machine,
    number: u8,
    more: &[String],
    paused: Option<&str>,
) -> Result<()> {
    let place = Place::Guest(number);
    eprintln!(
        "xen: booting {place} ({} kernel)",
        kernel(&machine.options, place).name()
    );
    let tested = tested_vif(machine, &tested_mac(number));
    let mut vifs = vec![
        management_vif(machine, &format!("00:16:3e:00:00:1{number}")),
        match machine.kind().guest {
            // As well as the PV one an emulated card, which the kernel takes away once it has found itself under Xen.
            DomainType::Hvm => format!("{tested},model=e1000"),
            _ => tested,
        },
    ];
    vifs.extend_from_slice(more);
    let text = base(&machine.options, place, 384) + &vif_list(&vifs);
    create(machine, place, &text, paused)?;
    machine.must(place, MARK_LOG).map(drop)
}

/// A vif by which the rig reaches a domain.
fn management_vif(machine: &Machine, mac: &str) -> String {
    // In dom0 one backend serves all vifs, and this one has a bridge for them.
    let bridge = match (machine.kind().driver, machine.options.backend) {
        (DriverType::Dom0, Backend::Netback) => "management,script=vif-netback",
        _ => "xenbr0",
    };
    format!("mac={mac},bridge={bridge},type=vif")
}

/// A vif that the backend under test serves.
pub fn tested_vif(machine: &Machine, mac: &str) -> String {
    let served = match (machine.kind().driver, machine.options.backend) {
        (DriverType::Dom0, Backend::Netback) => "xenbr0,script=vif-netback",
        // The other bridge is the management network's.
        (DriverType::Dom0, _) => "wire",
        _ => "xenbr0,backend=driver-domain",
    };
    format!("mac={mac},bridge={served}")
}

/// The same as `xl network-attach` takes it.
pub fn attached_vif(machine: &Machine, mac: &str) -> String {
    tested_vif(machine, mac).replace(',', " ")
}

fn vif_list(vifs: &[String]) -> String {
    format!("vif=['{}']\n", vifs.join("','"))
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
rmmod xen-netfront; modprobe xen-netfront $*; . /rig/init-guest
kill %1; touch /run/reloaded
"#;

/// Remove a guest's netfront module and insert it again, with `parameters`.
pub fn reload_netfront(machine: &Machine, guest: Place, parameters: &str) -> Result<()> {
    machine.write(guest, "/run/reload", RELOAD)?;
    let reload = format!(
        "rm -f /run/reloaded; setsid bash /run/reload {parameters} </dev/null >/run/reload.log 2>&1 &"
    );
    machine.must(guest, &reload)?;
    let patience = machine.patience(BOOT_PATIENCE);
    while machine.must(guest, "cat /run/reloaded").is_err() {
        ensure!(!patience.is_over(), "netfront did not come back in {guest}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// The MAC of guest `number`'s vif under test.
pub fn tested_mac(number: u8) -> String {
    format!("00:16:3e:09:00:{number:02x}")
}

/// The type of a domain of this machine.
fn domain_type(options: &Options, place: Place) -> DomainType {
    match place {
        Place::Guest(_) => options.kind().guest,
        _ => options.kind().driver.domain().unwrap_or(DomainType::Pv),
    }
}

/// The kernel of a domain of this machine.
pub fn kernel(options: &Options, place: Place) -> Generation {
    match place {
        Place::Guest(number) => options.kernel_of(number),
        _ => options.driver_kernel,
    }
}

/// The kernel's command line in a domain of this machine.
pub fn arguments(options: &Options, place: Place) -> String {
    let domain_type = domain_type(options, place);
    if options.backend == Backend::Package && place == Place::DriverDomain {
        // Debian, with udev's names.
        let linux = LINUX.replace("net.ifnames=0 ", "");
        return format!(
            "root=/dev/xvde {linux} rig.disk=xvde rig.ip=10.0.2.{}",
            place.management()
        );
    }
    let role = match place {
        Place::Guest(_) => format!("guest rig.number={}", place.tested()),
        _ => {
            let backend = value_name(options.backend);
            // A PV domain bounces what its NIC cannot reach.
            let bounce = match domain_type {
                DomainType::Pv => " iommu=soft swiotlb=8192",
                _ => "",
            };
            format!("driver-domain rig.backend={backend}{bounce}")
        }
    };
    let disk = match domain_type {
        DomainType::Hvm => " rig.disk=xvde",
        _ => "",
    };
    let address = place.management();
    format!("{LINUX} rig.ip=10.0.2.{address}{disk} rig.role={role}")
}

/// An HVM domain shows nothing on a screen and has no other emulated device than its first disk.
const EMULATED: &str = "boot='c'\nhdtype='ahci'\nvnc=0\nvga='none'\nnographic=1\nserial='none'\nusb=0\n\
                        xen_platform_pci=1\nacpi=1\n";

/// What every domain's configuration has.
fn base(options: &Options, place: Place, memory: u16) -> String {
    let generation = options.kind().release.kernel(kernel(options, place)).name();
    let boot = match disks::of_emulated_domain(options, place) {
        Some([boot, root]) => format!("{EMULATED}disk=['phy:{boot},hda,w','phy:{root},xvde,w']\n"),
        None => format!(
            "kernel='/rig/boot/vmlinux-{generation}'\nramdisk='/rig/boot/initramfs-{generation}'\nextra='{}'\n\
             disk=['phy:/dev/vdb,xvda,r']\n",
            arguments(options, place)
        ),
    };
    format!(
        "name='{place}'\ntype='{}'\n{boot}memory={memory}\nvcpus=1\ntsc_mode='native'\n\
         on_crash='preserve'\non_reboot='restart'\n",
        domain_type(options, place).name()
    )
}

/// A guest that has nothing but a vif: up in seconds, for tests that come and go.
pub fn brief(machine: &Machine, name: &str) -> String {
    format!(
        "name='{name}'\ntype='pv'\nkernel='/rig/boot/vmlinux-stock'\nramdisk='/rig/boot/initramfs-stock'\n\
         extra='{LINUX} rig.role=brief'\nmemory=160\nvcpus=1\non_crash='destroy'\nvif=['{}']\n",
        tested_vif(machine, "00:16:3e:09:00:f0")
    )
}

/// Create and start a domain; dom0 executes `paused` in between.
fn create(machine: &Machine, place: Place, text: &str, paused: Option<&str>) -> Result<()> {
    let file = format!("/tmp/{place}.cfg");
    machine.write(Place::Dom0, &file, text)?;
    let start = match paused {
        None => format!("xl create -q {file} 2>&1"),
        Some(paused) => format!("xl create -q -p {file} 2>&1 && {paused} && xl unpause {place}"),
    };
    machine.must(Place::Dom0, &start)?;
    machine.await_agent(place)
}
