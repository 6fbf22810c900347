//! The range of user numbers that tenants are given.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use stint_protocol::limits;

use super::InvalidSettings;

/// User numbers from the first to the last, both included. A group of the same number goes with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UidRange {
    pub first: u32,
    pub last: u32,
}

impl Default for UidRange {
    fn default() -> Self {
        let (first, last) = limits::TENANT_UIDS;
        Self { first, last }
    }
}

impl UidRange {
    /// Whether the number is in it.
    pub fn contains(&self, uid: u32) -> bool {
        (self.first..=self.last).contains(&uid)
    }

    /// Users of the system, nobody, and what no kernel takes are in no range.
    pub(super) fn check(&self) -> Result<(), InvalidSettings> {
        let (least, most) = limits::TENANT_UID_BOUNDS;
        let fits = least <= self.first
            && self.first <= self.last
            && self.last <= most
            && self.last - self.first < limits::TENANT_UIDS_MOST
            && !self.contains(limits::NOBODY);
        if fits { Ok(()) } else { Err(InvalidSettings::BadUids(*self)) }
    }
}

impl fmt::Display for UidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// What is no range, as it was written.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a range of user numbers: write for example \"{range}\"", range = UidRange::default())]
pub struct NoUidRange(String);

impl FromStr for UidRange {
    type Err = NoUidRange;

    fn from_str(text: &str) -> Result<Self, NoUidRange> {
        let numbers = text.split_once('-').and_then(|(first, last)| {
            let number = |text: &str| text.trim().parse().ok();
            Some(Self { first: number(first)?, last: number(last)? })
        });
        numbers.ok_or_else(|| NoUidRange(text.into()))
    }
}

/// The one of the beginning is not written: rules without one are read and written as before there were any.
impl<C> Encode<C> for UidRange {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(2)?.u32(self.first)?.u32(self.last)?.ok()
    }

    fn is_nil(&self) -> bool {
        *self == Self::default()
    }
}

impl<'b, C> Decode<'b, C> for UidRange {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let [first, last] = Decode::decode(d, ctx)?;
        Ok(Self { first, last })
    }

    fn nil() -> Option<Self> {
        Some(Self::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_written_as_it_is_read_and_leaves_out_who_no_tenant_may_be() {
        let range: UidRange = "300000-300009".parse().unwrap();
        assert_eq!((range.to_string().as_str(), range.check()), ("300000-300009", Ok(())));
        assert_eq!(UidRange::default().to_string(), "200000-265535");
        assert!("300000".parse::<UidRange>().unwrap_err().to_string().contains("\"200000-265535\""));
        for refused in ["0-10", "999-2000", "3000-2000", "60000-70000", "200000-4294967294", "100000-2000000"]
        {
            let range: UidRange = refused.parse().unwrap();
            assert_eq!(range.check(), Err(InvalidSettings::BadUids(range)), "{refused}");
        }
    }
}
