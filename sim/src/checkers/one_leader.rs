//! A term has one leader at most.

use std::collections::BTreeMap;

/// Who was seen to lead each term.
#[derive(Default)]
pub struct OneLeader(BTreeMap<u64, u64>);

impl OneLeader {
    /// Somebody knows `leader` to lead `term`. Answers whether that is news.
    pub fn seen(&mut self, term: u64, leader: u64) -> Result<bool, String> {
        match self.0.insert(term, leader) {
            None => Ok(true),
            Some(known) if known == leader => Ok(false),
            Some(known) => Err(format!("term {term} is led by peer {known} and by peer {leader}")),
        }
    }
}
