//! Requests for certificates: who asks shows that it has the key, and never the key.

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};
use rcgen::SigningKey;
use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use super::{KeyPair, PkiError, PublicKey, public_key};

/// What is signed begins like this, so that it is nothing else that the key ever signs: in TLS that begins with spaces.
const BEGINS: &[u8] = b"stint certificate request 1: ";

/// What a certificate is wanted for. A request for one thing is none for another.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// To be the node to which this data folder belongs.
    Peer { disk: &'a [u8; 16] },
    /// The administrator's, of that node.
    Admin { disk: &'a [u8; 16] },
    /// Another one instead of this certificate (DER).
    Renewal { of: &'a [u8] },
}

impl Purpose<'_> {
    fn signed(&self) -> Vec<u8> {
        let (name, about): (&[u8], &[u8]) = match self {
            Purpose::Peer { disk } => (b"peer ", *disk),
            Purpose::Admin { disk } => (b"admin ", *disk),
            Purpose::Renewal { of } => (b"renewal ", of),
        };
        [BEGINS, name, about].concat()
    }
}

/// A key for which a certificate is wanted, and the proof that the asker has its private half: a signature.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CertificateRequest {
    #[n(0)]
    key: ByteArray<32>,
    #[n(1)]
    proof: ByteArray<64>,
}

impl CertificateRequest {
    /// A request for a certificate of this key.
    pub fn make(key: &KeyPair, purpose: Purpose<'_>) -> Result<Self, PkiError> {
        let proof: [u8; 64] = key.sign(&purpose.signed())?.try_into().map_err(|_| PkiError::NoProof)?;
        Ok(Self { key: public_key(key)?.0.into(), proof: proof.into() })
    }

    /// The key, if the asker has it and wants this.
    pub fn check(&self, purpose: Purpose<'_>) -> Result<PublicKey, PkiError> {
        let key = UnparsedPublicKey::new(&ED25519, &self.key[..]);
        key.verify(&purpose.signed(), &self.proof[..]).map_err(|_| PkiError::NoProof)?;
        Ok(PublicKey(*self.key))
    }
}

/// The id of the data folder whose node has this key: nobody else asks for a certificate of the node to which that folder
/// belongs.
pub fn disk_of_key(key: &PublicKey) -> [u8; 16] {
    let hash = Sha256::new().chain_update(b"stint data folder 1: ").chain_update(key.0).finalize();
    let mut disk = [0; 16];
    disk.copy_from_slice(&hash[..16]);
    disk
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::new_key;

    #[test]
    fn a_request_is_for_one_thing_and_of_who_has_the_key() {
        let key = new_key().unwrap();
        let (own, other) = (disk_of_key(&public_key(&key).unwrap()), [7; 16]);
        let request = CertificateRequest::make(&key, Purpose::Peer { disk: &own }).unwrap();
        assert_eq!(request.check(Purpose::Peer { disk: &own }).unwrap(), public_key(&key).unwrap());
        for purpose in
            [Purpose::Peer { disk: &other }, Purpose::Admin { disk: &own }, Purpose::Renewal { of: &own }]
        {
            assert!(request.check(purpose).is_err(), "{purpose:?}");
        }
        let thief = CertificateRequest { key: [9; 32].into(), ..request.clone() };
        assert!(thief.check(Purpose::Peer { disk: &own }).is_err());
        let mut damaged = request;
        damaged.proof[5] ^= 1;
        assert!(damaged.check(Purpose::Peer { disk: &own }).is_err());
    }
}
