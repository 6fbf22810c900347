//! A watchdog of another version, which lives on over an upgrade of its node.
#![allow(clippy::unwrap_used)] // a failed set-up fails the test

mod support;

use std::io::Write;
use std::os::unix::net::UnixListener;

use minicbor::Encoder;
use stint_executor::{HostClient, HostError};
use support::Rig;
use tokio::sync::mpsc;

/// What a watchdog of version 1 said first: it held nothing and could everything.
fn greeting_of_version_1() -> Vec<u8> {
    let mut body = Vec::new();
    let mut encoder = Encoder::new(&mut body);
    let e = encoder.begin_array().unwrap().array(2).unwrap().u32(0).unwrap().array(1).unwrap();
    let e = e.array(16).unwrap().u32(1).unwrap().array(0).unwrap().array(0).unwrap();
    let e = e.bool(true).unwrap().u32(0).unwrap().bool(true).unwrap().bool(true).unwrap().array(0).unwrap();
    let e = e.bool(true).unwrap().bool(true).unwrap().null().unwrap().null().unwrap();
    let e = e.bool(true).unwrap().bool(true).unwrap().bool(true).unwrap().bool(true).unwrap();
    e.end().unwrap();
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

#[tokio::test]
async fn a_watchdog_of_another_version_is_refused_with_what_to_do() {
    let rig = Rig::new(true);
    std::fs::create_dir_all(rig.executor()).unwrap();
    let listener = UnixListener::bind(rig.executor().join("shim.sock")).unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&greeting_of_version_1()).unwrap();
        stream
    });
    let (events, _inbox) = mpsc::channel(1);
    let refused = HostClient::open(rig.settings.clone(), events).await.map(|_| ()).unwrap_err();
    drop(serving.join().unwrap());
    let HostError::Version { theirs, ours, pid, .. } = &refused else { panic!("{refused}") };
    assert!(*theirs == 1 && ours > theirs && *pid == std::process::id() as i32, "{refused:?}");
    for part in ["speaks protocol 1", "drain this node", &format!("kill {pid}")] {
        assert!(refused.to_string().contains(part), "{part:?} is missing: {refused}");
    }
    assert_eq!(rig.shim_pid(), None, "no second watchdog was started beside it");
}
