//! Many vifs on one driver domain, and the quotas of its xenstore.
use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::guest::GuestConfig;
use lab::interrupt::wait_for;
use sim::toolstack::VifConfig;
use std::time::Duration;
use tests::prepare;

const GUESTS: u32 = 8;
const VIFS_OF_A_GUEST: u32 = 16;
const VIFS: usize = (GUESTS * VIFS_OF_A_GUEST) as usize;
/// How long a refused vif may take to be served: it is tried again after pauses that double, up to a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// Returns how many vifs are served, and how many wait for room in xenstore.
fn counts(lab: &mut Lab) -> Result<(usize, usize)> {
    let status = lab.daemon()?.status()?;
    let vifs = status["vifs"].as_array().context("status has no vifs")?;
    let served = vifs.iter().filter(|vif| vif["service"] == "served");
    let refused = vifs.iter().filter(|vif| {
        let reason = vif["reason"].as_str().unwrap_or_default();
        vif["service"] == "waiting"
            && reason.contains("EQUOTA")
            && reason.contains("quota-maxentity")
    });
    Ok((served.count(), refused.count()))
}

#[test]
fn vifs_beyond_the_quota_say_so_and_128_are_served_once_it_is_raised() -> Result<()> {
    let mut lab = prepare::wired(1)?;
    let config = prepare::config(&lab, "");
    lab.start_daemon(&config)?;
    let mut last = (0, 0);
    for guest in 0..GUESTS {
        let number = lab.add_guest(GuestConfig {
            tap: false,
            arguments: vec!["--sinks".into(), VIFS_OF_A_GUEST.to_string()],
            ..GuestConfig::new(&format!("guest-{guest}"))
        })?;
        let (backend, domid) = (lab.driver_domain().id(), lab.guests[number].domid);
        for devid in 1..VIFS_OF_A_GUEST {
            let config = VifConfig {
                mac: [0x00, 0x16, 0x3e, 0x01, guest as u8, devid as u8],
                ..VifConfig::default()
            };
            lab.toolstack.create_vif(backend, domid, devid, &config)?;
        }
        // Guests come one after the other: the first find room.
        let vifs = ((guest + 1) * VIFS_OF_A_GUEST) as usize;
        wait_for("each vif is served or says why not", PATIENCE, || {
            lab.daemon()?.check_running()?;
            last = counts(&mut lab).unwrap_or_default();
            Ok(last.0 + last.1 == vifs)
        })
        .with_context(|| format!("served and waiting: {last:?}"))?;
    }
    eprintln!(
        "with the default quota: {} served, {} waiting",
        last.0, last.1
    );
    ensure!(last.0 > 0 && last.1 > 0, "served and waiting: {last:?}");
    let watches = lab.counts()?.watches;
    lab.toolstack.hypervisor().set_quota(8000, 100)?;
    wait_for("every vif is served", PATIENCE, || {
        last = counts(&mut lab)?;
        Ok(last == (VIFS, 0))
    })
    .with_context(|| format!("served and waiting: {last:?}"))?;
    ensure!(
        lab.counts()?.watches <= watches,
        "watches grew with the vifs"
    );
    lab.connect_guests()
}
