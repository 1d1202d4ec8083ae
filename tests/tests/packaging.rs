//! What the package's files say of the daemon, tried on the daemon.
use anyhow::{Context, Result, ensure};
use lab::guest::GuestConfig;
use std::fs::File;
use std::path::Path;
use tests::tools::{ping, wait_reachable};
use tests::{netback, prepare, wait_for};

/// Reads a file of packaging/.
fn packaged(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging")
        .join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Returns the value of a setting of the unit.
fn setting(unit: &str, name: &str) -> Result<String> {
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}=")));
    Ok(line
        .with_context(|| format!("the unit has no {name}"))?
        .to_owned())
}

#[test]
fn the_units_capabilities_are_enough() -> Result<()> {
    let unit = packaged("netback.service")?;
    let kept: Vec<String> = setting(&unit, "CapabilityBoundingSet")?
        .split_whitespace()
        .map(|name| name.replace("CAP_", "+").to_lowercase())
        .collect();
    ensure!(
        !kept.contains(&"+sys_admin".to_owned()),
        "the unit keeps nearly everything: {kept:?}"
    );
    let mut lab = prepare::wired(1)?;
    lab.add_guest(GuestConfig::new("guest"))?;
    let config = prepare::config(&lab, "");
    let path = lab.directory().file("netback.toml");
    std::fs::write(&path, config)?;
    let log = lab.directory().file("netback.log");
    let bounding = format!("--bounding-set=-all,{}", kept.join(","));
    let wrapper = ["setpriv", &bounding, "--inh-caps=-all", "--no-new-privs"];
    let arguments = ["run", "--config", path.to_str().context("not UTF-8")?];
    // The second start finds what the first one left on the NIC.
    for start in 1..=2 {
        let mut command = netback::command_under(&lab, &wrapper, "netback", &arguments)?;
        let mut daemon = command.stderr(File::create(&log)?).spawn()?;
        let served = (|| {
            if start == 1 {
                lab.connect_guests()?;
            }
            let (guest, outside) = (&lab.guests[0].host, &lab.outside[0].host);
            wait_reachable(guest, outside)?;
            ping(guest, &outside.ipv6, 5, &[])
        })();
        daemon.kill()?;
        daemon.wait()?;
        served.with_context(|| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            format!("start {start}: {log}")
        })?;
    }
    Ok(())
}

/// With the package's configuration netback takes no NIC, serves nobody, and says what to write into it. Once that is written, a reload is
/// enough.
#[test]
fn the_default_configuration_serves_nobody_until_a_bridge_is_written() -> Result<()> {
    let mut lab = prepare::wired(1)?;
    lab.add_guest(GuestConfig::new("guest"))?;
    let run_dir = lab.directory().file("run");
    let bpf_dir = lab.directory().file("bpf");
    let packaged = packaged("netback.toml")?.replace(
        "[daemon]",
        &format!("[daemon]\nrun_dir = {run_dir:?}\nbpf_dir = {bpf_dir:?}"),
    );
    let file = lab.directory().file("default.toml");
    std::fs::write(&file, &packaged)?;
    let path = file.to_str().context("not UTF-8")?;
    let check = netback::output(&lab, &["run", "--check", "--config", path])?;
    let said = String::from_utf8_lossy(&check.stdout);
    ensure!(
        check.status.success() && said.contains("no [[bridge]], so no guest is served"),
        "{said}"
    );
    lab.start_daemon(&packaged)?;
    let serves = || Ok(lab.daemon()?.command(&["status"]).is_ok());
    wait_for("netback answers", serves)?;
    let log = std::fs::read_to_string(lab.directory().file("netback.log"))?;
    ensure!(
        log.contains("no [[bridge]], so no guest is served"),
        "{log}"
    );
    let config = lab.directory().file("netback.toml");
    let status = ["status", "--config", config.to_str().context("not UTF-8")?];
    let status = netback::output(&lab, &status)?;
    let said = String::from_utf8_lossy(&status.stdout);
    ensure!(
        said.contains("no [[bridge]], so no guest is served"),
        "{said}"
    );
    std::fs::write(
        &config,
        packaged + "\n[[bridge]]\nname = \"xenbr0\"\nuplink = \"up0\"\n",
    )?;
    let pid = lab.daemon()?.status()?["pid"].to_string();
    let mut hang_up = std::process::Command::new("kill");
    ensure!(
        hang_up.args(["-HUP", &pid]).status()?.success(),
        "kill -HUP {pid}"
    );
    lab.connect_guests()?;
    wait_reachable(&lab.guests[0].host, &lab.outside[0].host)
}

#[test]
fn the_vif_script_says_connected_or_why_not() -> Result<()> {
    let lab = prepare::wired(1)?;
    // A xenstore-write(1) that notes what it was asked to write, and a netback that runs or does not.
    let bin = lab.directory().file("bin");
    std::fs::create_dir(&bin)?;
    let written = lab.directory().file("written");
    let program = |name: &str, body: &str| -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n"))?;
        Ok(std::fs::set_permissions(
            &path,
            PermissionsExt::from_mode(0o755),
        )?)
    };
    program(
        "xenstore-write",
        &format!("echo \"$*\" > {}", written.display()),
    )?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/vif-netback");
    let run = |argument: &str, kind: &str| -> Result<(bool, String)> {
        let _ = std::fs::remove_file(&written);
        let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
        let mut command = std::process::Command::new(&script);
        command
            .arg(argument)
            .env("XENBUS_PATH", "backend/vif/3/0")
            .env("type_if", kind)
            .env("PATH", path);
        let ok = command.status()?.success();
        Ok((ok, std::fs::read_to_string(&written).unwrap_or_default()))
    };
    program("netback", "exit 0")?;
    program("xenstore-read", "exit 1")?;
    ensure!(run("online", "vif")? == (true, "backend/vif/3/0/hotplug-status connected\n".into()));
    ensure!(run("offline", "vif")? == (true, String::new()));
    ensure!(run("online", "tap")? == (true, String::new()));
    program("xenstore-read", "echo error")?;
    ensure!(run("online", "vif")? == (false, String::new()));
    program("netback", "exit 1")?;
    let (ok, said) = run("online", "vif")?;
    ensure!(
        !ok && said.contains("hotplug-error")
            && said.contains("systemctl start netback")
            && said.contains("hotplug-status error"),
        "{said}"
    );
    ensure!(!run("frobnicate", "vif")?.0);
    Ok(())
}
