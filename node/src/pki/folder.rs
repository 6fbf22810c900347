//! The certificates and keys of a peer in its data folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{Authority, Identity, KeyPair, PkiError, Root, new_key, sealed};
use crate::identity::{IdentityError, io, make_dir, write_secret};

const ROOT: &str = "ca.pem";
const CERTIFICATE: &str = "node.pem";
const KEY: &str = "node-key.pem";
/// The authority's key, as programs before version 5 of the cluster read it, and sealed.
const CLEAR: &str = "ca-key.pem";
const SEALED: &str = "ca-key.sealed";
/// That of an authority that may be the next one, sealed.
const NEXT: &str = "ca-key-next.sealed";

/// The folder `pki` of a data folder.
#[derive(Clone)]
pub struct PkiFolder(PathBuf);

impl PkiFolder {
    /// That of this data folder, which need not have one yet.
    pub fn below(data_dir: &Path) -> Self {
        Self(data_dir.join("pki"))
    }

    fn read(&self, name: &str) -> Result<String, IdentityError> {
        let path = self.0.join(name);
        fs::read_to_string(&path).map_err(io("reading", &path))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), IdentityError> {
        write_secret(&self.0.join(name), text)
    }

    /// Without it nothing is lost.
    fn remove(&self, name: &str) -> Result<(), IdentityError> {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("removing", &path)(error)),
            _ => File::open(&self.0).and_then(|folder| folder.sync_all()).map_err(io("syncing", &self.0)),
        }
    }

    /// The key of this peer, which is made where there is none, and stays.
    pub fn key(&self) -> Result<KeyPair, IdentityError> {
        make_dir(&self.0)?;
        if self.0.join(KEY).exists() {
            return Ok(KeyPair::from_pem(&self.read(KEY)?).map_err(PkiError::from)?);
        }
        let key = new_key()?;
        self.write(KEY, &key.serialize_pem())?;
        Ok(key)
    }

    /// The authority's certificate.
    pub fn root(&self) -> Result<Root, IdentityError> {
        self.read(ROOT).map(Root)
    }

    /// Trusts this authority from now on.
    pub fn write_root(&self, root: &Root) -> Result<(), IdentityError> {
        self.write(ROOT, &root.0)
    }

    /// This peer's certificate with its key.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        Ok(Identity { certificate: self.read(CERTIFICATE)?, key: self.read(KEY)? })
    }

    /// This peer's certificate is this one from now on.
    pub fn write_certificate(&self, certificate: &str) -> Result<(), IdentityError> {
        self.write(CERTIFICATE, certificate)
    }

    /// The authority with its key, where it is here.
    pub fn authority(&self) -> Result<Option<Authority>, IdentityError> {
        let root = self.root()?;
        let of_root = |key| Authority { certificate: root.first().to_owned(), key };
        if let Some(key) = self.opened(NEXT, &root) {
            return Ok(Some(of_root(key)));
        }
        if self.0.join(SEALED).exists() {
            return Ok(Some(of_root(sealed::open(&self.read(SEALED)?, &self.read(KEY)?, &root)?)));
        }
        if self.has_clear_key() {
            return Ok(Some(of_root(self.read(CLEAR)?)).filter(|authority| authority.is_of(&root)));
        }
        Ok(None)
    }

    fn opened(&self, name: &str, root: &Root) -> Option<String> {
        sealed::open(&self.read(name).ok()?, &self.read(KEY).ok()?, root).ok()
    }

    /// Keeps the key of an authority that may be the next one, beside that of the one that is.
    pub fn seal_next(&self, authority: &Authority) -> Result<(), IdentityError> {
        self.write(NEXT, &sealed::seal(&authority.key, &self.read(KEY)?, &authority.root())?)
    }

    /// Keeps no key of an authority that came to nothing.
    pub fn forget_other_next(&self, root: &Root) -> Result<(), IdentityError> {
        match self.0.join(NEXT).exists() && !self.is_next(root) {
            true => self.remove(NEXT),
            false => Ok(()),
        }
    }

    /// Whether the key of this authority lies where that of the next one does.
    pub fn is_next(&self, root: &Root) -> bool {
        self.opened(NEXT, root).is_some()
    }

    /// The same; a key that cannot be read is as good as none: another voter has it.
    pub fn readable_authority(&self) -> Option<Authority> {
        self.authority().unwrap_or_else(|error| {
            tracing::warn!(%error, "the key of the cluster's authority cannot be read here");
            None
        })
    }

    /// Whether the authority's key lies open in it.
    pub fn has_clear_key(&self) -> bool {
        self.0.join(CLEAR).exists()
    }

    /// Whether it has the authority's key in any form.
    pub fn has_authority_key(&self) -> bool {
        [CLEAR, SEALED, NEXT].into_iter().any(|name| self.0.join(name).exists())
    }

    /// Keeps the authority's key as programs of before read it.
    pub fn keep_clear(&self, authority: &Authority) -> Result<(), IdentityError> {
        self.write(CLEAR, &authority.key)
    }

    /// Keeps the authority's key, sealed, and nothing of it in the clear.
    pub fn seal(&self, authority: &Authority) -> Result<(), IdentityError> {
        let sealed = sealed::seal(&authority.key, &self.read(KEY)?, &authority.root())?;
        let is_next = self.is_next(&authority.root());
        self.write(SEALED, &sealed)?;
        if is_next {
            self.remove(NEXT)?;
        }
        self.remove(CLEAR)
    }

    /// Keeps no key of the authority.
    pub fn forget_authority_key(&self) -> Result<(), IdentityError> {
        self.remove(NEXT)?;
        self.remove(SEALED)?;
        self.remove(CLEAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_the_clear_is_found_sealed_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let pki = PkiFolder::below(folder.path());
        let (key, authority) = (pki.key().unwrap(), Authority::make().unwrap());
        assert_eq!(pki.key().unwrap().serialize_pem(), key.serialize_pem(), "it is made once");
        pki.write_root(&authority.root()).unwrap();
        assert!(pki.authority().unwrap().is_none());
        pki.keep_clear(&authority).unwrap();
        assert_eq!(pki.authority().unwrap().unwrap().key, authority.key);
        pki.seal(&authority).unwrap();
        assert!(!pki.has_clear_key() && pki.has_authority_key());
        assert_eq!(pki.authority().unwrap().unwrap().key, authority.key);
        let lines = |entry: fs::DirEntry| fs::read_to_string(entry.path()).unwrap();
        let secret = authority.key.lines().nth(1).unwrap();
        let files = fs::read_dir(folder.path().join("pki")).unwrap();
        assert!(files.flatten().map(lines).all(|text| !text.contains(secret)));
        // The key of the next authority is not this one's, until that is trusted; then the old one is gone.
        let (next, old_root) = (Authority::make().unwrap(), authority.root());
        pki.seal_next(&Authority::make().unwrap()).unwrap();
        pki.forget_other_next(&next.root()).unwrap();
        assert!(!pki.0.join(NEXT).exists(), "a leader was lost before it was trusted");
        pki.seal_next(&next).unwrap();
        pki.forget_other_next(&next.root()).unwrap();
        assert_eq!(pki.authority().unwrap().unwrap().key, authority.key);
        assert!(pki.is_next(&next.root()) && !pki.is_next(&old_root));
        let changed = Root::changed(&next.certificate, &authority.endorse(&next).unwrap(), Some(&old_root.0));
        pki.write_root(&changed).unwrap();
        let found = pki.authority().unwrap().unwrap();
        assert_eq!((&found.key, &found.certificate), (&next.key, &next.certificate));
        pki.seal(&found).unwrap();
        assert!(!pki.is_next(&next.root()));
        assert_eq!(pki.authority().unwrap().unwrap().key, next.key);
        pki.write_root(&old_root).unwrap();
        assert!(pki.authority().is_err(), "nobody needs the old one's key");
        pki.write_root(&changed).unwrap();
        pki.forget_authority_key().unwrap();
        assert!(pki.authority().unwrap().is_none() && !pki.has_authority_key());
    }
}
