//! The watchdog's loop: one socket, one timer, signals; never blocks on anything else.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use stint_protocol::{BootMs, LeaseId};

use crate::limits;
use crate::log::log;
use crate::shim::attempts::Attempts;
use crate::shim_api::layout::{Layout, SOCKET};
use crate::shim_api::request::StartRequest;
use crate::shim_api::wire::{FromShim, Hello, ToShim, VERSION, put_frames, take_frames};
use crate::sys;
use crate::sys::spawn::Spawner;
use crate::watchdog::StopCause;

/// How often unfinished business is looked at, in milliseconds.
const SWEEP_MS: u64 = 20;
/// Starts go on for so long, in milliseconds, before it is the turn of messages and deadlines again: a start may take long, and a burst
/// of them is no reason not to answer.
const STARTING_MS: u64 = 20;
/// Starts that the journal names with one write.
const STARTED_AT_ONCE: usize = 4;

/// The node at the other end of the socket.
struct Node {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

/// The running watchdog.
pub struct Server {
    listener: UnixListener,
    signals: OwnedFd,
    timer: OwnedFd,
    armed: Option<BootMs>,
    notices: OwnedFd,
    node: Option<Node>,
    /// What the node asked for and has not been started yet, oldest first.
    requests: VecDeque<StartRequest>,
    attempts: Attempts,
    idle_ms: u64,
    idle_since: BootMs,
    leaving: bool,
}

impl Server {
    /// Opens everything; after this the socket can be connected to.
    pub fn open(layout: &Layout, idle_ms: u64) -> io::Result<Self> {
        sys::keep_one_heap();
        // Before anything is started: inits rely on inheriting these signals as blocked, and the end of a child is
        // not to be missed. XFSZ would kill a watchdog whose files may not be as large as an attempt's output.
        let signals = sys::signal_fd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGXFSZ])?;
        sys::become_subreaper()?;
        let status_page = sys::StatusPage::new(limits::ATTEMPTS)?;
        let (notices, notice) = sys::pipe()?;
        let mut spawner = Spawner::new(status_page, notice)?;
        let mut problems = Vec::new();
        if let Err(e) = sys::lock_memory() {
            problems.push(format!(
                "the watchdog's memory is not locked ({e}): raise LimitMEMLOCK; it may page under pressure"
            ));
        }
        spawner.reset_oom_score = std::fs::write("/proc/self/oom_score_adj", "-900").is_ok();
        let mut attempts = Attempts::open(layout, spawner)?;
        attempts.ability.problems.extend(problems);
        Ok(Self {
            listener: listen(layout)?,
            signals,
            timer: sys::boot_timer()?,
            armed: None,
            notices,
            node: None,
            requests: VecDeque::new(),
            attempts,
            idle_ms,
            idle_since: sys::boot_now(),
            leaving: false,
        })
    }

    /// Runs until there is nothing to stay for.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.may_leave() {
            self.arm()?;
            self.turn();
            if let Err(e) = self.attempts.write_journal() {
                log!(Watchdog, "writing the journal: {e}");
            }
            self.tell_news();
        }
        self.attempts.leave();
        Ok(())
    }

    fn turn(&mut self) {
        let mut fds = vec![
            (self.signals.as_raw_fd(), false),
            (self.timer.as_raw_fd(), false),
            (self.notices.as_raw_fd(), false),
            (self.listener.as_raw_fd(), false),
            (self.attempts.outputs.moved(), false),
        ];
        if let Some(node) = &self.node {
            fds.push((node.stream.as_raw_fd(), !node.outbox.is_empty()));
        }
        let ready = sys::wait_ready(&fds, if self.requests.is_empty() { -1 } else { 0 });
        if ready[1] {
            sys::drain(&self.timer);
            self.armed = None;
        }
        self.attempts.tick();
        if ready[2] {
            let notices = sys::drain(&self.notices);
            self.attempts.on_notices(&notices);
        }
        if ready[0] {
            self.on_signals();
        }
        if ready[1] {
            self.attempts.sweep();
            if self.attempts.journal.sync_at().is_some_and(|at| at <= sys::boot_now()) {
                self.attempts.journal.sync();
            }
        }
        if ready[4] {
            self.attempts.on_moved();
        }
        if ready.get(5) == Some(&true) {
            self.on_node_ready();
        }
        if ready[3] {
            self.accept();
        }
        self.start_some();
    }

    /// Starts what was asked for, as far as that takes little time. For a node that is gone nothing is started: the next one is greeted
    /// with what there is, and has everything else started anew.
    fn start_some(&mut self) {
        if self.node.is_none() {
            self.requests.clear();
        }
        let began = sys::boot_now();
        while !self.requests.is_empty() && sys::boot_now().since(began) < STARTING_MS {
            let some = self.requests.len().min(STARTED_AT_ONCE);
            self.attempts.start(self.requests.drain(..some).collect());
        }
    }

    fn position(&self, lease: LeaseId) -> Option<usize> {
        self.requests.iter().position(|request| request.lease == lease)
    }

    fn on_signals(&mut self) {
        if sys::take_signals(&self.signals).contains(&libc::SIGTERM) {
            self.leave();
        }
        self.attempts.reap();
    }

    fn leave(&mut self) {
        self.leaving = true;
        self.requests.clear();
        self.attempts.stop_all();
    }

    fn may_leave(&mut self) -> bool {
        if !self.attempts.is_empty() {
            self.idle_since = sys::boot_now();
            return false;
        }
        if self.leaving {
            return true;
        }
        if self.node.is_some() {
            self.idle_since = sys::boot_now();
            return false;
        }
        sys::boot_now().since(self.idle_since) >= self.idle_ms
    }

    /// Sets the timer to the next time at which something is due.
    fn arm(&mut self) -> io::Result<()> {
        let idle = self.node.is_none().then(|| self.idle_since.plus(self.idle_ms));
        let soon = self.attempts.is_unsettled().then(|| sys::boot_now().plus(SWEEP_MS));
        let cgroup_pool = self.attempts.spare_over_at();
        let journal = [self.attempts.journal.sync_at(), self.attempts.journal.again_at()];
        let times = [self.attempts.watchdog.next_wake(), idle, soon, cgroup_pool];
        let times = times.into_iter().chain(journal);
        let Some(next) = times.flatten().min() else { return Ok(()) };
        // A timer that fires too early costs one turn; setting it anew for every attempt costs more.
        if self.armed.is_none_or(|armed| next < armed) {
            sys::set_timer(&self.timer, Some(next))?;
            self.armed = Some(next);
        }
        Ok(())
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        let own = sys::effective_ids().0;
        let allowed = sys::peer_credentials(&stream).is_ok_and(|(_, user)| user == own || user == 0);
        if !allowed || stream.set_nonblocking(true).is_err() {
            return;
        }
        // A later node replaces an earlier one: only one process at a time holds the node's data folder.
        self.attempts.news.clear();
        self.requests.clear();
        let hello = FromShim::Hello(Hello {
            version: VERSION,
            running: self.attempts.running(),
            ended: self.attempts.ended(),
            accounted: self.attempts.accounted,
            sandbox: self.attempts.ability.sandbox(),
            own_proc: self.attempts.ability.namespaces.is_some_and(|n| n.own_proc),
            memory_limits: self.attempts.ability.cgroups.limits_memory(),
            problems: self.attempts.ability.problems.clone(),
            jails: self.attempts.ability.jail,
        });
        let mut outbox = Vec::new();
        put_frames(&mut outbox, &[hello]);
        self.node = Some(Node { stream, inbox: Vec::new(), outbox });
        self.send();
    }

    fn on_node_ready(&mut self) {
        let Some(node) = &mut self.node else { return };
        let open = read_all(&mut node.stream, &mut node.inbox);
        match take_frames::<ToShim>(&mut node.inbox) {
            Ok(messages) => self.on_messages(messages),
            Err(e) => {
                log!(Watchdog, "dropping the node's connection: {e}");
                self.node = None;
            }
        }
        if !open {
            self.node = None;
        }
        self.send();
    }

    fn on_messages(&mut self, messages: Vec<ToShim>) {
        for message in messages {
            match message {
                ToShim::Start(request) => {
                    // A node that starts attempts has its new incarnation by now; one that restarts later need not make another.
                    self.attempts.accounted = true;
                    self.requests.push_back(*request);
                }
                ToShim::Acknowledge(lease) => self.attempts.acknowledge(lease),
                ToShim::Renew(lease, deadline) => match self.position(lease) {
                    Some(at) => self.requests[at].deadline = self.requests[at].deadline.max(deadline),
                    None => self.attempts.renew(lease, deadline),
                },
                ToShim::Stop(lease, reason) => {
                    // Started also when it is to stop: so its end is told as that of every other.
                    if let Some(request) = self.position(lease).and_then(|at| self.requests.remove(at)) {
                        self.attempts.start(vec![request]);
                    }
                    self.attempts.watchdog.stop(lease, StopCause::from(reason));
                }
                ToShim::Ping => self.attempts.news.push(FromShim::Pong),
                ToShim::Leave => self.leave(),
            }
        }
        self.attempts.tick();
    }

    fn tell_news(&mut self) {
        if self.attempts.news.is_empty() {
            return;
        }
        let news = std::mem::take(&mut self.attempts.news);
        if let Some(node) = &mut self.node {
            put_frames(&mut node.outbox, &news);
            self.send();
        }
    }

    fn send(&mut self) {
        let Some(node) = &mut self.node else { return };
        while !node.outbox.is_empty() {
            match sys::send(&node.stream, &node.outbox) {
                Ok(0) => break,
                Ok(sent) => drop(node.outbox.drain(..sent)),
                Err(_) => return self.node = None,
            }
        }
        // Nothing is lost by that: a node that connects again is greeted with all that is held and all that ended.
        if node.outbox.len() > limits::SHIM_BACKLOG_BYTES {
            self.node = None;
        }
    }
}

/// Reads what is there; false when the other end has closed.
fn read_all(stream: &mut UnixStream, inbox: &mut Vec<u8>) -> bool {
    let mut part = [0u8; 64 * 1024];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return false,
            Ok(read) => inbox.extend_from_slice(&part[..read]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

/// Listens through a descriptor of the folder, since the path of a socket may have 107 bytes only.
fn listen(layout: &Layout) -> io::Result<UnixListener> {
    match std::fs::remove_file(layout.socket()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let folder = File::open(layout.root())?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
