//! Texts of people and programs: amounts, names, tokens, addresses, and the JSON documents of the API.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stint_protocol::docker_image::Reference;
use stint_protocol::{api, *};
use stint_sdk::{Address, units};

use crate::join::JoinToken;

/// What is shown of a value is read as the same value.
fn shown<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    let Ok(value) = text.parse::<T>() else { return };
    let shown = value.to_string();
    let again = shown.parse::<T>().unwrap_or_else(|_| panic!("{shown:?} of {text:?} is not read"));
    assert_eq!(again, value, "{shown:?} of {text:?}");
}

pub fn texts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    amounts(text);
    shown::<Class>(text);
    shown::<Runtime>(text);
    shown::<Network>(text);
    shown::<TaskStatus>(text);
    shown::<Digest>(text);
    shown::<TaskId>(text);
    shown::<Tenant>(text);
    shown::<TaskName>(text);
    shown::<ImageName>(text);
    shown::<GpuId>(text);
    shown::<Address>(text);
    shown::<HostMount>(text);
    let _ = (text.parse::<Named>(), text.parse::<ImageKind>(), text.parse::<KeepOutputs>());
    if let Ok(token) = text.parse::<JoinToken>() {
        let again: JoinToken = token.to_string().parse().expect("what was written is read");
        assert_eq!((again.fingerprint, again.secret), (token.fingerprint, token.secret));
    }
    // A pattern, and the name that it may match.
    let (pattern, name) = text.split_once('\n').unwrap_or(("**", text));
    if let Ok(reference) = Reference::parse(name) {
        let again = Reference::parse(&reference.full()).expect("what was written is read");
        assert_eq!(again, reference);
        let _ = reference.check(&[pattern.to_owned()], true);
    }
}

fn amounts(text: &str) {
    if let Ok(time) = units::parse_duration(text) {
        let ms = time.as_millis() as u64;
        assert_eq!(units::parse_duration(&units::exact_duration(ms)).map(|t| t.as_millis() as u64), Ok(ms));
        let _ = units::show_duration(ms);
    }
    if let Ok(bytes) = units::parse_bytes(text) {
        assert_eq!(units::parse_bytes(&units::exact_bytes(bytes)), Ok(bytes));
        let _ = units::show_bytes(bytes);
    }
    if let Ok(milli) = units::parse_cpus(text) {
        assert_eq!(units::parse_cpus(&units::show_cpus(milli)), Ok(milli));
    }
}

/// What a client reads of a peer.
pub fn documents(bytes: &[u8]) {
    document::<api::Task>(bytes);
    document::<api::TaskResult>(bytes);
    document::<api::Node>(bytes);
    document::<api::Cluster>(bytes);
    document::<api::Settings>(bytes);
    document::<api::Image>(bytes);
    document::<api::Explanation>(bytes);
}

fn document<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    let Ok(document) = serde_json::from_slice::<T>(bytes) else { return };
    let written = serde_json::to_vec(&document).expect("what was read is written");
    let again: T = serde_json::from_slice(&written).expect("what was written is read");
    assert_eq!(serde_json::to_vec(&again).expect("what was read is written"), written);
}
