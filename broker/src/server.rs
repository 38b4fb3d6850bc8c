//! Lets clients in, each with a thread of its own, and bounds what they take up.
//!
//! This file must not know the protocol.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use storage::host::broker::channel::Channel;

use crate::budget::Budget;
use crate::device::Devices;
use crate::peer::Peer;
use crate::policy::{Policy, Who};
use crate::session::Session;
use crate::vport::Adapters;

/// Bytes of a client's stack.
const STACK: usize = 256 << 10;
/// Connections of all those together to whom no rule applies.
const STRANGERS: usize = 16;
/// Lines that a client may cause in the log at once, and how long it waits for the next.
const LOG_BURST: u32 = 10;
const LOG_REFILL: Duration = Duration::from_secs(10);
/// Clients that are remembered although they are gone, because they have used something up.
const REMEMBERED: usize = 1024;

/// What serves clients.
#[derive(Debug)]
pub struct Server {
    policy: RwLock<Arc<Policy>>,
    pub(crate) devices: Box<dyn Devices>,
    pub(crate) adapters: Adapters,
    clients: Mutex<Clients>,
    /// That a client has gone.
    gone: Condvar,
    /// Commands under way, by device.
    under_way: Mutex<HashMap<u64, usize>>,
}

#[derive(Debug, Default)]
struct Clients {
    accounts: HashMap<Client, Account>,
    sockets: HashMap<u64, UnixStream>,
    next: u64,
    stopping: bool,
}

/// Whom limits apply to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Client {
    /// A user, or those in a control group that a rule names.
    Known(Option<u32>, Option<String>),
    /// All those to whom no rule applies.
    Stranger,
}

#[derive(Debug)]
struct Account {
    connections: usize,
    requests: Budget,
    lines: Budget,
    suppressed: u64,
}

impl Server {
    /// A server with this policy for these devices and host adapters.
    #[must_use]
    pub fn new(policy: Policy, devices: Box<dyn Devices>, adapters: Adapters) -> Arc<Server> {
        Arc::new(Server {
            policy: RwLock::new(Arc::new(policy)),
            devices,
            adapters,
            clients: Mutex::default(),
            gone: Condvar::new(),
            under_way: Mutex::default(),
        })
    }

    /// What applies to requests from now on.
    pub fn set_policy(&self, policy: Policy) {
        let rate = policy.limits.requests_per_second;
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        self.clients().accounts.values_mut().for_each(|account| account.requests = requests(rate));
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves a client that has connected, in a thread of its own, or hangs up on it.
    pub fn admit(self: &Arc<Server>, socket: UnixStream) {
        if let Err(error) = self.try_admit(socket) {
            log::warn!("a client was not let in: {error}");
        }
    }

    fn try_admit(self: &Arc<Server>, socket: UnixStream) -> io::Result<()> {
        let peer = Peer::of(socket.as_fd())?;
        let Some(place) = self.enter(&peer, &socket)? else { return Ok(()) };
        let channel = Channel::new(socket)?;
        let session = Session::new(place, peer, channel);
        let name = format!("client-{}", session.name());
        thread::Builder::new().name(name).stack_size(STACK).spawn(move || session.run())?;
        Ok(())
    }

    /// A place for a client, if it may have one more.
    fn enter(self: &Arc<Server>, peer: &Peer, socket: &UnixStream) -> io::Result<Option<Place>> {
        let policy = self.policy();
        let client = policy.known(peer).map_or(Client::Stranger, |who| Client::of(who, peer));
        let most = match client {
            Client::Known(..) => policy.limits.connections_per_client,
            Client::Stranger => STRANGERS,
        };
        let socket = socket.try_clone()?;
        let mut clients = self.clients();
        let total = clients.sockets.len();
        let account = clients.account(&client, &policy);
        if total >= policy.limits.connections || account.connections >= most {
            if let Some(more) = account.line() {
                log::warn!("{peer}: refused: too many connections{more}");
            }
            return Ok(None);
        }
        if clients.stopping {
            return Ok(None);
        }
        clients.account(&client, &policy).connections += 1;
        let name = clients.next;
        clients.next = name.wrapping_add(1);
        clients.sockets.insert(name, socket);
        Ok(Some(Place { server: Arc::clone(self), client, name }))
    }

    /// Lets nobody in any more, hangs up on clients once they have their answers, and waits for
    /// them, for so long at most. Whether all have gone.
    pub fn stop(&self, patience: Duration) -> bool {
        let mut clients = self.clients();
        clients.stopping = true;
        // One that is closed already needs no shutdown.
        clients.sockets.values().for_each(|socket| drop(socket.shutdown(Shutdown::Read)));
        let wait = |clients: &mut Clients| !clients.sockets.is_empty();
        let waited = self.gone.wait_timeout_while(clients, patience, wait);
        waited.unwrap_or_else(PoisonError::into_inner).0.sockets.is_empty()
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a command at a device, unless too many are under way there.
    pub(crate) fn at_device(&self, number: u64) -> Option<Turn<'_>> {
        let most = self.policy().limits.commands_per_device;
        let mut devices = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = devices.entry(number).or_default();
        if *under_way >= most {
            return None;
        }
        *under_way += 1;
        Some(Turn { server: self, number })
    }
}

impl Clients {
    fn account(&mut self, client: &Client, policy: &Policy) -> &mut Account {
        let now = Instant::now();
        if self.accounts.len() >= REMEMBERED {
            self.accounts.retain(|_, account| !account.is_void(now));
        }
        let rate = policy.limits.requests_per_second;
        self.accounts.entry(client.clone()).or_insert_with(|| Account {
            connections: 0,
            requests: requests(rate),
            lines: Budget::new(LOG_BURST, LOG_REFILL, now),
            suppressed: 0,
        })
    }
}

impl Client {
    /// A control group of its own making makes nobody another client, and inside of one that a rule
    /// names no user is.
    fn of(who: &Who, peer: &Peer) -> Client {
        match &who.cgroup {
            Some(cgroup) => Client::Known(who.uid, Some(cgroup.clone())),
            None => Client::Known(Some(peer.uid), None),
        }
    }
}

fn requests(rate: u32) -> Budget {
    Budget::new(rate, Duration::from_secs(1) / rate.max(1), Instant::now())
}

impl Account {
    fn is_void(&self, now: Instant) -> bool {
        self.connections == 0 && self.requests.is_full(now) && self.lines.is_full(now)
    }

