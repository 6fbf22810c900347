//! The words every crate of Stint shares: ids, times, resources, task specs, outcomes, limits, and the
//! published wire contracts (`proto/`, behind the feature `grpc`). No behaviour beyond checking input.

pub mod api;
pub mod blob;
pub mod class;
pub mod docker_image;
mod ending;
pub mod files;
pub mod ids;
pub mod image;
mod image_list;
pub mod instance;
pub mod limits;
mod mounts;
mod node_rules;
pub mod outcome;
pub mod python;
pub mod resources;
pub mod retry;
mod role;
pub mod shared_spec;
pub mod task;
pub mod task_limits;
mod task_status;
pub mod time;
pub mod version;

/// The native gRPC API, generated from `proto/stint.proto`.
#[cfg(feature = "grpc")]
pub mod v1 {
    #![allow(missing_docs, clippy::all, unused_qualifications)]
    tonic::include_proto!("stint.v1");
    #[doc(hidden)]
    pub use prost;
    /// The compiled descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stint.bin"));
}

pub use blob::{Blob, Digest};
pub use class::{Class, ClassRules, Runtime, UnknownWord};
pub use ending::Ending;
pub use files::{
    InputFile, InputSource, KeepLogs, KeepOutputs, KeptFile, NotKept, OutputPath, SecretUse, TaskFiles,
};
pub use ids::{
    DiskId, GpuId, IdempotencyKey, ImageId, ImageName, Incarnation, InvalidName, LeaseId, NodeId, Nonce,
    TaskId, TaskName, Tenant,
};
pub use image::{ImageKind, ImageSource, Named, PinnedImage};
pub use image_list::{ImageList, InvalidImageList};
pub use instance::{
    CheckpointId, EventKind, InstanceEvent, InstanceId, InstanceStatus, LeftResult, Payload, SignalKind,
    Writer,
};
pub use mounts::{HostMount, InvalidMount, MountRefused, MountRoot, is_taken};
pub use node_rules::{ALL_TENANTS, NodeRules, folders_of_inputs};
pub use outcome::{AttemptEnd, EndKind, Outcome, Usage, weight_of, weight_of_not_kept};
pub use resources::{GpuInfo, GpuRequest, NodeOffer, QuarantinedGpu, Resources};
pub use retry::RetryPolicy;
pub use role::Role;
pub use shared_spec::SharedSpec;
pub use task::{InvalidSpec, OnLost, TaskSpec};
pub use task_limits::{Allowance, Network, NotAllowed, TaskLimits};
pub use task_status::TaskStatus;
pub use time::{BootMs, TimeMs};
pub use version::Version;
