use proptest::prelude::*;

use super::super::Redactor;

/// Random digits that no provider ever issued: rules look at form alone. Put together here, so that scanners of
/// repositories do not take them for leaks.
fn digits(alphabet: &str, length: usize) -> String {
    let alphabet: Vec<char> = alphabet.chars().collect();
    let mut state = 7_usize;
    let digit = |_| {
        state = (state * 75 + 74) % 65_537;
        alphabet[state % alphabet.len()]
    };
    (0..length).map(digit).collect()
}

const ALPHANUMERIC: &str = "0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sTuVwXyZ";

fn alphanumeric(length: usize) -> String {
    digits(ALPHANUMERIC, length)
}

fn base64url(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

fn jwt() -> String {
    let payload = base64url(r#"{"sub":"1234567890","name":"Ann"}"#);
    format!("{}.{payload}.{}", base64url(r#"{"alg":"HS256","typ":"JWT"}"#), alphanumeric(43))
}

fn pem(lines: usize) -> String {
    let body = format!("{}\n", alphanumeric(64)).repeat(lines);
    format!("-----BEGIN RSA {key}-----\n{body}-----END RSA {key}-----", key = "PRIVATE KEY")
}

/// Rule and token; all of the token is to be masked.
fn tokens() -> Vec<(&'static str, String)> {
    let hex = |length| digits("0123456789abcdef", length);
    vec![
        ("github-token", format!("{}p_{}", "gh", alphanumeric(36))),
        ("github-token", format!("{}o_{}", "gh", alphanumeric(36))),
        ("github-token", format!("{}s_{}", "gh", alphanumeric(36))),
        ("github-token", format!("github_{}_{}_{}", "pat", alphanumeric(22), alphanumeric(59))),
        ("gitlab-token", format!("{}-{}", "glpat", alphanumeric(20))),
        ("aws-access-key", format!("{}{}", "AKIA", digits("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16))),
        ("aws-access-key", format!("{}{}", "ASIA", digits("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16))),
        (
            "slack-token",
            format!("{}-{}-{}-{}", "xoxb", digits("123456789", 12), digits("123456789", 12), alphanumeric(24)),
        ),
        ("slack-token", format!("{}-1-A0{}-{}-{}", "xapp", alphanumeric(8), digits("123456789", 12), hex(64))),
        ("stripe-key", format!("sk_{}_{}", "live", alphanumeric(24))),
        ("stripe-key", format!("rk_{}_{}", "test", alphanumeric(99))),
        ("webhook-secret", format!("{}_{}", "whsec", alphanumeric(32))),
        ("google-api-key", format!("{}{}", "AIza", alphanumeric(35))),
        ("google-token", format!("ya29.{}-{}_x", alphanumeric(60), alphanumeric(60))),
        ("google-client-secret", format!("{}-{}", "GOCSPX", alphanumeric(28))),
        ("anthropic-key", format!("sk-{}-api03-{}-{}AA", "ant", alphanumeric(60), alphanumeric(30))),
        ("model-api-key", format!("sk-{}-{}_{}", "proj", alphanumeric(70), alphanumeric(70))),
        ("model-api-key", format!("sk-{}T3BlbkFJ{}", alphanumeric(20), alphanumeric(20))),
        ("model-api-key", format!("sk-{}", hex(32))),
        ("twilio-key", format!("{}{}", "SK", hex(32))),
        ("sendgrid-key", format!("{}.{}.{}", "SG", alphanumeric(22), alphanumeric(43))),
        ("npm-token", format!("{}_{}", "npm", alphanumeric(36))),
        ("pypi-token", format!("{}-AgEIcHlwaS5vcmc{}", "pypi", alphanumeric(120))),
        ("resume-token", format!("{}{}", crate::resume::RESUME_PREFIX, alphanumeric(120))),
        ("jwt", jwt()),
        (
            "jwt",
            format!(
                "{}..{}.{}.{}",
                base64url(r#"{"alg":"dir","enc":"A256GCM"}"#),
                alphanumeric(16),
                alphanumeric(80),
                alphanumeric(22)
            ),
        ),
        ("private-key", pem(1)),
        ("private-key", pem(51)),
        ("private-key", pem(3).replace('\n', "\\n")),
        ("private-key", pem(3).replace('\n', "\r\n")),
        ("private-key", pem(3).trim_end_matches(|char| char != '\n').trim_end().to_owned()),
    ]
}

fn masked(text: &str) -> String {
    Redactor::token_shapes().redact_str(text).into_owned()
}

#[test]
fn each_kind_of_token_is_masked_wherever_it_stands() {
    for (rule, token) in tokens() {
        let mark = format!("‹redacted:{rule}›");
        for (before, after) in [
            ("", ""),
            ("key=", "&page=2"),
            ("{\"token\":\"", "\"}"),
            ("line\\n", "\\nnext"),
            ("?key%3D", "%26page"),
            ("\\u003d", "\\u0026"),
            ("(", ")"),
            ("ä ", " ä"),
            ("token: ", ", done"),
        ] {
            // A key that was cut off takes along what could belong to it.
            let cut_off = rule == "private-key" && !token.ends_with("KEY-----");
            let after = if cut_off { "\"" } else { after };
            assert_eq!(masked(&format!("{before}{token}{after}")), format!("{before}{mark}{after}"), "{rule}: {token}");
        }
    }
}

#[test]
fn what_only_resembles_a_token_stays() {
    let github = format!("{}p_{}", "gh", alphanumeric(36));
    let placeholder = format!("apcred_{}", alphanumeric(43));
    let texts = [
        // Inside of a longer word.
        format!("x{github}"),
        format!("a_{github}"),
        format!("task-{}", alphanumeric(40)),
        // Too short, too long, of another alphabet.
        github[..30].to_owned(),
        format!("{}{}", "AKIA", digits("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 15)),
        format!("{}{}", "AKIA", digits("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 17)),
        format!("{}{}", "AKIA", "abcdefghabcdefgh"),
        format!("{}_{}", "npm", alphanumeric(35)),
        format!("{}{}", "SK", digits("0123456789ABCDEF", 32)),
        "SKIING_IS_FUN_AND_SK1234".to_owned(),
        "npm_config_registry=https://registry.npmjs.org/".to_owned(),
        "sk_live_ is the prefix of live keys".to_owned(),
        "sk-2024-a-long-title-of-an-article-in-slovak-with-12-words".to_owned(),
        "xoxb-not-a-real-token-but-some-words".to_owned(),
        "SG.Geht.Es.Gut".to_owned(),
        "pypi-AgE".to_owned(),
        // Base64 of JSON that is no header, and a token without a signature.
        format!("{}.{}.{}", base64url(r#"{"name":"Ann","age":7}"#), alphanumeric(30), alphanumeric(43)),
        format!("{}.{}.", base64url(r#"{"alg":"none","typ":"JWT"}"#), alphanumeric(30)),
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n-----END PUBLIC KEY-----".to_owned(),
        "-----BEGIN PRIVATE KEY-----".to_owned(),
        // URLs without a password, and with what stands for one.
        "https://example.com:8080/a@b".to_owned(),
        "https://ann@example.com/?next=http://x:y".to_owned(),
        "postgres://app:***@db/x".to_owned(),
        "postgres://app:${DB_PASSWORD}@db/x".to_owned(),
        "postgres://app:$PASSWORD@db/x".to_owned(),
        "postgres://app:{{connections.db.password}}@db/x".to_owned(),
        "postgres://app:<password>@db/x".to_owned(),
        format!("postgres://app:{placeholder}@db/x"),
        "postgres://app:‹redacted:db›@db/x".to_owned(),
        // Schemes of authentication in prose, and placeholders behind them.
        "Bearer authentication is required for this".to_owned(),
        "The bearer of-these-very-long-good-news-said".to_owned(),
        format!("Authorization: Bearer {placeholder}"),
        "Basic authentication, basic training12".to_owned(),
        placeholder,
        "‹redacted:github-token›".to_owned(),
    ];
    for text in texts {
        assert_eq!(masked(&text), text);
    }
}

#[test]
fn passwords_in_urls_are_masked_and_nothing_else_of_them() {
    for (url, shown) in [
        ("postgres://app:hunter2@db.example:5432/x", "postgres://app:‹redacted:url-password›@db.example:5432/x"),
        ("redis://:p%40ss:word@[::1]:6379", "redis://:‹redacted:url-password›@[::1]:6379"),
        ("\"mongodb+srv://a.b:c1!$&*@cluster\"", "\"mongodb+srv://a.b:‹redacted:url-password›@cluster\""),
        (
            "amqp://u:x1@h and amqp://u:x2@h",
            "amqp://u:‹redacted:url-password›@h and amqp://u:‹redacted:url-password›@h",
        ),
    ] {
        assert_eq!(masked(url), shown);
    }
}

#[test]
fn credentials_behind_their_scheme_are_masked() {
    let token = alphanumeric(32);
    assert_eq!(masked(&format!("authorization: bearer {token}")), "authorization: bearer ‹redacted:bearer-token›");
    assert_eq!(masked(&format!("Bearer {}", jwt())), "Bearer ‹redacted:jwt›");
    assert_eq!(
        masked("Authorization: Basic YW5uOmh1bnRlcjI=\r\n"),
        "Authorization: Basic ‹redacted:basic-credentials›\r\n"
    );
    // `ann:`, `ann`, and what is no base64.
    for text in ["Basic YW5uOg==", "Basic YW5u", "Basic YW5uOmh1bnRlcjI"] {
        assert_eq!(masked(text), text);
    }
}

#[test]
fn a_secret_of_the_run_keeps_its_name() {
    let token = format!("{}p_{}", "gh", alphanumeric(36));
    let secret = token.as_str().into();
    let redactor = Redactor::new([("crm", &secret)]).unwrap();
    let both = redactor.with_token_shapes();
    let other = format!("{}p_x{}", "gh", alphanumeric(40));
    let text = format!("{token} {other}");
    assert_eq!(redactor.redact_str(&text), format!("‹redacted:crm› {other}"));
    assert_eq!(both.redact_str(&text), "‹redacted:crm› ‹redacted:github-token›");
    assert_eq!(
        both.redact_json(serde_json::json!({ "a": [text] })),
        serde_json::json!({ "a": ["‹redacted:crm› ‹redacted:github-token›"] })
    );
    assert!(both.contains(other.as_bytes()) && !redactor.contains(other.as_bytes()) && !both.is_empty());
    assert_eq!(format!("{both:?}"), "Redactor(1 secrets)");
    // Also where it is only a part of what looks like a token.
    let password = "hunter2-hunter2".into();
    let both = Redactor::new([("crm", &password)]).unwrap().with_token_shapes();
    assert_eq!(both.redact_str("Basic YW5uOmh1bnRlcjItaHVudGVyMg=="), "Basic ‹redacted:crm›");
}

#[test]
fn tokens_are_found_across_chunks() {
    let filler = "lorem ipsum ".repeat(1_800);
    for (rule, token) in tokens() {
        let text = format!("{filler}{token} {filler}");
        let whole = masked(&text);
        assert!(whole.contains(&format!("‹redacted:{rule}›")) && !whole.contains(&token));
        for size in [4_096, filler.len() + 5, filler.len() + token.len() - 1] {
            let mut stream = Redactor::token_shapes().stream();
            let mut out: Vec<u8> = text.as_bytes().chunks(size).flat_map(|chunk| stream.push(chunk)).collect();
            out.extend(stream.finish());
            assert!(out == whole.as_bytes(), "{rule} in chunks of {size}");
        }
    }
}

#[test]
fn marks_without_end_cost_linear_time() {
    let units = [
        "eyJ",
        "-eyJ",
        "\\neyJ",
        "sk-",
        "ghp_",
        "://",
        "a://a:a",
        "aa://",
        "Bearer ",
        "basic ",
        "-----BEGIN ",
        "SK",
        "xoxb-",
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----{",
        "hooks.slack.com/services/",
        "%3DeyJ",
    ];
    let header = format!("{}.", base64url(r#"{"alg":"HS256"}"#));
    for unit in units.into_iter().chain([header.as_str()]) {
        let text = unit.repeat((1 << 17) / unit.len());
        let began = std::time::Instant::now();
        let _ = masked(&text);
        assert!(began.elapsed().as_secs() < 5, "{unit}: {:?}", began.elapsed());
    }
}

proptest! {
    #[test]
    fn ordinary_text_stays(text in "[a-z ,.:/@?&=\"{}0-9-]{0,300}") {
        prop_assume!(!text.contains("://"));
        prop_assert_eq!(masked(&text), text);
    }

    #[test]
    fn no_text_makes_it_panic(text in "(ghp_|eyJ|://|:|@|Bearer |Basic |-----BEGIN |PRIVATE KEY-----|sk-|\\PC){0,60}") {
        let once = masked(&text);
        // A marker is never a token, nor part of one.
        prop_assert!(once.matches("‹redacted:").count() >= text.matches("‹redacted:").count());
    }
}
