//! What attempts left as outputs: remembered with their task, and the bytes of what is remembered stay.

use stint_protocol::{KeptFile, limits, version};

use super::blob;
use crate::state::State;
use crate::task::{AttemptRecord, FinishedFields, Task};

/// The files of an attempt, whose bytes stay from now on, as far as the cluster has them.
pub(super) fn hold(state: &mut State, kept: Option<Box<[KeptFile]>>) -> Option<Box<[KeptFile]>> {
    let mut kept = kept?;
    for file in &mut kept {
        let known = state.blobs.get(&file.blob.digest).is_some_and(|record| record.size == file.blob.size);
        let is_pinned = known && file.stored && state.version >= version::OUTPUTS_OF_ATTEMPTS;
        file.pinned = is_pinned.then_some(true);
        if is_pinned {
            blob::add_reference(state, Some(file.blob));
        }
    }
    Some(kept)
}

/// What the attempt left that ended last, after which its task is tried again.
pub(super) fn remember(state: &mut State, task: &mut Task, kept: Option<Box<[KeptFile]>>) {
    let Some(kept) = kept.filter(|kept| !kept.is_empty()) else { return };
    if state.version < version::OUTPUTS_OF_ATTEMPTS {
        return;
    }
    let files = kept.len() as u64;
    let has_room = state.earlier_outputs + files <= limits::EARLIER_OUTPUTS;
    let kept = if has_room { hold(state, Some(kept)) } else { None };
    let Some(record) = task.fields.records.last_mut() else { return };
    record.outputs_forgotten = (!has_room).then(|| u32::try_from(files).unwrap_or(u32::MAX));
    if has_room {
        state.earlier_outputs += files;
        record.outputs = kept;
    }
}

/// What an attempt left of which its task, which goes on, remembers nothing any more.
pub(super) fn forget_of(state: &mut State, oldest: Option<&AttemptRecord>) {
    let Some(record) = oldest else { return };
    state.earlier_outputs -= record.outputs().len() as u64;
    record.outputs().iter().for_each(|file| let_go(state, file));
}

/// What the attempts of a finished task left that is forgotten.
pub(crate) fn forget_of_task(state: &mut State, task: &FinishedFields) {
    task.outputs().for_each(|file| let_go(state, file));
}

fn let_go(state: &mut State, file: &KeptFile) {
    blob::drop_reference(state, Some(file.blob).filter(|_| file.is_pinned()));
}

/// Files that a task which is not finished remembers of its attempts.
pub(crate) fn count_of(task: &Task) -> u64 {
    task.fields.records.iter().map(|record| record.outputs().len() as u64).sum()
}
