use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Every class of character that some encoder treats differently: reserved, space, quote, backslash, non-ASCII, astral.
const SECRET: &str = "Sk/+~ \"q\\&<'é😀%41=zZ9";
const MARK: &str = "‹redacted:crm›";

fn redactor(secret: &str) -> Redactor {
    Redactor::new([("crm", &secret.into())]).unwrap()
}

fn percent(bytes: &[u8], upper: bool, keep: impl Fn(u8) -> bool) -> String {
    let escape = |byte: u8| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
    bytes.iter().map(|byte| if keep(*byte) { char::from(*byte).to_string() } else { escape(*byte) }).collect()
}

#[test]
fn what_a_cut_left_of_a_secret_goes() {
    let secret = "s3cr3t/t0ken-é😀";
    let redactor = redactor(secret);
    let forms = [secret.to_owned(), hex(secret.as_bytes()), STANDARD.encode(secret)];
    for form in forms {
        for (end, _) in form.char_indices() {
            let text = format!("GET /?key={}", &form[..end]);
            let left = redactor.without_begun(&text);
            // One that is whole is found.
            let kept = end < 4 || redactor.contains(&form.as_bytes()[..end]);
            assert_eq!(left, if kept { &*text } else { "GET /?key=" }, "{end} of {form}");
        }
    }
    for text in ["", "s3c", "s3cr", "nothing"] {
        assert_eq!(redactor.without_begun(text), if text == "s3cr" { "" } else { text });
        assert_eq!(Redactor::default().without_begun(text), text);
    }
    let twice = format!("{secret}{}", &secret[..7]);
    assert_eq!(redactor.without_begun(&twice), secret, "a whole one is not cut: it is found");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unicode_escapes(text: &str, keep: impl Fn(u16) -> bool) -> String {
    let escape = |unit| if keep(unit) { char::from(unit as u8).to_string() } else { format!("\\u{unit:04x}") };
    text.encode_utf16().map(escape).collect()
}

fn inside_json(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap();
    quoted[1..quoted.len() - 1].to_owned()
}

fn html(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;").replace('/', "&#x2F;").replace('=', "&#x3D;")
}

/// Every spelling of `secret` that must be found, with a name for the failure message.
fn spellings(secret: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = secret.as_bytes();
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let component = |byte: u8| unreserved(byte) || b"!'()*".contains(&byte);
    let mut all: Vec<(&str, String)> = vec![
        ("raw", secret.to_owned()),
        ("hex", hex(bytes)),
        ("HEX", hex(bytes).to_uppercase()),
        ("percent, reserved, upper", percent(bytes, true, unreserved)),
        ("percent, reserved, lower", percent(bytes, false, unreserved)),
        ("percent, component", percent(bytes, true, component)),
        ("percent, all, upper", percent(bytes, true, |_| false)),
        ("percent, all, lower", percent(bytes, false, |_| false)),
        ("form", percent(bytes, true, |byte| unreserved(byte) || byte == b' ').replace(' ', "+")),
        ("percent twice", percent(percent(bytes, true, unreserved).as_bytes(), true, unreserved)),
        ("json", inside_json(secret)),
        ("json with slash", inside_json(secret).replace('/', "\\/")),
        (
            "json, html-safe",
            inside_json(secret).replace('<', "\\u003c").replace('&', "\\u0026").replace('\'', "\\u0027"),
        ),
        ("json, ascii", unicode_escapes(&inside_json(secret), |unit| unit < 128)),
        ("json, all", unicode_escapes(secret, |_| false)),
        ("json, ALL", unicode_escapes(secret, |_| false).to_uppercase().replace("\\U", "\\u")),
        ("json twice", inside_json(&inside_json(secret))),
        ("percent in json", inside_json(&percent(bytes, true, unreserved))),
        ("json in percent", percent(inside_json(secret).as_bytes(), true, unreserved)),
        ("html", html(secret)),
        ("html, numbers", secret.chars().map(|char| format!("&#{};", u32::from(char))).collect()),
        ("html, NUMBERS", secret.chars().map(|char| format!("&#X{:04X};", u32::from(char))).collect()),
        ("html in json", inside_json(&html(secret))),
        ("json in html", html(&inside_json(secret))),
        ("percent in html", html(&percent(bytes, true, unreserved))),
        ("python bytes", bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()),
    ];
    let mut encoded = Vec::new();
    for before in 0..3 {
        for after in 0..3 {
            let text = [&b"xyz"[..before], bytes, &b"uvw"[..after]].concat();
            encoded.push(STANDARD.encode(&text));
            encoded.push(URL_SAFE_NO_PAD.encode(&text));
            encoded.push(STANDARD.encode(&text).replace('/', "\\/"));
            encoded.push(percent(STANDARD.encode(&text).as_bytes(), true, unreserved));
        }
    }
    all.extend(encoded.into_iter().map(|text| ("base64", text)));
    let mut all: Vec<_> = all.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes())).collect();
    all.push(("UTF-16LE".to_owned(), secret.encode_utf16().flat_map(u16::to_le_bytes).collect()));
    all.push(("UTF-16BE".to_owned(), secret.encode_utf16().flat_map(u16::to_be_bytes).collect()));
    all
}

