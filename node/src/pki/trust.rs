//! Whom peers and clients trust: the authority and, while it changes, the one of before.

use std::sync::Arc;
use std::time::Duration;

use ring::signature::{ED25519, UnparsedPublicKey};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use sha2::{Digest, Sha256};
use stint_protocol::NodeId;

use super::{PEER_NAME, PkiError, PublicKey, Validity, carries, key_of, node_of, provider, read};

/// Certificates of authorities, as PEM text: first that of the authority; then, once it was changed, its endorsement by the
/// one before; and that one itself while it is trusted, too.
#[derive(Clone, PartialEq, Eq)]
pub struct Root(pub String);

impl Root {
    /// An authority that was changed to; `old` while what that one issued is taken, too.
    pub fn changed(root: &str, endorsement: &str, old: Option<&str>) -> Self {
        Self([root, endorsement, old.unwrap_or_default()].concat())
    }

    /// The certificate of the authority alone, as PEM text.
    pub fn first(&self) -> &str {
        const END: &str = "-----END CERTIFICATE-----";
        let end = self.0.find(END).map_or(self.0.len(), |at| at + END.len());
        let line = self.0[end..].bytes().take_while(|byte| b"\r\n".contains(byte)).count();
        &self.0[..end + line]
    }

    /// What tells a cluster that it made from others of the same name: 16 hexadecimal digits.
    pub fn cluster_id(&self) -> Result<String, PkiError> {
        Ok(self.fingerprint()?.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// SHA-256 of the authority's certificate: what a join token carries, so that a joiner knows whom it talks to.
    pub fn fingerprint(&self) -> Result<[u8; 32], PkiError> {
        Ok(Sha256::digest(self.der()?).into())
    }

    /// The certificate of the authority.
    pub(super) fn der(&self) -> Result<CertificateDer<'static>, PkiError> {
        read(&self.0)
    }

    /// All of them, as a peer shows them behind its own.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        Ok(CertificateDer::pem_slice_iter(self.0.as_bytes()).collect::<Result<_, _>>()?)
    }

    /// The authority's key, certified by the one before.
    fn endorsement(&self) -> Result<Option<CertificateDer<'static>>, PkiError> {
        let (all, own) = (self.certificates()?, self.der()?);
        Ok(all.into_iter().skip(1).find(|other| key_of(other) == key_of(&own)))
    }

    /// Those that are trusted by themselves.
    fn trusted(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let endorsement = self.endorsement()?;
        Ok(self.certificates()?.into_iter().filter(|one| Some(one) != endorsement.as_ref()).collect())
    }

    /// What clients are given to trust, as PEM text.
    pub fn for_clients(&self) -> Result<String, PkiError> {
        let endorsement = self.endorsement()?;
        let is_endorsement = |text: &str| read(text).is_ok_and(|one| Some(one) == endorsement);
        Ok(self.texts().filter(|text| !is_endorsement(text)).collect())
    }

    /// What the API shows behind its certificate, as PEM text: clients that trust only the authority of before take it while
    /// that one is trusted here.
    pub fn for_old_clients(&self) -> Result<String, PkiError> {
        let texts: Vec<&str> = self.texts().collect();
        Ok(if self.trusted()?.len() > 1 { texts[1..].concat() } else { String::new() })
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let mut rest = self.0.as_str();
        std::iter::from_fn(move || {
            let text = Root(rest.to_owned()).first().len();
            let (text, after) = rest.split_at(text);
            rest = after;
            (!text.trim().is_empty()).then_some(text)
        })
    }

    pub(super) fn roots(&self) -> Result<Arc<RootCertStore>, PkiError> {
        let mut roots = RootCertStore::empty();
        for one in self.trusted()? {
            roots.add(one)?;
        }
        Ok(Arc::new(roots))
    }

    /// Whether one that is trusted issued this certificate, by way of the others; when it ends is not looked at.
    pub fn vouches_for(&self, certificate: &CertificateDer<'_>, by_way_of: &[CertificateDer<'_>]) -> bool {
        self.verify(certificate, by_way_of).is_ok()
    }

    /// Whether the authority, and not the one of before, issued this certificate.
    pub fn issued(&self, certificate: &CertificateDer<'_>) -> bool {
        Root(self.first().to_owned()).vouches_for(certificate, &[])
    }

    /// Whether this is what another one was before it was changed: who knows that one knows more.
    pub fn has_become(&self, other: &Self) -> bool {
        let (own, endorsement) = (self.der().ok(), other.endorsement().ok().flatten());
        let own = own.as_ref().and_then(key_of).filter(|_| self.first() != other.first());
        own.zip(endorsement).is_some_and(|(own, endorsement)| is_signed_by(&endorsement, &own))
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        by_way_of: &[CertificateDer<'_>],
    ) -> Result<(), PkiError> {
        let validity = Validity::read(certificate).ok_or(PkiError::NotOurs)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider()).build()?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(validity.to));
        verifier.verify_client_cert(certificate, by_way_of, at)?;
        Ok(())
    }

    /// The node to which this certificate was given, also when its time is over: nothing else may be wrong about it.
    pub fn node_behind(&self, certificate: &CertificateDer<'_>) -> Result<NodeId, PkiError> {
        self.verify(certificate, &[])?;
        node_of(certificate).filter(|_| carries(certificate, PEER_NAME)).ok_or(PkiError::NotOurs)
    }
}

