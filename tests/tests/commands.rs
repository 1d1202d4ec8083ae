//! `netback vif` and `netback fdb`: what they show, what they change, and what they refuse in one line.
use anyhow::{Context, Result, ensure};
use lab::Lab;
use serde_json::Value;
use tests::tools::ping;
use tests::{netback, prepare, status, wait_for};

/// Runs `netback <words> --json`. Returns the answer.
fn ask(lab: &mut Lab, words: &str) -> Result<Value> {
    let words: Vec<&str> = words.split_whitespace().chain(["--json"]).collect();
    let answer = lab.daemon()?.command(&words)?;
    serde_json::from_str(&answer).with_context(|| format!("{words:?} printed no JSON: {answer}"))
}

fn say(lab: &mut Lab, words: &str) -> Result<String> {
    let words: Vec<&str> = words.split_whitespace().collect();
    lab.daemon()?.command(&words)
}

/// Checks that the running daemon refuses `netback <words>` in one line with `reason` in it.
fn refused(lab: &Lab, words: &str, reason: &str) -> Result<()> {
    let socket = lab.directory().file("run").join("control");
    let socket = socket.to_str().context("not UTF-8")?;
    let words: Vec<&str> = words
        .split_whitespace()
        .chain(["--control", socket])
        .collect();
    let output = netback::output(lab, &words)?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(2)
            && error.trim().lines().count() == 1
            && error.contains(reason),
        "{words:?}: {}: {error}",
        output.status
    );
    Ok(())
}

/// Returns the entries of the only bridge for an address.
fn entries(lab: &mut Lab, mac: &str) -> Result<Vec<Value>> {
    let answer = ask(lab, "fdb show")?;
    let entries = answer["fdb"].as_array().context("no entries")?.clone();
    Ok(entries
        .into_iter()
        .filter(|entry| entry["mac"] == mac)
        .collect())
}

#[test]
fn a_vif_is_shown_kicked_and_disconnected() -> Result<()> {
    let mut lab = prepare::connected(2, &["guest"])?;
    let vif = format!("{}/0", lab.guests[0].domid);
    let shown = ask(&mut lab, &format!("vif show {vif}"))?;
    ensure!(
        shown["vif"] == *vif && shown["service"] == "served",
        "{shown}"
    );
    let text = say(&mut lab, &format!("vif show {vif}"))?;
    ensure!(
        text.starts_with(&format!("vif      {vif} on xenbr0: served")),
        "{text}"
    );

    let notified = |lab: &mut Lab| -> Result<u64> {
        let vif = status::vif(lab, lab.guests[0].domid.0)?;
        Ok(status::numbers(&vif, "notifications").iter().sum())
    };
    let before = notified(&mut lab)?;
    let kicked = ask(&mut lab, &format!("vif kick {vif}"))?;
    ensure!(
        kicked["kicked"] == *vif && kicked["queues"] == 2,
        "{kicked}"
    );
    // The guest was notified on both event channels of both queues.
    wait_for("notifications", || Ok(notified(&mut lab)? >= before + 4))?;
    ping(&lab.guests[0].host, &lab.outside[0].host.ipv4, 3, &[])?;

    refused(&lab, "vif show 999/0", "there is no vif 999/0")?;
    refused(&lab, "vif kick 999/0", "there is no vif 999/0")?;
    let answer = ask(&mut lab, &format!("vif disconnect {vif}"))?;
    ensure!(answer["disconnected"][0] == *vif, "{answer}");
    Ok(())
}

#[test]
fn addresses_are_shown_added_taken_out_and_flushed() -> Result<()> {
    let mut lab = prepare::connected(1, &["guest-a", "guest-b"])?;
    let vifs: Vec<String> = lab
        .guests
        .iter()
        .map(|guest| format!("{}/0", guest.domid))
        .collect();
    let (own, outside) = (
        status::mac(&lab.guests[0].host),
        status::mac(&lab.outside[0].host),
    );
    let found = entries(&mut lab, &own)?;
    ensure!(
        found.len() == 1 && found[0]["port"] == *vifs[0] && found[0]["kind"] == "guest",
        "{found:?}"
    );
    let found = entries(&mut lab, &outside)?;
    ensure!(
        found.len() == 1 && found[0]["port"] == prepare::UPLINK && found[0]["kind"] == "learnt",
        "{found:?}"
    );
    let text = say(&mut lab, "fdb show")?;
    let line = format!(
        "{outside} on xenbr0 behind {}: learnt, heard ",
        prepare::UPLINK
    );
    ensure!(text.contains(&line), "{text}");

    // Packets for the address of a static entry go to its port, whoever else has the address.
    let strange = "02:00:00:00:00:77";
    let text = say(&mut lab, &format!("fdb add {strange} {}", vifs[1]))?;
    ensure!(
        text == format!("{strange} on xenbr0 behind {}: static\n", vifs[1]),
        "{text}"
    );
    say(&mut lab, "fdb flush")?;
    ensure!(entries(&mut lab, strange)?.len() == 1 && entries(&mut lab, &own)?.len() == 1);
    ping(&lab.guests[0].host, &lab.outside[0].host.ipv4, 3, &[])?;
    ensure!(entries(&mut lab, &outside)?.len() == 1, "learnt anew");
    say(&mut lab, &format!("fdb del {strange}"))?;
    ensure!(entries(&mut lab, strange)?.is_empty());

    refused(&lab, &format!("fdb del {strange}"), "has no entry")?;
    refused(
        &lab,
        "fdb add 01:00:5e:00:00:01 up0",
        "is not a unicast address",
    )?;
    refused(
        &lab,
        &format!("fdb add {strange} eth9"),
        "has no port \"eth9\"",
    )?;
    refused(&lab, &format!("fdb add {own} up0"), "is the address of vif")?;
    refused(
        &lab,
        &format!("fdb add {strange} up0 --vlan 4095"),
        "4095 is not a VLAN",
    )?;
    refused(
        &lab,
        "fdb show --bridge other",
        "there is no bridge \"other\"; there are: xenbr0",
    )
}

#[test]
fn the_doctor_says_who_segments_for_each_uplink_of_the_running_netback() -> Result<()> {
    let lab = prepare::connected(1, &["guest"])?;
    let config = lab.directory().file("netback.toml");
    let doctor = || -> Result<Option<String>> {
        let words = ["doctor", "--json", "--config"];
        let words = [&words[..], &[config.to_str().context("not UTF-8")?]].concat();
        let report: Value = serde_json::from_slice(&netback::output(&lab, &words)?.stdout)?;
        let findings = report["findings"].as_array().context("no findings")?;
        let bulk = findings.iter().find(|finding| finding["check"] == "bulk");
        Ok(bulk.map(|finding| finding["what"].to_string()))
    };
    let line = format!("large packets to {} are segmented by ", prepare::UPLINK);
    // Until netback has asked the card, it segments itself.
    wait_for("the doctor says who segments", || {
        let said = doctor()?.unwrap_or_default();
        Ok(said.contains(&line) && !said.contains("nobody has asked"))
    })
}
