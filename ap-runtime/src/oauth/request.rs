//! What is sent to a provider.

use ap_core::connection::{ClientAuth, OAuthApp};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

/// What is asked of the token endpoint.
#[derive(Clone, Copy)]
pub(crate) enum TokenRequest<'a> {
    /// RFC 6749 §4.4.
    ClientCredentials,
    /// RFC 6749 §4.1.3, with RFC 7636 §4.5.
    Code { code: &'a SecretString, verifier: &'a SecretString },
    /// RFC 6749 §6. The scope stays what it was.
    Refresh { token: &'a SecretString },
}

impl TokenRequest<'_> {
    /// The form (RFC 6749 appendix B), with the client in it unless that goes into the header.
    pub(crate) fn form(&self, app: &OAuthApp, client_secret: Option<&SecretString>) -> Zeroizing<Vec<u8>> {
        let mut form = Form::default();
        match self {
            Self::ClientCredentials => {
                form.push("grant_type", "client_credentials");
                app.scope.iter().for_each(|scope| form.push("scope", scope));
                app.parameters.iter().for_each(|(name, value)| form.push(name, value));
            }
            Self::Code { code, verifier } => {
                form.push("grant_type", "authorization_code");
                form.push("code", code.expose_secret());
                app.redirect_url.iter().for_each(|url| form.push("redirect_uri", url));
                form.push("code_verifier", verifier.expose_secret());
            }
            Self::Refresh { token } => {
                form.push("grant_type", "refresh_token");
                form.push("refresh_token", token.expose_secret());
            }
        }
        match client_secret {
            Some(secret) if app.client_auth == ClientAuth::Body => {
                form.push("client_id", &app.client_id);
                form.push("client_secret", secret.expose_secret());
            }
            Some(_) => {}
            // A public client says who it is (RFC 6749 §3.2.1).
            None => form.push("client_id", &app.client_id),
        }
        form.0
    }
}

/// A form whose buffer never grows by itself, and so leaves no copy behind.
struct Form(Zeroizing<Vec<u8>>);

impl Default for Form {
    fn default() -> Self {
        Self(Zeroizing::new(Vec::new()))
    }
}

impl Form {
    fn push(&mut self, name: &str, value: &str) {
        // At most three bytes for one.
        let needed = self.0.len() + 2 + 3 * (name.len() + value.len());
        if self.0.capacity() < needed {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        if !self.0.is_empty() {
            self.0.push(b'&');
        }
        for (text, after) in [(name, Some(b'=')), (value, None)] {
            form_urlencoded::byte_serialize(text.as_bytes()).for_each(|part| self.0.extend_from_slice(part.as_bytes()));
            self.0.extend(after);
        }
    }
}

/// A client id or secret as HTTP Basic wants it (RFC 6749 §2.3.1).
pub(crate) fn basic_part(text: &str) -> Zeroizing<String> {
    let mut encoded = Zeroizing::new(String::with_capacity(3 * text.len()));
    form_urlencoded::byte_serialize(text.as_bytes()).for_each(|part| encoded.push_str(part));
    encoded
}

/// Where the owner is sent (RFC 6749 §4.1.1), with PKCE S256 (RFC 7636 §4.3). `None` for a client without such an address.
pub(crate) fn authorization_url(app: &OAuthApp, state: &str, verifier: &SecretString) -> Option<String> {
    let (address, redirect) = (app.authorization_url.as_ref()?, app.redirect_url.as_ref()?);
    let mut url = Url::parse(address).ok()?;
    let set =
        ["response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge", "code_challenge_method"];
    // What the address brings along must not contradict what is set here.
    let kept: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| !set.contains(&name.as_ref()) && !app.parameters.contains_key(name.as_ref()))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    {
        let mut query = url.query_pairs_mut();
        query.clear().extend_pairs(kept).extend_pairs(&app.parameters);
        query.append_pair("response_type", "code");
        query.append_pair("client_id", &app.client_id);
        query.append_pair("redirect_uri", redirect);
        if let Some(scope) = &app.scope {
            query.append_pair("scope", scope);
        }
        query.append_pair("state", state);
        query.append_pair("code_challenge", &challenge(verifier));
        query.append_pair("code_challenge_method", "S256");
    }
    Some(url.into())
}

