//! A process is stopped and started again, the one that was restarted least often: one peer after the other.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;

struct RestartNext(Option<u64>);

pub fn restart_next(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(RestartNext(None))
}

impl Fault for RestartNext {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let next =
            cluster.peers.iter().min_by_key(|peer| (peer.life(), peer.id())).map_or(1, |peer| peer.id());
        self.0 = cluster.crash(next, false, false).then_some(next);
        format!("process of peer {next} stopped to be started again")
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        self.0.iter().for_each(|id| cluster.restart(*id));
    }
}
