//! Why an attempt is not launched: how it ends, and what its user has to know. Whoever prepares an attempt answers with
//! one; the attempt then ends so without ever having run.

use stint_protocol::EndKind;

/// The refusal of a launch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub kind: EndKind,
    pub message: String,
}

impl Refusal {
    pub fn new(kind: EndKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// This node cannot do it now; another one may.
    pub fn start_failed(message: impl Into<String>) -> Self {
        Self::new(EndKind::StartFailed, message)
    }

    /// No node can: the task asks for something impossible.
    pub fn not_runnable(message: impl Into<String>) -> Self {
        Self::new(EndKind::NotRunnable, message)
    }

    /// A rule of this node's operator forbids it.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(EndKind::Denied, message)
    }

    /// Something that the task names is not on this node; another one may have it.
    pub fn files_missing(message: impl Into<String>) -> Self {
        Self::new(EndKind::FilesMissing, message)
    }

    pub fn is_denied(&self) -> bool {
        self.kind == EndKind::Denied
    }
}
