//! Which of a run's connections one attempt may use.

use std::{collections::BTreeSet, sync::Arc};

use ap_core::{capability::HttpError, id::ConnectionId};
use ap_crypto::placeholder::find_placeholders;

use super::{
    basic::pair_in,
    credential::{CredentialUse, PreparedRequest, RunConnection, RunCredentials, refuse},
    place::percent_decoded,
};

impl RunCredentials {
    /// The same, for an attempt that may use these connections alone: those of which the audit trail says so. All are masked.
    pub(crate) fn limited_to(&self, named: BTreeSet<ConnectionId>) -> Self {
        Self { named: Some(named), ..self.shared() }
    }

    /// The same, without these placeholders, each of which comes with the reason: they are refused, wherever they stand.
    pub(crate) fn with_unusable(&self, unusable: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut all = (*self.unusable).clone();
        all.extend(unusable);
        Self { unusable: Arc::new(all), ..self.shared() }
    }

    fn shared(&self) -> Self {
        Self {
            connections: Arc::clone(&self.connections),
            placeholders: Arc::clone(&self.placeholders),
            redactor: Arc::clone(&self.redactor),
            unusable: Arc::clone(&self.unusable),
            named: self.named.clone(),
        }
    }

    /// Why this placeholder stands for nothing that could be used.
    pub(super) fn unusable(&self, placeholder: &str) -> Option<HttpError> {
        self.unusable.get(placeholder).map(refuse)
    }

    /// Why something in `text` cannot be used.
    pub(super) fn unusable_in(&self, text: &str) -> Option<HttpError> {
        if self.unusable.is_empty() {
            return None;
        }
        find_placeholders(text).find_map(|range| self.unusable(text.get(range)?))
    }

    /// A placeholder that cannot be filled is not sent as text.
    pub(super) fn refuse_unusable(&self, request: &PreparedRequest) -> Result<(), HttpError> {
        if self.unusable.is_empty() {
            return Ok(());
        }
        let url = percent_decoded(request.url.as_url().as_str());
        let headers = || request.headers.values().filter_map(|value| value.to_str().ok());
        let body = request.body.as_deref().and_then(|body| std::str::from_utf8(body).ok());
        let basic: Vec<_> = headers().filter_map(pair_in).collect();
        let headers = headers().chain(basic.iter().map(String::as_str));
        let mut texts = headers.chain([url.as_str()]).chain(request.credential.as_deref()).chain(body);
        texts.find_map(|text| self.unusable_in(text)).map_or(Ok(()), Err)
    }

    /// Nothing is used of which the audit trail does not say so before.
    pub(super) fn check_uses(&self, uses: &[CredentialUse]) -> Result<(), HttpError> {
        uses.iter().try_for_each(|used| self.check_named(used.connection, &used.name))
    }

    /// As [`RunCredentials::check_uses`], of one connection.
    pub(super) fn check_use(&self, bound: &RunConnection) -> Result<(), HttpError> {
        self.check_named(bound.id, bound.connection.name())
    }

    fn check_named(&self, connection: ConnectionId, name: &str) -> Result<(), HttpError> {
        if self.named.as_ref().is_none_or(|named| named.contains(&connection)) {
            return Ok(());
        }
        Err(refuse(format!(
            "connection `{name}` is not one that this step may use: write `{{{{connections.{name}}}}}` in the parameters of this \
             step, so that the audit trail says so before it is used, and let the connection be for the step's piece"
        )))
    }
}

#[cfg(test)]
mod tests {
    use ap_core::{connection::Placement, time::Timestamp};
    use base64::{Engine, engine::general_purpose::STANDARD};
    use bytes::Bytes;
    use http::Method;

    use super::*;
    use crate::egress::{
        credential::tests::{one, placeholder},
        guard::EgressPolicy,
        url::CheckedUrl,
    };

    fn bearer() -> RunCredentials {
        one(vec![Placement::Bearer { field: "token".to_owned() }], "https://api.example")
    }

    fn request(url: &str, authorization: &str, body: &str) -> PreparedRequest {
        PreparedRequest {
            method: Method::POST,
            at: Timestamp::EPOCH,
            url: CheckedUrl::parse(url, &EgressPolicy::new()).expect("public"),
            headers: [(http::header::AUTHORIZATION, authorization.parse().expect("value"))].into_iter().collect(),
            body: Some(Bytes::copy_from_slice(body.as_bytes())),
            credential: None,
            signatures: Vec::new(),
        }
    }

    fn applied(run: &RunCredentials, mut request: PreparedRequest) -> Result<usize, String> {
        run.apply(&mut request).map(|uses| uses.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_attempt_uses_what_it_was_said_to_use() {
        let text = format!("Bearer {}", placeholder('w'));
        let api = "https://api.example/";
        let nothing = bearer().limited_to(BTreeSet::new());
        let id = bearer().connections.first().expect("one").id;
        assert_eq!(applied(&bearer(), request(api, &text, "")), Ok(1));
        assert_eq!(applied(&bearer().limited_to([id].into()), request(api, &text, "")), Ok(1));
        let refused = applied(&nothing, request(api, &text, "")).expect_err("not named");
        assert!(refused.contains("write `{{connections.api}}` in the parameters"), "{refused}");
        let mut whole = request(api, "none", "");
        (whole.credential, whole.headers) = (Some(placeholder('w')), http::HeaderMap::new());
        assert!(applied(&nothing, whole).expect_err("not named").contains("not one that this step may use"));
        // What it may not use is masked all the same, and refused where no secret may be.
        assert!(nothing.mentioned_in(&text) && !nothing.redactor().is_empty());
    }

    #[test]
    fn what_cannot_be_used_is_not_sent_as_text() {
        let (known, gone) = (placeholder('w'), placeholder('g'));
        let run = bearer().with_unusable([known, gone].map(|text| (text, "the manager is away".to_owned())));
        let encoded = format!("%61{}", &placeholder('g')[1..]);
        for text in [placeholder('w'), placeholder('g')] {
            assert!(run.mentioned_in(&text) && run.placeholders().any(|known| known == text));
            for request in [
                request("https://api.example/", &format!("Bearer {text}"), ""),
                request(&format!("https://api.example/?q={text}"), "x", ""),
                request(&format!("https://api.example/{encoded}"), "x", ""),
                request("https://api.example/", "x", &format!("<{text}>")),
                request("https://api.example/", &format!("Basic {}", STANDARD.encode(format!("x:{text}"))), ""),
                PreparedRequest { credential: Some(text.clone()), ..request("https://api.example/", "x", "") },
            ] {
                assert!(applied(&run, request).expect_err("unusable").contains("the manager is away"));
            }
            let key = run.key_for_code(&text).expect("known").map(|_| ()).expect_err("unusable");
            assert!(key.to_string().contains("the manager is away"));
        }
        assert_eq!(applied(&run, request("https://api.example/", "x", "y")), Ok(0));
    }
}
