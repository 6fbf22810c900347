//! Raft's door to other peers, over the connections of `peers`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stint_protocol::NodeId;
use stint_raft::{CallClass, CallFuture, PeerId, PeerInfo, Transport, TransportError};

use crate::peers::{CallError, PeerAddress, Peers};
use crate::wire::CallKind;

/// Carries Raft's requests.
pub struct RaftTransport(pub Arc<Peers>);

impl Transport for RaftTransport {
    fn call(
        &self,
        peer: PeerId,
        info: &PeerInfo,
        class: CallClass,
        request: Bytes,
        deadline: Duration,
    ) -> CallFuture {
        let peers = self.0.clone();
        let to = PeerAddress::node(NodeId(peer), &info.addr);
        let kind = match class {
            CallClass::Control => CallKind::RaftControl,
            CallClass::Append => CallKind::RaftAppend,
            CallClass::Snapshot => CallKind::RaftSnapshot,
        };
        Box::pin(async move {
            peers.call(&to, kind, request, deadline).await.map_err(|error| match error {
                CallError::TimedOut(..) => TransportError::TimedOut,
                other => TransportError::Unreachable(other.to_string()),
            })
        })
    }
}
