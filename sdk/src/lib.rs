//! The Rust client of Stint's native API: one method for each call, failover between addresses, a deadline on
//! everything, and submits that are safe to repeat. It decides nothing about tasks; the cluster does.
//!
//! ```no_run
//! # async fn example() -> Result<(), stint_sdk::Error> {
//! use stint_sdk::{Client, Options, v1};
//!
//! let client = Client::new(Options::to("unix:/var/lib/stint/stint.sock".parse()?))?;
//! let spec = v1::TaskSpec { class: "cpu_short".into(), command: vec!["/bin/true".into()], ..Default::default() };
//! let request = v1::SubmitRequest { tenant: "default".into(), spec: Some(spec), ..Default::default() };
//! println!("{:?}", client.submit(request).await?.task_ids);
//! # Ok(())
//! # }
//! ```

mod address;
mod call;
mod client;
mod credentials;
mod error;
mod images;
pub mod limits;
mod logs;
pub mod suggest;
pub mod units;

pub use address::{Address, InvalidAddress};
pub use client::{Client, Options};
pub use credentials::{Credentials, Token};
pub use error::{Error, Try};
pub use images::Source;
pub use logs::LogStream;
pub use stint_protocol::{api, v1};
