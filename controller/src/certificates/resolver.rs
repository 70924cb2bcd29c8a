//! The certificate that the TLS server shows now. It is swapped between handshakes; connections that are open keep
//! theirs.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::RootCertStore;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// A certificate and who trusts it.
#[derive(Debug)]
pub struct Shown {
    /// The certificate and its key.
    pub certified: Arc<CertifiedKey>,
    /// What API servers are told to trust.
    pub roots: Arc<RootCertStore>,
}

/// The place of the certificate. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Resolver {
    shown: Arc<ArcSwapOption<Shown>>,
}

impl Resolver {
    /// Shows this from the next handshake on.
    pub fn show(&self, shown: Shown) {
        self.shown.store(Some(Arc::new(shown)));
    }

    /// What is shown; nothing before the first certificate is there.
    pub fn shown(&self) -> Option<Arc<Shown>> {
        self.shown.load_full()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown.load().as_ref().map(|shown| Arc::clone(&shown.certified))
    }
}