#[test]
fn every_spelling_is_masked_wherever_it_stands() {
    for secret in
        [SECRET, "abcdefgh", "0123456789abcdef", "s3cr3t-token_42.XYZ~", "ends with space \\", "^a.*(b|c)[d]+$"]
    {
        let redactor = redactor(secret);
        for (name, spelling) in spellings(secret) {
            for (before, after) in
                [("", ""), ("{\"a\":\"", "\"}"), ("https://h.example/?k=", "&l=1"), ("é ", " é"), ("=", "=")]
            {
                let text = [before.as_bytes(), &spelling, after.as_bytes()].concat();
                let redacted = redactor.redact_bytes(&text);
                let shown = String::from_utf8_lossy(&redacted);
                assert!(shown.contains(MARK), "{secret}: {name}: {shown}");
                assert!(redactor.contains(&text));
                assert!(!redactor.contains(&redacted), "{secret}: {name}: {shown}");
                if name != "base64" && !name.starts_with("UTF") {
                    assert_eq!(shown, format!("{before}{MARK}{after}"), "{secret}: {name}");
                }
            }
        }
    }
}

#[test]
fn no_bit_of_a_base64_secret_is_left() {
    let redactor = redactor("abcdefgh");
    for before in 0..3 {
        for after in 0..3 {
            let text = STANDARD.encode([&b"xyz"[..before], b"abcdefgh", &b"uvw"[..after]].concat());
            let shown = redactor.redact_str(&text).into_owned();
            let (head, tail) = shown.split_once(MARK).unwrap();
            // Digits that hold bits of the neighbours alone: at most one byte's worth and a bit on either side.
            assert_eq!(head.len(), 8 * before / 6, "{shown}");
            let behind = tail.trim_end_matches('=').len();
            assert_eq!(behind, (8 * (before + 8 + after)).div_ceil(6) - (8 * (before + 8)).div_ceil(6), "{shown}");
        }
    }
}

#[test]
fn a_basic_authorization_header_is_masked() {
    for user in ["", "a", "ab", "abc", "ann@example.com"] {
        let header = format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:hunter2-hunter2")));
        let shown = redactor("hunter2-hunter2").redact_str(&header).into_owned();
        assert!(
            shown.contains(MARK) && shown.starts_with("Authorization: Basic ") && shown.ends_with("\r\n"),
            "{shown}"
        );
    }
}

