//! A rolling upgrade: a peer that is held back is stopped, and started again with all that the new program speaks.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;

struct Upgrade(Option<u64>);

pub fn next(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Upgrade(None))
}

impl Fault for Upgrade {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let Some(next) = cluster.next_old() else { return "nobody is left to be upgraded".into() };
        if cluster.is_suspended(next) {
            return format!("nobody reaches machine {next} to upgrade it");
        }
        // One that is down already starts with the new program when it starts.
        self.0 = cluster.crash(next, false, false).then_some(next);
        cluster.peer(next).upgrade();
        format!("process of peer {next} stopped to be upgraded")
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        self.0.iter().for_each(|id| cluster.restart(*id));
    }
}
