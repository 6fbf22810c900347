//! The cluster's version is one at each index, never goes down along the log, and is never above what a replica's peer may
//! speak.

use std::collections::BTreeMap;

use stint_protocol::Version;

/// The version at each index that a replica showed.
#[derive(Default)]
pub struct Versions(BTreeMap<u64, Version>);

impl Versions {
    /// A replica, whose peer may speak `speaks`, has applied `index`.
    pub fn seen(&mut self, peer: u64, speaks: Version, index: u64, version: Version) -> Result<(), String> {
        if version > speaks {
            return Err(format!("at index {index} is {version}, and peer {peer} may speak {}", speaks.0));
        }
        let before = self.0.range(..index).next_back();
        let after = self.0.range(index + 1..).next();
        if let Some((at, other)) = before.filter(|(_, other)| **other > version) {
            return Err(format!("{other} at index {at}, {version} at index {index}"));
        }
        if let Some((at, other)) = after.filter(|(_, other)| **other < version) {
            return Err(format!("{version} at index {index}, {other} at index {at}"));
        }
        match self.0.insert(index, version) {
            Some(other) if other != version => Err(format!("{other} and {version} at index {index}")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_grows_and_nobody_is_beyond_what_it_speaks() {
        let mut versions = Versions::default();
        let mut seen = |peer, speaks, index, version| {
            versions.seen(peer, Version(speaks), index, Version(version)).is_ok()
        };
        assert!(seen(1, 1, 10, 1) && seen(2, 2, 20, 2) && seen(2, 2, 15, 1));
        assert!(!seen(1, 1, 20, 2), "peer 1 may speak 1");
        assert!(!seen(2, 2, 21, 1), "it went down");
        assert!(!seen(2, 2, 9, 2), "it was lower later");
        assert!(!seen(2, 2, 15, 2), "it is one at an index");
    }
}
