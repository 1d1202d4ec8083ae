//! The machine that QEMU emulates, with Xen and dom0 on it.

use crate::agent::{self, Outcome, Stream};
use crate::cache::Cache;
use crate::disks::Disks;
use crate::emulator;
use crate::image::Image;
use crate::kernel::Generation;
use crate::kind::{DriverType, Kind, value_name};
use crate::network::{Network, TAP};
use crate::options::Options;
use crate::patience::Patience;
use crate::place::{MAX_GUESTS, Place};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Never without eager-fpu: Xen's lazy switching of the FPU loses SSE registers under QEMU.
const XEN: &str = "console=com1 com1=115200,8n1 dom0_max_vcpus=1 loglvl=all guest_loglvl=all \
spec-ctrl=no,eager-fpu xpti=0 bootscrub=0 noreboot ucode=no cpufreq=none";
/// Command line of every Linux. The second half only saves emulated work at boot.
pub const LINUX: &str = "console=hvc0 loglevel=4 net.ifnames=0 random.trust_cpu=on \
mitigations=off init_on_alloc=0 rodata=off apparmor=0 audit=0";
/// How long a domain may take to boot on a machine that does much else.
pub const BOOT_PATIENCE: Duration = Duration::from_secs(300);
/// The same where domains run by the processor's virtualisation, which is emulated as well.
const VIRTUALISED_BOOT_PATIENCE: Duration = Duration::from_secs(1200);
/// How long a command may say nothing.
const SILENCE: Duration = Duration::from_secs(1200);

/// A running machine.
pub struct Machine {
    pub options: Options,
    network: Network,
    directory: PathBuf,
}

/// Whether QEMU ends with the process that started it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    OfCaller,
    UntilDown,
}

impl Machine {
    /// Boot Xen and dom0.
    pub fn start(
        image: &Image,
        cache: &Cache,
        instance: u8,
        options: Options,
        lifetime: Lifetime,
    ) -> Result<Self> {
        let directory = cache.instance(instance)?;
        if let Some(pid) = running(&directory) {
            bail!(
                "instance {instance} is up already (pid {pid}): `cargo xtask xen --instance {instance} down` ends it"
            );
        }
        let machine = Self {
            options,
            network: Network::new(instance),
            directory,
        };
        // Left by one that was killed.
        machine.network.remove()?;
        machine.network.create()?;
        std::fs::copy(&image.agent, machine.directory.join("rig-agent"))?;
        machine
            .options
            .store(&machine.directory.join("options.json"))?;
        let kind = machine.kind();
        let emulator = emulator::words(cache, kind)?;
        let disks = Disks::make(cache, image, &machine.options, &machine.directory)?;
        eprintln!(
            "xen: booting Xen {} and dom0 (NIC {})",
            kind.release.xen(),
            value_name(machine.options.nic)
        );
        let mut qemu = machine.spawn(&emulator, image, &disks, lifetime)?;
        machine.await_dom0(&mut qemu)?;
        machine.connect_peer()?;
        Ok(machine)
    }

    /// The machine that runs as `instance`.
    pub fn running(cache: &Cache, instance: u8) -> Result<Self> {
        let directory = cache.instance(instance)?;
        if running(&directory).is_none() {
            bail!(
                "instance {instance} is not up: start it with `cargo xtask xen --instance {instance} up`"
            );
        }
        let options = Options::load(&directory.join("options.json"))?;
        Ok(Self {
            options,
            network: Network::new(instance),
            directory,
        })
    }

