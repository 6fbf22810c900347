//! A lease as orders grant it.

use minicbor::encode::{self, Write};
use minicbor::{Decode, Decoder, Encode, Encoder, decode};
use stint_protocol::LeaseId;
use stint_scheduler::StopReason;

use super::Launching;

/// A lease, renewed until `ttl_ms` after the report that is answered was sent.
#[derive(Clone, Debug)]
pub struct Grant {
    pub lease: LeaseId,
    pub ttl_ms: u64,
    pub kill_margin_ms: u64,
    /// It is to be stopped, but stays accounted for until it has stopped.
    pub stop: Option<StopReason>,
    /// Given when the report did not name the lease as held.
    pub launch: Option<Launching>,
}

/// A grant as it is read. `StopReason` says why its reason is two flags and a number.
#[derive(Decode)]
struct Sent {
    #[n(0)]
    lease: LeaseId,
    #[n(1)]
    ttl_ms: u64,
    #[n(2)]
    kill_margin_ms: u64,
    #[n(3)]
    cancelled: bool,
    #[n(4)]
    launch: Option<Launching>,
    #[n(5)]
    #[cbor(default)]
    drained: bool,
    #[n(6)]
    #[cbor(default)]
    further: Option<u8>,
}

impl<C> Encode<C> for Grant {
    /// Writes the fields of `Sent`.
    fn encode<W: Write>(&self, e: &mut Encoder<W>, context: &mut C) -> Result<(), encode::Error<W::Error>> {
        let (cancelled, drained) = StopReason::flags(self.stop);
        let number = StopReason::number(self.stop);
        e.array(6 + u64::from(number.is_some()))?;
        self.lease.encode(e, context)?;
        e.u64(self.ttl_ms)?.u64(self.kill_margin_ms)?.bool(cancelled)?;
        self.launch.encode(e, context)?;
        e.bool(drained)?;
        match number {
            Some(number) => e.u8(number)?.ok(),
            None => e.ok(),
        }
    }
}

impl<'b, C> Decode<'b, C> for Grant {
    fn decode(d: &mut Decoder<'b>, context: &mut C) -> Result<Self, decode::Error> {
        let Sent { lease, ttl_ms, kill_margin_ms, cancelled, launch, drained, further } =
            Sent::decode(d, context)?;
        let stop = StopReason::of_flags_and_number(cancelled, drained, further);
        Ok(Self { lease, ttl_ms, kill_margin_ms, stop, launch })
    }
}

#[cfg(test)]
mod tests {
    use stint_protocol::TaskId;

    use super::*;

    #[test]
    fn a_grant_says_why_its_attempt_is_to_stop() {
        let lease = LeaseId { task: TaskId(1 << 16), attempt: 1 };
        let reasons = [StopReason::Drained, StopReason::Asleep, StopReason::Finished, StopReason::Cancelled];
        for stop in reasons.map(Some).into_iter().chain([None]) {
            let grant = Grant { lease, ttl_ms: 1, kill_margin_ms: 2, stop, launch: None };
            let read: Grant = minicbor::decode(&minicbor::to_vec(&grant).unwrap()).unwrap();
            assert_eq!((read.stop, read.kill_margin_ms), (stop, 2));
        }
    }
}
