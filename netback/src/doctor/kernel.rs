//! The kernel: its version, its own netback, BPF and io_uring.

use super::Finding;
use super::view::View;
use std::path::Path;

pub(super) fn check(view: &View) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(version(view));
    findings.extend(kernel_netback(view));
    findings.extend(bpf(view));
    if matches!(
        view.number("/proc/sys/kernel/io_uring_disabled"),
        Some(1 | 2)
    ) {
        let what = "io_uring is disabled here, so idle workers sleep in epoll";
        let cure = "`sysctl kernel.io_uring_disabled=0` if you want it";
        findings.push(Finding::info("io-uring", what, cure));
    }
    findings
}

/// First two numbers of a release such as `6.1.0-18-amd64`.
pub(super) fn major_minor(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A kernel that is too old: BPF links need Linux 5.9, one UMEM for several devices 5.10.
fn version(view: &View) -> Option<Finding> {
    let release = view.read("/proc/sys/kernel/osrelease")?;
    let found = major_minor(&release)?;
    if found < (5, 10) {
        let what = format!("Linux {release} cannot share one packet memory among devices");
        return Some(Finding::error(
            "kernel",
            what,
            "install Linux 5.10 or later",
        ));
    }
    None
}

/// The kernel's own xen-netback, in service, loaded, or not kept from loading: two backends cannot serve one vif, and the kernel
/// loads its own with the first vif.
fn kernel_netback(view: &View) -> Option<Finding> {
    let bound: Vec<String> = view
        .list("/sys/bus/xen-backend/drivers/vif")
        .into_iter()
        .filter(|name| name.starts_with("vif-"))
        .collect();
    let reload = "systemctl restart netback";
    if !bound.is_empty() {
        let what = format!("the kernel's netback serves {}", bound.join(", "));
        let detach: Vec<String> = bound
            .iter()
            .filter_map(|name| name.strip_prefix("vif-")?.split_once('-'))
            .map(|(domid, devid)| format!("xl network-detach {domid} {devid}"))
            .collect();
        let cure = format!(
            "in dom0: `{}`, then here: `modprobe -r xen-netback && {reload}`, and attach them again",
            detach.join(" && ")
        );
        return Some(Finding::error("kernel-netback-bound", what, cure));
    }
    if view.exists("/sys/module/xen_netback") {
        let what = "the kernel's netback is loaded and takes the next vif before we can";
        let cure = format!("`modprobe -r xen-netback && {reload}`");
        return Some(Finding::error("kernel-netback-loaded", what, cure));
    }
    if !blacklisted(view, "xen_netback") {
        let what = "the kernel's netback is not blacklisted and loads itself with the first vif";
        let cure = "`echo 'blacklist xen-netback' > /etc/modprobe.d/netback.conf`";
        return Some(Finding::warning("kernel-netback-autoload", what, cure));
    }
    None
}

/// Whether modprobe.d(5) keeps the module from being loaded: a `blacklist` line, or an `install` line that runs something else instead.
fn blacklisted(view: &View, module: &str) -> bool {
    const DIRECTORIES: [&str; 4] = [
        "/etc/modprobe.d",
        "/run/modprobe.d",
        "/usr/lib/modprobe.d",
        "/lib/modprobe.d",
    ];
    let says_so = |line: &str| {
        let mut words = line.split_whitespace();
        let command = words.next();
        // modprobe takes - and _ for the same.
        let name = words.next().map(|name| name.replace('-', "_"));
        matches!(command, Some("blacklist" | "install")) && name.as_deref() == Some(module)
    };
    DIRECTORIES.iter().any(|directory| {
        let files = view.list(directory).into_iter();
        let mut files = files.filter(|name| name.ends_with(".conf"));
        files.any(|name| {
            let text = view.read(Path::new(directory).join(name));
            text.is_some_and(|text| text.lines().any(says_so))
        })
    })
}

fn bpf(view: &View) -> Vec<Finding> {
    let mut findings = Vec::new();
    if view.number("/proc/sys/net/core/bpf_jit_enable") == Some(0) {
        let what = "the BPF compiler is off: the XDP program is interpreted, packet by packet";
        let cure = "`sysctl net.core.bpf_jit_enable=1`";
        findings.push(Finding::warning("bpf-jit", what, cure));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::major_minor;

    #[test]
    fn reads_the_releases_that_distributions_write() {
        assert_eq!(major_minor("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(major_minor("5.10-rc1"), Some((5, 10)));
        assert_eq!(major_minor("6"), None);
        assert_eq!(major_minor("next"), None);
    }
}
