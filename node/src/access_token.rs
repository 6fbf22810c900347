//! The text of an access token: what a client shows, and never what is kept or logged.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// The secret of a token. Its text is told once, when it is made.
pub struct AccessSecret(pub [u8; 16]);

/// The first part of a token's text; a later form gets another.
const PREFIX: &str = "stintat1-";
const DIGITS: usize = 32;

/// A text that is no access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the token is not one: it starts with {PREFIX} and has {DIGITS} hexadecimal digits (`stint token create` prints one)"
)]
pub struct NoToken;

impl AccessSecret {
    /// What the cluster keeps of it.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// As its maker is told it.
    pub fn text(&self) -> String {
        self.0.iter().fold(PREFIX.to_owned(), |text, byte| text + &format!("{byte:02x}"))
    }
}

impl fmt::Debug for AccessSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessSecret(…)")
    }
}

impl FromStr for AccessSecret {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(NoToken)?;
        let fits = digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u128::from_str_radix(digits, 16).ok().filter(|_| fits).ok_or(NoToken)?;
        Ok(Self(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_its_text_and_nothing_else_is() {
        let secret = AccessSecret([0xa7; 16]);
        let read: AccessSecret = secret.text().parse().unwrap();
        assert_eq!(read.0, secret.0);
        assert!(!format!("{secret:?}").contains("a7"));
        for bad in [
            "",
            "stintat1-",
            "stintat1-00",
            &secret.text()[..40],
            &format!("{}00", secret.text()),
            "stint1-00",
        ] {
            assert!(bad.parse::<AccessSecret>().is_err(), "{bad:?} was taken");
        }
    }
}
