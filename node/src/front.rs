//! The outward protocols. A front only translates: decode, one call into the node, encode.

mod convert;
mod files;
pub mod http;
mod images;
mod limits;
mod logs;
pub mod native;
mod nodes;
mod result;
mod runtimes;
