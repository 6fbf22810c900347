//! TCP with mutual TLS: the right certificates are let in, others are not.
#![allow(clippy::unwrap_used)]

mod fake;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fake::Fake;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use stint_sdk::v1::stint_server::StintServer;
use stint_sdk::{Client, Credentials, Error, Options};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn signed(ca: &Ca, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.to_string()]).unwrap().signed_by(&key, ca).unwrap();
    (cert.pem(), key.serialize_pem())
}

async fn serve(ca: &Ca, name: &str) -> SocketAddr {
    let (cert, key) = signed(ca, name);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(ca.pem()));
    let service = StintServer::from_arc(Arc::new(Fake::default()));
    let server = Server::builder().tls_config(tls).unwrap().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

fn options(folder: &Path, trusted: &Ca, own: &Ca, address: SocketAddr) -> Options {
    let (cert, key) = signed(own, "admin");
    let credentials = Credentials::in_dir(folder);
    std::fs::write(&credentials.ca, trusted.pem()).unwrap();
    std::fs::write(&credentials.cert, cert).unwrap();
    std::fs::write(&credentials.key, key).unwrap();
    let address = format!("https://{address}").parse().unwrap();
    Options { credentials: Some(credentials), call_timeout: Duration::from_secs(1), ..Options::to(address) }
}

#[tokio::test]
async fn the_clusters_own_certificates_are_let_in() {
    let (ca, folder) = (ca(), tempfile::tempdir().unwrap());
    let options = options(folder.path(), &ca, &ca, serve(&ca, "127.0.0.1").await);
    Client::new(options).unwrap().list_nodes().await.unwrap();
}

#[tokio::test]
async fn a_common_name_for_all_peers_can_be_expected() {
    let (ca, folder) = (ca(), tempfile::tempdir().unwrap());
    let options = options(folder.path(), &ca, &ca, serve(&ca, "stint.peer").await);
    let error = Client::new(options.clone()).unwrap().list_nodes().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let named = Options { server_name: Some("stint.peer".into()), ..options };
    Client::new(named).unwrap().list_nodes().await.unwrap();
}

#[tokio::test]
async fn foreign_certificates_are_not_let_in() {
    let (ca, foreign, folder) = (ca(), ca(), tempfile::tempdir().unwrap());
    let address = serve(&ca, "127.0.0.1").await;
    for (trusted, own) in [(&ca, &foreign), (&foreign, &ca)] {
        let client = Client::new(options(folder.path(), trusted, own, address)).unwrap();
        let error = client.list_nodes().await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
}
