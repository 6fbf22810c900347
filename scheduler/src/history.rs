//! Finished tasks as the state keeps them: most of what a peer holds in memory, so each is kept as its encoding, which
//! takes much less room than the record.

use std::sync::Arc;

use minicbor::Encoder;
use minicbor::encode::Write;
use stint_protocol::SharedSpec;

use crate::task::{FinishedFields, FinishedTask};

/// A finished task, encoded but for its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncodedTask {
    pub spec: SharedSpec,
    fields: Arc<[u8]>,
}

impl EncodedTask {
    /// Packs what snapshots store of a task. What an older version stored comes out as this version writes it.
    pub fn new(task: &FinishedTask) -> Self {
        let mut bytes = Vec::with_capacity(128);
        minicbor::encode(&task.fields, &mut bytes)
            .unwrap_or_else(|never| panic!("encoding to memory: {never}"));
        Self { spec: task.spec.clone(), fields: bytes.into() }
    }

    pub fn unpack(&self) -> FinishedTask {
        let fields: FinishedFields =
            minicbor::decode(&self.fields).unwrap_or_else(|e| panic!("what was packed is read: {e}"));
        FinishedTask { spec: self.spec.clone(), fields }
    }

    /// Writes the fields as `FinishedFields` are written.
    pub fn write<W: Write>(&self, e: &mut Encoder<W>) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.writer_mut().write_all(&self.fields).map_err(minicbor::encode::Error::write)
    }
}