    /// End QEMU and all that runs in the instance's namespace; nothing happens where nothing runs.
    pub fn stop(cache: &Cache, instance: u8) -> Result<()> {
        let directory = cache.instance(instance)?;
        Network::new(instance).remove()?;
        while running(&directory).is_some() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The console of Xen and dom0.
    pub fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// What the machine is made of.
    pub fn kind(&self) -> Kind {
        self.options.kind()
    }

    fn spawn(
        &self,
        emulator: &[String],
        image: &Image,
        disks: &Disks,
        lifetime: Lifetime,
    ) -> Result<Child> {
        fs::write(self.console(), "")?;
        let log = File::create(self.directory.join("qemu.log"))?;
        let mut command = match lifetime {
            Lifetime::OfCaller => {
                let inside = self.network.command(&emulator[0]);
                let mut command = Command::new("setpriv");
                command
                    .args(["--pdeathsig", "KILL"])
                    .arg(inside.get_program())
                    .args(inside.get_args());
                command
            }
            Lifetime::UntilDown => self.network.command(&emulator[0]),
        };
        command
            .args(&emulator[1..])
            .args(self.arguments(image, disks))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command.spawn().context("cannot start qemu-system-x86_64")?;
        fs::write(self.directory.join("pid"), child.id().to_string())?;
        Ok(child)
    }

    fn arguments(&self, image: &Image, disks: &Disks) -> Vec<String> {
        let kind = self.kind();
        let kernel = image.kernel(match kind.driver {
            DriverType::Dom0 => self.options.driver_kernel,
            _ => Generation::Stock,
        });
        let initrd = format!(
            "{} {LINUX} rig.role=dom0 rig.ip=10.0.2.15 rig.driver={} rig.backend={} rig.xenstored={},{}",
            kernel.image().display(),
            value_name(kind.driver),
            value_name(self.options.backend),
            value_name(kind.xenstored),
            image.initramfs(kernel).display()
        );
        // With two processors and emulated virtualisation, dom0 hangs on a busy host when a card is taken from it.
        let smp = if self.options.icount || kind.virtualised() {
            1
        } else {
            2
        };
        let mut arguments: Vec<String> = Vec::new();
        let mut words = |text: &str| arguments.extend(text.split(' ').map(String::from));
        words(&format!(
            "-machine q35 -smp {smp} -m {} -nodefaults -no-reboot -display none",
            self.memory()
        ));
        words(&format!("-serial file:{}", self.console().display()));
        words(&disks.arguments());
        words(&management());
        // With interrupt remapping dom0 loses interrupts.
        words(match kind.virtualised() {
            false => "-cpu Nehalem -device intel-iommu,intremap=off",
            true => "-cpu EPYC,-monitor -device amd-iommu,dma-remap=on,intremap=off",
        });
        words(&self.cable());
        words(match (self.options.icount, self.options.patient) {
            (false, _) => "-accel tcg,thread=multi",
            (true, false) => "-accel tcg,thread=single -icount shift=1,sleep=off",
            (true, true) => "-accel tcg,thread=single -icount shift=1,sleep=on",
        });
        let (xen, more) = match kind.virtualised() {
            false => (&image.xen, ""),
            true => (&image.patched_xen, " iommu=no-intremap"),
        };
        let dom0 = self.dom0_memory();
        arguments.extend([
            "-kernel".into(),
            xen.display().to_string(),
            "-append".into(),
        ]);
        arguments.push(format!("{XEN} dom0_mem={dom0}M,max:{dom0}M{more}"));
        arguments.extend(["-initrd".into(), initrd]);
        arguments
    }

    /// Megabytes of dom0, where device models run.
    fn dom0_memory(&self) -> u32 {
        if self.kind().device_model() { 768 } else { 640 }
    }

    /// Megabytes of the machine.
    fn memory(&self) -> u32 {
        if self.kind().virtualised() {
            // With more, the NIC's registers lie above 4 GiB, and dom0 dies when an HVM domain asks how large they are.
            return 2048;
        }
        640 + 512 + 384 * u32::from(self.options.guests.max(1)) + 640
    }

    /// The NIC under test and what is at the other end of its cable. Slot 8: at 0x10 igb was not passed through.
    fn cable(&self) -> String {
        let device = self.options.nic.device();
        let mut nic =
            format!("-device {device},netdev=cable,mac=52:54:00:09:00:02,addr=0x8,romfile=");
        if let Some(second) = self.options.second_nic {
            nic += &format!(
                " -netdev hubport,hubid=7,id=second -device {},netdev=second,mac=52:54:00:09:00:03,addr=0xa,romfile=",
                second.device()
            );
        }
        let peer = if self.options.icount {
            // All traffic stays in virtual time: the peer is a second NIC, of dom0. Its receive queue is as long as can be: while it is full,
            // QEMU keeps a frame back and delivers the next one first (net/queue.c, qemu_net_queue_send), and TCP sends again what was not lost.
            "-netdev hubport,hubid=7,id=cable -netdev hubport,hubid=7,id=far -device virtio-net-pci,netdev=far,mac=52:54:00:09:00:01,addr=0x9,romfile=,rx_queue_size=1024".into()
        } else {
            format!("-netdev tap,id=cable,ifname={TAP},script=no,downscript=no,vnet_hdr=on")
        };
        format!("{peer} {nic}")
    }

    fn await_dom0(&self, qemu: &mut Child) -> Result<()> {
        let patience = self.patience(self.boot_patience());
        while !fs::read_to_string(self.console())
            .unwrap_or_default()
            .contains("RIG-READY role=dom0")
        {
            if let Some(status) = qemu.try_wait()? {
                let log = fs::read_to_string(self.directory.join("qemu.log")).unwrap_or_default();
                bail!("QEMU ended ({status}): {}", log.trim());
            }
            if patience.is_over() {
                bail!(
                    "dom0 did not boot; its console is {}",
                    self.console().display()
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        self.await_agent(Place::Dom0)
    }

    /// A wait for what happens in the machine.
    pub fn patience(&self, limit: Duration) -> Patience {
        // One that was started a moment ago is not yet by its command line who it is.
        Patience::begin(pid(&self.directory).unwrap_or_default(), limit)
    }

    /// How long a domain of this machine may take to boot.
    fn boot_patience(&self) -> Duration {
        if self.kind().virtualised() {
            VIRTUALISED_BOOT_PATIENCE
        } else {
            BOOT_PATIENCE
        }
    }

    /// Wait until the agent of `place` answers.
    pub fn await_agent(&self, place: Place) -> Result<()> {
        let patience = self.patience(self.boot_patience());
        loop {
            match self.run(place, "true") {
                Ok(_) => return Ok(()),
                Err(error) if patience.is_over() => {
                    return Err(error.context(format!(
                        "{place} did not boot; see `cargo xtask xen log {place}`"
                    )));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    fn connect_peer(&self) -> Result<()> {
        if !self.options.icount {
            return self.network.configure_peer();
        }
        self.must(Place::Dom0, PEER_IN_DOM0).map(drop)
    }

    /// Execute `command` by bash in `place`, with what `stdin` holds; each piece of output goes to `see`. The exit status.
    pub fn execute(
        &self,
        place: Place,
        command: &str,
        stdin: &mut dyn Read,
        see: impl FnMut(Stream, &[u8]),
    ) -> Result<u32> {
        let place = match (place, self.kind().driver) {
            // The backend's domain is dom0.
            (Place::DriverDomain, DriverType::Dom0) => Place::Dom0,
            _ => place,
        };
        let connection = self.network.connect(place.agent_port())?;
        agent::execute(connection, command, stdin, SILENCE, see)
            .with_context(|| format!("{place}: {command}"))
    }

    /// Execute and collect.
    pub fn run(&self, place: Place, command: &str) -> Result<Outcome> {
        if place == Place::Peer {
            return self.run_at_peer(command);
        }
        let mut outcome = Outcome::default();
        outcome.status =
            self.execute(
                place,
                command,
                &mut std::io::empty(),
                |stream, bytes| match stream {
                    Stream::Stdout => outcome.stdout.extend_from_slice(bytes),
                    Stream::Stderr => outcome.stderr.extend_from_slice(bytes),
                },
            )?;
        Ok(outcome)
    }

    /// A command of the host that runs where the peer is. With --icount the peer is in dom0 and there is none.
    pub fn peer_command(&self, script: &str) -> Result<Command> {
        if self.options.icount {
            bail!("with --icount the peer is in dom0: this needs one on the host");
        }
        let mut command = self.network.command("bash");
        command.args(["-c", script]).stdin(Stdio::null());
        Ok(command)
    }

    fn run_at_peer(&self, script: &str) -> Result<Outcome> {
        if self.options.icount {
            return self.run(
                Place::Dom0,
                &format!("ip netns exec peer bash -c {}", quote(script)),
            );
        }
        let output = self.peer_command(script)?.output()?;
        Ok(Outcome {
            status: u32::try_from(output.status.code().unwrap_or(255)).unwrap_or(255),
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }

    /// Execute, and fail with what it said unless it succeeded; its stdout.
    pub fn must(&self, place: Place, command: &str) -> Result<String> {
        let outcome = self.run(place, command)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if outcome.status != 0 {
            let said = text(&outcome.stdout) + &text(&outcome.stderr);
            bail!(
                "{place}: `{command}` ended with {}: {}",
                outcome.status,
                said.trim()
            );
        }
        Ok(text(&outcome.stdout))
    }

    /// How the agent is called where `place` is.
    pub fn agent(&self, place: Place) -> String {
        if place == Place::Peer && !self.options.icount {
            quote(&self.directory.join("rig-agent").display().to_string())
        } else {
            "rig-agent".into()
        }
    }

    /// Copy a file of the host into a domain, with its permissions.
    pub fn copy(&self, place: Place, file: &Path, destination: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let mut source =
            File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        let mode = source.metadata()?.permissions().mode() & 0o7777;
        let to = quote(destination);
        let receive = format!("cat > {to}.new && chmod {mode:o} {to}.new && mv {to}.new {to}");
        let mut said = Vec::new();
        let status = self.execute(place, &receive, &mut source, |_, bytes| {
            said.extend_from_slice(bytes)
        })?;
        if status != 0 {
            bail!(
                "cannot copy to {destination} in {place}: {}",
                String::from_utf8_lossy(&said).trim()
            );
        }
        Ok(())
    }

    /// Write `text` to a file in a domain.
    pub fn write(&self, place: Place, destination: &str, text: &str) -> Result<()> {
        let command = format!("cat > {}", quote(destination));
        let status = self.execute(place, &command, &mut text.as_bytes(), |_, _| ())?;
        if status != 0 {
            bail!("cannot write {destination} in {place}");
        }
        Ok(())
    }
}

/// With --icount: the NIC at the cable's far end, in a namespace of dom0.
const PEER_IN_DOM0: &str = r"ip netns add peer
for i in /sys/class/net/*; do [ $(cat $i/address) = 52:54:00:09:00:01 ] && n=${i##*/}; done
ip link set $n netns peer name peer0
ip -n peer addr add 10.9.0.1/24 dev peer0; ip -n peer addr add fd09::1/64 dev peer0 nodad; ip -n peer link set peer0 up; ip -n peer link set lo up";

/// The management NIC: QEMU's user network, closed to the outside, with a port of the namespace's loopback for each agent.
fn management() -> String {
    let guests = (1..=MAX_GUESTS).map(Place::Guest);
    let forwards: String = [Place::Dom0, Place::DriverDomain]
        .into_iter()
        .chain(guests)
        .map(|place| {
            format!(
                ",hostfwd=tcp:127.0.0.1:{}-10.0.2.{}:7000",
                place.agent_port(),
                place.management()
            )
        })
        .collect();
    format!(
        "-netdev user,id=management,restrict=on,ipv6=off{forwards} -device virtio-net-pci,netdev=management,mac=52:54:00:00:00:01,addr=0x3,romfile="
    )
}

/// `text` as one word of bash.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The pid that the instance's QEMU has or had.
fn pid(directory: &Path) -> Option<u32> {
    let text = fs::read_to_string(directory.join("pid")).ok()?;
    text.trim().parse().ok()
}

/// The pid of the instance's QEMU, if it runs.
fn running(directory: &Path) -> Option<u32> {
    let pid = pid(directory)?;
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    // The console's path in the command line tells our QEMU from one of another instance or rig that took the pid.
    let console = directory.join("console.log").display().to_string();
    command.contains(&console).then_some(pid)
}
