//! Wrong input: one line that says what is wrong with what, and exit status 2.
use anyhow::{Context, Result, ensure};
use lab::Lab;
use tests::{netback, prepare};

/// `netback run` on this configuration says one line with all of `words` in it, and exits with 2.
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
    refused(&lab, "", &["bridge"])?;
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
    refused(&lab, &config, &["nosuch0", prepare::UPLINK])
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
    let lab = prepare::wired(1)?;
    lab.driver_namespace()
        .ip(&["link", "set", prepare::UPLINK, "mtu", "9000"])?;
    refused(
        &lab,
        &prepare::config(&lab, ""),
        &[prepare::UPLINK, "9000", "3822"],
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
