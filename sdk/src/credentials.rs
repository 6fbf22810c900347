//! The three files a client proves itself with over TCP: the cluster's CA, a certificate and its key.

use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::error::Error;

/// Paths of the files; read when a client is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Credentials {
    /// The administrator's files as a node writes them at bootstrap: `ca.pem`, `admin.pem`, `admin-key.pem`.
    pub fn in_dir(dir: &Path) -> Self {
        Self { ca: dir.join("ca.pem"), cert: dir.join("admin.pem"), key: dir.join("admin-key.pem") }
    }

    pub(crate) fn load(&self) -> Result<ClientTlsConfig, Error> {
        let identity = Identity::from_pem(read(&self.cert)?, read(&self.key)?);
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&self.ca)?)).identity(identity))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Credentials { path: path.into(), source })
}
