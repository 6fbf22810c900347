//! Every replica applies the same log: an index has one term, terms only grow along it, and a process never goes back.

use std::collections::BTreeMap;

use stint_raft::Position;

/// The term at each index that was applied, and how far each process is.
#[derive(Default)]
pub struct LogMatching {
    terms: BTreeMap<u64, (u64, u64)>,
    applied: BTreeMap<u64, (u64, u64)>,
}

impl LogMatching {
    /// A process (`life`) of a peer has applied up to here.
    pub fn applied(&mut self, peer: u64, life: u64, at: Position) -> Result<(), String> {
        let Position { index, term } = at;
        match self.applied.insert(peer, (life, index)) {
            Some((same, before)) if same == life && before > index => {
                return Err(format!("peer {peer} went back from index {before} to {index}"));
            }
            _ => {}
        }
        let (known, other) = *self.terms.entry(index).or_insert((term, peer));
        if known != term {
            return Err(format!(
                "index {index} is of term {term} on peer {peer}, of term {known} on peer {other}"
            ));
        }
        let before = self.terms.range(..index).next_back().filter(|(_, (earlier, _))| *earlier > term);
        let after = self.terms.range(index + 1..).next().filter(|(_, (later, _))| *later < term);
        match before.or(after) {
            Some((at, (other, _))) => Err(format!("index {index} is of term {term}, index {at} of {other}")),
            None => Ok(()),
        }
    }
}
