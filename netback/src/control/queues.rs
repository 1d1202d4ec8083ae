//! A vif's queues on their way to workers and back.
use super::bridges::Access;
use super::policy::Guest;
use super::pool::Pool;
use super::vif::{Queue, Service, Vif, broken};
use super::{Control, Error};
use crate::crash_point;
use crate::hypervisor::Hypervisor;
use crate::observe::counters::QueueStats;
use crate::path::ports::ServedBy;
use crate::queue::Remains;
use crate::queue::backlog::BacklogBounds;
use crate::queue::limits::Limits;
use crate::queue::setup::QueueSetup;
use crate::vif::features::Features;
use crate::vif::file::{Identity, RingIdentity, Unusable, VifFile};
use crate::vif::handshake;
use crate::vif::id::{QueueId, VifId};
use crate::vif::multicast::Multicast;
use crate::vif::policy::Policy;
use crate::vif::state::Xenbus;
use crate::worker::messages::ToWorker;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::warn;
use xen::event::{EventChannels, Port};
use xen::grant::{GrantRef, GrantTable};
use xen::store::{StoreError, XenStore};
use xsk_bridge::switch::{Bridge, PortId, PortKind};

/// For how long after the start a predecessor's event channels may still be bound: the kernel closes a dead process's files in no
/// given order, and takes its time where it is busy.
const BIND_PATIENCE: Duration = Duration::from_secs(5);

/// Why a vif is not served; one line.
pub(super) struct Obstacle {
    pub reason: String,
    pub lasts: Lasts,
}

/// How long an obstacle is expected to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    /// Until the guest or the operator changes something.
    UntilChanged,
    /// Until the guest connects anew.
    UntilReconnected,
    /// A moment: as long as the predecessor takes to die, or another vif to be tried.
    Briefly,
    /// As long as xenstore refuses to be written to.
    WhileStoreRefuses,
}

impl From<String> for Obstacle {
    fn from(reason: String) -> Self {
        Self {
            reason,
            lasts: Lasts::UntilChanged,
        }
    }
}

/// A queue whose ports are bound and whose rings are mapped.
pub(super) struct Opened<H: Hypervisor> {
    worker: u8,
    tx_port: Port,
    rx_port: Port,
    pub(super) tx_page: <H::Grants as GrantTable>::Page,
    rx_page: <H::Grants as GrantTable>::Page,
}

/// What a vif has besides its open queues before workers get them.
struct Prepared {
    file: VifFile,
    port_id: PortId,
    /// The file describes live rings, which are taken over.
    take_over: bool,
}

impl<H: Hypervisor, S: XenStore> Control<H, S> {
    /// Reads the handshake and hands the queues to workers; the inner error is the obstacle. Unless live rings are taken over, our state
    /// Connected is written before a worker has the rings, so that every later death leads to a take-over.
    pub(super) fn connect(
        &mut self,
        id: VifId,
        take_over: bool,
    ) -> Result<Result<(), Obstacle>, Error> {
        let paths = self.vifs[&id].paths.clone();
        let guest = match take_over {
            true => Guest::IsConnected,
            false => Guest::Connects,
        };
        let policy = match self.read_policy(id, guest)? {
            Ok(policy) => policy,
            Err(unhonoured) => return Ok(Err(unhonoured.to_string().into())),
        };
        let offer = match handshake::offer(&mut self.store, &paths, self.max_queues) {
            Ok(offer) => offer,
            Err(handshake::Refusal::Store(StoreError::Io(error))) => {
                return Err(StoreError::Io(error).into());
            }
            Err(refusal) => return Ok(Err(refusal.to_string().into())),
        };
        let place = match self.choose_bridge(&policy) {
            Ok(place) => place,
            Err(reason) => return Ok(Err(reason.into())),
        };
        let opened = match self.open_queues(id, &offer.queues, take_over) {
            Ok(opened) => opened,
            Err(obstacle) => return Ok(Err(obstacle)),
        };
        crash_point!("opened");
        let prepared = self.prepare(id, &offer.queues, &opened, take_over);
        let prepared = match prepared {
            Ok(prepared) if take_over => Ok(prepared),
            Ok(prepared) => self.announce(id)?.map(|()| prepared),
            Err(obstacle) => Err(obstacle),
        };
        match prepared {
            Ok(prepared) => {
                crash_point!("connected");
                self.hand_out(id, &policy, place, offer.features, opened, prepared);
                crash_point!("handed-out");
                Ok(Ok(()))
            }
            Err(obstacle) => {
                close_queues(&self.pool, id, opened);
                if !take_over {
                    self.remove_file(id);
                }
                Ok(Err(obstacle))
            }
        }
    }

