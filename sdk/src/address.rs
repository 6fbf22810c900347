//! Where a peer answers: a unix socket on this machine, or TCP under mutual TLS. Never plain text.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The port of the native API (`api.listen`).
const DEFAULT_PORT: u16 = 7002;

/// One address of the native API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `unix:/path/stint.sock`; whoever may open the socket is the local administrator.
    Unix(PathBuf),
    /// `https://host:7002`, with a client certificate.
    Https { host: String, port: u16 },
}

/// A text that is no address; says which texts are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address: {problem}; write unix:/path/stint.sock or https://host:{DEFAULT_PORT}")]
pub struct InvalidAddress {
    text: String,
    problem: &'static str,
}

impl Address {
    /// The socket of the node that keeps its data in `data_dir`.
    pub fn of_data_dir(data_dir: &Path) -> Self {
        Self::Unix(data_dir.join("stint.sock"))
    }

    /// Whether this address needs credentials.
    pub fn needs_credentials(&self) -> bool {
        matches!(self, Address::Https { .. })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Two slashes behind the scheme are its own.
            Address::Unix(path) if path.to_string_lossy().starts_with("//") => {
                write!(f, "unix://{}", path.display())
            }
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Https { host, port } => write!(f, "https://{host}:{port}"),
        }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    /// Also takes a bare path (`/run/stint.sock`) and a bare `host:port`.
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let wrong = |problem| InvalidAddress { text: text.into(), problem };
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            return unix(path).ok_or_else(|| wrong("the socket's path is empty"));
        }
        if text.starts_with('/') || text.starts_with("./") {
            return unix(text).ok_or_else(|| wrong("the socket's path is empty"));
        }
        if text.starts_with("http://") {
            return Err(wrong("Stint speaks no plain text over TCP"));
        }
        let rest = text.strip_prefix("https://").unwrap_or(text);
        https(rest.strip_suffix('/').unwrap_or(rest)).map_err(wrong)
    }
}

fn unix(path: &str) -> Option<Address> {
    (!path.is_empty()).then(|| Address::Unix(PathBuf::from(path)))
}

fn https(text: &str) -> Result<Address, &'static str> {
    if text.contains("://") {
        return Err("unknown scheme");
    }
    let (host, port) = split_port(text)?;
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if name.is_empty() || !name.chars().all(plain) {
        return Err("the host is missing or no host name");
    }
    Ok(Address::Https { host: host.into(), port })
}

fn split_port(text: &str) -> Result<(&str, u16), &'static str> {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            if host.contains(':') && !host.ends_with(']') {
                return Err("an IPv6 address goes in brackets: [::1]:7002");
            }
            let port =
                port.parse().ok().filter(|p| *p != 0).ok_or("the port is no number from 1 to 65535")?;
            Ok((host, port))
        }
        _ => Ok((text, DEFAULT_PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_what_they_show() {
        let cases = [
            ("unix:/run/stint.sock", "unix:/run/stint.sock"),
            ("unix:///run/stint.sock", "unix:/run/stint.sock"),
            ("/run/stint.sock", "unix:/run/stint.sock"),
            ("//run/stint.sock", "unix:////run/stint.sock"),
            ("https://node-1:7002", "https://node-1:7002"),
            ("https://node-1/", "https://node-1:7002"),
            ("10.0.0.1:9", "https://10.0.0.1:9"),
            ("https://[::1]:7002", "https://[::1]:7002"),
            ("[::1]", "https://[::1]:7002"),
        ];
        for (text, shown) in cases {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(address), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        let cases = [
            ("http://node-1:7002", "no plain text"),
            ("unix:", "path is empty"),
            ("ftp://x", "unknown scheme"),
            ("::1:7002", "brackets"),
            ("node:0", "1 to 65535"),
            ("node:port", "1 to 65535"),
            ("", "host is missing"),
            ("a b", "host is missing"),
        ];
        for (text, part) in cases {
            let message = text.parse::<Address>().unwrap_err().to_string();
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }
}
