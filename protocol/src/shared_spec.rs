//! A spec that many tasks share.

use std::ops::Deref;
use std::sync::Arc;

use minicbor::{Decode, Encode};

use crate::task::TaskSpec;

/// A spec shared by all tasks of one submit: 10,000 repetitions hold it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSpec(Arc<TaskSpec>);

impl SharedSpec {
    /// Shares `spec`.
    pub fn new(spec: TaskSpec) -> Self {
        Self(Arc::new(spec))
    }

    /// Whether both are the same allocation.
    pub fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for SharedSpec {
    type Target = TaskSpec;
    fn deref(&self) -> &TaskSpec {
        &self.0
    }
}

impl<C> Encode<C> for SharedSpec {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        (*self.0).encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for SharedSpec {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        TaskSpec::decode(d, ctx).map(Self::new)
    }
}
