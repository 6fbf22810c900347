//! Finished tasks that are packed together. What they have in common, which is most of it, is written once.

use std::collections::BTreeMap;

use minicbor::{Decoder, Encoder};
use stint_protocol::{SharedSpec, TaskId, TimeMs};

use super::{EncodedTask, FinishedAt};

/// Fast, and a tenth of the size already.
const LEVEL: i32 = 1;

#[cfg(test)]
thread_local! {
    /// Blocks that this thread unpacked.
    pub static UNPACKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Some hundred tasks.
#[derive(Debug)]
pub struct Block {
    /// When the first of them finished.
    pub first_at: TimeMs,
    /// Each once: snapshots see by it which tasks share one.
    specs: Box<[SharedSpec]>,
    /// Compressed: of each task when it finished, its id, the place of its spec, its fields.
    packed: Box<[u8]>,
}

impl Block {
    /// Packs tasks, the one that finished first in front.
    pub fn pack(tasks: &[(FinishedAt, EncodedTask)]) -> Self {
        let (mut specs, mut places) = (Vec::new(), BTreeMap::new());
        let mut bytes = Vec::with_capacity(tasks.len() * 160);
        let mut e = Encoder::new(&mut bytes);
        let never = |never: minicbor::encode::Error<_>| -> ! { panic!("encoding to memory: {never}") };
        e.array(tasks.len() as u64).unwrap_or_else(|error| never(error));
        for ((at, id), task) in tasks {
            let place = *places.entry(std::ptr::from_ref(&*task.spec) as usize).or_insert_with(|| {
                specs.push(task.spec.clone());
                specs.len() as u32 - 1
            });
            e.encode((at, id, place)).unwrap_or_else(|error| never(error));
            e.bytes(&task.fields).unwrap_or_else(|error| never(error));
        }
        let packed =
            zstd::bulk::compress(&bytes, LEVEL).unwrap_or_else(|e| panic!("compressing in memory: {e}"));
        let first_at = tasks.first().map(|((at, _), _)| *at).unwrap_or_default();
        Self { first_at, specs: specs.into(), packed: packed.into() }
    }

    /// The tasks, the one that finished first in front.
    pub fn unpack(&self) -> Vec<(FinishedAt, EncodedTask)> {
        #[cfg(test)]
        UNPACKED.with(|count| count.set(count.get() + 1));
        let bytes = zstd::stream::decode_all(&*self.packed);
        let bytes = bytes.unwrap_or_else(|e| panic!("what was compressed in memory: {e}"));
        self.read(&bytes).unwrap_or_else(|e| panic!("what was packed is read: {e}"))
    }

    fn read(&self, bytes: &[u8]) -> Result<Vec<(FinishedAt, EncodedTask)>, minicbor::decode::Error> {
        let mut d = Decoder::new(bytes);
        let count = d.array()?.unwrap_or_default();
        let mut tasks = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (at, id, place): (TimeMs, TaskId, u32) = d.decode()?;
            let fields = d.bytes()?.into();
            tasks.push(((at, id), EncodedTask { spec: self.specs[place as usize].clone(), fields }));
        }
        Ok(tasks)
    }

    /// What it takes, beside its specs.
    #[cfg(test)]
    pub fn packed_bytes(&self) -> usize {
        self.packed.len()
    }
}