#[test]
fn chunks_split_anywhere_change_nothing() {
    let redactor = redactor(SECRET);
    let filler = "lorem ipsum \\\\ ".repeat(2 * redactor.held_back_bytes() / 14);
    for (name, spelling) in spellings(SECRET).into_iter().step_by(3) {
        let text =
            [b"\\\\".repeat(3).as_slice(), &spelling, b"-", &spelling, filler.as_bytes(), &spelling, b"end"].concat();
        let whole = redactor.redact_bytes(&text).into_owned();
        let near = (0..40).chain(text.len() - spelling.len() - 8..text.len());
        for split in near {
            let mut stream = redactor.stream();
            let mut out = stream.push(&text[..split]);
            out.extend(stream.push(&text[split..]));
            out.extend(stream.finish());
            assert!(out == whole, "{name} split at {split}: {}", String::from_utf8_lossy(&out));
        }
        let mut stream = redactor.stream();
        let mut out: Vec<u8> = text.chunks(7).flat_map(|chunk| stream.push(chunk)).collect();
        out.extend(stream.finish());
        assert!(out == whole, "{name} in chunks of 7");
    }
}

#[test]
fn a_stream_cut_within_a_long_overlap_shows_one_marker() {
    let redactor = redactor(&"a".repeat(20));
    let text = [b"x".repeat(100), b"a".repeat(5 * redactor.held_back_bytes()), b"yz".to_vec()].concat();
    let mut stream = redactor.stream();
    let mut out: Vec<u8> = text.chunks(100).flat_map(|chunk| stream.push(chunk)).collect();
    out.extend(stream.finish());
    assert_eq!(String::from_utf8_lossy(&out), format!("{}{MARK}yz", "x".repeat(100)));
}

#[test]
fn a_stream_is_never_cut_inside_an_escape() {
    let redactor = redactor("abcdefgh");
    let hold = redactor.held_back_bytes();
    let spelling = br"\\\\\\\u0061bcdefgh";
    // The first chunk is cut `hold` bytes before its end: let that be before, at and behind every byte of the spelling.
    for before in hold - spelling.len() - 1..=hold + 1 {
        let behind = 2 * hold - before - spelling.len();
        let text = [&b"x".repeat(before), &spelling[..], &b"y".repeat(behind)].concat();
        let mut stream = redactor.stream();
        let mut out = stream.push(&text);
        assert!(!out.is_empty());
        out.extend(stream.finish());
        let expected = format!("{}{}{MARK}{}", "x".repeat(before), r"\\\\\\", "y".repeat(behind));
        assert_eq!(String::from_utf8_lossy(&out), expected, "{before}");
    }
}

#[test]
fn a_stream_gives_out_what_it_can() {
    let redactor = redactor("abcdefgh");
    let hold = redactor.held_back_bytes();
    let mut stream = redactor.stream();
    assert_eq!(stream.push(&vec![b'x'; 2 * hold - 1]).len(), 0);
    assert_eq!(stream.push(b"x").len(), hold);
    assert_eq!(stream.finish().len(), hold);
}

#[test]
fn overlapping_secrets_leave_nothing() {
    let secrets = ["abcdefgh", "efghijkl", "cdefghij", "abcdefghijklmnop"].map(SecretString::from);
    let redactor = Redactor::new(["a", "b", "c", "d"].into_iter().zip(&secrets)).unwrap();
    assert_eq!(redactor.redact_str("<abcdefghijkl>"), "<‹redacted:a›>");
    assert_eq!(redactor.redact_str("<abcdefghijklmnop>"), "<‹redacted:d›>");
    assert_eq!(redactor.redact_str("<efghijklmnop>"), "<‹redacted:b›mnop>");
    assert_eq!(redactor.redact_str("<abcdefghabcdefgh>"), "<‹redacted:a›‹redacted:a›>");
}

#[test]
fn long_secrets_are_compared_to_their_end() {
    let secret = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlLW9uZQ";
    let other = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlLXR3bw";
    let redactor = redactor(secret);
    assert_eq!(redactor.redact_str(&format!("a {secret} b {other}")), format!("a {MARK} b {other}"));
    assert!(!redactor.contains(&secret.as_bytes()[..secret.len() - 1]));
}

