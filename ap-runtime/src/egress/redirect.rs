//! One hop of a request, and which hop follows it. Pure: no connection is made here.

use ap_core::{
    capability::{HttpError, HttpRequest},
    time::Timestamp,
};
use ap_crypto::redact::Redactor;
use http::{HeaderMap, Method, StatusCode, header};

use super::{
    credential::{CredentialUse, PreparedRequest, RunCredentials},
    guard::EgressPolicy,
    header::{parse_headers, parse_method},
    url::CheckedUrl,
};

/// A request as its author wrote it, at one hop of a chain of redirects.
#[derive(Debug)]
pub(super) struct Hop {
    method: Method,
    request: PreparedRequest,
    tls13: bool,
    /// An earlier hop was another origin: nothing secret is sent any more.
    dropped: bool,
    /// A credential was sent at this hop or before.
    in_play: bool,
    number: u8,
}

/// A hop with its credentials in place.
#[derive(Debug)]
pub(super) struct FilledHop {
    pub(super) method: Method,
    pub(super) request: PreparedRequest,
    pub(super) uses: Vec<CredentialUse>,
    /// It carries a credential, placed or written by the author.
    pub(super) confidential: bool,
    /// Nothing older than TLS 1.3 will do.
    pub(super) tls13: bool,
}

impl Hop {
    pub(super) fn first(request: HttpRequest, policy: &EgressPolicy) -> Result<Self, HttpError> {
        let url = CheckedUrl::parse(&request.url, policy)?;
        let (method, headers) = (parse_method(&request.method)?, parse_headers(&request.headers)?);
        let tls13 = request.require_tls13;
        let request = PreparedRequest {
            method: method.clone(),
            at: Timestamp::EPOCH,
            url,
            headers,
            body: request.body,
            credential: request.credential,
            signatures: Vec::new(),
        };
        Ok(Self { method, request, tls13, dropped: false, in_play: false, number: 0 })
    }

    /// How many redirects led here.
    pub(super) const fn number(&self) -> u8 {
        self.number
    }

    /// Where it goes.
    pub(super) const fn url(&self) -> &CheckedUrl {
        &self.request.url
    }

    /// Puts the credentials in, unless they were dropped on the way; signatures are of `now`.
    pub(super) fn fill(&mut self, credentials: &RunCredentials, now: Timestamp) -> Result<FilledHop, HttpError> {
        let mut request = PreparedRequest { method: self.method.clone(), at: now, ..self.request.clone() };
        let uses = if self.dropped { Vec::new() } else { credentials.apply(&mut request)? };
        let confidential = !uses.is_empty() || SENSITIVE.iter().any(|name| request.headers.contains_key(name));
        self.in_play |= confidential;
        Ok(FilledHop { method: self.method.clone(), request, uses, confidential, tls13: self.tls13 })
    }

    /// The hop that follows a response with this status and head; `None` if the response is no redirect. `redactor` knows
    /// every secret of the exchange.
    pub(super) fn follow(
        &self,
        (status, head): (StatusCode, &HeaderMap),
        policy: &EgressPolicy,
        credentials: &RunCredentials,
        redactor: &Redactor,
    ) -> Result<Option<Self>, HttpError> {
        let Some(location) = head.get(header::LOCATION).filter(|_| REDIRECTS.contains(&status.as_u16())) else {
            return Ok(None);
        };
        let location = std::str::from_utf8(location.as_bytes())
            .map_err(|_| HttpError::Refused { reason: "the redirect leads to no valid URL".to_owned() })?;
        let url = self
            .request
            .url
            .redirect(location, policy)
            .map_err(|refusal| HttpError::Refused { reason: format!("the redirect is refused: {refusal}") })?;
        let stays = url.origin() == self.request.url.origin();
        if self.in_play && self.request.url.origin().is_https() && !url.origin().is_https() {
            return Err(lost("the redirect leads from HTTPS to plain HTTP in an exchange that carried a credential"));
        }
        if !stays && redactor.contains(location.as_bytes()) {
            return Err(lost("the redirect would carry a credential to another origin"));
        }
        let mut next = Self {
            tls13: self.tls13,
            method: self.method.clone(),
            request: PreparedRequest { url, ..self.request.clone() },
            dropped: self.dropped || !stays,
            in_play: self.in_play,
            number: self.number.saturating_add(1),
        };
        next.change_method(status, credentials);
        if !stays {
            next.drop_credentials(credentials)?;
        }
        Ok(Some(next))
    }