/// RFC 7636 §4.2.
fn challenge(verifier: &SecretString) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose_secret().as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ap_core::connection::OAuthGrant;

    use super::*;

    pub(super) fn app(client_auth: ClientAuth) -> OAuthApp {
        OAuthApp {
            grant: OAuthGrant::AuthorizationCode,
            client_id: "my client".to_owned(),
            client_auth,
            authorization_url: Some("https://id.example/authorize?tenant=a&state=theirs".to_owned()),
            token_url: "https://id.example/token".to_owned(),
            redirect_url: Some("https://host.example/callback?x=1".to_owned()),
            scope: Some("read write".to_owned()),
            issuer: None,
            parameters: BTreeMap::from([("prompt".to_owned(), "consent".to_owned())]),
        }
    }

    fn form(request: TokenRequest<'_>, auth: ClientAuth, secret: Option<&SecretString>) -> String {
        String::from_utf8(request.form(&app(auth), secret).to_vec()).expect("ASCII")
    }

    #[test]
    fn forms_are_those_of_the_rfc() {
        let (secret, token): (SecretString, SecretString) = ("s&cret=1".into(), "r\u{20}t+k/n".into());
        assert_eq!(
            form(TokenRequest::Refresh { token: &token }, ClientAuth::Body, Some(&secret)),
            "grant_type=refresh_token&refresh_token=r+t%2Bk%2Fn&client_id=my+client&client_secret=s%26cret%3D1"
        );
        assert_eq!(
            form(TokenRequest::Refresh { token: &token }, ClientAuth::Header, Some(&secret)),
            "grant_type=refresh_token&refresh_token=r+t%2Bk%2Fn"
        );
        let code = TokenRequest::Code { code: &token, verifier: &secret };
        assert_eq!(
            form(code, ClientAuth::Header, None),
            "grant_type=authorization_code&code=r+t%2Bk%2Fn&redirect_uri=https%3A%2F%2Fhost.example%2Fcallback%3Fx%3D1\
             &code_verifier=s%26cret%3D1&client_id=my+client"
        );
        assert_eq!(
            form(TokenRequest::ClientCredentials, ClientAuth::Header, Some(&secret)),
            "grant_type=client_credentials&scope=read+write&prompt=consent"
        );
        assert_eq!(*basic_part("a:b c"), "a%3Ab+c");
    }

    #[test]
    fn the_challenge_is_that_of_rfc_7636() {
        let verifier = SecretString::from("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert_eq!(challenge(&verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn the_owner_is_sent_with_what_is_set_here_and_nothing_twice() {
        let verifier = SecretString::from("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        let url = authorization_url(&app(ClientAuth::Header), "ours", &verifier).expect("an address");
        let url = Url::parse(&url).expect("a URL");
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let value = |wanted: &str| {
            let mut found = pairs.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
            (found.next(), found.next())
        };
        assert_eq!(value("state"), (Some("ours"), None));
        assert_eq!(value("tenant"), (Some("a"), None));
        assert_eq!(value("prompt"), (Some("consent"), None));
        assert_eq!(value("redirect_uri"), (Some("https://host.example/callback?x=1"), None));
        assert_eq!(value("code_challenge_method"), (Some("S256"), None));
        assert_eq!(value("response_type"), (Some("code"), None));
        assert!(!url.as_str().contains("dBjft"), "{url}");
        let without = OAuthApp { authorization_url: None, ..app(ClientAuth::Header) };
        assert_eq!(authorization_url(&without, "ours", &verifier), None);
    }
}
