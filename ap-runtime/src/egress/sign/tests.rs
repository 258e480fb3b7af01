//! Signatures checked by whoever has the key.

use ap_core::{
    connection::{Connection, ConnectionValue, FieldValue, Origin},
    id::ConnectionId,
};
use http::{HeaderMap, Method};
use serde_json::json;

use super::*;
use crate::egress::{
    credential::{CredentialUse, Place, RunCredentials, Stands, tests::placeholder},
    guard::EgressPolicy,
    url::CheckedUrl,
};

const KEY: &str = "canary/S3cr3t+v4lue-of-32-bytes!";
const AT: Timestamp = Timestamp::from_millis(1_440_938_160_999);

fn run(placements: &[Value], key: &str) -> RunCredentials {
    let placements = placements.iter().map(|placement| serde_json::from_value(placement.clone()).expect("a placement"));
    let secret = |text: &str| FieldValue::Secret(text.into());
    let fields = [
        ("id", FieldValue::Clear("AKIDEXAMPLE".to_owned())),
        ("key", secret(key)),
        ("other", secret("another-secret")),
    ];
    let fields = fields.into_iter().map(|(name, field)| (name.to_owned(), field)).collect();
    let origins = vec![Origin::of_url("https://example.amazonaws.com").expect("an origin")];
    let connection = Connection::new("api", ConnectionValue::CustomAuth { fields }, placements.collect(), origins);
    let placeholders = vec![(placeholder('w'), Stands::Whole)];
    let bound = RunConnection { id: ConnectionId::from_u128(7), connection: connection.expect("valid"), placeholders };
    RunCredentials::new(vec![bound]).expect("secrets")
}

fn request(method: Method, url: &str, body: Option<&'static str>) -> PreparedRequest {
    PreparedRequest {
        method,
        at: AT,
        url: CheckedUrl::parse(url, &EgressPolicy::new()).expect("a URL"),
        headers: HeaderMap::new(),
        body: body.map(|body| body.as_bytes().into()),
        credential: Some(placeholder('w')),
        signatures: Vec::new(),
    }
}

fn signed(placement: Value, key: &str) -> Result<(PreparedRequest, Vec<CredentialUse>), HttpError> {
    let mut out = request(Method::POST, "https://example.amazonaws.com/a%20b?z=1&a=x+y", Some("{\"n\":1}"));
    run(&[placement], key).apply(&mut out).map(|uses| (out, uses))
}

fn header<'r>(request: &'r PreparedRequest, name: &str) -> &'r str {
    let value = request.headers.get(name).expect(name);
    assert!(value.is_sensitive());
    value.to_str().expect("ASCII")
}

