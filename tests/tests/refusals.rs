//! Wrong input: one line that says what is wrong with what, and exit status 2.
use anyhow::{Context, Result, ensure};
use lab::Lab;
use tests::{netback, prepare, wait_for};

/// Checks that `netback run` with this configuration prints one line with all of `words` in it, and exits with 2.
fn refused(lab: &Lab, config: &str, words: &[&str]) -> Result<()> {
    let path = lab.directory().file("refused.toml");
    std::fs::write(&path, config)?;
    refused_arguments(
        lab,
        &["run", "--config", path.to_str().context("not UTF-8")?],
        words,
    )
}

fn refused_arguments(lab: &Lab, arguments: &[&str], words: &[&str]) -> Result<()> {
    let output = netback::output(lab, arguments)?;
    let error = String::from_utf8_lossy(&output.stderr);
    let line = error.trim();
    ensure!(
        output.status.code() == Some(2),
        "{arguments:?}: {}: {line}",
        output.status
    );
    ensure!(
        line.lines().count() == 1,
        "{arguments:?}: not one line: {line}"
    );
    let missing: Vec<&&str> = words.iter().filter(|word| !line.contains(**word)).collect();
    ensure!(
        missing.is_empty(),
        "{arguments:?}: no {missing:?} in: {line}"
    );
    Ok(())
}

#[test]
fn wrong_configurations_are_refused_by_line_and_field() -> Result<()> {
    let lab = prepare::wired(1)?;
    let good = prepare::config(&lab, "");
    let lines = good.lines().count();
    let at = |more: usize| format!("refused.toml:{}:", lines + more);
    refused(
        &lab,
        &format!("{good}[workers]\ncount = 0\n").replace("[workers]\ncount = 2\n", "\n\n"),
        &["workers.count", "0"],
    )?;
    refused(
        &lab,
        &format!("{good}[vif]\nbacklog_bytes = 1\n"),
        &[&at(2), "vif.backlog_bytes"],
    )?;
    refused(
        &lab,
        &format!("{good}[vif]\ncolour = \"red\"\n"),
        &[&at(2), "colour"],
    )?;
    refused(
        &lab,
        &format!("{good}[[bridge]]\nname = \"xenbr0\"\n"),
        &[&at(2), "bridge.name", "xenbr0"],
    )?;
    refused(&lab, &format!("{good}[[bridge\n"), &[&at(1)])?;
    refused(
        &lab,
        &format!("{good}[vif]\nbacklog_bytes = 268435456\n"),
        &[&at(2), "vif.backlog_bytes", "2097152"],
    )?;
    refused(&lab, "[bridge]\nname = \"xenbr0\"\n", &["write [[bridge]]"])?;
    refused_arguments(
        &lab,
        &["run", "--config", "/nonexistent/netback.toml"],
        &["/nonexistent/netback.toml", "no such file"],
    )
}

#[test]
fn an_unknown_interface_is_refused_with_those_that_are_there() -> Result<()> {
    let lab = prepare::wired(1)?;
    let config = prepare::config(&lab, "").replace(prepare::UPLINK, "nosuch0");
    refused(&lab, &config, &["nosuch0", prepare::UPLINK])?;
    let path = lab.directory().file("refused.toml");
    let path = path.to_str().context("not UTF-8")?;
    let words = [path, "bridge xenbr0", "nosuch0", prepare::UPLINK];
    refused_arguments(&lab, &["run", "--check", "--config", path], &words)
}

#[test]
fn a_wrong_command_line_is_refused_in_one_line() -> Result<()> {
    let lab = prepare::wired(1)?;
    refused_arguments(&lab, &[], &["status, doctor", "netback --help"])?;
    refused_arguments(&lab, &["statsu"], &["statsu", "status"])?;
    refused_arguments(&lab, &["status", "--jsno"], &["--jsno", "--json"])?;
    refused_arguments(&lab, &["disconnect"], &["DOMID/DEVID", "--all"])?;
    refused_arguments(&lab, &["disconnect", "three"], &["three", "3/0"])
}

#[test]
fn an_interface_to_uninstall_from_must_be_there() -> Result<()> {
    let lab = prepare::wired(1)?;
    let path = lab.directory().file("netback.toml");
    std::fs::write(&path, prepare::config(&lab, ""))?;
    let path = path.to_str().context("not UTF-8")?;
    let uninstall = |interface| ["uninstall", interface, "--config", path];
    refused_arguments(&lab, &uninstall("nosuch0"), &["nosuch0", prepare::UPLINK])?;
    let output = netback::output(&lab, &uninstall(prepare::UPLINK))?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said.contains("there was nothing of netback's"),
        "{}: {said}",
        output.status
    );
    Ok(())
}

