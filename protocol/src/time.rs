//! Times. Nothing here reads a clock: every time is handed in.

use minicbor::{Decode, Encode};

/// State time: milliseconds since 1970, stamped by the leader; only grows along the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct TimeMs(#[n(0)] pub u64);

impl TimeMs {
    /// This time plus `ms`, or the last representable time.
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 when `earlier` is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// CLOCK_BOOTTIME of one host in milliseconds: goes on while the machine is suspended. All lease time is this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct BootMs(#[n(0)] pub u64);

impl BootMs {
    /// This time plus `ms`, or the last representable time.
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// This time less `ms`, or the start of the clock.
    pub fn minus(self, ms: u64) -> Self {
        Self(self.0.saturating_sub(ms))
    }

    /// Milliseconds since `earlier`; 0 when `earlier` is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
