//! `Authorization: Basic …` as programs write it by hand: a placeholder inside the base64.

use ap_core::{capability::HttpError, connection::Placement};
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderValue, header::AUTHORIZATION};
use secrecy::ExposeSecret;

use super::{
    credential::{CredentialUse, Place, PreparedRequest, RunConnection, RunCredentials, refuse},
    place,
};

/// User and password in the value of an `Authorization` header (RFC 7617 §2), with the colon between them.
pub(crate) fn pair_in(value: &str) -> Option<String> {
    let (scheme, digits) = value.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    BASE64.decode(digits.trim()).ok().and_then(|pair| String::from_utf8(pair).ok())
}

impl RunCredentials {
    /// Fills placeholders inside the base64 of basic authentication: as the user or the password as a whole, of a connection that
    /// has the placement `basic`. What is spelled there otherwise is refused, since the peer would get the text.
    pub(super) fn fill_basic(
        &self,
        request: &mut PreparedRequest,
        uses: &mut Vec<CredentialUse>,
    ) -> Result<(), HttpError> {
        for value in request.headers.get_all(AUTHORIZATION) {
            let pair = value.to_str().ok().and_then(pair_in).filter(|pair| self.mentioned_in(pair));
            let Some(pair) = pair else { continue };
            if request.headers.get_all(AUTHORIZATION).iter().count() > 1 {
                return Err(refuse("a credential stands in one of several headers `authorization`: send one"));
            }
            let value = self.basic(&pair, request, uses)?;
            request.headers.insert(AUTHORIZATION, value);
            return Ok(());
        }
        Ok(())
    }

    fn basic(
        &self,
        pair: &str,
        request: &PreparedRequest,
        uses: &mut Vec<CredentialUse>,
    ) -> Result<HeaderValue, HttpError> {
        let place = Place::Header(AUTHORIZATION.as_str().to_owned());
        let (user, password) = pair.split_once(':').unwrap_or((pair, ""));
        let mut parts = [("username", user), ("password", password)];
        for (wanted, part) in &mut parts {
            let Some((range, bound, stands)) = self.known(part).next() else { continue };
            if range.len() != part.len() {
                return Err(refuse(format!(
                    "a credential stands inside the {wanted} of basic authentication; it may only be the whole of it"
                )));
            }
            let (field, secret) = bound.secret(stands)?;
            if field != *wanted || !bound.connection.placements().contains(&Placement::Basic) {
                return Err(bound.not_basic(field, wanted));
            }
            let used = bound.used(request.url.origin(), place.clone())?;
            if !uses.contains(&used) {
                uses.push(used);
            }
            *part = secret.expose_secret();
        }
        let [(_, user), (_, password)] = parts;
        let value = place::basic_value(user, password);
        value.map_err(|error| refuse(format!("the credential cannot go to the {place}: {error}")))
    }
}

impl RunConnection {
    fn not_basic(&self, field: &str, wanted: &str) -> HttpError {
        let name = self.connection.name();
        refuse(format!(
            "connection `{name}` does not allow its field `{field}` as the {wanted} of basic authentication: that takes a connection of \
             type `BASIC_AUTH`, or the placement `basic` and the fields `username` and `password`"
        ))
    }
}

/// Node.js and browsers write the padding, others leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use ap_core::{
        connection::{Connection, ConnectionValue, Origin},
        id::ConnectionId,
        time::Timestamp,
    };
    use http::{HeaderName, Method};

    use super::*;
    use crate::egress::{
        credential::{
            Stands,
            tests::{one, placeholder},
        },
        guard::EgressPolicy,
        url::CheckedUrl,
    };

    const API: &str = "https://api.example";

    fn login() -> RunCredentials {
        let value = ConnectionValue::BasicAuth { username: "Aladdin".to_owned(), password: "open sesame".into() };
        let origins = vec![Origin::of_url(API).expect("origin")];
        let connection = Connection::new("login", value, vec![], origins).expect("connection");
        let placeholders =
            vec![(placeholder('w'), Stands::Whole), (placeholder('p'), Stands::Field("password".to_owned()))];
        RunCredentials::new(vec![RunConnection { id: ConnectionId::from_u128(1), connection, placeholders }])
            .expect("long")
    }

    fn applied(run: &RunCredentials, url: &str, headers: &[(&str, &str)]) -> Result<(String, usize), String> {
        let headers = headers.iter().map(|(name, value)| {
            let name: HeaderName = name.parse().expect("name");
            (name, value.parse::<HeaderValue>().expect("value"))
        });
        let mut request = PreparedRequest {
            method: Method::GET,
            at: Timestamp::EPOCH,
            url: CheckedUrl::parse(url, &EgressPolicy::new()).expect("public"),
            headers: headers.collect(),
            body: None,
            credential: None,
            signatures: Vec::new(),
        };
        let uses = run.apply(&mut request).map_err(|error| error.to_string())?;
        let value = request.headers.get(AUTHORIZATION).map(|value| value.to_str().expect("ASCII").to_owned());
        Ok((value.unwrap_or_default(), uses.len()))
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", BASE64.encode(pair))
    }

    #[test]
    fn a_password_that_a_program_encoded_is_filled_in() {
        for text in [placeholder('w'), placeholder('p')] {
            let written = basic(&format!("Aladdin:{text}"));
            for value in [&written, &written.replace('=', ""), &written.replace("Basic", "bASIC")] {
                let filled = applied(&login(), API, &[("Authorization", value)]);
                assert_eq!(filled, Ok(("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_owned(), 1)));
            }
        }
        // What is none of this run's stays as it is.
        for value in [basic("me:secret"), basic(&format!("me:{}", placeholder('f'))), "Basic %%%".to_owned()] {
            assert_eq!(applied(&login(), API, &[("Authorization", &value)]), Ok((value, 0)));
        }
    }

    #[test]
    fn what_the_placement_does_not_say_is_refused_and_not_sent() {
        let text = placeholder('p');
        let right = basic(&format!("Aladdin:{text}"));
        for (url, pair, expected) in [
            (API, format!("{text}:x"), "as the username of basic"),
            (API, text.clone(), "as the username of basic"),
            (API, format!("Aladdin:x{text}"), "inside the password"),
            (API, format!("Aladdin:{text}:x"), "inside the password"),
            (API, format!("Aladdin:{text}{text}"), "inside the password"),
            ("https://other.example", format!("Aladdin:{text}"), "not bound to `https://other.example`"),
        ] {
            let refused = applied(&login(), url, &[("Authorization", &basic(&pair))]).expect_err(&pair);
            assert!(refused.contains(expected), "{pair}: {refused}");
        }
        let twice = applied(&login(), API, &[("Authorization", &right), ("Authorization", "x")]).expect_err("two");
        assert!(twice.contains("send one"), "{twice}");
        // By another placement it goes elsewhere.
        let bearer = one(vec![Placement::Bearer { field: "token".to_owned() }], API);
        let value = basic(&format!("x:{}", placeholder('t')));
        let refused = applied(&bearer, API, &[("Authorization", &value)]).expect_err("bearer");
        assert!(refused.contains("connection `api`") && refused.contains("type `BASIC_AUTH`"), "{refused}");
        // And in another header it is text.
        assert_eq!(applied(&login(), API, &[("X-Other", &right)]), Ok((String::new(), 0)));
    }
}