    /// RFC 9110 §15.4: 303 makes everything but HEAD a GET, 301 and 302 a POST.
    fn change_method(&mut self, status: StatusCode, credentials: &RunCredentials) {
        let to_get = match status {
            StatusCode::SEE_OTHER => self.method != Method::GET && self.method != Method::HEAD,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method == Method::POST,
            _ => false,
        };
        if !to_get {
            return;
        }
        self.method = Method::GET;
        self.request.body = None;
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE, header::CONTENT_LOCATION]
        {
            self.request.headers.remove(name);
        }
        // A credential that goes into the body has no place any more.
        if self.request.credential.as_deref().is_some_and(|text| credentials.places_in_body(text)) {
            self.request.credential = None;
        }
    }

    fn drop_credentials(&mut self, credentials: &RunCredentials) -> Result<(), HttpError> {
        self.request.credential = None;
        let mut stale: Vec<_> = SENSITIVE.to_vec();
        for (name, value) in &self.request.headers {
            if value.to_str().is_ok_and(|text| credentials.mentioned_in(text)) {
                stale.push(name.clone());
            }
        }
        for name in stale {
            self.request.headers.remove(name);
        }
        let body = self.request.body.as_deref().and_then(|body| std::str::from_utf8(body).ok());
        if body.is_some_and(|text| credentials.mentioned_in(text)) {
            return Err(lost("the redirect leads to another origin, and the body holds a credential"));
        }
        Ok(())
    }
}

fn lost(reason: &str) -> HttpError {
    HttpError::Credential { reason: reason.to_owned() }
}

const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// Fields that are credentials whoever wrote them.
const SENSITIVE: [header::HeaderName; 2] = [header::AUTHORIZATION, header::COOKIE];

#[cfg(test)]
mod tests {
    use ap_core::connection::Placement;
    use bytes::Bytes;

    use super::*;
    use crate::egress::credential::tests::{one, placeholder};

    const API: &str = "https://api.example";

    fn follow(hop: &Hop, status: u16, location: &str, run: &RunCredentials) -> Result<Option<Hop>, HttpError> {
        let head = [(header::LOCATION, location.parse().expect("value"))].into_iter().collect();
        let answer = (StatusCode::from_u16(status).expect("status"), &head);
        hop.follow(answer, &EgressPolicy::new(), run, run.redactor())
    }

    fn first(request: HttpRequest) -> Hop {
        Hop::first(request, &EgressPolicy::new()).expect("well formed")
    }

    #[test]
    fn a_credential_in_play_forbids_the_way_to_plain_http() {
        let run = one(vec![], API);
        let mut placed = HttpRequest::new("GET", API);
        placed.credential = Some(placeholder('w'));
        let mut written = HttpRequest::new("GET", "https://other.example");
        written.headers = vec![("Authorization".to_owned(), "Basic b3duOnNlY3JldA==".to_owned())];
        for request in [placed, written] {
            let mut hop = first(request);
            assert!(hop.fill(&run, Timestamp::EPOCH).expect("allowed").confidential);
            for target in ["http://api.example/", "http://elsewhere.example/"] {
                assert!(matches!(follow(&hop, 302, target, &run), Err(HttpError::Credential { .. })), "{target}");
            }
            // It stays forbidden after the credential was dropped.
            let mut away = follow(&hop, 302, "https://elsewhere.example/", &run).expect("https").expect("a redirect");
            assert!(!away.fill(&run, Timestamp::EPOCH).expect("nothing to fill").confidential);
            assert!(matches!(follow(&away, 302, "http://elsewhere.example/", &run), Err(HttpError::Credential { .. })));
        }
        let mut open = first(HttpRequest::new("GET", API));
        assert!(!open.fill(&run, Timestamp::EPOCH).expect("nothing to fill").confidential);
        assert!(follow(&open, 302, "http://elsewhere.example/", &run).is_ok_and(|next| next.is_some()));
    }

