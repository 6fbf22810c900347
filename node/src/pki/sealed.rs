//! The authority's key at rest: sealed with the key of the node in whose folder it lies, so that the file alone is of no
//! use to whoever reads or copies it.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::{PkiError, Root};

/// The first part of the file; a later form gets another.
const PREFIX: &str = "stint-sealed1-";
const PURPOSE: &[u8] = b"stint authority key 1";
const SALT_BYTES: usize = 32;

/// Bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> Result<[u8; N], PkiError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PkiError::Sealed)?;
    Ok(bytes)
}

/// The key of one sealing: of the node's key and of the salt, so that it is used once.
fn sealing_key(node_key: &str, salt: &[u8]) -> Result<LessSafeKey, PkiError> {
    let node_key = PrivateKeyDer::from_pem_slice(node_key.as_bytes())?;
    let secret = Salt::new(HKDF_SHA256, salt).extract(node_key.secret_der());
    let key = secret.expand(&[PURPOSE], &AES_256_GCM).map_err(|_| PkiError::Sealed)?;
    Ok(LessSafeKey::new(UnboundKey::from(key)))
}

/// For a key that is used once there is one nonce.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// Seals the key of the authority whose certificate is `root`, for the node that has this key (PEM).
pub fn seal(secret: &str, node_key: &str, root: &Root) -> Result<String, PkiError> {
    let salt = random::<SALT_BYTES>()?;
    let mut bytes = secret.as_bytes().to_vec();
    let key = sealing_key(node_key, &salt)?;
    let sealed = key.seal_in_place_append_tag(nonce(), Aad::from(root.fingerprint()?), &mut bytes);
    sealed.map_err(|_| PkiError::Sealed)?;
    let hexadecimal: String = salt.iter().chain(&bytes).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{PREFIX}{hexadecimal}\n"))
}

/// What was sealed.
pub fn open(sealed: &str, node_key: &str, root: &Root) -> Result<String, PkiError> {
    let digits = sealed.trim_end().strip_prefix(PREFIX).filter(|digits| digits.is_ascii());
    let digits = digits.filter(|digits| digits.len() % 2 == 0).ok_or(PkiError::Sealed)?;
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| PkiError::Sealed);
    let bytes = (0..digits.len()).step_by(2).map(byte).collect::<Result<Vec<u8>, _>>()?;
    let (salt, sealed) = bytes.split_at_checked(SALT_BYTES).ok_or(PkiError::Sealed)?;
    let (key, mut sealed) = (sealing_key(node_key, salt)?, sealed.to_vec());
    let opened = key.open_in_place(nonce(), Aad::from(root.fingerprint()?), &mut sealed);
    let opened = opened.map_err(|_| PkiError::Sealed)?;
    String::from_utf8(opened.to_vec()).map_err(|_| PkiError::Sealed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, new_key};

    #[test]
    fn only_the_node_that_sealed_it_opens_it_and_no_changed_byte_passes() {
        let key = || new_key().unwrap().serialize_pem();
        let (authority, other, own) = (Authority::make().unwrap(), Authority::make().unwrap(), key());
        let root = authority.root();
        let sealed = seal(&authority.key, &own, &root).unwrap();
        assert_eq!(open(&sealed, &own, &root).unwrap(), authority.key);
        assert!(open(&sealed, &key(), &root).is_err(), "another node's key");
        assert!(open(&sealed, &own, &other.root()).is_err(), "another authority's");
        assert_ne!(seal(&authority.key, &own, &root).unwrap(), sealed);
        let body: String = authority.key.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!sealed.contains(&body[..64]));
        for at in PREFIX.len()..sealed.len() - 1 {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(open(&changed, &own, &root).is_err(), "digit {at}");
        }
        for cut in ["", PREFIX, &sealed[..sealed.len() - 3], &sealed[1..], "stint-sealed1-é"] {
            assert!(open(cut, &own, &root).is_err(), "{cut:?}");
        }
    }
}
