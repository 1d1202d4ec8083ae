//! Xen itself: are we in a domain, and are its three doors there?

use super::Finding;
use super::view::View;

/// The device nodes that netback opens, the module that makes each, and what goes without it.
const DOORS: [(&str, &str, &str, &str); 3] = [
    (
        "gntdev",
        "xen-gntdev",
        "no-gntdev",
        "guests' pages cannot be reached",
    ),
    (
        "evtchn",
        "xen-evtchn",
        "no-evtchn",
        "guests cannot be notified",
    ),
    ("xenbus", "xenfs", "no-xenbus", "xenstore cannot be reached"),
];

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
    let mut findings: Vec<Finding> = DOORS
        .iter()
        .filter_map(|door| missing_door(view, door))
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

fn missing_door(
    view: &View,
    (node, module, check, loss): &(&str, &str, &'static str, &str),
) -> Option<Finding> {
    if view.exists(format!("/dev/xen/{node}")) {
        return None;
    }
    let what = format!("/dev/xen/{node} is not there: {loss}");
    let cure = format!(
        "modprobe {module}; for every boot: echo {module} > /etc/modules-load.d/netback.conf"
    );
    Some(Finding::error(check, what, cure))
}

/// A PV domain has no IOMMU of its own to look at: all that can be said there is what to ask in dom0.
fn iommu(view: &View) -> Option<Finding> {
    let guest_type = view.read("/sys/hypervisor/guest_type");
    if !view.list("/sys/class/iommu").is_empty() {
        return None;
    }
    let what = match guest_type.as_deref() {
        Some("PV") => "a PV domain cannot see the machine's IOMMU",
        _ => "this domain sees no IOMMU",
    };
    let cure = "`xl dmesg | grep -i 'I/O virtualisation'` in dom0 tells; without one the NIC can reach all memory of the host";
    Some(Finding::info("iommu", what, cure))
}
