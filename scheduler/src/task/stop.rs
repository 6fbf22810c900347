//! Why a leased attempt is to be stopped, and how that is stored.

use minicbor::encode::{self, Write};
use minicbor::{Decode, Decoder, Encode, Encoder, decode};
use stint_protocol::{GpuId, Incarnation, NodeId, Runtime, TimeMs};

use super::Leased;

/// Why an attempt that holds its lease is to be stopped. In order of precedence, the weakest first: when several are
/// asked for, in whatever order, the strongest counts.
///
/// Stored and sent as a flag for each of the two, as versions 1 to 4 of the cluster write and read it, so that peers of
/// every version read each other's snapshots and orders. Both flags, which those versions write when both were asked
/// for, are read as the stronger reason: they act on no other. A further reason has a number behind all else, which is
/// written only where there is such a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopReason {
    /// Its node's time to drain is over: it goes on elsewhere.
    Drained,
    /// Its instance sleeps, and is to hold nothing until it wakes.
    Asleep,
    /// Its instance ended a while ago, and it goes on.
    Finished,
    /// A user asked for its end.
    Cancelled,
}

impl StopReason {
    /// The reason as stored: whether it is cancelled, and whether it is drained.
    pub fn flags(stop: Option<Self>) -> (bool, bool) {
        match stop {
            None => (false, false),
            Some(Self::Cancelled) => (true, false),
            Some(Self::Drained) => (false, true),
            // Nodes that know nothing of instances have none.
            Some(Self::Asleep | Self::Finished) => (false, false),
        }
    }

    /// The number of a reason that is no flag. Stored and sent only where there is one, behind all else.
    pub fn number(stop: Option<Self>) -> Option<u8> {
        match stop {
            Some(Self::Asleep) => Some(3),
            Some(Self::Finished) => Some(4),
            None | Some(Self::Cancelled | Self::Drained) => None,
        }
    }

    /// The reason that was stored as these flags and this number. One of a later version is none.
    pub fn of_flags_and_number(cancelled: bool, drained: bool, number: Option<u8>) -> Option<Self> {
        let numbered = match number {
            Some(3) => Some(Self::Asleep),
            Some(4) => Some(Self::Finished),
            _ => None,
        };
        Self::of_flags(cancelled, drained).max(numbered)
    }

    /// The reason that was stored as these flags.
    fn of_flags(cancelled: bool, drained: bool) -> Option<Self> {
        match (cancelled, drained) {
            (true, _) => Some(Self::Cancelled),
            (false, true) => Some(Self::Drained),
            (false, false) => None,
        }
    }
}

impl Leased {
    /// Asks for a stop, for this reason or for a stronger one that was asked for before.
    pub(crate) fn ask_to_stop(&mut self, reason: StopReason) {
        self.stop = self.stop.max(Some(reason));
    }

    /// Whether a user asked for its end.
    pub fn is_cancelled(&self) -> bool {
        self.stop == Some(StopReason::Cancelled)
    }
}

/// A lease as it is read.
#[derive(Decode)]
struct Stored {
    #[n(0)]
    node: NodeId,
    #[n(1)]
    incarnation: Incarnation,
    #[n(2)]
    since: TimeMs,
    #[n(3)]
    runtime: Runtime,
    #[n(4)]
    gpus: Vec<GpuId>,
    #[n(5)]
    cancelled: bool,
    #[n(6)]
    #[cbor(default)]
    drained: bool,
    #[n(7)]
    #[cbor(default)]
    further: Option<u8>,
}

impl<C> Encode<C> for Leased {
    /// Writes the fields of `Stored`.
    fn encode<W: Write>(&self, e: &mut Encoder<W>, context: &mut C) -> Result<(), encode::Error<W::Error>> {
        let (cancelled, drained) = StopReason::flags(self.stop);
        let number = StopReason::number(self.stop);
        e.array(7 + u64::from(number.is_some()))?;
        self.node.encode(e, context)?;
        self.incarnation.encode(e, context)?;
        self.since.encode(e, context)?;
        self.runtime.encode(e, context)?;
        self.gpus.encode(e, context)?;
        e.bool(cancelled)?.bool(drained)?;
        match number {
            Some(number) => e.u8(number)?.ok(),
            None => e.ok(),
        }
    }
}

impl<'b, C> Decode<'b, C> for Leased {
    fn decode(d: &mut Decoder<'b>, context: &mut C) -> Result<Self, decode::Error> {
        let Stored { node, incarnation, since, runtime, gpus, cancelled, drained, further } =
            Stored::decode(d, context)?;
        let stop = StopReason::of_flags_and_number(cancelled, drained, further);
        Ok(Self { node, incarnation, since, runtime, gpus, stop })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leased(stop: Option<StopReason>) -> Leased {
        let (node, incarnation, since) = (NodeId(2), Incarnation(3), TimeMs(4));
        let gpus = vec![GpuId::new("GPU-1").unwrap()];
        Leased { node, incarnation, since, runtime: Runtime::Crun, gpus, stop }
    }

    #[test]
    fn whichever_came_first_a_cancel_goes_before_a_drain() {
        use StopReason::{Asleep, Cancelled, Drained, Finished};
        for (asked, counts) in [
            (vec![Drained], Drained),
            (vec![Cancelled], Cancelled),
            (vec![Drained, Cancelled], Cancelled),
            (vec![Cancelled, Drained], Cancelled),
            (vec![Finished, Asleep], Finished),
            (vec![Finished, Cancelled, Drained], Cancelled),
            (vec![Asleep, Drained], Asleep),
        ] {
            let mut leased = leased(None);
            asked.iter().for_each(|reason| leased.ask_to_stop(*reason));
            assert_eq!(leased.stop, Some(counts), "{asked:?}");
        }
    }

    #[test]
    fn a_reason_is_stored_as_the_flags_of_earlier_versions() {
        for (stop, flags) in [
            (None, [0xf4, 0xf4]),
            (Some(StopReason::Cancelled), [0xf5, 0xf4]),
            (Some(StopReason::Drained), [0xf4, 0xf5]),
        ] {
            let leased = leased(stop);
            let bytes = minicbor::to_vec(&leased).unwrap();
            assert_eq!((bytes[0], &bytes[bytes.len() - 2..]), (0x87, &flags[..]));
            assert_eq!(minicbor::decode::<Leased>(&bytes).unwrap(), leased);
        }
        for (stop, number) in [(StopReason::Asleep, 3), (StopReason::Finished, 4)] {
            let leased = leased(Some(stop));
            let bytes = minicbor::to_vec(&leased).unwrap();
            assert_eq!((bytes[0], &bytes[bytes.len() - 3..]), (0x88, &[0xf4, 0xf4, number][..]));
            assert_eq!(minicbor::decode::<Leased>(&bytes).unwrap(), leased);
        }
        // Both, as an earlier version writes it; and none but the first, as the first version does.
        let mut both = minicbor::to_vec(leased(Some(StopReason::Cancelled))).unwrap();
        let last = both.len() - 1;
        both[last] = 0xf5;
        assert_eq!(minicbor::decode::<Leased>(&both).unwrap(), leased(Some(StopReason::Cancelled)));
        both.truncate(last);
        both[0] = 0x86;
        assert_eq!(minicbor::decode::<Leased>(&both).unwrap(), leased(Some(StopReason::Cancelled)));
    }
}
