//! A guest in a process of its own: netfronts, and behind each a TAP of a namespace's Linux stack, or a generator and a sink.
pub mod control;
pub mod counters;
pub mod frame;
pub mod generator;
pub mod hostile;
pub mod layout;
pub mod netfront;
pub mod options;
pub mod owed;
mod poll;
pub mod queue;
pub mod rx;
pub mod tap;
pub mod tx;
pub mod vif;
pub mod virtio;

use crate::domain::{Domain, DomainConfig};
use control::{Answer, Command, Connection};
use netfront::Settings;
use options::Options;
use poll::{Poll, Source};
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;
use vif::Vif;
use xen::event::Port;

/// Ports taken from the event descriptor at once.
const PORTS: usize = 64;
/// Control connections at once; more are refused.
const MAX_CONNECTIONS: u64 = 16;

/// The guest.
pub struct Guest {
    domain: Domain,
    vifs: Vec<Vif>,
    poll: Poll,
    listener: UnixListener,
    socket: PathBuf,
    connections: HashMap<u64, Connection>,
    next_connection: u64,
    /// Which vif and queue a port belongs to.
    ports: HashMap<Port, (usize, usize)>,
    quit: bool,
}

impl Guest {
    /// Register the domain and begin to watch for its vifs.
    pub fn start(options: &Options) -> anyhow::Result<Self> {
        let settings: Vec<Settings> = (0..options.vifs())
            .map(|devid| options.settings(devid))
            .collect();
        let pages = settings.iter().map(Settings::pages).sum();
        let domain = Domain::create(
            &options.sim_dir,
            DomainConfig {
                name: options.name.clone(),
                pages,
            },
        )?;
        let socket = control::socket_path(&options.sim_dir, &options.name);
        let listener = UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        let mut poll = Poll::new()?;
        poll.add(domain.as_fd(), Source::Events)?;
        poll.add(listener.as_fd(), Source::Listener)?;
        let mut vifs = Vec::new();
        for (n, settings) in settings.into_iter().enumerate() {
            let vif = Vif::new(&domain, settings, options, n)?;
            poll.add(vif.store_fd(), Source::Store(n))?;
            vifs.push(vif);
        }
        Ok(Self {
            domain,
            vifs,
            poll,
            listener,
            socket,
            connections: HashMap::new(),
            next_connection: 0,
            ports: HashMap::new(),
            quit: false,
        })
    }

    /// The domain's number, for who started us.
    pub fn domid(&self) -> u16 {
        self.domain.id().0
    }

    /// Serve until told to quit or destroyed.
    pub fn run(mut self) -> anyhow::Result<()> {
        for n in 0..self.vifs.len() {
            self.store(n)?;
        }
        while !self.quit {
            let patience = self.patience();
            for source in self.poll.wait(patience)? {
                self.handle(source)?;
            }
            for vif in &mut self.vifs {
                vif.turn(&self.domain, &mut self.poll)?;
            }
        }
        Ok(())
    }

    /// How long nothing has to be done unless something happens.
    fn patience(&mut self) -> Option<Duration> {
        self.vifs.iter_mut().filter_map(Vif::due).min()
    }

    fn handle(&mut self, source: Source) -> anyhow::Result<()> {
        match source {
            Source::Events => self.events()?,
            Source::Store(n) => self.store(n)?,
            Source::Tap(n, queue) => self.vifs[n].tap_readable(queue),
            Source::Listener => self.accept()?,
            Source::Connection(id) => self.converse(id)?,
            Source::Gone => self.quit = true,
        }
        Ok(())
    }

    /// Deliver events, then unmask: what comes meanwhile is delivered again.
    fn events(&mut self) -> io::Result<()> {
        let mut ports = [Port(0); PORTS];
        let n = self.domain.pending(&mut ports)?;
        for port in &ports[..n] {
            if let Some((vif, queue)) = self.ports.get(port) {
                self.vifs[*vif].event(&self.domain, *queue, *port);
            }
        }
        self.domain.unmask(&ports[..n])
    }

    fn store(&mut self, n: usize) -> anyhow::Result<()> {
        let changes = self.vifs[n].on_store()?;
        self.apply(n, &changes)
    }

    fn apply(&mut self, n: usize, changes: &[netfront::Change]) -> anyhow::Result<()> {
        for change in changes {
            self.vifs[n].apply(n, *change, &mut self.poll)?;
        }
        self.ports = self
            .vifs
            .iter()
            .enumerate()
            .flat_map(|(n, vif)| vif.ports().map(move |(q, port)| (port, (n, q))))
            .collect();
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.connections.len() as u64 >= MAX_CONNECTIONS {
                continue;
            }
            let connection = Connection::new(stream)?;
            let id = self.next_connection;
            self.next_connection += 1;
            self.poll
                .add(connection.stream().as_fd(), Source::Connection(id))?;
            self.connections.insert(id, connection);
        }
        Ok(())
    }

    fn converse(&mut self, id: u64) -> anyhow::Result<()> {
        // Taken out while it is served; dropping it closes it, which takes it out of the poll set too.
        let Some(mut connection) = self.connections.remove(&id) else {
            return Ok(());
        };
        let Some(lines) = connection.commands() else {
            return Ok(());
        };
        for line in lines {
            let answer = match line.parse::<Command>() {
                Ok(command) => self.obey(command)?,
                Err(why) => Answer::Error(why),
            };
            if !connection.answer(&answer) {
                return Ok(());
            }
        }
        self.connections.insert(id, connection);
        Ok(())
    }

    fn obey(&mut self, command: Command) -> anyhow::Result<Answer> {
        for n in 0..self.vifs.len() {
            let changes = self.vifs[n].obey(&command)?;
            self.apply(n, &changes)?;
            // What fired meanwhile came with xenstore's answers, so its descriptor says nothing of it.
            self.store(n)?;
        }
        self.quit |= command == Command::Quit;
        Ok(Answer::Ok(self.vifs.iter().map(Vif::report).collect()))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Left over only when the process is killed; then it lies in the simulator's directory and goes with it.
        let _ = std::fs::remove_file(&self.socket);
    }
}
