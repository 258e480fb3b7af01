//! The vectors that AWS publishes: its signing test suite, and the examples in the documentation of S3.

use super::*;

/// One case of the suite: signed in the head (`header`) and in the URL (`query_signature`).
struct Vector {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    query: &'static str,
    fields: &'static [(&'static str, &'static str)],
    body: &'static str,
    token: Option<&'static str>,
    header: &'static str,
    query_signature: &'static str,
}

const TOKEN: &str = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
const LONG_TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

#[rustfmt::skip]
const SUITE: &[Vector] = &[
    Vector { name: "get-header-key-duplicate", method: "GET", path: "/", query: "", fields: &[("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")], body: "", token: None, header: "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea", query_signature: "3349ee0b81b4b589da0ff28a395c3591e04de515651dd74f298fa992d1507a97" },
    Vector { name: "get-header-value-order", method: "GET", path: "/", query: "", fields: &[("My-Header1", "value4"), ("My-Header1", "value1"), ("My-Header1", "value3"), ("My-Header1", "value2")], body: "", token: None, header: "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01", query_signature: "313720e71ca6202fdcfa9b20f88de01a4eb0638a83c833b1c184359a4eda864e" },
    Vector { name: "get-header-value-trim", method: "GET", path: "/", query: "", fields: &[("My-Header1", " value1"), ("My-Header2", r#" "a   b   c""#)], body: "", token: None, header: "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736", query_signature: "e7bb0fd515e125e1aec2ecc4c0c17484fb06f6846b927c35e46005dd3df3acd4" },
    Vector { name: "get-relative-normalized", method: "GET", path: "/example/..", query: "", fields: &[], body: "", token: None, header: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", query_signature: "e93c787ed7f371d5c6b165c1b38ede9550f4dce4144713e844b25b7192d3865d" },
    Vector { name: "get-relative-relative-normalized", method: "GET", path: "/example1/example2/../..", query: "", fields: &[], body: "", token: None, header: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", query_signature: "e93c787ed7f371d5c6b165c1b38ede9550f4dce4144713e844b25b7192d3865d" },
    Vector { name: "get-slash-dot-slash-normalized", method: "GET", path: "/./", query: "", fields: &[], body: "", token: None, header: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", query_signature: "e93c787ed7f371d5c6b165c1b38ede9550f4dce4144713e844b25b7192d3865d" },
    Vector { name: "get-slash-normalized", method: "GET", path: "//", query: "", fields: &[], body: "", token: None, header: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", query_signature: "e93c787ed7f371d5c6b165c1b38ede9550f4dce4144713e844b25b7192d3865d" },
    Vector { name: "get-slash-pointless-dot-normalized", method: "GET", path: "/./example", query: "", fields: &[], body: "", token: None, header: "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5", query_signature: "35034b1a0bdd969f346975386daf8aedfd4976573b8348cf4f67eaa41c5857de" },
    Vector { name: "get-slashes-normalized", method: "GET", path: "//example//", query: "", fields: &[], body: "", token: None, header: "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84", query_signature: "c1834e8fb0307243711f0f907f6ab7311ed300d87f13792d7ee4da89ab93e082" },
    Vector { name: "get-space-normalized", method: "GET", path: "/example space/", query: "", fields: &[], body: "", token: None, header: "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741", query_signature: "7a1f416954786484c9824d93c1f26ef64acb9b1b6c9154d08c9f07d0e394abf6" },
    Vector { name: "get-unreserved", method: "GET", path: "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", query: "", fields: &[], body: "", token: None, header: "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f", query_signature: "95968482db1b9e0fadef6efc1bd24689f77c77d9ef56919c96a28cc92e0d6005" },
    Vector { name: "get-utf8", method: "GET", path: "/ሴ", query: "", fields: &[], body: "", token: None, header: "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85", query_signature: "10eae3f14a260bd3911cc6d008d3c576d143b05b62f09782a7a4b37f52178e44" },
    Vector { name: "get-vanilla-empty-query-key", method: "GET", path: "/", query: "Param1=value1", fields: &[], body: "", token: None, header: "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb", query_signature: "49096700cbbaa5753443850f40df10f904fc2fdb544dc9512203cc77c471a9de" },
    Vector { name: "get-vanilla-query-order-encoded", method: "GET", path: "/", query: "Param-3=Value3&Param=Value2&%E1%88%B4=Value1", fields: &[], body: "", token: None, header: "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac", query_signature: "c5f1848ceec943ac2ca68ee720460c23aaae30a2300586597ada94c4a65e4787" },
    Vector { name: "get-vanilla-query-order-key-case", method: "GET", path: "/", query: "Param2=value2&Param1=value1", fields: &[], body: "", token: None, header: "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500", query_signature: "86012e2c9ad4d77369f5d81c11f75158aae4f895a085212cc6d3f923d300bed5" },
    Vector { name: "get-vanilla-query-unreserved", method: "GET", path: "/", query: "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz=-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", fields: &[], body: "", token: None, header: "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197", query_signature: "8e76a88a7433637b12778d5592799b29ad21ecd6cf6325051c21d86f0acda2bf" },
    Vector { name: "get-vanilla-query", method: "GET", path: "/", query: "", fields: &[], body: "", token: None, header: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", query_signature: "e93c787ed7f371d5c6b165c1b38ede9550f4dce4144713e844b25b7192d3865d" },
    Vector { name: "get-vanilla-utf8-query", method: "GET", path: "/", query: "ሴ=bar", fields: &[], body: "", token: None, header: "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04", query_signature: "0bdd809b1519ac4f0c1dc3540e2cc46bd0c7f778eda408b2ebf3b913d21ff600" },
    Vector { name: "get-vanilla-with-session-token", method: "GET", path: "/", query: "", fields: &[], body: "", token: Some(TOKEN), header: "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8", query_signature: "7ff2b50b376cb4d151970630573d6291dc128cc5c2a12ffb237f73cc53f67b6c" },
    Vector { name: "get-vanilla", method: "GET", path: "/", query: "", fields: &[], body: "", token: None, header: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", query_signature: "e93c787ed7f371d5c6b165c1b38ede9550f4dce4144713e844b25b7192d3865d" },
    Vector { name: "post-header-key-case", method: "POST", path: "/", query: "", fields: &[], body: "", token: None, header: "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b", query_signature: "2ce6e6d2e0cf2f9d1b55fafec88cd20574c31dc2e7631979f71ba2310083e95b" },
    Vector { name: "post-header-key-sort", method: "POST", path: "/", query: "", fields: &[("My-Header1", "value1")], body: "", token: None, header: "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c", query_signature: "c09d07e0d55871f10f2a6d350d994acf6825a3cae70673d7def55616e6119dd7" },
    Vector { name: "post-header-value-case", method: "POST", path: "/", query: "", fields: &[("My-Header1", "VALUE1")], body: "", token: None, header: "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d", query_signature: "0698bc9e4f7f9139065ba2909c0e99da257e8e2a42492a097bcd46d792391fed" },
    Vector { name: "post-sts-header-before", method: "POST", path: "/", query: "", fields: &[], body: "", token: Some(LONG_TOKEN), header: "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead", query_signature: "46c2e3c63c1dbe7d39f8ada16fe7f001c1f56c5791441565323677f96308871c" },
    Vector { name: "post-vanilla-empty-query-value", method: "POST", path: "/", query: "Param1=value1", fields: &[], body: "", token: None, header: "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11", query_signature: "a9ef26247f293bffe40eeff86a0480ba8c14d31503b2e0c3399e3a16bf1a3682" },
    Vector { name: "post-vanilla-query", method: "POST", path: "/", query: "Param1=value1", fields: &[], body: "", token: None, header: "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11", query_signature: "a9ef26247f293bffe40eeff86a0480ba8c14d31503b2e0c3399e3a16bf1a3682" },
    Vector { name: "post-vanilla", method: "POST", path: "/", query: "", fields: &[], body: "", token: None, header: "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b", query_signature: "2ce6e6d2e0cf2f9d1b55fafec88cd20574c31dc2e7631979f71ba2310083e95b" },
    Vector { name: "post-x-www-form-urlencoded-parameters", method: "POST", path: "/", query: "", fields: &[("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"), ("Content-Length", "13")], body: "Param1=value1", token: None, header: "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422", query_signature: "0dbeb9b026c7b6675f266b8427efec9b4fa8b1f6ef1477d717aea231106eab4d" },
    Vector { name: "post-x-www-form-urlencoded", method: "POST", path: "/", query: "", fields: &[("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", "13")], body: "Param1=value1", token: None, header: "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b", query_signature: "89a40deed0f26f9461242825a082d2222717248abc7ab41f552ad84a94ad46e9" },
];

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn parameters(query: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| String::from_utf8(percent_decoded(text)).unwrap();
    let parts = query.split('&').filter(|part| !part.is_empty());
    let pairs = parts.map(|part| part.split_once('=').unwrap_or((part, "")));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn value<'f>(fields: &'f [SignedField], wanted: &str) -> &'f str {
    fields.iter().find(|(name, _)| *name == wanted).expect(wanted).1.expose_secret()
}

fn signature(fields: &[SignedField]) -> &str {
    value(fields, "authorization").rsplit_once("Signature=").unwrap().1
}

#[test]
fn every_vector_of_the_suite_matches() {
    let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into();
    let at = "2015-08-30T12:36:00Z".parse().unwrap();
    for vector in SUITE {
        let token = vector.token.map(SecretString::from);
        let signer = SigV4::new("AKIDEXAMPLE", &secret, token.as_ref(), "us-east-1", "service").unwrap();
        let query = parameters(vector.query);
        let mut headers = owned(vector.fields);
        headers.insert(0, ("Host".to_owned(), "example.amazonaws.com".to_owned()));
        let payload = Payload::Bytes(vector.body.as_bytes());
        let presigned_headers = headers.clone();
        if !vector.body.is_empty() {
            headers.push(("x-amz-content-sha256".to_owned(), payload_hash(payload)));
        }
        let request =
            RequestToSign { method: vector.method, path: vector.path, query: &query, headers: &headers, payload };
        let fields = signer.sign(&request, at).unwrap();
        assert_eq!(signature(&fields), vector.header, "{}", vector.name);
        let presigned = signer.presign(&RequestToSign { headers: &presigned_headers, ..request }, at, 3600).unwrap();
        let (_, found) = presigned.expose_secret().rsplit_once("&X-Amz-Signature=").unwrap();
        assert_eq!(found, vector.query_signature, "{}", vector.name);
    }
    assert_eq!(SUITE.len(), 29);
}

/// "Signature calculations for the Authorization header" and "Authenticating requests: using query parameters".
#[test]
fn the_examples_of_s3_match() {
    let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into();
    let signer = SigV4::new("AKIAIOSFODNN7EXAMPLE", &secret, None, "us-east-1", "s3").unwrap();
    let at = "2013-05-24T00:00:00Z".parse().unwrap();
    let sign = |method: &str, path: &str, query: &str, headers: &[(&str, &str)], body: &str| {
        let mut headers = owned(headers);
        headers.push(("host".to_owned(), "examplebucket.s3.amazonaws.com".to_owned()));
        let (query, payload) = (parameters(query), Payload::Bytes(body.as_bytes()));
        let fields =
            signer.sign(&RequestToSign { method, path, query: &query, headers: &headers, payload }, at).unwrap();
        signature(&fields).to_owned()
    };
    assert_eq!(
        sign("GET", "/test.txt", "", &[("Range", "bytes=0-9")], ""),
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    );
    let put = [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
    for path in ["/test%24file.text", "/test$file.text"] {
        assert_eq!(
            sign("PUT", path, "", &put, "Welcome to Amazon S3."),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
    }
    assert_eq!(
        sign("GET", "/", "lifecycle", &[], ""),
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    );
    assert_eq!(
        sign("GET", "/", "max-keys=2&prefix=J", &[], ""),
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    );
    let headers = owned(&[("host", "examplebucket.s3.amazonaws.com")]);
    let request =
        RequestToSign { method: "GET", path: "/test.txt", query: &[], headers: &headers, payload: Payload::Unsigned };
    let url = signer.presign(&request, at, 86_400).unwrap();
    assert_eq!(
        url.expose_secret(),
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
         &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
         &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    );
}

#[test]
fn requests_that_cannot_be_signed() {
    let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into();
    for (id, region, service) in
        [("", "r", "s"), ("id", "", "s"), ("id", "r", ""), ("a/b", "r", "s"), ("id", "r,", "s"), ("id", "r", "a b")]
    {
        assert!(matches!(SigV4::new(id, &secret, None, region, service), Err(SigV4Error::Scope { .. })));
    }
    assert!(SigV4::new(&"i".repeat(128), &secret, None, "r", "s").is_ok());
    assert!(SigV4::new(&"i".repeat(129), &secret, None, "r", "s").is_err());
    let signer = SigV4::new("id", &secret, None, "r", "s3").unwrap();
    let at = "2026-01-02T03:04:05Z".parse().unwrap();
    let error = |headers: &[(&str, &str)], query: &str| {
        let (headers, query) = (owned(headers), parameters(query));
        let payload = Payload::Bytes(b"");
        let request = RequestToSign { method: "GET", path: "/", query: &query, headers: &headers, payload };
        (signer.sign(&request, at).err(), signer.presign(&request, at, 60).err())
    };
    assert_eq!(error(&[], ""), (Some(SigV4Error::Host), Some(SigV4Error::Host)));
    assert_eq!(error(&[("host", "h")], ""), (None, None));
    assert_eq!(error(&[("host", "h"), ("X-Amz-Date", "x")], "").0, Some(SigV4Error::Occupied));
    assert_eq!(error(&[("host", "h"), ("Authorization", "x")], "").0, Some(SigV4Error::Occupied));
    assert_eq!(error(&[("host", "h")], "x-amz-expires=9").1, Some(SigV4Error::Occupied));
    let headers = owned(&[("host", "h")]);
    let payload = Payload::Unsigned;
    let request = RequestToSign { method: "GET", path: "/", query: &[], headers: &headers, payload };
    for (seconds, allowed) in [(0, false), (1, true), (604_800, true), (604_801, false)] {
        assert_eq!(signer.presign(&request, at, seconds).is_ok(), allowed, "{seconds}");
    }
    for far in [Timestamp::from_micros(i64::MAX), Timestamp::from_micros(i64::MIN)] {
        assert_eq!(signer.sign(&request, far).err(), Some(SigV4Error::Time));
    }
}

#[test]
fn fractions_of_a_second_are_left_out() {
    let time = |text: &str| Time::at(text.parse().unwrap()).unwrap().full;
    assert_eq!(time("2026-01-02T03:04:05.999999Z"), "20260102T030405Z");
    assert_eq!(time("1969-12-31T23:59:59Z"), "19691231T235959Z");
}

#[test]
fn debug_shows_neither_key_nor_request() {
    let secret = "canary/S3cr3t".into();
    let signer = SigV4::new("canary", &secret, Some(&secret), "r", "s3").unwrap();
    let request = RequestToSign {
        method: "GET",
        path: "/canary",
        query: &owned(&[("canary", "canary")]),
        headers: &owned(&[("host", "canary")]),
        payload: Payload::Bytes(b"canary"),
    };
    let fields = signer.sign(&request, Timestamp::EPOCH).unwrap();
    assert!(!format!("{signer:?}{request:?}{:?}{fields:?}", request.payload).contains("canary"));
}

#[test]
fn keys_of_objects_keep_their_slashes() {
    assert_eq!(encoded_key("a b/ü+~.txt"), "a%20b/%C3%BC%2B~.txt");
    assert_eq!(percent_decoded("a%2Fb%zz%4"), b"a/b%zz%4");
}
