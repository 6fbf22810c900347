//! Datagrams are lost and doubled on all links.

use super::Fault;
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::network::Weather;

struct Loss(Weather);

pub fn some(dice: &mut Dice) -> Box<dyn Fault> {
    Box::new(Loss(Weather { lost_percent: dice.between(1, 40), doubled_percent: dice.between(0, 10) }))
}

impl Fault for Loss {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        cluster.sky.set(self.0);
        format!("{:?}", self.0)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        cluster.sky.set(Weather::default());
    }
}
