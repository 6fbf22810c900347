//! How many connections there may be, in all and from each address or user: the oldest that has not yet said what it wants makes room.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A machine; of IPv6 its network.
    Address(IpAddr),
    /// A user of this machine.
    User(u32),
}

/// A bound of connections of one kind.
pub struct ConnectionLimit {
    most: usize,
    of_a_source: usize,
    taken: Mutex<BTreeMap<u64, Arc<PermitState>>>,
    /// Numbers permits, and orders them by when they were acquired or renewed.
    next: AtomicU64,
}

/// What is known of a permit, also to who does not hold it.
pub struct PermitState {
    source: Option<Source>,
    since: AtomicU64,
    settled: AtomicBool,
    evicted: AtomicBool,
    waker: AtomicWaker,
}

impl PermitState {
    /// Its holder said what it wants: it is not asked to go any more.
    pub fn settle(&self) {
        self.settled.store(true, SeqCst);
    }

    /// It may be asked to go again.
    pub fn unsettle(&self) {
        self.settled.store(false, SeqCst);
    }

    /// Whether its holder said what it wants.
    pub fn is_settled(&self) -> bool {
        self.settled.load(SeqCst)
    }

    fn evict(&self) {
        self.evicted.store(true, SeqCst);
        self.waker.wake();
    }
}

/// A permit for one connection, until it is dropped.
pub struct Permit {
    limit: Arc<ConnectionLimit>,
    number: u64,
    state: Arc<PermitState>,
}

impl ConnectionLimit {
    /// So many connections, and so many of them for one source.
    pub fn new(most: usize, of_a_source: usize) -> Arc<Self> {
        Arc::new(Self { most, of_a_source, taken: Mutex::default(), next: AtomicU64::new(0) })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().len()
    }

    /// A permit for who comes from there. When there is none left, the oldest that has not settled goes, of those from
    /// there when it is they who are too many. None: all have settled.
    pub fn acquire(self: &Arc<Self>, source: Option<Source>) -> Option<Permit> {
        let source = source.map(|source| match source {
            Source::Address(address) => Source::Address(network(address)),
            user => user,
        });
        let mut taken = self.lock();
        let from_there = |state: &PermitState| source.is_some() && state.source == source;
        if taken.values().filter(|state| from_there(state)).count() >= self.of_a_source {
            evict_oldest(&mut taken, from_there)?;
        } else if taken.len() >= self.most {
            evict_oldest(&mut taken, |_| true)?;
        }
        let number = self.next.fetch_add(1, SeqCst);
        let state = Arc::new(PermitState {
            source,
            since: AtomicU64::new(number),
            settled: AtomicBool::new(false),
            evicted: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        taken.insert(number, state.clone());
        Some(Permit { limit: self.clone(), number, state })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<PermitState>>> {
        self.taken.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn evict_oldest(
    taken: &mut BTreeMap<u64, Arc<PermitState>>,
    may_go: impl Fn(&PermitState) -> bool,
) -> Option<()> {
    let unsettled = taken.iter().filter(|(_, state)| !state.is_settled() && may_go(state));
    let (&oldest, _) = unsettled.min_by_key(|(_, state)| state.since.load(SeqCst))?;
    taken.remove(&oldest)?.evict();
    Some(())
}

/// A host has a whole network of IPv6 addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

impl Permit {
    pub fn state(&self) -> &Arc<PermitState> {
        &self.state
    }

    /// As if it was taken now.
    pub fn renew(&self) {
        self.state.since.store(self.limit.next.fetch_add(1, SeqCst), SeqCst);
    }

    /// Ready once its holder has to go. One task may ask at a time.
    pub fn poll_evicted(&self, context: &mut Context<'_>) -> Poll<()> {
        self.state.waker.register(context.waker());
        if self.state.evicted.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Returns once its holder has to go.
    pub async fn evicted(&self) {
        poll_fn(|context| self.poll_evicted(context)).await;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn goes(permit: &Permit) -> bool {
        permit.poll_evicted(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn from(address: &str) -> Option<Source> {
        Some(Source::Address(address.parse().unwrap()))
    }

    #[test]
    fn the_oldest_that_has_not_settled_goes() {
        let limit = ConnectionLimit::new(3, usize::MAX);
        let permits: Vec<Permit> = (0..3).map(|_| limit.acquire(None).unwrap()).collect();
        permits[0].state().settle();
        permits[1].renew();
        let fourth = limit.acquire(None).unwrap();
        assert_eq!(permits.iter().map(goes).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(limit.taken(), 3);
        permits[1].state().settle();
        fourth.state().settle();
        assert!(limit.acquire(None).is_none(), "all have settled");
        drop(fourth);
        assert!(limit.acquire(None).is_some());
    }

    #[test]
    fn an_address_has_its_own_bound() {
        let limit = ConnectionLimit::new(10, 2);
        let first = limit.acquire(from("10.0.0.1")).unwrap();
        let other = limit.acquire(from("10.0.0.2")).unwrap();
        let _second = limit.acquire(from("::ffff:10.0.0.1")).unwrap();
        let _third = limit.acquire(from("10.0.0.1")).unwrap();
        assert!(goes(&first) && !goes(&other));
        let near = limit.acquire(from("fd00::1")).unwrap();
        let _same =
            [limit.acquire(from("fd00::2:0:0:1")).unwrap(), limit.acquire(from("fd00::3:0:0:1")).unwrap()];
        assert!(goes(&near), "a network of IPv6 is one source");
    }

    #[test]
    fn the_connections_of_one_user_are_bounded() {
        let limit = ConnectionLimit::new(8, 2);
        let permits: Vec<Permit> = (0..2).map(|_| limit.acquire(Some(Source::User(1000))).unwrap()).collect();
        permits.iter().for_each(|permit| permit.state().settle());
        assert!(limit.acquire(Some(Source::User(1000))).is_none(), "all of them have settled");
        assert!(limit.acquire(Some(Source::User(1001))).is_some());
    }
}