#[test]
fn repetitive_secrets_are_found_to_the_last_byte() {
    for (unit, rest) in [("a", ""), ("abc", "ab"), ("abcdefgh", "abc")] {
        let secret = format!("{}{rest}", unit.repeat(40));
        let text = unit.repeat(100);
        let whole = format!("x{text}{rest}y");
        assert_eq!(redactor(&secret).redact_str(&whole), format!("x{MARK}y"));
        // A flaw ends a run of matches.
        let flawed = format!("x{text}{rest}!{}{rest}?", unit.repeat(39));
        let shown = redactor(&secret).redact_str(&flawed).into_owned();
        assert_eq!(shown, format!("x{MARK}!{}{rest}?", unit.repeat(39)));
    }
}

#[test]
fn a_long_repetitive_secret_costs_no_square() {
    let text = "a".repeat(2 << 20);
    assert_eq!(redactor(&"a".repeat(16 << 10)).redact_str(&text), MARK);
}

#[test]
fn hostile_texts_and_secrets_cost_linear_time() {
    let nearly = |unit: &str, last: &str| format!("{}{last}", unit.repeat(16 << 10));
    let sets: [Vec<String>; 6] = [
        vec![nearly("a", "b")],
        vec![format!("b{}", nearly("a", ""))],
        vec![format!("{}b{}", "a".repeat(8 << 10), "a".repeat(8 << 10))],
        vec![nearly("ab", "c"), nearly("ba", "c")],
        // Each one inside the next, all ending alike.
        (8..1_000).map(|length| "a".repeat(length)).collect(),
        // All with the same five bytes in the same place, and different ones around them.
        (0..2_000).map(|number| format!("{number:04}aaaaa{:03}", number % 1_000)).collect(),
    ];
    for secrets in sets {
        let secrets: Vec<SecretString> = secrets.into_iter().map(SecretString::from).collect();
        let redactor = Redactor::new(secrets.iter().map(|secret| ("a", secret))).unwrap();
        for unit in ["a", "ab", "aaaaaaab", "%61", "\\u0061", "&#97;", "\\\\%25", "61", "YWFh"] {
            let text = unit.repeat((1 << 17) / unit.len());
            let began = std::time::Instant::now();
            let _ = redactor.redact_str(&text);
            assert!(began.elapsed().as_secs() < 5, "{unit}: {:?}", began.elapsed());
        }
    }
}

#[test]
fn a_secret_is_found_between_hostile_texts() {
    let secret = format!("{}b", "a".repeat(16 << 10));
    let text = format!("{}{secret}{}", "a".repeat(1 << 18), "ab".repeat(1 << 16));
    let expected = format!("{}{MARK}{}", "a".repeat(1 << 18), "ab".repeat(1 << 16));
    assert!(redactor(&secret).redact_str(&text) == expected);
}

