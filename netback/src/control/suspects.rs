//! Vifs whose packets the daemon may have crashed on: which are served, which are served alone first, and which are not served any more.
use super::Control;
use super::queues::{Lasts, Obstacle, Opened};
use crate::hypervisor::Hypervisor;
use crate::vif::deaths::{Deaths, Standing};
use crate::vif::file::VifFile;
use crate::vif::id::VifId;
use ring::page::RSP_PROD;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};
use tracing::warn;
use xen::store::XenStore;

/// The longest that other suspects wait for one whose slots are not answered, which a full uplink may hold up.
const TRIAL: Duration = Duration::from_secs(2);

/// A suspect that is served while the others wait: if the daemon crashes now, a packet of this vif is why.
pub(super) struct Trial {
    vif: VifId,
    deaths: Deaths,
    /// How far each queue's Tx requests were consumed when the vif was taken over.
    consumed: Vec<u32>,
    ends: Instant,
}

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Counts the predecessor's crash against the vif if the vif's packets were being worked on. Returns the obstacle to a take-over, if there
    /// is one.
    pub(super) fn judge(
        &mut self,
        id: VifId,
        file: &VifFile,
        opened: &[Opened<H>],
    ) -> Result<(), Obstacle> {
        let (deaths, now) = (file.deaths(), seconds());
        let consumed: Vec<u32> = (0..opened.len())
            .map(|number| file.queue(number as u16).tx_consumed())
            .collect();
        let was_served = self.life.crashed == Some(deaths.life());
        let answered = |(queue, consumed): (&Opened<H>, &u32)| {
            queue.tx_page.as_ref()[RSP_PROD].load(Relaxed) == *consumed
        };
        if was_served && !opened.iter().zip(&consumed).all(answered) {
            deaths.count(now);
            warn!(vif = %id, "netback crashed while it worked on packets of this vif");
        }
        match deaths.standing(now) {
            Standing::Clear => Ok(()),
            Standing::Disabled => Err(Obstacle {
                reason: "netback crashed three times within a minute while it worked on packets of this vif; \
                         please report what the log says of it, and reconnect the guest's interface to have it served again"
                    .into(),
                lasts: Lasts::UntilReconnected,
            }),
            Standing::Suspect => {
                self.end_trial();
                match &self.trial {
                    Some(trial) if trial.vif != id => Err(Obstacle {
                        reason: format!("vif {} is tried first", trial.vif),
                        lasts: Lasts::Briefly,
                    }),
                    _ => {
                        self.trial = Some(Trial {
                            vif: id,
                            deaths,
                            consumed,
                            ends: Instant::now() + TRIAL,
                        });
                        Ok(())
                    }
                }
            }
        }
    }

    /// Ends the trial of a suspect whose slots were answered, which clears the vif, or whose time is up.
    pub(super) fn end_trial(&mut self) {
        let Some(trial) = &self.trial else { return };
        let vif = self.vifs.get(&trial.vif);
        let service = vif.and_then(|vif| vif.service.as_ref());
        let is_answered = service.is_some_and(|service| {
            let mut queues = service.queues.iter().zip(&trial.consumed);
            queues.all(|(queue, consumed)| {
                let rsp_prod = queue.stats.tx_ring.rsp_prod.get() as u32;
                (rsp_prod.wrapping_sub(*consumed) as i32) >= 0
            })
        });
        if is_answered {
            trial.deaths.clear();
        }
        if is_answered || Instant::now() >= trial.ends {
            self.trial = None;
        }
    }
}

/// Seconds since 1970.
fn seconds() -> u32 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(1, |now| now.as_secs() as u32)
}