#[test]
fn codes_are_over_what_the_connection_says() {
    let hmac = |message: &[u8]| -> String {
        let key = HmacSha256::from_bytes(KEY.as_bytes()).expect("a key");
        key.sign(&[message]).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let (out, uses) = signed(json!({ "type": "hmac", "field": "key", "header": "X-Signature" }), KEY).expect("signed");
    assert_eq!(header(&out, "x-signature"), hmac(b"{\"n\":1}"));
    assert_eq!((uses.len(), &uses[0].place), (1, &Place::Signature));
    let placement = json!({
        "type": "hmac", "field": "key", "header": "X-Signature", "message": "{timestamp}.{method} {host}{path}\n{body}{timestamp_ms}",
        "prefix": "t={timestamp},v1=", "timestampHeader": "X-Time",
    });
    let (out, _) = signed(placement, KEY).expect("signed");
    let message = "1440938160.POST example.amazonaws.com/a%20b?z=1&a=x+y\n{\"n\":1}1440938160999";
    assert_eq!(header(&out, "x-signature"), format!("t=1440938160,v1={}", hmac(message.as_bytes())));
    assert_eq!(header(&out, "x-time"), "1440938160");
    // RFC 4231, test case 2, in each way to write key and code.
    let vector = |key: &str, more: Value| {
        let mut placement =
            json!({ "type": "hmac", "field": "key", "header": "X-S", "message": "what do ya want for nothing?" });
        placement.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        header(&signed(placement, key).expect("signed").0, "x-s").to_owned()
    };
    let hex = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(vector("4a656665", json!({ "keyEncoding": "hex" })), hex);
    assert_eq!(vector("SmVmZQ==", json!({ "keyEncoding": "base64" })), hex);
    assert_eq!(
        vector("4A656665", json!({ "keyEncoding": "hex", "encoding": "base64" })),
        "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM="
    );
    assert_eq!(
        vector("4A656665", json!({ "keyEncoding": "hex", "encoding": "base64url" })),
        "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM"
    );
    assert!(
        vector("4a656665", json!({ "keyEncoding": "hex", "algorithm": "sha512" }))
            .starts_with("164b7a7bfcf819e2e395fbe73b56e0a3")
    );
    for (key, encoding) in [("4a65666g", "hex"), ("4a6566655", "hex"), ("canary-%-canary", "base64")] {
        let placement = json!({ "type": "hmac", "field": "key", "header": "X-S", "keyEncoding": encoding });
        let refused = signed(placement, key).expect_err("refused").to_string();
        assert!(!refused.contains(key), "{refused}");
    }
}

/// The vector `get-vanilla` of Amazon's suite, through a connection.
#[test]
fn requests_are_signed_as_amazon_does() {
    let key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    let placement =
        json!({ "type": "sigV4", "accessKeyId": "id", "field": "key", "region": "us-east-1", "service": "service" });
    let run = run(&[placement], key);
    let mut out = request(Method::GET, "https://example.amazonaws.com/", None);
    run.apply(&mut out).expect("signed");
    assert_eq!(
        header(&out, "authorization"),
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, \
         Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
    );
    // The query goes out as it was signed.
    let mut out = request(Method::GET, "https://example.amazonaws.com/?b=x+y&a=%7e", None);
    run.apply(&mut out).expect("signed");
    assert_eq!(out.url.as_url().query(), Some("a=~&b=x%20y"));
    let mut taken = request(Method::GET, "https://example.amazonaws.com/", None);
    taken.headers.insert("authorization", "mine".parse().expect("a value"));
    assert!(run.apply(&mut taken).is_err());
}

fn parts(token: &str) -> (Value, Value, Vec<u8>, String) {
    let [head, body, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let json = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON");
    (json(head), json(body), URL_SAFE_NO_PAD.decode(signature).expect("base64"), format!("{head}.{body}"))
}

#[test]
fn tokens_are_made_for_each_request() {
    let placement = json!({
        "type": "jwt", "field": "key", "keyId": "k1", "issuer": "me", "subject": "us", "audience": "them", "lifetimeS": 60,
        "claims": { "scope": "read" },
    });
    let (out, uses) = signed(placement, KEY).expect("signed");
    assert_eq!(uses[0].place, Place::Signature);
    let token = header(&out, "authorization").strip_prefix("Bearer ").expect("bearer");
    let (head, body, signature, message) = parts(token);
    assert_eq!(head, json!({ "alg": "HS256", "typ": "JWT", "kid": "k1" }));
    assert_eq!(
        body,
        json!({ "iss": "me", "sub": "us", "aud": "them", "iat": 1_440_938_160, "exp": 1_440_938_220, "scope": "read" })
    );
    let key = HmacSha256::from_bytes(KEY.as_bytes()).expect("a key");
    assert_eq!(signature, key.sign(&[message.as_bytes()]));
    assert!(signed(json!({ "type": "jwt", "field": "key" }), &KEY[1..]).is_err(), "31 bytes");
}

#[cfg(feature = "http")]
#[test]
fn tokens_are_signed_with_private_keys() {
    use aws_lc_rs::{
        encoding::{AsDer, Pkcs8V1Der},
        rand::SystemRandom,
        rsa::KeySize,
        signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey},
    };

    let pem =
        |der: &[u8]| format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der));
    let token = |algorithm: &str, key: &str| {
        let (out, _) = signed(json!({ "type": "jwt", "field": "key", "algorithm": algorithm }), key).expect("signed");
        parts(header(&out, "authorization").strip_prefix("Bearer ").expect("bearer"))
    };
    let kind = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let der = EcdsaKeyPair::generate_pkcs8(kind, &SystemRandom::new()).expect("a key");
    let pair = EcdsaKeyPair::from_pkcs8(kind, der.as_ref()).expect("a key");
    let (head, _, signature, message) = token("ES256", &pem(der.as_ref()));
    assert_eq!(head["alg"], "ES256");
    let public = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref());
    public.verify(message.as_bytes(), &signature).expect("genuine");
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let der: Pkcs8V1Der<'_> = pair.as_der().expect("a key");
    let (head, _, signature, message) = token("RS256", &pem(der.as_ref()));
    assert_eq!(head["alg"], "RS256");
    let public = UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
    public.verify(message.as_bytes(), &signature).expect("genuine");
    for wrong in [KEY, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", &pem(der.as_ref())] {
        let refused =
            signed(json!({ "type": "jwt", "field": "key", "algorithm": "ES256" }), wrong).expect_err("no key");
        assert!(refused.to_string().contains("PKCS #8"), "{refused}");
    }
}

#[test]
fn signatures_are_over_what_other_placements_put_in() {
    let sign = json!({ "type": "hmac", "field": "key", "header": "X-S" });
    let body = json!({ "type": "body", "pointer": "/token", "field": "other" });
    // Whichever is declared first.
    for placements in [[sign.clone(), body.clone()], [body, sign]] {
        let mut out = request(Method::POST, "https://example.amazonaws.com/", Some("{}"));
        let uses = run(&placements, KEY).apply(&mut out).expect("signed");
        assert_eq!(uses.len(), 2);
        let body = out.body.as_deref().expect("a body");
        assert_eq!(body, b"{\"token\":\"another-secret\"}");
        let code = HmacSha256::from_bytes(KEY.as_bytes()).expect("a key").sign(&[body]);
        assert_eq!(header(&out, "x-s"), code.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
}

#[test]
fn nothing_is_signed_for_other_origins() {
    for placement in
        [json!({ "type": "hmac", "field": "key", "header": "X-S" }), json!({ "type": "jwt", "field": "key" })]
    {
        let mut out = request(Method::GET, "https://elsewhere.example/", None);
        let refused = run(&[placement], KEY).apply(&mut out).expect_err("not bound");
        assert!(refused.to_string().contains("not bound") && out.headers.is_empty(), "{refused}");
    }
}