    /// Whether one more line may go to the log, and what to add to it.
    fn line(&mut self) -> Option<String> {
        if !self.lines.try_take(Instant::now()) {
            self.suppressed += 1;
            return None;
        }
        Some(match std::mem::take(&mut self.suppressed) {
            0 => String::new(),
            count => format!(" ({count} lines about this client were suppressed)"),
        })
    }
}

/// A client's place among the others, until it goes.
pub(crate) struct Place {
    pub(crate) server: Arc<Server>,
    client: Client,
    pub(crate) name: u64,
}

impl Place {
    /// Waits until the client may ask for more.
    pub(crate) fn wait_turn(&self) {
        let policy = self.server.policy();
        let wait =
            self.server.clients().account(&self.client, &policy).requests.take(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
    }

    /// Logs something about the client, unless it has caused too much of that.
    pub(crate) fn log(&self, peer: &Peer, what: &str) {
        let policy = self.server.policy();
        let line = self.server.clients().account(&self.client, &policy).line();
        if let Some(more) = line {
            log::warn!("{peer}: {what}{more}");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.server.clients();
        clients.sockets.remove(&self.name);
        if let Some(account) = clients.accounts.get_mut(&self.client) {
            account.connections = account.connections.saturating_sub(1);
        }
        self.server.gone.notify_all();
    }
}

/// Room for one command at a device.
pub(crate) struct Turn<'a> {
    server: &'a Server,
    number: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut devices = self.server.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = devices.get_mut(&self.number) {
            *under_way = under_way.saturating_sub(1);
            if *under_way == 0 {
                devices.remove(&self.number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_becomes_another_client_by_itself() {
        let who = |uid, cgroup: Option<&str>| {
            let (gid, cgroup) = (Some(36), cgroup.map(str::to_owned));
            Who { uid, gid, cgroup }
        };
        let peer =
            |uid, cgroup: &str| Peer { pid: 1, uid, gids: vec![], cgroup: Some(cgroup.into()) };
        let by_user = |peer| Client::of(&who(None, None), &peer);
        assert_eq!(by_user(peer(5, "/a/1")), by_user(peer(5, "/a/2")));
        assert_ne!(by_user(peer(5, "/a")), by_user(peer(6, "/a")));
        let by_group = |peer| Client::of(&who(None, Some("/a")), &peer);
        assert_eq!(by_group(peer(5, "/a/1")), by_group(peer(6, "/a/2")));
        assert_ne!(by_group(peer(5, "/a")), Client::of(&who(None, Some("/b")), &peer(5, "/b")));
    }
}
