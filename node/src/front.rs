//! The outward protocols. A front only translates: decode, one call of the service, encode.

mod caller;
pub mod connections;
pub mod convert;
#[cfg(any(test, feature = "fuzzing"))]
pub mod decoders;
mod errors;
mod files;
pub mod http;
mod images;
mod limits;
pub mod native;
mod validity;

pub use caller::{GroupSocket, Socket, Tls, with};
