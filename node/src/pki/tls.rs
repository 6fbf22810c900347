//! TLS between peers: what each side shows, and whom it trusts.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256};

use super::{Identity, PkiError, Root, provider, utc};

const ALPN: &[u8] = b"stint-peer/1";

/// TLS of a peer's server side. A caller without a certificate is let in, to ask to join and nothing else.
pub fn peer_server(root: &Root, identity: &Identity) -> Result<ServerConfig, PkiError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(root.roots()?, provider())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(root)?, identity.private_key()?)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// TLS of a peer's client side.
pub fn peer_client(root: &Root, identity: &Identity) -> Result<ClientConfig, PkiError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(root.roots()?)
        .with_client_auth_cert(identity.chain(root)?, identity.private_key()?)?;
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

/// TLS of a member whose own certificate may have expired: it trusts peers, and shows none.
pub fn renewing_client(root: &Root) -> Result<ClientConfig, PkiError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(root.roots()?)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
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
            let text = "the peer's cluster is not the one that made the join token, or has another authority since: make a new token";
            return Err(rustls::Error::General(text.into()));
        };
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.map_err(name_clocks)
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

/// An error about times in words of an operator, who has two clocks to compare.
fn name_clocks(error: rustls::Error) -> rustls::Error {
    use rustls::CertificateError::{ExpiredContext, NotValidYetContext};
    let (here, bound, there) = match &error {
        rustls::Error::InvalidCertificate(NotValidYetContext { time, not_before }) => {
            (time, "begins at", not_before)
        }
        rustls::Error::InvalidCertificate(ExpiredContext { time, not_after }) => {
            (time, "ended at", not_after)
        }
        _ => return error,
    };
    rustls::Error::General(format!(
        "by the clock of this machine it is {}, and the peer's certificate {bound} {} by the clock of the cluster: set the \
         clock that is wrong",
        utc(here.as_secs()),
        utc(there.as_secs())
    ))
}
