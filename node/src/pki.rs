//! The cluster's certificate authority, made at bootstrap, and the certificates it issues. Voters alone hold
//! the authority's key, each of them: there is no head node.

mod folder;
mod request;
mod sealed;
mod tls;
mod trust;
mod validity;

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose, PKCS_ED25519, PublicKeyData,
    SerialNumber,
};
use rustls::ProtocolVersion;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use stint_protocol::NodeId;

pub use folder::PkiFolder;
pub use rcgen::KeyPair;
pub use request::{CertificateRequest, Purpose, disk_of_key};
pub use tls::{joining_client, peer_client, peer_server, renewing_client};
pub use trust::Root;
pub use validity::{Validity, utc};

/// The name in every peer's certificate.
pub const PEER_NAME: &str = "peer.stint";
/// The name in the administrator's certificate.
pub const ADMIN_NAME: &str = "admin.stint";

/// A certificate or key could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("reading a certificate or key: {0}")]
    Read(#[from] rustls::pki_types::pem::Error),
    #[error("TLS settings: {0}")]
    Tls(#[from] rustls::Error),
    #[error("TLS client verification: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("this process speaks older versions of TLS than 1.3")]
    OldTls,
    #[error("the sealed key of the cluster's authority cannot be opened: it is damaged, or another node's")]
    Sealed,
    #[error("the request for a certificate does not show that the asker has the key")]
    NoProof,
    #[error("the certificate is none that this cluster gave to a node")]
    NotOurs,
}

const NODE_PREFIX: &str = "node-";

/// The name in the certificate of one node.
pub fn node_name(node: NodeId) -> String {
    format!("{NODE_PREFIX}{node}.stint")
}

const ADMIN_OF_PREFIX: &str = "admin-of-node-";

/// The second name of an administrator's certificate: of the node in whose folder it was made.
fn admin_of_name(node: NodeId) -> String {
    format!("{ADMIN_OF_PREFIX}{node}.stint")
}

/// The name in the certificates of all peers of a cluster that was recovered: those of before lack it.
pub fn recovered_name(cluster_id: &str) -> String {
    format!("cluster-{cluster_id}.stint")
}

/// The end of every name that says what the holder of a certificate is.
const OWN_ZONE: &str = ".stint";

/// The part of an address that a certificate may have as a name beside those of its node: a host's name or number. None:
/// it could be taken for a name that says what its holder is.
pub fn host_of(address: &str) -> Option<&str> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let whole = host.trim_end_matches('.').to_ascii_lowercase();
    let ours = format!(".{whole}").ends_with(OWN_ZONE);
    let is_name = ServerName::try_from(host).is_ok();
    (is_name && !host.ends_with('.') && host.chars().all(plain) && !ours).then_some(host)
}

/// The certificate authority, as PEM texts.
#[derive(Clone, minicbor::Encode, minicbor::Decode)]
pub struct Authority {
    #[n(0)]
    pub certificate: String,
    #[n(1)]
    pub key: String,
}

/// A certificate with its key, as PEM texts.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// A public key for which a certificate is made; its private half is nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ED25519
    }
}

/// How an Ed25519 key begins in a certificate (RFC 8410).
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The key in a certificate.
pub fn key_of(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let parsed = rustls::server::ParsedCertificate::try_from(certificate).ok()?;
    let key = parsed.subject_public_key_info();
    key.strip_prefix(&ED25519_PREFIX)?.try_into().ok().map(PublicKey)
}

impl Authority {
    /// A new authority with an Ed25519 key, valid for a century (a cluster's life).
    pub fn make() -> Result<Self, PkiError> {
        let key = new_key()?;
        let certificate = authority_params()?.self_signed(&key)?.pem();
        Ok(Self { certificate, key: key.serialize_pem() })
    }

    /// What all may know of it.
    pub fn root(&self) -> Root {
        Root(self.certificate.clone())
    }

    /// Whether the key is the one of this certificate.
    pub fn is_of(&self, root: &Root) -> bool {
        let (Ok(key), Ok(certificate)) = (KeyPair::from_pem(&self.key), root.der()) else { return false };
        key_of(&certificate).is_some_and(|of_root| of_root.0 == key.public_key_raw())
    }

    /// Issues a certificate for these names, with a key of its own, for as long as the authority's.
    pub fn issue(&self, names: &[&str]) -> Result<Identity, PkiError> {
        let key = new_key()?;
        let certificate = self.sign(&key, names, Validity::ENDLESS)?;
        Ok(Identity { certificate, key: key.serialize_pem() })
    }