#[test]
fn a_running_netback_is_asked_whatever_became_of_its_configuration() -> Result<()> {
    let mut lab = prepare::wired(1)?;
    lab.start_daemon(&prepare::config(&lab, ""))?;
    let answers = || Ok(lab.daemon()?.status().is_ok());
    wait_for("netback answers", answers)?;
    let file = lab.directory().file("netback.toml");
    let config = file.to_str().context("not UTF-8")?;
    let good = std::fs::read_to_string(&file)?;
    let status = |arguments: &[&str]| -> Result<String> {
        let output = netback::output(&lab, &[&["status"][..], arguments].concat())?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {error}");
        Ok(String::from_utf8(output.stdout)?)
    };
    // The configuration has a mistake, for which the next reload would be refused.
    std::fs::write(&file, good.replace("[[bridge]]", "[[brigde]]"))?;
    ensure!(status(&["--config", config])?.contains(prepare::UPLINK));
    // There is no configuration at all, and the place of the socket is given.
    std::fs::remove_file(&file)?;
    let socket = lab.directory().file("run").join("control");
    let socket = socket.to_str().context("not UTF-8")?;
    ensure!(status(&["--control", socket])?.contains(prepare::UPLINK));
    let running = ["uninstall", prepare::UPLINK, "--control", socket];
    refused_arguments(&lab, &running, &["netback is running"])?;
    let disconnect = ["disconnect", "--all", "--control", socket];
    let output = netback::output(&lab, &disconnect)?;
    ensure!(
        output.status.success() && output.stdout == b"disconnected: no vif\n",
        "{output:?}"
    );
    Ok(())
}

#[test]
fn the_doctor_reads_a_configuration_by_its_relative_path() -> Result<()> {
    let lab = prepare::wired(1)?;
    std::fs::write(lab.directory().file("relative.toml"), "[wokers]\n")?;
    let mut command = netback::command(&lab, "netback", &["doctor", "--config", "relative.toml"])?;
    let output = command.current_dir(lab.directory().path()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let absolute = lab.directory().file("relative.toml");
    ensure!(
        said.contains(&format!("{}:1: wokers", absolute.display())),
        "{said}"
    );
    Ok(())
}

#[test]
fn an_interface_in_use_is_refused_with_its_user() -> Result<()> {
    let lab = prepare::wired(1)?;
    let driver = lab.driver_namespace();
    driver.ip(&["link", "add", "br0", "type", "bridge"])?;
    driver.ip(&["link", "set", prepare::UPLINK, "master", "br0"])?;
    refused(
        &lab,
        &prepare::config(&lab, ""),
        &[prepare::UPLINK, "br0", "nomaster"],
    )
}

#[test]
fn an_mtu_beyond_a_frame_is_refused_with_the_limit() -> Result<()> {
    // The driver of a TAP receives no frame in several buffers.
    let lab = lab::Lab::new()?;
    let driver = lab.driver_namespace();
    driver.ip(&["tuntap", "add", "dev", prepare::UPLINK, "mode", "tap"])?;
    driver.ip(&["link", "set", prepare::UPLINK, "mtu", "9000"])?;
    refused(
        &lab,
        &prepare::config(&lab, ""),
        &[prepare::UPLINK, "9000", "3822", "generic"],
    )
}

#[test]
fn a_user_without_rights_is_refused() -> Result<()> {
    let lab = prepare::wired(1)?;
    let path = lab.directory().file("netback.toml");
    std::fs::write(&path, prepare::config(&lab, ""))?;
    let mut command = lab.driver_namespace().command("setpriv");
    command.args([
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--inh-caps=-all",
    ]);
    command
        .arg(lab::programs::path("netback")?)
        .args(["run", "--config"])
        .arg(&path);
    let output = command.stdin(std::process::Stdio::null()).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(2),
        "{}: {error}",
        output.status
    );
    ensure!(error.trim().lines().count() == 1, "not one line: {error}");
    Ok(())
}

#[test]
fn commands_without_a_daemon_say_so() -> Result<()> {
    let lab = prepare::wired(1)?;
    let path = lab.directory().file("netback.toml");
    std::fs::write(&path, prepare::config(&lab, ""))?;
    let path = path.to_str().context("not UTF-8")?;
    let output = netback::output(&lab, &["status", "--config", path])?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1),
        "{}: {error}",
        output.status
    );
    ensure!(
        error.trim().lines().count() == 1 && error.contains("netback run"),
        "{error}"
    );
    Ok(())
}
