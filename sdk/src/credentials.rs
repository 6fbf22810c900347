//! What a client proves itself with over TCP: the cluster's CA, and a certificate with its key or an access token.

use std::fmt;
use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};
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

/// An access token, and the certificate of the CA by which the client knows the cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub ca: PathBuf,
    pub token: String,
}

impl Token {
    pub(crate) fn load(&self) -> Result<ClientTlsConfig, Error> {
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&self.ca)?)))
    }

    /// The header that shows it.
    pub(crate) fn header(&self) -> Result<MetadataValue<Ascii>, Error> {
        let header: Result<MetadataValue<Ascii>, _> = format!("Bearer {}", self.token.trim()).parse();
        let mut header = header.map_err(|_| Error::NoToken)?;
        header.set_sensitive(true);
        Ok(header)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("ca", &self.ca).finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Credentials { path: path.into(), source })
}
