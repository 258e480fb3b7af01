//! [`TrustRoots`]: authorities a host trusts beside those of its machine.

use std::fmt;

/// Certificates of authorities that servers may be signed by, beside the machine's own. The default adds none.
#[derive(Clone, Default)]
pub struct TrustRoots {
    pem: Vec<Vec<u8>>,
}

impl TrustRoots {
    /// No authority but the machine's own.
    #[must_use]
    pub const fn none() -> Self {
        Self { pem: Vec::new() }
    }

    /// Adds the certificates of a text in PEM (RFC 7468). It is read when the layer is built, which says if it is none.
    ///
    /// # Security
    /// Whoever holds the key of such an authority can stand in for every server that this layer talks to.
    #[must_use]
    pub fn with_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.pem.push(pem.into());
        self
    }

    /// Every text in PEM.
    #[cfg_attr(not(any(feature = "http", feature = "tls")), expect(dead_code, reason = "no layer that uses TLS"))]
    pub(super) fn pem(&self) -> impl Iterator<Item = &[u8]> {
        self.pem.iter().map(Vec::as_slice)
    }
}

impl fmt::Debug for TrustRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustRoots").field("texts", &self.pem.len()).finish()
    }
}
