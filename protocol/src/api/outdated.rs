//! The mark of an answer that was made without a leader, from one peer's own copy.

use serde::{Deserialize, Serialize};

/// The key that says of a refusal that no leader is there: another try at this peer has the same answer.
pub const NO_LEADER: &str = "stint-no-leader";

/// What an answer may lack: whatever the cluster decided after this peer heard of a leader last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outdated {
    /// When there was a leader last, by the wall clock of the peer that answers, in milliseconds since 1970.
    pub no_leader_since_ms: u64,
    /// The cluster's time of the last change that this peer knows, in milliseconds since 1970.
    pub as_of_ms: u64,
    /// Which voters this peer does not hear, in words.
    pub missing: String,
}

/// As `stint.v1` carries it: in `ClusterStatusReply`, and in the metadata of every other answer.
#[cfg(feature = "grpc")]
mod grpc {
    use tonic::metadata::{MetadataMap, MetadataValue};

    use super::Outdated;
    use crate::v1;

    const SINCE: &str = "stint-no-leader-since-ms";
    const AS_OF: &str = "stint-as-of-ms";
    const MISSING: &str = "stint-missing";

    impl Outdated {
        /// Marks an answer.
        pub fn put(&self, metadata: &mut MetadataMap) {
            metadata.insert(SINCE, self.no_leader_since_ms.into());
            metadata.insert(AS_OF, self.as_of_ms.into());
            // Metadata is ASCII; names of peers need not be.
            let ascii = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
            if let Ok(missing) = MetadataValue::try_from(self.missing.chars().map(ascii).collect::<String>())
            {
                metadata.insert(MISSING, missing);
            }
        }

        /// The mark of an answer, if it has one.
        pub fn taken(metadata: &MetadataMap) -> Option<Self> {
            let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
            let number = |key| text(key).and_then(|text| text.parse().ok());
            let no_leader_since_ms = number(SINCE)?;
            let missing = text(MISSING).unwrap_or_default().to_owned();
            Some(Self { no_leader_since_ms, as_of_ms: number(AS_OF).unwrap_or_default(), missing })
        }
    }

    impl From<v1::Outdated> for Outdated {
        fn from(mark: v1::Outdated) -> Self {
            let v1::Outdated { no_leader_since_ms, as_of_ms, missing } = mark;
            Self { no_leader_since_ms, as_of_ms, missing }
        }
    }

    impl From<Outdated> for v1::Outdated {
        fn from(mark: Outdated) -> Self {
            let Outdated { no_leader_since_ms, as_of_ms, missing } = mark;
            Self { no_leader_since_ms, as_of_ms, missing }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_mark_travels_as_metadata() {
            let mut metadata = MetadataMap::new();
            assert_eq!(Outdated::taken(&metadata), None);
            let missing = "1 of 3 voters missing: b (silent for 5 s)".to_owned();
            let mark = Outdated { no_leader_since_ms: 1_700_000_000_000, as_of_ms: 5, missing };
            mark.put(&mut metadata);
            assert_eq!(Outdated::taken(&metadata), Some(mark.clone()));
            Outdated { missing: "ö\n".into(), ..mark }.put(&mut metadata);
            assert_eq!(Outdated::taken(&metadata).map(|mark| mark.missing), Some("??".into()));
        }
    }
}
