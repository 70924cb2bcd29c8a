//! Certificate authorities and server certificates: made, read back from text, and judged. Where they are kept and when
//! they are renewed is decided elsewhere.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How long an authority lasts.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a server's certificate lasts, if its authority does.
pub const LEAF_LIFE: Duration = Duration::from_secs(60 * 24 * 3600);
/// Certificates are valid from so long before they were made: clocks of API servers may be behind.
pub const BACKDATED: Duration = Duration::from_secs(3600);

/// What is wrong with a certificate, or why none could be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// No certificate or key could be made.
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
    /// It is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// It cannot be read.
    #[error("{what} cannot be read: {message}")]
    Damaged {
        /// Which part.
        what: &'static str,
        /// The parser's words.
        message: String,
    },
    /// Its key is another's.
    #[error("the key is not that of the certificate")]
    OtherKey,
    /// It is no authority.
    #[error("the certificate is not an authority's")]
    NoAuthority,
    /// The wall clock is past its end.
    #[error("it has expired")]
    Expired,
    /// The wall clock is before its beginning.
    #[error("it is not valid yet: this clock, or that of who made it, is wrong")]
    NotYet,
    /// It does not hold for the name, or is not the authority's.
    #[error("it does not hold for {name}: {source}")]
    Untrusted {
        /// The server's name.
        name: String,
        /// The verifier's words.
        source: rustls::Error,
    },
}

impl CertificateError {
    /// Whether another certificate can be made in its place.
    pub const fn retryable(&self) -> bool {
        !matches!(self, Self::Make(_))
    }

    /// Stable word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Make(_) => "certificate_make",
            Self::Missing(_) => "certificate_missing",
            Self::Damaged { .. } => "certificate_damaged",
            Self::OtherKey => "certificate_key",
            Self::NoAuthority => "certificate_authority",
            Self::Expired => "certificate_expired",
            Self::NotYet => "certificate_not_yet",
            Self::Untrusted { .. } => "certificate_untrusted",
        }
    }
}

/// From when to when a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub begins: SystemTime,
    /// The last moment.
    pub ends: SystemTime,
}

impl Validity {
    /// Whether it holds at `now`.
    ///
    /// # Errors
    /// It has expired or has not begun.
    pub fn check(&self, now: SystemTime) -> Result<(), CertificateError> {
        if now < self.begins {
            return Err(CertificateError::NotYet);
        }
        if now > self.ends { Err(CertificateError::Expired) } else { Ok(()) }
    }

    /// Whether a sixth of its life or less is left.
    pub fn is_due(&self, now: SystemTime) -> bool {
        let life = self.ends.duration_since(self.begins).unwrap_or_default();
        now + life / 6 >= self.ends
    }

    /// How long ago it was made.
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.begins + BACKDATED).unwrap_or_default()
    }

    fn new(now: SystemTime, life: Duration) -> Self {
        Self { begins: whole_seconds(now - BACKDATED), ends: whole_seconds(now + life) }
    }
}

/// Certificates know seconds only.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// Whom API servers trust, without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The certificate as text.
    pub pem: String,
    /// Its time.
    pub validity: Validity,
    der: CertificateDer<'static>,
}

impl Anchor {
    /// Reads an authority's certificate.
    ///
    /// # Errors
    /// It is no certificate, or not an authority's.
    pub fn read(pem: &[u8]) -> Result<Self, CertificateError> {
        let damaged =
            |message: String| CertificateError::Damaged { what: "the authority's certificate", message };
        let der = CertificateDer::from_pem_slice(pem).map_err(|e| damaged(e.to_string()))?;
        let pem = String::from_utf8(pem.to_vec()).map_err(|e| damaged(e.to_string()))?;
        let (validity, is_authority) = facts(&der).map_err(damaged)?;
        if !is_authority {
            return Err(CertificateError::NoAuthority);
        }
        Ok(Self { pem, validity, der })
    }
}

