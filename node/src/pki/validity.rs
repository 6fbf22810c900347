//! From when until when a certificate is valid, and when it is to be renewed.

use std::time::Duration;

use rcgen::{CertificateParams, date_time_ymd};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use stint_protocol::TimeMs;

/// So much earlier than it is issued a certificate begins: clocks of machines differ.
const BACKDATED_S: u64 = 3_600;
/// What is valid for longer was issued by a program that did not renew certificates.
const LONGEST_S: u64 = 2 * 366 * 24 * 3_600;

/// Both ends are part of it; in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: u64,
    pub to: u64,
}

impl Validity {
    /// 2020 to 2120: of an authority and of what is not renewed.
    pub const ENDLESS: Self = Self { from: 1_577_836_800, to: 4_733_510_400 };

    /// Of a certificate that is issued now.
    pub fn starting(now: TimeMs, life: Duration) -> Self {
        let now = now.0 / 1_000;
        Self { from: now.saturating_sub(BACKDATED_S), to: now + life.as_secs() }
    }

    /// What a certificate says. None: it is none.
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        // The dates are looked at before anything else, and an error names the one that was missed.
        let missed = |seconds: u64| {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &RootCertStore::empty(),
                &[],
                UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
                default_provider().signature_verification_algorithms.all,
            )
        };
        let Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) =
            missed(u64::MAX)
        else {
            return None;
        };
        let from = match missed(0) {
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
                not_before.as_secs()
            }
            // From 1970 on, or earlier.
            _ => 0,
        };
        Some(Self { from, to: not_after.as_secs() })
    }

    /// Whether it was never to be renewed.
    pub fn is_endless(&self) -> bool {
        self.to - self.from > LONGEST_S
    }

    /// Whether it is valid at this time.
    pub fn holds(&self, now: TimeMs) -> bool {
        (self.from..=self.to).contains(&(now.0 / 1_000))
    }

    /// Whether its end is before this time.
    pub fn is_over(&self, now: TimeMs) -> bool {
        now.0 / 1_000 > self.to
    }

    /// How long it is valid from when it was issued on.
    pub fn life(&self) -> Duration {
        Duration::from_secs(self.to.saturating_sub(self.from + BACKDATED_S))
    }

    /// When so many thousandths of its life are over.
    pub fn after(&self, thousandths: u64) -> TimeMs {
        TimeMs(
            (self.to * 1_000).saturating_sub(self.life().as_millis() as u64 / 1_000 * (1_000 - thousandths)),
        )
    }

    /// Makes it that of a certificate to be issued.
    pub(super) fn set(&self, params: &mut CertificateParams) {
        let at = |seconds| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        (params.not_before, params.not_after) = (at(self.from), at(self.to));
    }
}

/// A time as an operator reads it.
pub fn utc(seconds: u64) -> String {
    let time = date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.min(Validity::ENDLESS.to));
    let text = time.to_string();
    format!("{} UTC", text.split('.').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, PublicKey, der};
    use stint_protocol::NodeId;

    #[test]
    fn a_certificate_says_from_when_until_when_it_is_valid() {
        let now = TimeMs(1_800_000_000_900);
        let month = Duration::from_secs(30 * 24 * 3_600);
        let validity = Validity::starting(now, month);
        let authority = Authority::make().unwrap();
        for given in [validity, Validity::ENDLESS, Validity { from: 1_600_000_000, to: 1_600_000_001 }] {
            let made = authority.certify_peer(&PublicKey([7; 32]), NodeId(1), None, "a:1", given).unwrap();
            assert_eq!(Validity::read(&der(&made)), Some(given));
        }
        assert_eq!(Validity::read(&vec![7; 200].into()), None);
        assert!(validity.holds(now) && validity.holds(TimeMs(now.0 - 3_500_000)), "clocks differ");
        assert!(!validity.holds(TimeMs(now.0 - 3_700_000)));
        assert_eq!((validity.life(), validity.is_endless()), (month, false));
        let after = |thousandths| (validity.after(thousandths).0 - now.0 / 1_000 * 1_000) / 86_400_000;
        assert_eq!((after(500), after(800), after(1_000)), (15, 24, 30));
        assert!(!validity.is_over(validity.after(1_000)) && Validity::ENDLESS.is_endless());
        assert_eq!(utc(0), "1970-01-01 0:00:00 UTC");
    }
}
