//! Whom to trust: the image's certificates, as one file in PEM.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::TlsError;

/// A client's settings: TLS 1.2 or 1.3, no certificate of its own.
#[derive(Debug, Clone)]
pub struct Trust(pub(crate) Arc<ClientConfig>);

impl Trust {
    /// Reads the authorities of `bundle`. One that cannot be parsed is passed over: an old
    /// one among many must not cut the machine off.
    ///
    /// # Errors
    /// [`TlsError::Bundle`] if there is none that can be used.
    pub fn read(bundle: &Path) -> Result<Self, TlsError> {
        let fail = |why: String| TlsError::Bundle {
            path: bundle.to_owned(),
            why,
        };
        let mut roots = RootCertStore::empty();
        let certificates =
            CertificateDer::pem_file_iter(bundle).map_err(|error| fail(error.to_string()))?;
        // What follows a broken block is not read: there is no telling where it would begin.
        roots.add_parsable_certificates(certificates.map_while(Result::ok));
        if roots.is_empty() {
            return Err(fail("there is none that can be used".to_owned()));
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }
}
