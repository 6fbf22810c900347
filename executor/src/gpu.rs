//! The GPUs of a machine: which there are, which node offers them, and who uses them.

mod inventory;
mod users;

pub use inventory::{FixedGpu, GpuError, GpuLocks, GpuSource, detect_gpus, lock_gpus};
pub use users::GpuUsers;
