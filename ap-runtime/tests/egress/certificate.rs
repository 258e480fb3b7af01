//! A certificate for `localhost` by an authority of the test, and TLS servers that show it.

use std::{path::Path, process::Command, sync::Arc};

use ap_runtime::egress::trust::TrustRoots;
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

/// A server's certificate for the name `localhost`, and who signed it.
pub(crate) struct Certificate {
    authority: Vec<u8>,
    chain: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Certificate {
    /// A new one, valid for a day, made with `openssl`.
    pub(crate) fn make() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str| directory.path().join(name);
        let openssl = |arguments: &[&str]| {
            let output =
                Command::new("openssl").args(arguments).current_dir(directory.path()).output().expect("openssl");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let authority = [
            "-keyout",
            "ca.key",
            "-x509",
            "-days",
            "1",
            "-subj",
            "/CN=test authority",
            "-addext",
            "keyUsage=critical,keyCertSign",
            "-out",
            "ca.pem",
        ];
        openssl(&[&["req"], &key[..], &authority[..]].concat());
        openssl(
            &[&["req"], &key[..], &["-keyout", "server.key", "-subj", "/CN=localhost", "-out", "server.csr"]].concat(),
        );
        std::fs::write(file("server.ext"), "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n")
            .expect("a file");
        openssl(&[
            "x509",
            "-req",
            "-days",
            "1",
            "-CAcreateserial",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-in",
            "server.csr",
            "-extfile",
            "server.ext",
            "-out",
            "server.pem",
        ]);
        let read = |path: &Path| std::fs::read(path).expect("a file");
        let chain = CertificateDer::from_pem_slice(&read(&file("server.pem"))).expect("a certificate");
        Self { authority: read(&file("ca.pem")), chain, key: read(&file("server.key")) }
    }

    pub(crate) fn roots(&self) -> TrustRoots {
        TrustRoots::default().with_pem(self.authority.clone())
    }

    /// A server that offers these versions of TLS and these protocols (ALPN).
    pub(crate) fn acceptor(&self, versions: &[&'static SupportedProtocolVersion], protocols: &[&str]) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        let key = PrivateKeyDer::from_pem_slice(&self.key).expect("a key");
        let mut config = builder.with_no_client_auth().with_single_cert(vec![self.chain.clone()], key).expect("a pair");
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}