/// Whether this key signed a certificate. What verifies certificates takes none of an authority as one that is shown.
fn is_signed_by(certificate: &CertificateDer<'_>, key: &PublicKey) -> bool {
    // A sequence of what is signed, the kind of signature, and the signature.
    let signed = contents(certificate).map(|(at, _)| &certificate[at..]).and_then(|all| {
        let (at, length) = contents(all)?;
        all.get(..at + length)
    });
    let signature = certificate.len().checked_sub(64).map(|at| &certificate[at..]);
    signed.zip(signature).is_some_and(|(signed, signature)| {
        UnparsedPublicKey::new(&ED25519, key.0).verify(signed, signature).is_ok()
    })
}

/// Where the contents of a sequence (DER) at the front begin, and their length.
fn contents(bytes: &[u8]) -> Option<(usize, usize)> {
    let [0x30, first, rest @ ..] = bytes else { return None };
    match (*first, rest) {
        (0x81, [one, ..]) => Some((3, usize::from(*one))),
        (0x82, [one, two, ..]) => Some((4, usize::from(u16::from_be_bytes([*one, *two])))),
        (short, _) if short < 0x80 => Some((2, usize::from(short))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, PublicKey, der};

    #[test]
    fn who_trusts_only_the_old_authority_takes_the_new_one_and_nobody_else_does_not() {
        let [old, new, other] = [(); 3].map(|()| Authority::make().unwrap());
        let peer = |by: &Authority| {
            let made = by.certify_peer(&PublicKey([7; 32]), NodeId(3), None, "a:1", Validity::ENDLESS);
            der(&made.unwrap())
        };
        let endorsement = old.endorse(&new).unwrap();
        let changed = |old_root| Root::changed(&new.certificate, &endorsement, old_root);
        let (both, after) = (changed(Some(old.certificate.as_str())), changed(None));
        let before = old.root();
        let by_way_of = &after.certificates().unwrap()[1..];
        assert!(before.vouches_for(&peer(&new), by_way_of) && !before.vouches_for(&peer(&new), &[]));
        assert!(both.vouches_for(&peer(&old), &[]) && both.vouches_for(&peer(&new), &[]));
        assert!(after.vouches_for(&peer(&new), &[]) && !after.vouches_for(&peer(&old), by_way_of));
        for root in [&before, &both, &after] {
            assert!(!root.vouches_for(&peer(&other), by_way_of));
        }
        assert!(both.issued(&peer(&new)) && !both.issued(&peer(&old)));
        assert!(before.has_become(&both) && before.has_become(&after) && !after.has_become(&before));
        assert!(!other.root().has_become(&both) && !both.has_become(&after));
        assert_eq!((both.first(), after.first()), (new.certificate.as_str(), new.certificate.as_str()));
        let of_clients = [new.certificate.as_str(), &old.certificate].concat();
        assert_eq!(
            (both.for_clients().unwrap(), after.for_clients().unwrap()),
            (of_clients, new.certificate.clone())
        );
        assert_eq!(both.for_old_clients().unwrap(), [endorsement.as_str(), &old.certificate].concat());
        assert_eq!((after.for_old_clients().unwrap(), before.for_old_clients().unwrap()), Default::default());
        assert_eq!(both.node_behind(&peer(&old)).unwrap(), NodeId(3));
        assert!(after.node_behind(&peer(&old)).is_err());
    }
}
