//! Everything between two peers is held back, and delivered at once when the fault ends.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;

struct Hold(Option<(String, String)>);

pub fn pair(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Hold(None))
}

impl Fault for Hold {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let one = cluster.any();
        let Some(other) = cluster.any_but(one) else { return "nothing: there is one peer".into() };
        let names = (format!("peer-{one}"), format!("peer-{other}"));
        cluster.sim.hold(names.0.as_str(), names.1.as_str());
        self.0 = Some(names);
        format!("everything held between peers {one} and {other}")
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        if let Some((one, other)) = self.0.take() {
            cluster.sim.release(one, other);
        }
    }
}