/// Who signs.
pub struct Authority {
    /// What of it is public.
    pub anchor: Anchor,
    key: KeyPair,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("validity", &self.anchor.validity).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// The system gave no randomness.
    pub fn make(now: SystemTime) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let validity = Validity::new(now, AUTHORITY_LIFE);
        let mut params = CertificateParams::default();
        let born = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        // Two authorities that overlap have names of their own.
        params.distinguished_name = common_name(&format!("vnpu webhook authority {born}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.not_before = validity.begins.into();
        params.not_after = validity.ends.into();
        let certificate = params.self_signed(&key)?;
        let anchor = Anchor { pem: certificate.pem(), validity, der: certificate.der().clone() };
        Ok(Self { anchor, key })
    }

    /// Reads one back.
    ///
    /// # Errors
    /// Either part is damaged, or they do not belong together.
    pub fn read(certificate: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let anchor = Anchor::read(certificate)?;
        let damaged = |message: String| CertificateError::Damaged { what: "the authority's key", message };
        let text = std::str::from_utf8(key).map_err(|e| damaged(e.to_string()))?;
        let key = KeyPair::from_pem(text).map_err(|e| damaged(e.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(&anchor.der).map_err(|e| damaged(e.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(CertificateError::OtherKey);
        }
        Ok(Self { anchor, key })
    }

    /// Its key as text.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// A server's certificate for `names`, which lasts no longer than the authority.
    ///
    /// # Errors
    /// A name that no certificate can have, or no randomness.
    pub fn sign(&self, names: &[String], now: SystemTime) -> Result<Leaf, CertificateError> {
        let key = KeyPair::generate()?;
        let mut validity = Validity::new(now, LEAF_LIFE);
        validity.ends = validity.ends.min(self.anchor.validity.ends);
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = common_name("vnpu webhook");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = validity.begins.into();
        params.not_after = validity.ends.into();
        let issuer = Issuer::from_ca_cert_der(&self.anchor.der, &self.key)?;
        let certificate = params.signed_by(&key, &issuer)?;
        Leaf::read(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// A server's certificate and key.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The certificate as text.
    pub pem: String,
    /// The key as text.
    pub key_pem: String,
    /// Its time.
    pub validity: Validity,
    /// For the TLS server.
    pub certified: Arc<CertifiedKey>,
}

impl Leaf {
    /// Reads one back.
    ///
    /// # Errors
    /// Either part is damaged, or they do not belong together.
    pub fn read(certificate: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let damaged =
            |message: String| CertificateError::Damaged { what: "the server's certificate", message };
        let der = CertificateDer::from_pem_slice(certificate).map_err(|e| damaged(e.to_string()))?;
        let (validity, _) = facts(&der).map_err(damaged)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|e| damaged(e.to_string()));
        let (pem, key_pem) = (text(certificate)?, text(key)?);
        let damaged_key = |message: String| CertificateError::Damaged { what: "the server's key", message };
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| damaged_key(e.to_string()))?;
        let certified = CertifiedKey::from_der(vec![der], key, &ring::default_provider());
        let certified = Arc::new(certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CertificateError::OtherKey,
            other => damaged_key(other.to_string()),
        })?);
        Ok(Self { pem, key_pem, validity, certified })
    }

    /// Whether clients that trust `anchor` take it for all of `names` at `now`.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, anchor: &Anchor, names: &[String], now: SystemTime) -> Result<(), CertificateError> {
        self.validity.check(now)?;
        let untrusted = |name: &str, source| CertificateError::Untrusted { name: name.to_owned(), source };
        let roots = roots(std::slice::from_ref(anchor)).map_err(|e| untrusted("its authority", e))?;
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| untrusted("its authority", rustls::Error::General(e.to_string())))?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let Some(der) = self.certified.cert.first() else {
            return Err(CertificateError::Missing("the server's certificate"));
        };
        for name in names {
            let server = ServerName::try_from(name.as_str())
                .map_err(|e| untrusted(name, rustls::Error::General(e.to_string())))?;
            verifier
                .verify_server_cert(der, &[], &server, &[], UnixTime::since_unix_epoch(since))
                .map_err(|e| untrusted(name, e))?;
        }
        Ok(())
    }
}

/// What a client trusts that trusts these.
///
/// # Errors
/// One of them cannot be trusted by anybody.
pub fn roots(anchors: &[Anchor]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(anchor.der.clone())?;
    }
    Ok(roots)
}

/// When a certificate holds, and whether it is an authority's.
fn facts(der: &CertificateDer<'_>) -> Result<(Validity, bool), String> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|e| e.to_string())?;
    if !rest.is_empty() {
        return Err("there is something behind it".to_owned());
    }
    let time = |seconds: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    let validity = Validity {
        begins: time(certificate.validity().not_before.timestamp()),
        ends: time(certificate.validity().not_after.timestamp()),
    };
    Ok((validity, certificate.is_ca()))
}
