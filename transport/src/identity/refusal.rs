//! Why a certificate is not believed, in words that say what to do.

use rustls::{AlertDescription, CertificateError};

/// Why one side of a handshake does not take the other.
///
/// The side that refuses tells the other only an alert of TLS; [`Refusal::from_alert`] makes of it what it can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// None was sent.
    #[error(
        "it shows no certificate: every node of a cluster needs one; set cluster.secretFile or cluster.tls on it"
    )]
    Missing,
    /// Its time is over.
    #[error("its certificate has expired: is its clock right, and is its file (cluster.tls.cert) renewed?")]
    Expired,
    /// Its time has not come.
    #[error(
        "its certificate is not valid yet: the clocks of the two nodes differ by more than an hour, or one is wrong"
    )]
    NotYetValid,
    /// Signed by nobody whom we believe.
    #[error(
        "its certificate is not of this cluster: give both nodes the same cluster.secretFile (or cluster.tls.ca)"
    )]
    Foreign,
    /// It is signed by the peers' authority and claims to be a seed's, or the other way round.
    #[error(
        "its certificate claims a role that its authority cannot give: only a certificate made of the seed secret is a seed's"
    )]
    Role,
    /// A certificate from a file that says neither.
    #[error(
        "its certificate names no role: it needs exactly one of the DNS names {} and {}",
        super::SEED_NAME,
        super::PEER_NAME
    )]
    NoRole,
    /// Not a certificate, or one for another purpose.
    #[error("its certificate is malformed, not signed right, or not made for TLS clients and servers")]
    Malformed,
    /// The two sides have no protocol in common.
    #[error(
        "it speaks another version of the lanes' protocol: install the same release of darter on both nodes"
    )]
    Version,
}

impl Refusal {
    pub(super) fn of_webpki(error: &webpki::Error) -> Self {
        match error {
            webpki::Error::CertExpired { .. } | webpki::Error::InvalidCertValidity => Self::Expired,
            webpki::Error::CertNotValidYet { .. } => Self::NotYetValid,
            webpki::Error::UnknownIssuer => Self::Foreign,
            _ => Self::Malformed,
        }
    }

    /// What an alert of TLS says; `None` for those that are about nothing of this.
    #[must_use]
    pub fn from_alert(alert: AlertDescription) -> Option<Self> {
        Some(match alert {
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => Self::Missing,
            AlertDescription::CertificateExpired => Self::Expired,
            AlertDescription::UnknownCA => Self::Foreign,
            AlertDescription::AccessDenied => Self::Role,
            AlertDescription::CertificateUnknown => Self::NoRole,
            AlertDescription::BadCertificate
            | AlertDescription::DecryptError
            | AlertDescription::UnsupportedCertificate => Self::Malformed,
            AlertDescription::NoApplicationProtocol | AlertDescription::ProtocolVersion => Self::Version,
            _ => return None,
        })
    }

    /// What TLS makes of it; each is another alert, but for the two about time.
    pub(super) fn to_tls(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(match self {
            Self::Expired => CertificateError::Expired,
            Self::NotYetValid => CertificateError::NotValidYet,
            Self::Foreign => CertificateError::UnknownIssuer,
            Self::Role => CertificateError::ApplicationVerificationFailure,
            Self::NoRole => CertificateError::Other(rustls::OtherError(std::sync::Arc::new(self))),
            Self::Missing => return rustls::Error::NoCertificatesPresented,
            Self::Malformed | Self::Version => CertificateError::BadEncoding,
        })
    }

    /// What an error of TLS means, when it is one of ours about the other side's certificate.
    #[must_use]
    pub fn from_tls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::NotValidYet) => Some(Self::NotYetValid),
            rustls::Error::InvalidCertificate(certificate) => {
                Self::from_alert(AlertDescription::from(certificate.clone()))
            }
            rustls::Error::NoCertificatesPresented => Some(Self::Missing),
            rustls::Error::NoApplicationProtocol => Some(Self::Version),
            rustls::Error::PeerIncompatible(_) => Some(Self::Version),
            _ => None,
        }
    }
}
