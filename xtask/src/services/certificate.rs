//! Certificates for a server that tests connect to by TLS, made with `openssl`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{find_program, succeed};

/// A server's certificate for the name `localhost`, who signed it, and somebody who did not.
pub(super) struct Certificates {
    pub(super) authority: PathBuf,
    pub(super) other_authority: PathBuf,
    pub(super) server: PathBuf,
    pub(super) server_key: PathBuf,
}

impl Certificates {
    /// Makes new ones, valid for a day, in `directory`.
    pub(super) fn make(directory: &Path) -> Result<Self, String> {
        let openssl =
            find_program("openssl", &[]).ok_or("`openssl` is missing: it makes the certificates for tests")?;
        let file = |name: &str| directory.join(name);
        let authority = |name: &str| {
            let (key, certificate) = (file(&format!("{name}.key")), file(&format!("{name}.pem")));
            let mut command = new_key(&openssl, &key);
            command.args(["-x509", "-days", "1", "-subj", &format!("/CN=ap-runtime {name}")]);
            command.args(["-addext", "keyUsage=critical,keyCertSign", "-out"]).arg(&certificate);
            succeed(&mut command)?;
            Ok::<_, String>((key, certificate))
        };
        let (authority_key, authority_certificate) = authority("authority")?;
        let (_, other_authority) = authority("other-authority")?;
        let (server_key, request, server) = (file("server.key"), file("server.csr"), file("server.pem"));
        succeed(new_key(&openssl, &server_key).args(["-subj", "/CN=localhost", "-out"]).arg(&request))?;
        let extensions = file("server.ext");
        fs::write(&extensions, "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n")
            .map_err(|error| format!("`{}`: {error}", extensions.display()))?;
        let mut sign = Command::new(&openssl);
        sign.args(["x509", "-req", "-days", "1", "-CAcreateserial", "-CA"]).arg(&authority_certificate);
        sign.arg("-CAkey").arg(&authority_key).arg("-in").arg(&request).arg("-extfile").arg(&extensions);
        succeed(sign.arg("-out").arg(&server))?;
        Ok(Self { authority: authority_certificate, other_authority, server, server_key })
    }
}

/// `openssl req` with a new key on P-256 that no password guards.
fn new_key(openssl: &Path, key: &Path) -> Command {
    let mut command = Command::new(openssl);
    command.args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"]).arg(key);
    command
}
