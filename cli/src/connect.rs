//! From global options to a client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Once;

use stint_node::config::{GROUP_SOCKET, default_data_dir};
use stint_node::pki::{self, Root, Validity, require_tls13, utc};
use stint_protocol::TimeMs;
use stint_sdk::api::Outdated;
use stint_sdk::{Address, Client, Credentials, Options, Token};

use crate::args::Global;
use crate::failure::Failure;
use crate::join_token;
use crate::output::talk;
use crate::view::{age, clock, now_ms};

/// A client for the addresses and credentials of the command line.
pub fn client(global: &Global) -> Result<Client, Failure> {
    let data_dir = default_data_dir(&environment());
    let mut addresses = Vec::new();
    for text in global.addresses.iter().filter(|text| !text.is_empty()) {
        let address = text.parse::<Address>();
        addresses.push(address.map_err(|e| Failure::Usage(format!("--address: {e}")))?);
    }
    if addresses.is_empty() {
        addresses.push(local_address(&data_dir, Path::new(GROUP_SOCKET)));
    }
    let token = token(global, &data_dir.join("credentials"))?;
    let credentials = credentials(global, data_dir.join("credentials"));
    if token.is_none() && addresses.iter().any(Address::needs_credentials) {
        credentials.as_ref().map(|credentials| check_certificate(credentials, now_ms())).transpose()?;
    }
    let server_name = global.server_name.clone();
    require_tls13()?;
    let on_outdated = Some(tell_outdated as fn(&Outdated));
    Ok(Client::new(Options { credentials, token, server_name, on_outdated, ..Options::to_any(addresses) })?)
}

/// What is wrong with a certificate peers say in words of TLS, if they say it at all.
fn check_certificate(credentials: &Credentials, now_ms: u64) -> Result<(), Failure> {
    let (certificate, ca) = (&credentials.cert, &credentials.ca);
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    // What cannot be read is told where it is used.
    let Ok(own) = pki::read(&text(certificate)) else { return Ok(()) };
    let root = Root(text(ca));
    if root.fingerprint().is_ok() && !root.vouches_for(&own, &[]) {
        talk(&format!(
            "{} and {} are of two authorities, as the cluster has another one since one of them was copied: copy the folder \
             {{data_dir}}/credentials of a peer again",
            ca.display(),
            certificate.display()
        ));
    }
    match Validity::read(&own).filter(|validity| validity.is_over(TimeMs(now_ms))) {
        None => Ok(()),
        Some(validity) => Err(Failure::Failed(format!(
            "the certificate {} ended at {}, and it is {} here: copy the folder {{data_dir}}/credentials of a peer again, \
             which renews it",
            certificate.display(),
            utc(validity.to),
            utc(now_ms / 1_000)
        ))),
    }
}

/// The socket of this machine's node: its own for who may open that, else the one of its group, where there is one.
fn local_address(data_dir: &Path, of_group: &Path) -> Address {
    let own = Address::of_data_dir(data_dir);
    match data_dir.join("stint.sock").exists() || !of_group.exists() {
        true => own,
        false => Address::Unix(of_group.into()),
    }
}

/// Says once that what is shown may lack what came last.
fn tell_outdated(mark: &Outdated) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| talk(&outdated_line(mark, now_ms())));
}

/// Since when there is no leader, as of when the answer is, and who is missing.
fn outdated_line(mark: &Outdated, now_ms: u64) -> String {
    let Outdated { no_leader_since_ms, as_of_ms, missing } = mark;
    let (since, as_of) = (clock(*no_leader_since_ms), clock(*as_of_ms));
    let ago = age(*no_leader_since_ms, now_ms);
    format!("no leader since {since} ({ago}), as of {as_of}: this is what one peer knows; {missing}")
}

/// The access token that is named, with the certificate of the cluster's CA.
fn token(global: &Global, default_dir: &Path) -> Result<Option<Token>, Failure> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let file =
        global.token_file.clone().or_else(|| variable(join_token::ACCESS_FILE_VARIABLE).map(PathBuf::from));
    let of_file = file.map(|path| join_token::of_file(&path, "stint token create")).transpose()?;
    let Some(token) = of_file.or_else(|| variable(join_token::ACCESS_VARIABLE)) else { return Ok(None) };
    let dir = global.credentials.as_deref().unwrap_or(default_dir);
    Ok(Some(Token { ca: global.ca.clone().unwrap_or_else(|| dir.join("ca.pem")), token }))
}

/// The folder's files, each replaced by the one that is named; none when nothing is there.
fn credentials(global: &Global, default_dir: PathBuf) -> Option<Credentials> {
    let named = global.credentials.is_some() || global.cert.is_some();
    let dir = global.credentials.clone().unwrap_or(default_dir);
    if !named && !dir.is_dir() {
        return None;
    }
    let found = Credentials::in_dir(&dir);
    Some(Credentials {
        ca: global.ca.clone().unwrap_or(found.ca),
        cert: global.cert.clone().unwrap_or(found.cert),
        key: global.key.clone().unwrap_or(found.key),
    })
}

/// The environment, as far as it is text.
pub fn environment() -> BTreeMap<String, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_node_of_its_own_gets_the_socket_of_the_group() {
        let folder = tempfile::tempdir().unwrap();
        let (data_dir, of_group) = (folder.path().join("data"), folder.path().join("group.sock"));
        std::fs::create_dir(&data_dir).unwrap();
        let own = Address::of_data_dir(&data_dir);
        let found = || local_address(&data_dir, &of_group);
        assert_eq!(found(), own, "with neither, the message names the node's own");
        std::fs::write(&of_group, "").unwrap();
        assert_eq!(found(), Address::Unix(of_group.clone()));
        std::fs::write(data_dir.join("stint.sock"), "").unwrap();
        assert_eq!(found(), own);
    }
}
