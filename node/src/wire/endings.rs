//! What peers say to each other about what attempts wrote last.

use minicbor::{Decode, Encode};
use stint_protocol::{Ending, LeaseId};

/// Reads endings that this peer keeps.
#[derive(Clone, Debug, Encode, Decode)]
pub struct ReadEndings {
    /// Their numbers begin with this one.
    #[n(0)]
    pub from: u64,
    /// Only that one, if it is of this attempt.
    #[n(1)]
    pub lease: Option<LeaseId>,
}

/// Endings that were read.
#[derive(Clone, Debug, Encode, Decode)]
pub struct EndingsAnswer {
    #[n(0)]
    pub endings: Vec<KeptEnding>,
    /// Where to go on; none: there are no more.
    #[n(1)]
    pub next: Option<u64>,
    /// This peer lacks none that others have.
    #[n(2)]
    pub whole: bool,
}

/// One ending, and under which number of which attempt.
#[derive(Clone, Debug, Encode, Decode)]
pub struct KeptEnding {
    #[n(0)]
    pub number: u64,
    #[n(1)]
    pub lease: LeaseId,
    #[n(2)]
    pub ending: Ending,
}