    #[test]
    fn a_dropped_credential_does_not_come_back() {
        let run = one(vec![], API);
        let mut request = HttpRequest::new("GET", API);
        request.credential = Some(placeholder('w'));
        let mut hop = first(request);
        assert_eq!(hop.fill(&run, Timestamp::EPOCH).expect("allowed").uses.len(), 1);
        for target in ["https://elsewhere.example/", "https://api.example/", "/again"] {
            hop = follow(&hop, 307, target, &run).expect("public").expect("a redirect");
            let filled = hop.fill(&run, Timestamp::EPOCH).expect("nothing to fill");
            assert!(filled.uses.is_empty() && filled.request.headers.is_empty(), "{target}");
        }
        // Nor by a placeholder in the target of a redirect.
        let query = one(vec![Placement::Query { name: "k".to_owned(), field: "token".to_owned() }], API);
        let target = format!("{API}/?k={}", placeholder('t'));
        assert_eq!(
            first(HttpRequest::new("GET", target.as_str())).fill(&query, Timestamp::EPOCH).expect("allowed").uses.len(),
            1
        );
        let mut back = follow(&hop, 307, &target, &query).expect("public").expect("a redirect");
        assert!(back.fill(&query, Timestamp::EPOCH).expect("nothing to fill").uses.is_empty());
        for origin in ["https://api.example:8443/", "https://x.api.example/", "https://api.example./"] {
            let mut hop = first(HttpRequest { credential: Some(placeholder('w')), ..HttpRequest::new("GET", API) });
            hop.fill(&run, Timestamp::EPOCH).expect("allowed");
            let mut next = follow(&hop, 307, origin, &run).expect("public").expect("a redirect");
            assert!(next.fill(&run, Timestamp::EPOCH).expect("nothing to fill").uses.is_empty(), "{origin}");
        }
    }

    #[test]
    fn a_credential_of_the_body_goes_with_it() {
        let placement = Placement::Body { pointer: "/token".to_owned(), field: "token".to_owned() };
        let run = one(vec![placement], API);
        let mut request = HttpRequest::new("POST", API);
        request.credential = Some(placeholder('w'));
        request.body = Some(Bytes::from_static(b"{}"));
        let mut hop = first(request);
        assert_eq!(hop.fill(&run, Timestamp::EPOCH).expect("allowed").uses.len(), 1);
        let mut again = follow(&hop, 307, "/again", &run).expect("same origin").expect("a redirect");
        assert_eq!(again.fill(&run, Timestamp::EPOCH).expect("allowed").uses.len(), 1);
        let mut get = follow(&hop, 303, "/done", &run).expect("same origin").expect("a redirect");
        let filled = get.fill(&run, Timestamp::EPOCH).expect("nothing to fill");
        assert!(filled.uses.is_empty() && filled.request.body.is_none() && filled.method == Method::GET);
    }

    #[test]
    fn only_redirects_with_a_location_are_followed() {
        let run = RunCredentials::default();
        let hop = first(HttpRequest::new("GET", API));
        for status in [200, 201, 300, 304, 305, 306, 309, 400] {
            assert!(follow(&hop, status, "/x", &run).expect("no redirect").is_none(), "{status}");
        }
        let bare = hop.follow((StatusCode::FOUND, &HeaderMap::new()), &EgressPolicy::new(), &run, &Redactor::default());
        assert!(bare.expect("no redirect").is_none());
        for status in REDIRECTS {
            assert!(follow(&hop, status, "/x", &run).expect("a redirect").is_some(), "{status}");
        }
    }
}
