//! Who the simulated nodes are: fixed certificates (Ed25519, so that every handshake has the same length).

use stint_node::pki::{Identity, Root};

/// Nodes of a simulated cluster at most: for so many there are certificates (`fixtures/make.py`).
pub const NODES: u64 = 12;

macro_rules! certificates {
    ($($number:literal),*) => {
        [$((
            include_str!(concat!("../fixtures/peer-", $number, ".pem")),
            include_str!(concat!("../fixtures/peer-", $number, ".key")),
        )),*]
    };
}

const CERTIFICATES: [(&str, &str); NODES as usize] = certificates!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);

/// The certificate of the cluster's authority.
pub fn root() -> Root {
    Root(include_str!("../fixtures/authority.pem").to_owned())
}

/// The certificate of a node, from 1.
pub fn identity(id: u64) -> Identity {
    let (certificate, key) = CERTIFICATES[id as usize - 1];
    Identity { certificate: certificate.into(), key: key.into() }
}
