//! Whether a token endpoint belongs to the page that the owner is sent to.
//!
//! Whoever may write a connection is not who consents. With a token endpoint elsewhere, the code that an owner's consent at the
//! genuine page gives would be sent there, with the verifier, which is all it takes to have the grant.

use ap_core::connection::{OAuthApp, OAuthGrant, Origin};
use url::{Host, Url};

/// Pairs that the host approved: of the page, and of the token endpoint.
#[derive(Debug, Default)]
pub(crate) struct Providers(Vec<(Origin, Origin)>);

impl Providers {
    pub(crate) const fn new(approved: Vec<(Origin, Origin)>) -> Self {
        Self(approved)
    }

    /// Whether a project may send its owners to the page of `app` and their codes to its token endpoint.
    ///
    /// # Errors
    /// What is wrong, and how to mend it.
    pub(crate) fn check(&self, app: &OAuthApp) -> Result<(), String> {
        let (OAuthGrant::AuthorizationCode, Some(page)) = (app.grant, &app.authorization_url) else { return Ok(()) };
        let (Ok(page), Ok(token)) = (Url::parse(page), Url::parse(&app.token_url)) else {
            return Err("is no URL".to_owned());
        };
        // A callback must name the issuer then, so a page of another provider gets nobody's code to this one.
        let issuer = app.issuer.as_deref().and_then(|issuer| Url::parse(issuer).ok());
        let together = is_one_site(&page, &token)
            || issuer.is_some_and(|issuer| is_one_site(&issuer, &token))
            || is_known(&page, &token)
            || self.has_approved(&page, &token);
        if together {
            return Ok(());
        }
        Err(format!(
            "must be at the provider that `authorizationUrl` leads to, which is `{}`, or at `issuer`: what an owner consents to \
             would be sent elsewhere; if `{}` belongs to that provider, the host says so when it builds the runtime \
             (`oauth_provider`)",
            page.host_str().unwrap_or_default(),
            token.host_str().unwrap_or_default(),
        ))
    }

    fn has_approved(&self, page: &Url, token: &Url) -> bool {
        let (Ok(page), Ok(token)) = (Origin::of_url(page.as_str()), Origin::of_url(token.as_str())) else {
            return false;
        };
        self.0.iter().any(|(of_page, of_token)| *of_page == page && *of_token == token)
    }
}

/// Whether both are under one name that somebody registered (Public Suffix List, with its private part), or at one address.
fn is_one_site(one: &Url, other: &Url) -> bool {
    match (one.host(), other.host()) {
        (Some(Host::Domain(one)), Some(Host::Domain(other))) => {
            let registered = |name: &str| psl::domain_str(name.trim_end_matches('.')).map(str::to_owned);
            one == other || registered(one).is_some_and(|name| registered(other) == Some(name))
        }
        (one, other) => one.is_some() && one == other,
    }
}

fn is_known(page: &Url, token: &Url) -> bool {
    let of = |url: &Url| (url.scheme() == "https").then(|| url.host_str().unwrap_or_default().to_owned());
    let (Some(page), Some(token)) = (of(page), of(token)) else { return false };
    KNOWN.contains(&(page.as_str(), token.as_str()))
}

/// Providers whose token endpoint is under another name than their page, by host.
const KNOWN: [(&str, &str); 7] = [
    ("accounts.google.com", "oauth2.googleapis.com"),
    ("accounts.google.com", "www.googleapis.com"),
    ("app-eu1.hubspot.com", "api.hubapi.com"),
    ("app.hubspot.com", "api.hubapi.com"),
    ("twitter.com", "api.x.com"),
    ("www.dropbox.com", "api.dropboxapi.com"),
    ("x.com", "api.twitter.com"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn app(page: &str, token: &str, issuer: Option<&str>) -> OAuthApp {
        let json = serde_json::json!({
            "clientId": "c", "tokenUrl": token, "authorizationUrl": page, "redirectUrl": "https://host.example/back",
            "issuer": issuer,
        });
        serde_json::from_value(json).expect("an app")
    }

    #[test]
    fn a_token_endpoint_is_at_the_provider_of_the_page() {
        let providers = Providers::default();
        for (page, token) in [
            ("https://id.acme.com/auth", "https://id.acme.com/token"),
            ("https://login.acme.com/auth", "https://api.acme.com/token"),
            ("https://acme.co.uk/auth", "https://api.acme.co.uk/token"),
            ("https://accounts.google.com/o/oauth2/v2/auth", "https://oauth2.googleapis.com/token"),
            ("https://www.dropbox.com/oauth2/authorize", "https://api.dropboxapi.com/oauth2/token"),
            ("https://www.paypal.com/signin/authorize", "https://api-m.paypal.com/v1/oauth2/token"),
            ("http://127.0.0.1:8080/auth", "http://127.0.0.1:9090/token"),
            ("http://localhost/auth", "http://localhost:1/token"),
        ] {
            assert_eq!(providers.check(&app(page, token, None)), Ok(()), "{page} {token}");
        }
        for (page, token) in [
            ("https://accounts.google.com/auth", "https://evil.example/token"),
            ("https://accounts.google.com/auth", "https://evil.googleapis.com/token"),
            ("https://accounts.google.com/auth", "http://oauth2.googleapis.com/token"),
            ("https://accounts.google.com/auth", "https://accounts.google.com.evil.example/token"),
            ("https://acme.co.uk/auth", "https://evil.co.uk/token"),
            ("https://acme.github.io/auth", "https://evil.github.io/token"),
            ("https://acme.myshopify.com/auth", "https://evil.myshopify.com/token"),
            ("https://192.0.2.1/auth", "https://192.0.2.2/token"),
            ("https://com/auth", "https://evil.com/token"),
            ("https://localhost/auth", "https://evil.localhost.example/token"),
        ] {
            let reason = providers.check(&app(page, token, None)).expect_err(token);
            assert!(reason.contains("oauth_provider"), "{reason}");
        }
    }

    #[test]
    fn an_issuer_that_a_callback_must_name_or_the_host_may_say_otherwise() {
        let page = "https://login.acme.com/auth";
        let issued = app(page, "https://tokens.acme-id.example/token", Some("https://acme-id.example"));
        assert_eq!(Providers::default().check(&issued), Ok(()));
        assert!(Providers::default().check(&app(page, "https://evil.example", Some("https://acme-id.com"))).is_err());
        let origin = |url: &str| Origin::of_url(url).expect("an origin");
        let approved = Providers::new(vec![(origin("https://login.acme.com"), origin("https://acme-tokens.example"))]);
        assert_eq!(approved.check(&app(page, "https://acme-tokens.example/t", None)), Ok(()));
        assert!(approved.check(&app(page, "https://acme-tokens.example:8443/t", None)).is_err());
        assert!(approved.check(&app("https://other.example", "https://acme-tokens.example/t", None)).is_err());
    }
}
