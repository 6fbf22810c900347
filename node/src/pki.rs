//! The cluster's certificate authority, made at bootstrap, and the certificates it issues. Every peer holds
//! the authority's key: there is no head node.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, DigitallySignedStruct, ProtocolVersion, RootCertStore, ServerConfig, SignatureScheme,
};
use sha2::{Digest, Sha256};
use stint_protocol::NodeId;

/// The name in every peer's certificate.
pub const PEER_NAME: &str = "peer.stint";
/// The name in the administrator's certificate.
pub const ADMIN_NAME: &str = "admin.stint";
const ALPN: &[u8] = b"stint-peer/1";

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

/// The certificate authority, as PEM texts.
#[derive(Clone, minicbor::Encode, minicbor::Decode)]
pub struct Authority {
    #[n(0)]
    pub certificate: String,
    #[n(1)]
    pub key: String,
}

/// A certificate with its key, as PEM texts.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// A new authority with an Ed25519 key, valid for a century (a cluster's life).
    pub fn make() -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = authority_params()?.self_signed(&key)?.pem();
        Ok(Self { certificate, key: key.serialize_pem() })
    }

    /// Issues a certificate for these names.
    pub fn issue(&self, names: &[&str]) -> Result<Identity, PkiError> {
        let issuer = Issuer::new(authority_params()?, KeyPair::from_pem(&self.key)?);
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let mut params = CertificateParams::new(names.clone())?;
        set_validity(&mut params);
        params.distinguished_name.push(DnType::CommonName, names.first().cloned().unwrap_or_default());
        params.use_authority_key_identifier_extension = true;
        Ok(Identity { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
    }

    /// Issues the certificate of a peer; `recovered` is the id of its cluster, where that was recovered.
    pub fn issue_peer(&self, node: NodeId, recovered: Option<&str>) -> Result<Identity, PkiError> {
        let (own, cluster) = (node_name(node), recovered.map(recovered_name));
        let names = [own.as_str(), PEER_NAME, "localhost"].into_iter().chain(cluster.as_deref());
        self.issue(&names.collect::<Vec<_>>())
    }

    /// Issues an administrator's certificate for the folder of a node: it is good for as long as that is a member.
    pub fn issue_admin(&self, node: NodeId) -> Result<Identity, PkiError> {
        self.issue(&[ADMIN_NAME, &admin_of_name(node)])
    }

    /// What tells a cluster that it made from others of the same name: 16 hexadecimal digits.
    pub fn cluster_id(&self) -> Result<String, PkiError> {
        Ok(self.fingerprint()?.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// SHA-256 of the certificate: what a join token carries, so that a joiner knows whom it talks to.
    pub fn fingerprint(&self) -> Result<[u8; 32], PkiError> {
        Ok(Sha256::digest(CertificateDer::from_pem_slice(self.certificate.as_bytes())?).into())
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, PkiError> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes())?)?;
        Ok(Arc::new(roots))
    }
}

fn authority_params() -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    set_validity(&mut params);
    params.distinguished_name.push(DnType::CommonName, "Stint cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn set_validity(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
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
    fn chain(&self, authority: &Authority) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let own = CertificateDer::from_pem_slice(self.certificate.as_bytes())?;
        let root = CertificateDer::from_pem_slice(authority.certificate.as_bytes())?;
        Ok(vec![own, root])
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        Ok(PrivateKeyDer::from_pem_slice(self.key.as_bytes())?)
    }
}

/// TLS of a peer's server side. A caller without a certificate is let in, to ask to join and nothing else.
pub fn peer_server(authority: &Authority, identity: &Identity) -> Result<ServerConfig, PkiError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots()?, provider())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(authority)?, identity.private_key()?)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// TLS of a peer's client side.
pub fn peer_client(authority: &Authority, identity: &Identity) -> Result<ClientConfig, PkiError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(authority.roots()?)
        .with_client_auth_cert(identity.chain(authority)?, identity.private_key()?)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// TLS of a joiner, who knows nothing of the cluster but its authority's fingerprint.
pub fn joining_client(fingerprint: [u8; 32]) -> Result<ClientConfig, PkiError> {
    let verifier = Arc::new(FingerprintVerifier { fingerprint, provider: provider() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
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

/// Trusts the chain whose root has the expected fingerprint, and nothing else.
#[derive(Debug)]
struct FingerprintVerifier {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for FingerprintVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let expected = |c: &&CertificateDer<'_>| Sha256::digest(c).as_slice() == self.fingerprint;
        let Some(root) = intermediates.iter().find(expected) else {
            let text = "the peer's cluster is not the one that made the join token";
            return Err(rustls::Error::General(text.into()));
        };
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate as it is shown.
#[cfg(test)]
pub fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().into_owned()
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
            let admin = der(&authority.issue_admin(node).unwrap());
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
}
