//! Xen itself: whether this is a domain of Xen, and whether the device nodes that netback opens are there.

use super::view::View;
use super::{Finding, Severity};
use crate::bounds::STAGING_PAGES;
use crate::config::Config;

/// A device node that netback opens.
struct Node {
    /// Below /dev/xen.
    node: &'static str,
    /// The kernel module that makes it; none where it is built in.
    module: Option<&'static str>,
    /// Name of the finding that it is missing.
    check: &'static str,
    /// What does not work without it.
    loss: &'static str,
    /// How much that matters.
    severity: Severity,
    /// What else is to be done once it is there: a running netback that did without it does not look again.
    then: &'static str,
}

const NODES: [Node; 4] = [
    Node {
        node: "gntdev",
        module: Some("xen-gntdev"),
        check: "no-gntdev",
        loss: "guests' pages cannot be reached",
        severity: Severity::Error,
        then: "",
    },
    Node {
        node: "evtchn",
        module: Some("xen-evtchn"),
        check: "no-evtchn",
        loss: "guests cannot be notified",
        severity: Severity::Error,
        then: "",
    },
    Node {
        node: "xenbus",
        module: None,
        check: "no-xenbus",
        loss: "xenstore cannot be reached",
        severity: Severity::Error,
        then: "",
    },
    Node {
        node: "gntalloc",
        module: Some("xen-gntalloc"),
        check: "no-gntalloc",
        loss: "small packets take a sixth to a half more processor time",
        severity: Severity::Warning,
        then: RESTART,
    },
];

/// What makes a running netback look again; guests do not notice a restart.
const RESTART: &str = ", then `systemctl try-restart netback`";
/// Holds the number of pages that xen-gntalloc grants to all programs together.
const GNTALLOC_LIMIT: &str = "/sys/module/xen_gntalloc/parameters/limit";

/// Bits of a file's mode by which its owner reads and writes; under the unit root has no rights beyond them.
const OWNER_READS_WRITES: u32 = 0o600;

pub(super) fn check(view: &View) -> Vec<Finding> {
    let kind = view.read("/sys/hypervisor/type");
    if kind.as_deref() != Some("xen") {
        let what = match kind {
            Some(kind) => format!("this machine runs under {kind}, not under Xen"),
            None => "this machine does not run under Xen".into(),
        };
        let cure = "run netback in a domain of a Xen host; to try it without one: cargo xtask demo";
        return vec![Finding::error("no-xen", what, cure)];
    }
    let mut findings: Vec<Finding> = NODES
        .iter()
        .filter_map(|node| missing(view, node).or_else(|| unreadable(view, node)))
        .collect();
    if let Err(why) = &view.backends
        && view.exists("/dev/xen/xenbus")
    {
        let cure = "see that xenstored runs in dom0 and that we are root here";
        findings.push(Finding::error("no-xenstore", why.as_str(), cure));
    }
    findings.extend(iommu(view));
    findings
}

fn missing(view: &View, wanted: &Node) -> Option<Finding> {
    let node = wanted.node;
    if view.exists(format!("/dev/xen/{node}")) {
        return None;
    }
    let what = format!("/dev/xen/{node} is not there: {}", wanted.loss);
    // The kernel has the device, and somebody removed its node.
    let known = format!("/sys/class/misc/xen!{node}/dev");
    let cure = match (view.exists(&known), wanted.module) {
        (true, _) => format!("`mknod -m 600 /dev/xen/{node} c $(tr : ' ' < '{known}')`"),
        (false, Some(module)) => {
            format!("`modprobe {module}`, which the package's modules-load.d does at every boot")
        }
        (false, None) => "boot a kernel that is built for domains of Xen".into(),
    };
    let cure = cure + wanted.then;
    Some(Finding::new(wanted.severity, wanted.check, what, cure))
}

/// A device node whose mode keeps its owner out: the unit has no capability to override a file's mode.
fn unreadable(view: &View, wanted: &Node) -> Option<Finding> {
    let path = format!("/dev/xen/{}", wanted.node);
    let mode = view.mode(&path)?;
    if mode & OWNER_READS_WRITES == OWNER_READS_WRITES {
        return None;
    }
    let what = format!(
        "{path} has mode {:03o}: its owner may not read and write",
        mode & 0o777
    );
    let cure = format!("`chmod 600 {path}`{}", wanted.then);
    Some(Finding::new(wanted.severity, "door-closed", what, cure))
}

/// Whether gntalloc has a worker's pages for each worker.
pub(super) fn granted_pages(view: &View, config: &Config) -> Option<Finding> {
    let (workers, limit) = (config.worker_count(), view.number(GNTALLOC_LIMIT)?);
    let wanted = u64::from(workers) * STAGING_PAGES as u64;
    if wanted <= limit {
        return None;
    }
    let what = format!(
        "xen-gntalloc grants {limit} pages at most, and {workers} workers want {wanted}: some take more processor time for small packets"
    );
    let cure = format!(
        "`echo {wanted} > {GNTALLOC_LIMIT}`, with the line options xen-gntalloc limit={wanted} in /etc/modprobe.d for the next boot{RESTART}"
    );
    Some(Finding::warning("gntalloc-limit", what, cure))
}

/// What stands between the NIC and the host's memory, as far as it can be told from here.
fn iommu(view: &View) -> Option<Finding> {
    // Xen's mark of the domain that has the host's hardware and its toolstack.
    let controls = view.read("/proc/xen/capabilities");
    if controls.is_some_and(|rights| rights.contains("control_d")) {
        let what = "this is dom0: whoever takes over netback here has the whole host";
        let cure = "a driver domain keeps the NIC and guests' frames away from dom0";
        return Some(Finding::info("dom0", what, cure));
    }
    if !view.list("/sys/class/iommu").is_empty() {
        return None;
    }
    let what = match view.read("/sys/hypervisor/guest_type").as_deref() {
        Some("PV") => "a PV domain cannot see the machine's IOMMU",
        // Its NIC is given this domain's own addresses, which only an IOMMU makes into the host's: without one libxl refuses.
        Some("HVM") => return None,
        // libxl passes no NIC through to one.
        Some("PVH") => return None,
        _ => "this domain sees no IOMMU",
    };
    let cure = "`xl dmesg | grep -i 'I/O virtualisation'` in dom0 tells; without one the NIC can reach all memory of the host";
    Some(Finding::info("iommu", what, cure))
}
