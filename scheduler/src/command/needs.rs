//! The version of the cluster that a command needs: the highest that any part of it does.

use stint_protocol::{AttemptEnd, EndKind, Runtime, Version, version};

use super::{Command, RegisterNode};

impl Command {
    /// The lowest version of the cluster in which this may stand in the log.
    ///
    /// Every command has its line here, so that a new one does not compile until its version is given.
    pub fn needs(&self) -> Version {
        match self {
            Command::Submit(submit) => submit.spec.needs(),
            Command::RegisterNode(register) => needs_of_register(register),
            Command::RecordEnds { ends, .. } => highest(ends.iter().map(needs_of_end)),
            Command::SetNodeMode { within_ms, .. } => part(within_ms.is_some(), version::DRAIN_DEADLINE),
            Command::SetNodeAddress { .. } => version::NODE_ADDRESS,
            Command::RaiseVersion { to } => *to,
            Command::RegisterImage(_)
            | Command::DeleteImage { .. }
            | Command::KeepBlob(_)
            | Command::ForgetBlob { .. }
            | Command::HoldBlobs { .. }
            | Command::LoseBlobs { .. }
            | Command::DropBlobs { .. } => version::IMAGES,
            Command::Suspend { .. } | Command::Wake(_) => version::SUSPEND,
            Command::UpdateSettings(_) => version::SETTINGS,
            Command::AddJoinToken { uses, .. } => part(uses.is_some(), version::JOIN_TOKENS),
            Command::RemoveJoinToken { .. } => version::JOIN_TOKENS,
            Command::AddAccessToken(_) | Command::RemoveAccessToken { .. } => version::ACCESS_TOKENS,
            Command::RotateAuthority(_)
            | Command::TrustAuthority(_)
            | Command::CertifyNode { .. }
            | Command::DropOldAuthority { .. } => version::CA_ROTATION,
            Command::Instance(_) => version::INSTANCES,
            Command::Configure(_)
            | Command::Cancel(_)
            | Command::CommitPlan(_)
            | Command::ExpireLeases(_)
            | Command::RemoveNode(_)
            | Command::Admit(_)
            | Command::Tick
            | Command::SetNodeVersion { .. } => version::OLDEST,
        }
    }

    /// Whether a task may wait for a node after this that did not before.
    pub fn may_queue(&self) -> bool {
        match self {
            Command::Submit(_) | Command::RecordEnds { .. } | Command::ExpireLeases(_) | Command::Wake(_) => {
                true
            }
            Command::Instance(command) => command.may_queue(),
            Command::Configure(_)
            | Command::Cancel(_)
            | Command::RegisterNode(_)
            | Command::CommitPlan(_)
            | Command::SetNodeMode { .. }
            | Command::RemoveNode(_)
            | Command::Admit(_)
            | Command::AddJoinToken { .. }
            | Command::RemoveJoinToken { .. }
            | Command::AddAccessToken(_)
            | Command::RemoveAccessToken { .. }
            | Command::RotateAuthority(_)
            | Command::TrustAuthority(_)
            | Command::CertifyNode { .. }
            | Command::DropOldAuthority { .. }
            | Command::Tick
            | Command::SetNodeAddress { .. }
            | Command::SetNodeVersion { .. }
            | Command::RaiseVersion { .. }
            | Command::RegisterImage(_)
            | Command::DeleteImage { .. }
            | Command::KeepBlob(_)
            | Command::ForgetBlob { .. }
            | Command::HoldBlobs { .. }
            | Command::LoseBlobs { .. }
            | Command::DropBlobs { .. }
            | Command::Suspend { .. }
            | Command::UpdateSettings(_) => false,
        }
    }
}

/// What one part needs: its version when it is there, else nothing.
fn part(there: bool, needs: Version) -> Version {
    if there { needs } else { version::OLDEST }
}

fn highest(parts: impl IntoIterator<Item = Version>) -> Version {
    parts.into_iter().max().unwrap_or(version::OLDEST)
}

fn needs_of_register(register: &RegisterNode) -> Version {
    let offer = &register.offer;
    highest([
        part(offer.allows.is_some(), version::TASK_LIMITS),
        part(offer.rules.is_some(), version::NODE_RULES),
        part(offer.runtimes.contains(&Runtime::Slurm), version::SLURM),
    ])
}

fn needs_of_end(end: &AttemptEnd) -> Version {
    let of_files = end.outputs.is_some() || [EndKind::OutputMissing, EndKind::OutputLost].contains(&end.kind);
    let says_executable = end.outputs.iter().flatten().any(|kept| kept.executable.is_some());
    highest([
        part(of_files, version::TASK_FILES),
        part(end.kind == EndKind::Drained, version::DRAIN_DEADLINE),
        part(end.kind == EndKind::FilesMissing, version::FILES_MISSING),
        part(end.kind == EndKind::StartRefused, version::START_REFUSED),
        part(end.kind == EndKind::DiskExceeded, version::DISK_EXCEEDED),
        part(end.usage.is_some(), version::TASK_LIMITS),
        part(end.left.is_some() || end.kind == EndKind::Cut, version::INSTANCES),
        part(end.ending.is_some(), version::ENDINGS),
        part(end.not_kept.is_some() || says_executable, version::OUTPUTS_OF_ALL_ENDS),
    ])
}

#[cfg(test)]
mod tests {
    use stint_protocol::{LeaseId, NodeId, NotKept, TaskId, Usage};

    use super::*;

    fn end(kind: EndKind) -> AttemptEnd {
        AttemptEnd::new(LeaseId { task: TaskId(1 << 16), attempt: 1 }, kind, String::new(), 1)
    }

    fn needs(ends: Vec<AttemptEnd>) -> Version {
        Command::RecordEnds { node: NodeId(1), ends }.needs()
    }

    /// Whatever stands first: each part is asked, and the highest counts.
    #[test]
    fn a_command_needs_the_highest_version_of_its_parts() {
        let drained = end(EndKind::Drained);
        let used = AttemptEnd { usage: Some(Box::new(Usage::default())), ..end(EndKind::Exited(0)) };
        let missing = end(EndKind::FilesMissing);
        let not_kept = Some(vec![NotKept::new("a", "is a socket")].into());
        let not_kept = AttemptEnd { not_kept, ..end(EndKind::Exited(0)) };
        assert_eq!(needs(vec![used.clone(), not_kept]), version::OUTPUTS_OF_ALL_ENDS);
        let wrote = AttemptEnd { ending: Some(Box::default()), ..end(EndKind::Exited(0)) };
        assert_eq!(needs(vec![used.clone(), wrote]), version::ENDINGS);
        assert_eq!(needs(vec![]), version::OLDEST);
        assert_eq!(needs(vec![end(EndKind::Exited(0))]), version::OLDEST);
        assert_eq!(needs(vec![end(EndKind::Exited(0)), drained.clone()]), version::DRAIN_DEADLINE);
        for higher in [used, missing] {
            assert_eq!(needs(vec![drained.clone(), higher.clone()]), version::TASK_LIMITS);
            assert_eq!(needs(vec![higher, drained.clone()]), version::TASK_LIMITS);
        }
    }
}
