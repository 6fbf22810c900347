//! What makes a command fail, and the exit code of each.

use stint_node::NodeError;
use stint_node::config::ConfigError;
use stint_node::pki::PkiError;
use stint_node::recovery::RecoveryError;
use stint_sdk::Error as SdkError;

use crate::logs::{self, Level};

/// The request was refused, or a task did not succeed.
pub const FAILED: u8 = 1;
/// The command line, a file or a value cannot be understood.
pub const USAGE: u8 = 2;
/// No peer could be reached.
pub const UNREACHABLE: u8 = 3;
/// A wait was over before the tasks were finished.
pub const WAIT_TIMED_OUT: u8 = 4;
/// Whoever reads our output closed it: what shells say of a program that SIGPIPE ended.
pub const CLOSED_PIPE: u8 = 128 + 13;
/// In `stint run`: Stint itself failed, not the task.
pub const RUN_FAILED: u8 = 125;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Call(#[from] SdkError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(transparent)]
    Tls(#[from] PkiError),
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
    #[error("cannot start: {0}")]
    Start(std::io::Error),
}

impl Failure {
    /// The documented exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            _ if self.is_closed_pipe() => CLOSED_PIPE,
            Failure::Call(SdkError::Refused { .. } | SdkError::Source(_) | SdkError::Document(_)) => FAILED,
            Failure::Call(SdkError::Unreachable { .. } | SdkError::Setup { .. }) => UNREACHABLE,
            Failure::Call(_) | Failure::Usage(_) | Failure::Config(_) => USAGE,
            Failure::Failed(_)
            | Failure::Node(_)
            | Failure::Recovery(_)
            | Failure::Tls(_)
            | Failure::Output(_)
            | Failure::Start(_) => FAILED,
        }
    }

    /// `stint run` keeps the low codes for the task's own.
    pub fn exit_code_of_run(&self) -> u8 {
        match self.exit_code() {
            CLOSED_PIPE => CLOSED_PIPE,
            _ => RUN_FAILED,
        }
    }

    /// Whether the reader of our output went away, as `stint ps | head` does.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Failure::Output(e) if e.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// Tells the user, on stderr; whoever closed our output knows why it ends.
    pub fn print(&self) {
        if self.is_closed_pipe() {
            return;
        }
        let message = self.to_string();
        if matches!(self, Failure::Call(_)) {
            // A peer's words, and what they quote: one line.
            return logs::write(Level::Error, &message);
        }
        message.lines().for_each(|line| logs::write(Level::Error, line));
    }
}