    /// Makes or reopens the vif's file for rings that are open, and takes a port for it.
    fn prepare(
        &mut self,
        id: VifId,
        rings: &[RingIdentity],
        opened: &[Opened<H>],
        take_over: bool,
    ) -> Result<Prepared, Obstacle> {
        let identity = Identity {
            vif: id,
            queues: rings.to_vec(),
        };
        let file = self.vif_file(&identity, take_over);
        let (file, take_over) = file.map_err(|error| {
            format!(
                "no file for it in {}: {error}",
                self.config.daemon.run_dir.display()
            )
        })?;
        if take_over {
            self.judge(id, &file, opened)?;
        } else {
            for (number, queue) in opened.iter().enumerate() {
                let part = file.queue(number as u16);
                part.begin(queue.tx_page.as_ref(), queue.rx_page.as_ref());
            }
        }
        crash_point!("filed");
        let port_id = self.ports.take();
        let port_id = port_id.ok_or_else(|| "every port number is in use".to_owned())?;
        Ok(Prepared {
            file,
            port_id,
            take_over,
        })
    }

    /// Writes our state Connected; the inner error is what xenstore has against it.
    fn announce(&mut self, id: VifId) -> Result<Result<(), Obstacle>, Error> {
        let paths = self.vif(id).paths.clone();
        let written = handshake::write_state(&mut self.store, &paths, Xenbus::Connected);
        let refusal = broken(written)?;
        Ok(match refusal {
            None => Ok(()),
            Some(error) => Err(Obstacle {
                reason: format!("cannot write its state: {error}"),
                lasts: Lasts::WhileStoreRefuses,
            }),
        })
    }

    /// Hands open queues to their workers, and connects the vif's port to its bridge.
    fn hand_out(
        &mut self,
        id: VifId,
        policy: &Policy,
        (bridge, access): (Arc<Bridge>, Access),
        features: Features,
        opened: Vec<Opened<H>>,
        prepared: Prepared,
    ) {
        let Prepared {
            file,
            port_id,
            take_over,
        } = prepared;
        file.deaths().set_life(self.life.number);
        let multicast = Arc::new(Multicast::new(file.multicast(), features.multicast_control));
        let rates = [policy.rate, self.config.vif.rate_in];
        let limits = Limits::new(opened.len(), rates, policy.mtu, Instant::now());
        let limits = Arc::new(limits);
        let place: Vec<u8> = opened.iter().map(|queue| queue.worker).collect();
        // Before a worker takes a packet out of the rings: packets may wait there already, and the port's rules count for these too.
        bridge.add_port_with(port_id, PortKind::Guest(policy.mac), &access.rules);
        let mut queues = Vec::with_capacity(opened.len());
        for (number, opened) in opened.into_iter().enumerate() {
            let stats = Arc::<QueueStats>::default();
            queues.push(Queue {
                worker: opened.worker,
                stats: stats.clone(),
                with_worker: true,
            });
            let setup = QueueSetup::<H> {
                id: QueueId {
                    vif: id,
                    queue: number as u16,
                },
                port_id,
                bridge: bridge.clone(),
                mac: policy.mac,
                features,
                tx_page: opened.tx_page,
                rx_page: opened.rx_page,
                tx_port: opened.tx_port,
                rx_port: opened.rx_port,
                file: file.queue(number as u16),
                multicast: multicast.clone(),
                filter: access.filter.clone(),
                limits: limits.clone(),
                take_over,
                stats,
                backlog: BacklogBounds {
                    bytes: self.config.vif.backlog_bytes,
                    age: Duration::from_millis(self.config.vif.backlog_ms.into()),
                },
            };
            self.pool.0[usize::from(opened.worker)].queues += 1;
            self.pool
                .send(opened.worker, ToWorker::AddQueue(Box::new(setup)));
        }
        self.pool
            .send_all(|| ToWorker::SetPort(port_id, ServedBy::Guest(place.clone())));
        self.vif(id).service = Some(Service {
            port_id,
            bridge,
            access,
            features,
            multicast,
            limits,
            queues,
        });
    }

