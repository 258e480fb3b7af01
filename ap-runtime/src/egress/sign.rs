//! Placements that sign a request: the key stays here, and what goes out was made with it.

use ap_core::{
    capability::HttpError,
    connection::{HmacAlgorithm, JwtAlgorithm, KeyEncoding, MacEncoding, Placement},
    time::Timestamp,
};
use ap_crypto::{
    signature::{HmacSha256, hmac_sha512},
    sigv4::{Payload, RequestToSign, SigV4, SignedField, canonical_query},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderName, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::{
    credential::{PreparedRequest, RunConnection, refuse},
    place::{PlaceError, prefixed_value},
};

impl RunConnection {
    /// Signs `request` as `placement` says. Everything else must be in place.
    pub(super) fn sign(&self, placement: &Placement, request: &mut PreparedRequest) -> Result<(), HttpError> {
        match placement {
            Placement::Hmac { header, timestamp_header, prefix, .. } => {
                let code = self.mac(placement, request)?;
                self.keep(request, &code);
                let prefix = String::from_utf8_lossy(&expanded(prefix, request)).into_owned();
                self.put(request, header, &prefix, &code)?;
                if let Some(name) = timestamp_header {
                    let seconds = seconds(request.at).to_string();
                    self.put(request, name, "", &seconds)?;
                }
                Ok(())
            }
            Placement::Jwt { .. } => {
                let token = self.token(placement, request.at)?;
                self.keep(request, token.rsplit('.').next().unwrap_or_default());
                self.put(request, header::AUTHORIZATION.as_str(), "Bearer ", &token)
            }
            Placement::SigV4 { access_key_id, field, session_token, region, service } => {
                let token = session_token.as_deref().map(|name| self.key(name)).transpose()?;
                let secret = self.key(field)?;
                let signer = SigV4::new(self.text(access_key_id)?, secret, token, region, service);
                let signer = signer.map_err(|error| self.unsigned(&error.to_string()))?;
                self.sign_v4(&signer, request)
            }
            _ => Err(self.unsigned("this placement signs nothing")),
        }
    }

    fn mac(&self, placement: &Placement, request: &PreparedRequest) -> Result<String, HttpError> {
        let Placement::Hmac { field, algorithm, encoding, key_encoding, message, .. } = placement else {
            return Err(self.unsigned("this placement signs nothing"));
        };
        let key = self.decoded(field, *key_encoding)?;
        let message = expanded(message, request);
        let code = match algorithm {
            HmacAlgorithm::Sha256 => {
                let key = HmacSha256::from_bytes(&key).map_err(|error| self.unsigned(&error.to_string()))?;
                key.sign(&[&message]).to_vec()
            }
            HmacAlgorithm::Sha512 => hmac_sha512(&key, &[&message]).to_vec(),
        };
        Ok(match encoding {
            MacEncoding::Base64 => STANDARD.encode(code),
            MacEncoding::Base64Url => URL_SAFE_NO_PAD.encode(code),
            MacEncoding::Hex => code.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    fn decoded(&self, field: &str, encoding: KeyEncoding) -> Result<Zeroizing<Vec<u8>>, HttpError> {
        let text = self.key(field)?.expose_secret();
        let wrong = |what: &str| self.unsigned(&format!("its field `{field}` is not {what}"));
        Ok(Zeroizing::new(match encoding {
            KeyEncoding::Text => text.as_bytes().to_vec(),
            KeyEncoding::Base64 => STANDARD.decode(text.trim()).map_err(|_| wrong("base64"))?,
            KeyEncoding::Hex => {
                let (pairs, rest) = text.trim().as_bytes().as_chunks::<2>();
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
                let bytes: Option<Vec<u8>> =
                    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
                bytes.filter(|_| rest.is_empty()).ok_or_else(|| wrong("hexadecimal"))?
            }
        }))
    }

    fn token(&self, placement: &Placement, at: Timestamp) -> Result<Zeroizing<String>, HttpError> {
        let Placement::Jwt { field, algorithm, key_id, issuer, subject, audience, lifetime_s, claims } = placement
        else {
            return Err(self.unsigned("this placement signs nothing"));
        };
        let name = match algorithm {
            JwtAlgorithm::Es256 => "ES256",
            JwtAlgorithm::Hs256 => "HS256",
            JwtAlgorithm::Rs256 => "RS256",
        };
        let mut head = Map::new();
        head.insert("alg".to_owned(), name.into());
        head.insert("typ".to_owned(), "JWT".into());
        if let Some(key_id) = key_id {
            head.insert("kid".to_owned(), key_id.as_str().into());
        }
        let mut body = claims.clone();
        for (name, value) in [("iss", issuer), ("sub", subject), ("aud", audience)] {
            if let Some(value) = value {
                body.insert(name.to_owned(), value.as_str().into());
            }
        }
        let now = seconds(at);
        body.insert("iat".to_owned(), now.into());
        body.insert("exp".to_owned(), now.saturating_add(i64::from(*lifetime_s)).into());
        let part = |part: Map<String, Value>| URL_SAFE_NO_PAD.encode(Value::Object(part).to_string());
        let signed = format!("{}.{}", part(head), part(body));
        let key = self.key(field)?.expose_secret();
        let signature = match algorithm {
            JwtAlgorithm::Hs256 if key.len() < MIN_HS256_KEY_BYTES => {
                return Err(self.unsigned("the key of HS256 must have 32 bytes or more (RFC 7518 §3.2)"));
            }
            JwtAlgorithm::Hs256 => {
                let key = HmacSha256::from_bytes(key.as_bytes()).map_err(|error| self.unsigned(&error.to_string()))?;
                key.sign(&[signed.as_bytes()]).to_vec()
            }
            JwtAlgorithm::Es256 | JwtAlgorithm::Rs256 => {
                let key = pem_body(key).ok_or_else(|| self.unsigned(NOT_PEM))?;
                asymmetric(*algorithm, &key, signed.as_bytes()).ok_or_else(|| self.unsigned(NOT_PEM))?
            }
        };
        Ok(Zeroizing::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }

    fn sign_v4(&self, signer: &SigV4<'_>, request: &mut PreparedRequest) -> Result<(), HttpError> {
        let url = request.url.as_url().clone();
        let query: Vec<(String, String)> = form_urlencoded::parse(url.query().unwrap_or_default().as_bytes())
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        let mut headers = vec![("host".to_owned(), url.authority().to_owned())];
        for (name, value) in &request.headers {
            if name == header::AUTHORIZATION {
                return Err(self.unsigned(&PlaceError::Occupied.to_string()));
            }
            if name == header::CONTENT_TYPE || name.as_str().starts_with("x-amz-") {
                let value = value.to_str().map_err(|_| self.unsigned(&PlaceError::HeaderCharacters.to_string()))?;
                headers.push((name.as_str().to_owned(), value.to_owned()));
            }
        }
        let to_sign = RequestToSign {
            method: request.method.as_str(),
            path: url.path(),
            query: &query,
            headers: &headers,
            payload: Payload::Bytes(request.body.as_deref().unwrap_or_default()),
        };
        let fields = signer.sign(&to_sign, request.at).map_err(|error| self.unsigned(&error.to_string()))?;
        self.keep(request, sigv4_signature(&fields));
        if !query.is_empty() {
            request.url = request.url.clone().with_query(&canonical_query(&query));
        }
        fields.iter().try_for_each(|(name, value)| self.put(request, name, "", value.expose_secret()))
    }

    /// Remembers what was made, so that it is masked in whatever comes back.
    fn keep(&self, request: &mut PreparedRequest, signature: &str) {
        request.signatures.push((self.connection.name().to_owned(), signature.into()));
    }

    fn put(&self, request: &mut PreparedRequest, name: &str, prefix: &str, value: &str) -> Result<(), HttpError> {
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse(format!("`{name}` is no header name")))?;
        if request.headers.contains_key(&name) {
            return Err(self.unsigned(&PlaceError::Occupied.to_string()));
        }
        let value = prefixed_value(prefix, value).map_err(|error| self.unsigned(&error.to_string()))?;
        request.headers.insert(name, value);
        Ok(())
    }

    fn key(&self, field: &str) -> Result<&SecretString, HttpError> {
        self.secret_field(field).ok_or_else(|| self.unsigned(&format!("it has no secret field `{field}`")))
    }

    fn unsigned(&self, problem: &str) -> HttpError {
        refuse(format!("the request cannot be signed with connection `{}`: {problem}", self.connection.name()))
    }
}

/// What of the fields that were added is good for nobody else to have.
pub(super) fn sigv4_signature(fields: &[SignedField]) -> &str {
    let authorization = fields.iter().find(|(name, _)| *name == "authorization");
    authorization.and_then(|(_, value)| value.expose_secret().rsplit('=').next()).unwrap_or_default()
}

/// A template with what the request has in the place of its tokens.
fn expanded(template: &str, request: &PreparedRequest) -> Vec<u8> {
    let url = request.url.as_url();
    let mut out = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.extend_from_slice(before.as_bytes());
        let (token, after) = after.split_once('}').unwrap_or((after, ""));
        match token {
            "body" => out.extend_from_slice(request.body.as_deref().unwrap_or_default()),
            "host" => out.extend_from_slice(url.authority().as_bytes()),
            "method" => out.extend_from_slice(request.method.as_str().as_bytes()),
            "path" => {
                out.extend_from_slice(url.path().as_bytes());
                if let Some(query) = url.query() {
                    out.push(b'?');
                    out.extend_from_slice(query.as_bytes());
                }
            }
            "timestamp" => out.extend_from_slice(seconds(request.at).to_string().as_bytes()),
            "timestamp_ms" => out.extend_from_slice(request.at.as_millis().to_string().as_bytes()),
            // A connection with another one was refused.
            _ => {}
        }
        rest = after;
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

const fn seconds(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(1_000)
}

/// What stands between the lines of a private key in PEM (RFC 7468 §10).
fn pem_body(pem: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (_, rest) = pem.split_once("-----BEGIN PRIVATE KEY-----")?;
    let (body, _) = rest.split_once("-----END PRIVATE KEY-----")?;
    let mut text = Zeroizing::new(String::with_capacity(body.len()));
    text.extend(body.chars().filter(|char| !char.is_ascii_whitespace()));
    STANDARD.decode(text.as_bytes()).ok().map(Zeroizing::new)
}

#[cfg(feature = "http")]
fn asymmetric(algorithm: JwtAlgorithm, key: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
    };

    let random = SystemRandom::new();
    if algorithm == JwtAlgorithm::Es256 {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key).ok()?;
        return key.sign(&random, message).ok().map(|signature| signature.as_ref().to_vec());
    }
    let key = RsaKeyPair::from_pkcs8(key).ok()?;
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
    Some(signature)
}

/// Nothing is sent without the feature.
#[cfg(not(feature = "http"))]
fn asymmetric(_: JwtAlgorithm, _: &[u8], _: &[u8]) -> Option<Vec<u8>> {
    None
}

const NOT_PEM: &str = "its key must be a private key for the algorithm, in PEM (`BEGIN PRIVATE KEY`, PKCS #8)";
const MIN_HS256_KEY_BYTES: usize = 32;

#[cfg(test)]
mod tests;
