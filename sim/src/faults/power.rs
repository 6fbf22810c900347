//! All machines lose their power at the same moment.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;

struct Power(Vec<u64>);

pub fn all(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Power(Vec::new()))
}

impl Fault for Power {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        self.0 = cluster.ids().into_iter().filter(|id| cluster.crash(*id, true, false)).collect();
        format!("power lost on peers {:?} at once", self.0)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        self.0.iter().for_each(|id| cluster.restart(*id));
    }
}