    /// The vif's file, and whether it carries live rings.
    fn vif_file(&self, identity: &Identity, take_over: bool) -> io::Result<(VifFile, bool)> {
        let run_dir = &self.config.daemon.run_dir;
        if take_over {
            match VifFile::reopen(run_dir, identity) {
                Ok(file) => return Ok((file, true)),
                Err(Unusable::Io(_, error)) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error);
                }
                Err(unusable) => {
                    warn!(vif = %identity.vif, "{unusable}: the rings are attached at what their pages say");
                }
            }
        }
        Ok((VifFile::create(run_dir, identity)?, false))
    }

    /// Binds the ports and maps the rings of every queue, each on the worker that is to serve the queue; of all queues or of none.
    fn open_queues(
        &mut self,
        id: VifId,
        rings: &[RingIdentity],
        take_over: bool,
    ) -> Result<Vec<Opened<H>>, Obstacle> {
        let mut opened = Vec::with_capacity(rings.len());
        // Queues are spread over the workers, from the one with the fewest queues on.
        let first = usize::from(self.pool.least_busy());
        for (number, ring) in rings.iter().enumerate() {
            let worker = ((first + number) % self.pool.0.len()) as u8;
            match self.open_queue(id, worker, ring, take_over) {
                Ok(queue) => opened.push(queue),
                Err(obstacle) => {
                    close_queues(&self.pool, id, opened);
                    return Err(Obstacle {
                        reason: format!("queue {number}: {}", obstacle.reason),
                        ..obstacle
                    });
                }
            }
        }
        Ok(opened)
    }

    /// Binds one queue's ports, then maps its rings.
    fn open_queue(
        &self,
        id: VifId,
        worker: u8,
        ring: &RingIdentity,
        take_over: bool,
    ) -> Result<Opened<H>, Obstacle> {
        let member = &self.pool.0[usize::from(worker)];
        let may_die = take_over && self.started.elapsed() < BIND_PATIENCE;
        let bind = |port: u32| {
            let bound = member.events.bind(id.domid, Port(port));
            bound.map_err(|error| Obstacle {
                reason: format!(
                    "event channel {port} cannot be bound ({error}): is another backend serving this vif?"
                ),
                lasts: match may_die {
                    true => Lasts::Briefly,
                    false => Lasts::UntilChanged,
                },
            })
        };
        let tx_port = bind(ring.tx_port)?;
        let rx_port = if ring.rx_port == ring.tx_port {
            Ok(tx_port)
        } else {
            bind(ring.rx_port)
        };
        let unbind = |ports: &[Port]| unbind(&*member.events, id, ports);
        let rx_port = rx_port.inspect_err(|_| unbind(&[tx_port]))?;
        let map = |gref: u32| {
            let page = member.grants.map(id.domid, GrantRef(gref));
            page.map_err(|error| {
                unbind(&[tx_port, rx_port]);
                format!("grant {gref} cannot be mapped: {error}")
            })
        };
        let tx_page = map(ring.tx_gref)?;
        let rx_page = map(ring.rx_gref)?;
        Ok(Opened {
            worker,
            tx_port,
            rx_port,
            tx_page,
            rx_page,
        })
    }

    /// Takes a vif's queues back from the workers, which answer `Removed` or `Rogue` for each. Returns true where no worker had any.
    pub(super) fn take_back(&mut self, id: VifId) -> bool {
        let Some(service) = self.vifs.get(&id).and_then(|vif| vif.service.as_ref()) else {
            return true;
        };
        let port_id = service.port_id;
        service.bridge.remove_port(port_id);
        let out: Vec<(u16, u8)> = service
            .queues
            .iter()
            .enumerate()
            .filter(|(_, queue)| queue.with_worker)
            .map(|(number, queue)| (number as u16, queue.worker))
            .collect();
        self.pool
            .send_all(|| ToWorker::SetPort(port_id, ServedBy::Nobody));
        for &(queue, worker) in &out {
            self.pool
                .send(worker, ToWorker::RemoveQueue(QueueId { vif: id, queue }));
        }
        out.is_empty()
    }

    /// Takes in a queue that its worker has given up. Returns true where it was the vif's last.
    pub(super) fn came_back(&mut self, worker: u8, id: QueueId, remains: Remains<H>) -> bool {
        let member = &mut self.pool.0[usize::from(worker)];
        // Rings are unmapped first, so that no port can be bound anew while a ring is still mapped.
        unbind(&*member.events, id.vif, &remains.unmap());
        let Some(service) = self
            .vifs
            .get_mut(&id.vif)
            .and_then(|vif| vif.service.as_mut())
        else {
            return false;
        };
        let Some(queue) = service.queues.get_mut(usize::from(id.queue)) else {
            return false;
        };
        member.queues -= usize::from(std::mem::take(&mut queue.with_worker));
        service.queues.iter().all(|queue| !queue.with_worker)
    }

    /// Ends the service of a vif whose queues are all back: its port is free, and no successor takes anything over.
    pub(super) fn end_service(&mut self, id: VifId) {
        if let Some(service) = self.vif(id).service.take() {
            self.ports.give(service.port_id);
        }
        self.remove_file(id);
    }

    /// Removes the vif's file, so that no successor takes over anything of the vif.
    pub(super) fn remove_file(&self, id: VifId) {
        if let Err(error) = VifFile::remove(&self.config.daemon.run_dir, id) {
            warn!(vif = %id, "its file cannot be removed: {error}");
        }
    }

    /// The vif of this name, which is there.
    pub(super) fn vif(&mut self, id: VifId) -> &mut Vif {
        self.vifs
            .get_mut(&id)
            .expect("only Forget removes a vif, and it is the last action")
    }
}

/// Closes what was opened for a vif that is refused after all.
fn close_queues<H: Hypervisor>(pool: &Pool<H>, id: VifId, opened: Vec<Opened<H>>) {
    for Opened {
        worker,
        tx_port,
        rx_port,
        tx_page,
        rx_page,
    } in opened
    {
        drop((tx_page, rx_page));
        unbind(
            &*pool.0[usize::from(worker)].events,
            id,
            &[tx_port, rx_port],
        );
    }
}

fn unbind(events: &impl EventChannels, id: VifId, both: &[Port]) {
    for port in ports(both) {
        if let Err(error) = events.unbind(port) {
            warn!(vif = %id, "event channel port {} cannot be closed: {error}", port.0);
        }
    }
}

/// The ports of both rings, once where they are the same.
fn ports(both: &[Port]) -> impl Iterator<Item = Port> + '_ {
    both.iter()
        .enumerate()
        .filter(|(n, port)| !both[..*n].contains(port))
        .map(|(_, port)| *port)
}
