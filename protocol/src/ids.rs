//! Identifiers. Each is a type of its own, checked once where it enters.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::limits;

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// Builds a version 7 UUID from a wall time in milliseconds since 1970 and 80 random bits.
            pub fn from_parts(unix_ms: u64, random: u128) -> Self {
                let time = u128::from(unix_ms & 0xffff_ffff_ffff) << 80;
                let noise = random & 0x0fff_3fff_ffff_ffff_ffff;
                Self(time | noise | (0x7 << 76) | (0b10 << 62))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let b = self.0;
                write!(
                    f,
                    "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                    (b >> 96) as u32,
                    (b >> 80) as u16,
                    (b >> 64) as u16,
                    (b >> 48) as u16,
                    b & 0xffff_ffff_ffff
                )
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let wrong =
                    || InvalidName::new($what, text, "expected 32 hexadecimal digits as 8-4-4-4-12");
                let dashes_right = text.len() == 36
                    && text.bytes().enumerate().all(|(i, b)| (b == b'-') == matches!(i, 8 | 13 | 18 | 23));
                if !dashes_right {
                    return Err(wrong());
                }
                let hex: String = text.chars().filter(|c| *c != '-').collect();
                u128::from_str_radix(&hex, 16).map($name).map_err(|_| wrong())
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0.to_be_bytes())?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let wrong = |_| minicbor::decode::Error::message(concat!("16 bytes are a ", $what));
                Ok(Self(u128::from_be_bytes(d.bytes()?.try_into().map_err(wrong)?)))
            }
        }
    };
}

uuid_type!(
    /// A task, unique in the cluster. Made by the peer that takes the submit (UUID version 7), never in `apply`.
    TaskId, "task id"
);
uuid_type!(
    /// A registered image, unique in the cluster; another one of the same name has another id. Made by the peer that
    /// takes the registration.
    ImageId, "image id"
);

/// One `stint` process as a member of the cluster; equal to its peer id in Raft.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct NodeId(#[n(0)] pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// One life of a node as an executor; grows when a restart cannot account for its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Incarnation(#[n(0)] pub u64);

/// One operating-system process of a node; orders for another process are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Nonce(#[n(0)] pub u64);

/// The random identity of a data folder: a wiped disk is another peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub u128);

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A node's hold on resources for one attempt. The attempt number (from 1) is the fencing token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct LeaseId {
    #[n(0)]
    pub task: TaskId,
    #[n(1)]
    pub attempt: u32,
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.task, self.attempt)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A name that was refused, with the rule it broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {shown:?} is refused: {rule}")]
pub struct InvalidName {
    what: &'static str,
    shown: String,
    rule: &'static str,
}

impl InvalidName {
    pub(crate) fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, shown: text.chars().take(80).collect(), rule }
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name; the error says which rule it breaks.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                match $check(text) {
                    Ok(()) => Ok(Self(text.into())),
                    Err(rule) => Err(InvalidName::new($what, text, rule)),
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                Self::new(d.str()?).map_err(|e| minicbor::decode::Error::message(e.to_string()))
            }
        }
    };
}

pub(crate) use name_type;

name_type!(
    /// The owner of tasks and every other named thing: a DNS label (lower-case letters, digits, `-`; 63 at most).
    Tenant, "tenant", check_tenant
);
name_type!(
    /// A task's name, chosen by the user, unique inside its tenant while the task is known.
    TaskName, "task name", check_task_name
);
name_type!(
    /// An image's name, unique inside its tenant: `tool`, `team/tool:2`.
    ImageName, "image name", check_image_name
);
name_type!(
    /// Makes a submit repeatable: same tenant and key, same tasks.
    IdempotencyKey, "idempotency key", check_key
);
name_type!(
    /// A GPU's UUID as its driver reports it (`GPU-…`), or a name from the configuration for tests.
    GpuId, "GPU id", check_gpu
);

impl ImageName {
    /// None sorts before it.
    pub fn first() -> Self {
        Self("0".into())
    }
}