#[test]
fn many_secrets_are_told_apart() {
    // As providers issue them: a common beginning, and at random behind it.
    let texts: Vec<String> = (0_u64..1_000)
        .map(|number| format!("github_pat_{:016x}_{number}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    let secrets: Vec<SecretString> = texts.iter().map(|text| SecretString::from(text.as_str())).collect();
    let names: Vec<String> = (0..1_000).map(|number| format!("c{number}")).collect();
    let redactor = Redactor::new(names.iter().map(String::as_str).zip(&secrets)).unwrap();
    for (text, name) in texts.iter().zip(&names) {
        let shown = redactor.redact_str(&format!("x {text};")).into_owned();
        // One secret may begin another, whose rest then stays.
        assert!(shown.starts_with(&format!("x ‹redacted:{name}›")), "{shown}");
    }
    assert!(!redactor.contains(b"github_pat_0000000000000001_1"));
}

#[test]
fn each_line_of_a_key_counts() {
    let pem = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSjAgEAAoIBAQC7\nshort=\n-----END PRIVATE KEY-----\n";
    let redactor = redactor(pem);
    assert_eq!(redactor.redact_str(pem), format!("{MARK}\n"));
    assert_eq!(redactor.redact_str("  MIIEvQIBADANBgkqhkiG9w0BAQEF\r\n"), format!("  {MARK}\r\n"));
    assert_eq!(redactor.redact_str("-----BEGIN PRIVATE KEY-----"), "-----BEGIN PRIVATE KEY-----");
    assert_eq!(redactor.redact_str("short="), "short=");
}

#[test]
fn surrounding_white_space_does_not_hide_a_secret() {
    assert_eq!(redactor(" abcdefgh\n").redact_str("k=abcdefgh;"), format!("k={MARK};"));
    assert_eq!(redactor("abcdefg ").redact_str("abcdefg; abcdefg "), format!("abcdefg; {MARK}"));
}

#[test]
fn secrets_are_found_in_json_values_names_and_numbers() {
    let secrets = ["abcdefgh", "1234567890"].map(SecretString::from);
    let redactor = Redactor::new(["crm", "pin"].into_iter().zip(&secrets)).unwrap();
    let value = json!({"a": ["x abcdefgh", 12_345_678_901_u64, 1.5, null, true], "abcdefgh": 1, "61626364 abcdefgh": {"b": "ok"}, "6162636465666768": 2});
    let expected = json!({
        "a": ["x ‹redacted:crm›", "‹redacted:pin›1", 1.5, null, true],
        "‹redacted:crm›": 2, "‹redacted:crm›#2": 1, "61626364 ‹redacted:crm›": {"b": "ok"}
    });
    assert_eq!(redactor.redact_json(value), expected);
}

#[test]
fn limits_are_exact() {
    assert_eq!(Redactor::new([("a", &"1234567".into())]).err(), Some(RedactError::TooShort { name: "a".to_owned() }));
    assert!(Redactor::new([("a", &"12345678".into())]).is_ok());
    assert!(Redactor::new([("a", &"123456789".into())]).is_ok());
}

#[test]
fn without_secrets_nothing_happens() {
    let none = Redactor::new([]).unwrap();
    assert!(none.is_empty() && !none.contains(b"abcdefgh"));
    assert!(matches!(none.redact_str("abc\\u0041%41"), Cow::Borrowed(_)));
    assert_eq!(none.stream().push(b"abc"), b"abc");
    assert_eq!(none.held_back_bytes(), 0);
}

#[test]
fn a_marker_is_plain_whatever_the_name() {
    assert_eq!(
        Redactor::new([("a\"b\\c\né", &"abcdefgh".into())]).unwrap().redact_str("abcdefgh"),
        "‹redacted:a_b_c__›"
    );
}

#[test]
fn debug_hides_secrets() {
    let redactor = redactor("canary-secret");
    let mut stream = redactor.stream();
    let _ = stream.push(b"canary-secret");
    assert_eq!(format!("{redactor:?} {stream:?}"), "Redactor(1 secrets) RedactStream(13 bytes held back)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_secret_is_masked_in_any_spelling(secret in "[ -~é😀]{8,24}", which: prop::sample::Index, before in "\\PC{0,12}", after in "\\PC{0,12}") {
        prop_assume!(secret.trim() == secret);
        let redactor = redactor(&secret);
        let all = spellings(&secret);
        let (name, spelling) = which.get(&all);
        // A digit or backslash before an escape, or more base64, is another text.
        let text = [before.as_bytes(), b" ", spelling, b" ", after.as_bytes()].concat();
        let redacted = redactor.redact_bytes(&text);
        prop_assert!(String::from_utf8_lossy(&redacted).contains(MARK), "{}", name);
    }

    #[test]
    fn json_stays_json(secret in "[a-z\"\\\\/]{8,12}", parts in prop::collection::vec("\\PC{0,10}", 1..5)) {
        let redactor = redactor(&secret);
        let text = parts.join(&secret);
        let value = json!({ text.clone(): [text] });
        let redacted = redactor.redact_json(value.clone());
        let again: Value = serde_json::from_str(&redacted.to_string()).unwrap();
        prop_assert_eq!(&again, &redacted);
        prop_assert!(!redactor.contains(redacted.to_string().as_bytes()));
        prop_assert_eq!(parts.len() > 1, redacted != value);
    }

    #[test]
    fn ordinary_text_stays_as_it_is(text in "\\PC{0,200}") {
        prop_assert!(matches!(redactor("kJ8#pQ2$vX5!").redact_str(&text), Cow::Borrowed(_)));
    }

    #[test]
    fn a_stream_gives_the_same_as_the_whole(pieces in prop::collection::vec("abcdefgh|abcd|%61|\\\\|\\\\u0061|bcdefgh|x{1,200}", 0..40), size in 1_usize..300) {
        let redactor = redactor("abcdefgh");
        let text = pieces.concat();
        let mut stream = redactor.stream();
        let mut out: Vec<u8> = text.as_bytes().chunks(size).flat_map(|chunk| stream.push(chunk)).collect();
        out.extend(stream.finish());
        prop_assert_eq!(String::from_utf8_lossy(&out), redactor.redact_str(&text));
    }

    #[test]
    fn every_match_is_found_and_nothing_else(
        secrets in prop::collection::vec("[ab]{8,14}|[ab]{3}(ab){6,20}", 1..12),
        text in "[abc]{0,40}|([ab]{4}|(ab){1,20}){0,20}",
    ) {
        let secrets: Vec<SecretString> = secrets.into_iter().map(SecretString::from).collect();
        let redactor = Redactor::new(secrets.iter().map(|secret| ("crm", secret))).unwrap();
        let mut masked = vec![false; text.len()];
        for secret in secrets.iter().map(ExposeSecret::expose_secret) {
            for start in 0..text.len() {
                if text[start..].starts_with(secret) {
                    masked[start..start + secret.len()].fill(true);
                }
            }
        }
        let plain = redactor.redact_str(&text).into_owned().replace(MARK, "|");
        // Markers stand where one or several secrets that overlap were; those that only touch have one each.
        let mut parts = text.bytes().zip(&masked).map(|(byte, masked)| if *masked { '|' } else { char::from(byte) }).collect::<String>();
        while parts.contains("||") {
            parts = parts.replace("||", "|");
        }
        let mut joined = plain;
        while joined.contains("||") {
            joined = joined.replace("||", "|");
        }
        prop_assert_eq!(joined, parts);
    }

    #[test]
    fn the_automaton_reports_the_same_as_the_filter(
        secrets in prop::collection::vec("[ab]{8,14}|[ab]{3}(ab){6,20}", 1..12),
        text in "[abc]{0,40}|([ab]{4}|(ab){1,20}){0,20}",
    ) {
        let mut forms = Vec::new();
        for (secret, name) in secrets.iter().zip(0..) {
            push_forms(secret, name, &mut forms);
        }
        let matcher = Matcher::new(forms);
        prop_assert_eq!(matcher.by_filter(text.as_bytes()), matcher.by_automaton(text.as_bytes()));
    }
}

#[test]
fn secrets_that_come_later_are_masked_beside_the_first() {
    let (first, second): (SecretString, SecretString) = ("canary-of-the-run".into(), "canary-made-later".into());
    let run = Redactor::new([("crm", &first)]).unwrap();
    let exchange = run.with_secrets([("mac", &second)]).unwrap();
    let text = "canary-of-the-run, canary-made-later";
    assert_eq!(exchange.redact_str(text), "‹redacted:crm›, ‹redacted:mac›");
    assert_eq!(run.redact_str(text), "‹redacted:crm›, canary-made-later");
    assert_eq!(Redactor::default().with_secrets([("mac", &second)]).unwrap().redact_str(text).matches('‹').count(), 1);
    assert!(run.with_secrets([]).unwrap().redact_str(text).contains("‹redacted:crm›"));
    // A log knows of them as long as the exchange lasts.
    assert!(Redactor::live().contains(second.expose_secret().as_bytes()));
    drop(exchange);
    assert!(!Redactor::live().contains(second.expose_secret().as_bytes()));
    let short = "short".into();
    assert!(matches!(run.with_secrets([("mac", &short)]), Err(RedactError::TooShort { .. })));
}