    /// Signs a certificate of this key for these names.
    fn sign(&self, key: &impl PublicKeyData, names: &[&str], validity: Validity) -> Result<String, PkiError> {
        let issuer = Issuer::new(authority_params()?, KeyPair::from_pem(&self.key)?);
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let mut params = CertificateParams::new(names.clone())?;
        validity.set(&mut params);
        // Of one key there are many certificates.
        params.serial_number = Some(SerialNumber::from(sealed::random::<16>()?.to_vec()));
        params.distinguished_name.push(DnType::CommonName, names.first().cloned().unwrap_or_default());
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &issuer)?.pem())
    }

    /// Issues the certificate of a peer whose key is this. It is reached at `address`; `recovered` is the id of its cluster,
    /// where that was recovered.
    pub fn certify_peer(
        &self,
        key: &PublicKey,
        node: NodeId,
        recovered: Option<&str>,
        address: &str,
        validity: Validity,
    ) -> Result<String, PkiError> {
        let (own, cluster) = (node_name(node), recovered.map(recovered_name));
        let mut names = vec![own.as_str(), PEER_NAME, "localhost", "127.0.0.1"];
        names.extend(host_of(address).filter(|host| !names.contains(host)));
        names.extend(cluster.as_deref());
        self.sign(key, &names, validity)
    }

    /// Issues an administrator's certificate of this key for the folder of a node: it is good for no longer than that is a
    /// member.
    pub fn certify_admin(
        &self,
        key: &PublicKey,
        node: NodeId,
        validity: Validity,
    ) -> Result<String, PkiError> {
        self.sign(key, &[ADMIN_NAME, &admin_of_name(node)], validity)
    }

    /// Certifies the key of another authority: who trusts this one alone takes what that one issues.
    pub fn endorse(&self, other: &Self) -> Result<String, PkiError> {
        let issuer = Issuer::new(authority_params()?, KeyPair::from_pem(&self.key)?);
        let mut params = authority_params()?;
        params.serial_number = Some(SerialNumber::from(sealed::random::<16>()?.to_vec()));
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&public_key(&KeyPair::from_pem(&other.key)?)?, &issuer)?.pem())
    }

    /// Issues the certificate of a peer with a key of its own.
    #[cfg(test)]
    pub fn issue_peer(&self, node: NodeId, recovered: Option<&str>) -> Result<Identity, PkiError> {
        let key = new_key()?;
        let certificate =
            self.certify_peer(&public_key(&key)?, node, recovered, "127.0.0.1:7001", Validity::ENDLESS)?;
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

/// A new key of a node or a person.
pub fn new_key() -> Result<KeyPair, PkiError> {
    Ok(KeyPair::generate_for(&PKCS_ED25519)?)
}

/// The public half of a key.
pub fn public_key(key: &KeyPair) -> Result<PublicKey, PkiError> {
    key.public_key_raw().try_into().map(PublicKey).map_err(|_| PkiError::NoProof)
}

fn authority_params() -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    Validity::ENDLESS.set(&mut params);
    params.distinguished_name.push(DnType::CommonName, "Stint cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// From now on this process speaks TLS 1.3 and nothing older, also by libraries that take no list of versions: there is no
/// older cipher suite for them.
pub fn require_tls13() -> Result<(), PkiError> {
    let is_new = |suite: &rustls::SupportedCipherSuite| suite.version().version == ProtocolVersion::TLSv1_3;
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(is_new);
    // Fails when there is one: ours, or that of whoever runs a node inside a process of its own.
    let _ = provider.install_default();
    let installed = CryptoProvider::get_default();
    let all_new = installed.is_some_and(|provider| provider.cipher_suites.iter().all(is_new));
    if all_new { Ok(()) } else { Err(PkiError::OldTls) }
}

impl Identity {
    /// The certificate as it is shown.
    pub fn der(&self) -> Result<CertificateDer<'static>, PkiError> {
        read(&self.certificate)
    }

    fn chain(&self, root: &Root) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let mut chain = vec![self.der()?];
        chain.extend(root.certificates()?);
        Ok(chain)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        Ok(PrivateKeyDer::from_pem_slice(self.key.as_bytes())?)
    }
}

/// Whether a certificate, verified already, carries this name.
pub fn carries(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(parsed) = rustls::server::ParsedCertificate::try_from(certificate) else { return false };
    let Ok(name) = ServerName::try_from(name) else { return false };
    rustls::client::verify_server_name(&parsed, &name).is_ok()
}

/// The node whose certificate this is, verified already.
pub fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    number_in(certificate, NODE_PREFIX, |node| node_name(NodeId(node))).map(NodeId)
}

/// The node for whose folder this administrator's certificate was made, verified already. Those of earlier programs name
/// none.
pub fn admin_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    number_in(certificate, ADMIN_OF_PREFIX, |node| admin_of_name(NodeId(node))).map(NodeId)
}

