//! Datagrams are lost and doubled on all links.

use super::Fault;
use crate::cluster::Cluster;
use crate::network::LinkFaults;
use crate::rng::SeededRng;

struct Loss(LinkFaults);

pub fn some(rng: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Loss(LinkFaults { lost_percent: rng.between(1, 40), doubled_percent: rng.between(0, 10) }))
}

impl Fault for Loss {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        cluster.link_faults.set(self.0);
        format!("{:?}", self.0)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        cluster.link_faults.set(LinkFaults::default());
    }
}