impl Tenant {
    /// The tenant of clients that name none.
    pub fn default_tenant() -> Self {
        Self("default".into())
    }

    /// Whether it is the tenant of clients that name none.
    pub fn is_default(&self) -> bool {
        &*self.0 == "default"
    }
}

fn check_tenant(text: &str) -> Result<(), &'static str> {
    const RULE: &str = "a tenant has 1 to 63 of a-z, 0-9 and '-', and starts and ends with a letter or digit";
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    let bytes = text.as_bytes();
    let fine = bytes.len() <= limits::TENANT_BYTES
        && bytes.iter().all(|b| inner(*b))
        && edge(bytes.first())
        && edge(bytes.last());
    if fine { Ok(()) } else { Err(RULE) }
}

fn check_task_name(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > limits::TASK_NAME_BYTES {
        return Err("a task name has 1 to 128 characters");
    }
    if text.contains("..") {
        return Err("a task name must not contain '..'; use letters, digits, '.', '_' and '-'");
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("a task name starts with a letter or a digit");
    }
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        Ok(())
    } else {
        Err("a task name may only have letters, digits, '.', '_' and '-' (no '/', no spaces)")
    }
}

fn check_image_name(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > limits::IMAGE_NAME_BYTES {
        return Err("an image name has 1 to 128 characters");
    }
    let word = |part: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.bytes().all(known)
    };
    if !text.contains("..") && text.split(['/', ':']).all(word) {
        Ok(())
    } else {
        Err("an image name has words of letters, digits, '.', '_' and '-' with '/' or ':' between them")
    }
}

fn check_key(text: &str) -> Result<(), &'static str> {
    let fine = (1..=limits::IDEMPOTENCY_KEY_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic());
    if fine {
        Ok(())
    } else {
        Err("an idempotency key has 1 to 128 printable ASCII characters without spaces")
    }
}

fn check_gpu(text: &str) -> Result<(), &'static str> {
    let fine = (1..=limits::GPU_ID_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'));
    if fine { Ok(()) } else { Err("a GPU id has 1 to 96 letters, digits, '-', '_', '.' and ':'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_ids_read_back_what_they_show() {
        let id = TaskId::from_parts(1_790_000_000_123, 0x1234_5678_9abc_def0_1234);
        let text = id.to_string();
        assert_eq!(text.as_bytes()[14], b'7', "version 7: {text}");
        assert_eq!(text.parse::<TaskId>().unwrap(), id);
        assert!("no-uuid".parse::<TaskId>().is_err());
        assert!("0190a1b2-0000-7000-8000-00000000000g".parse::<TaskId>().is_err());
    }

    #[test]
    fn task_ids_sort_by_time() {
        assert!(TaskId::from_parts(1, u128::MAX) < TaskId::from_parts(2, 0));
    }

    #[test]
    fn names_refuse_paths_and_say_why() {
        for bad in ["", "../etc", "a/b", "a..b", ".hidden", "white space", &"x".repeat(129)] {
            assert!(TaskName::new(bad).is_err(), "{bad:?} was taken");
        }
        let message = TaskName::new("a/b").unwrap_err().to_string();
        assert!(message.contains("no '/'"), "{message}");
        assert!(TaskName::new("train-7.fold_2").is_ok());
    }

    #[test]
    fn image_names_are_no_paths() {
        for bad in ["", "/etc", "a//b", "a/../b", "a/", "a b", "a@b", ".a", "a/.b", ":1", &"x".repeat(129)] {
            assert!(ImageName::new(bad).is_err(), "{bad:?} was taken");
        }
        for good in ["0", "tool", "team/tool:2", "a.b_c-d/e:1.2"] {
            let name = ImageName::new(good).unwrap();
            assert!(ImageName::first() <= name);
        }
    }

    #[test]
    fn tenants_are_dns_labels() {
        for bad in ["", "Upper", "-a", "a-", "a_b", &"x".repeat(64)] {
            assert!(Tenant::new(bad).is_err(), "{bad:?} was taken");
        }
        assert!(Tenant::new("team-7").is_ok());
    }
}