/// The number in a name of a certificate that begins like this. The bytes only say what to look for: that it is a name,
/// `carries` decides.
fn number_in(certificate: &CertificateDer<'_>, prefix: &str, name: impl Fn(u64) -> String) -> Option<u64> {
    let bytes: &[u8] = certificate;
    bytes.windows(prefix.len()).enumerate().filter(|(_, window)| *window == prefix.as_bytes()).find_map(
        |(at, _)| {
            let rest = &bytes[at + prefix.len()..];
            let digits = rest.iter().take(20).take_while(|byte| byte.is_ascii_digit()).count();
            let number: u64 = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
            carries(certificate, &name(number)).then_some(number)
        },
    )
}

/// A certificate as it is shown.
pub fn read(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    Ok(CertificateDer::from_pem_slice(pem.as_bytes())?)
}

/// The same, of a test.
#[cfg(test)]
pub fn der(pem: &str) -> CertificateDer<'static> {
    read(pem).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_which_node_it_is_of() {
        let authority = Authority::make().unwrap();
        let der = |identity: &Identity| der(&identity.certificate);
        for node in [NodeId(1), NodeId(12), NodeId(u64::MAX)] {
            let peer = der(&authority.issue_peer(node, Some("00ff")).unwrap());
            assert_eq!((node_of(&peer), admin_of(&peer)), (Some(node), None));
            let key = new_key().unwrap();
            let admin = authority.certify_admin(&public_key(&key).unwrap(), node, Validity::ENDLESS).unwrap();
            let admin = super::der(&admin);
            assert_eq!((node_of(&admin), admin_of(&admin)), (None, Some(node)));
            assert!(
                carries(&admin, ADMIN_NAME) && !carries(&admin, PEER_NAME) && !carries(&peer, ADMIN_NAME)
            );
        }
        // The text alone is no name, nor is a part of one.
        for name in ["node-1.stint.example", "a-node-1.stint", "node-01.stint", "node-x.stint"] {
            let other = der(&authority.issue(&[name]).unwrap());
            assert_eq!(node_of(&other), None, "{name}");
        }
    }

    #[test]
    fn no_address_of_a_joiner_makes_a_name_that_means_something_else() {
        for address in [
            "admin.stint:7001",
            "ADMIN.Stint:1",
            "peer.stint.:1",
            "admin.stint.",
            "node-1.stint:7001",
            "*.stint:7001",
            "*:7001",
            "stint:7001",
            "a,b:1",
            "",
            ":7001",
        ] {
            assert_eq!(host_of(address), None, "{address}");
        }
        let hosts = [("gpu-1:7001", "gpu-1"), ("10.0.0.1:7001", "10.0.0.1"), ("[::1]:7001", "::1")];
        for (address, host) in hosts {
            assert_eq!(host_of(address), Some(host));
        }
        let (authority, key) = (Authority::make().unwrap(), PublicKey([7; 32]));
        let peer = |address| {
            super::der(&authority.certify_peer(&key, NodeId(3), None, address, Validity::ENDLESS).unwrap())
        };
        assert!(carries(&peer("gpu-1:7001"), "gpu-1") && carries(&peer("10.0.0.1:7001"), "10.0.0.1"));
        let posing = peer("admin.stint:7001");
        assert!(!carries(&posing, ADMIN_NAME) && node_of(&posing) == Some(NodeId(3)));
        assert_eq!(key_of(&posing), Some(key));
    }

    #[test]
    fn a_certificate_whose_time_is_over_still_says_whose_it_was_and_nothing_else_does() {
        let (authority, other) = (Authority::make().unwrap(), Authority::make().unwrap());
        let old = Validity { from: 1_600_000_000, to: 1_600_000_100 };
        let make = |by: &Authority| {
            super::der(&by.certify_peer(&PublicKey([7; 32]), NodeId(3), None, "a:1", old).unwrap())
        };
        let root = authority.root();
        assert_eq!(root.node_behind(&make(&authority)).unwrap(), NodeId(3));
        assert!(root.node_behind(&make(&other)).is_err());
        let admin = authority.certify_admin(&PublicKey([7; 32]), NodeId(3), Validity::ENDLESS).unwrap();
        assert!(root.node_behind(&super::der(&admin)).is_err());
        let mut changed = make(&authority).to_vec();
        let at = changed.windows(6).position(|window| window == b"node-3").unwrap() + 5;
        changed[at] = b'1';
        assert!(root.node_behind(&changed.into()).is_err());
        assert!(authority.is_of(&root) && !other.is_of(&root));
    }
}
