//! Arguments as no prelude makes them: a script that got at the border itself.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

const SECRETS: [&str; 3] = [
    "first-secret-of-this-run",
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    "c2Vjb25kLXNlY3JldA==",
];

fn run() -> CryptoState {
    let secrets = (1..).zip(SECRETS).map(|(number, secret)| (placeholder(number), Some(secret.to_owned())));
    Run { secrets: secrets.collect() }.state()
}

/// Whether a secret can be read in `bytes`, as it is or in hex or base64.
fn leaks(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    SECRETS.iter().any(|secret| {
        let base64 = base64::engine::general_purpose::STANDARD_NO_PAD.encode(secret);
        [secret.to_string(), hex(secret.as_bytes()), base64].iter().any(|form| text.contains(&form.to_lowercase()))
    })
}

fn option_text() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![
        select(vec!["0", "1", "16", "12", "4", "null", "-1", "1.5", "1e9", "\"32\"", "18446744073709551615", "1e400"])
            .prop_map(str::to_owned),
        (0_u64..70).prop_map(|number| number.to_string()),
    ];
    let name = select(vec![
        "aes-256-gcm",
        "aes-128-cbc",
        "aes-192-ctr",
        "chacha20-poly1305",
        "aes-256-ctr",
        "sha256",
        "md5",
        "sha3-512",
        "hkdf",
        "pbkdf2",
        "scrypt",
        "",
        "aes-256-ecb",
        "\\u0000",
        "apcred_",
    ])
    .prop_map(|name| format!("\"{name}\""));
    let value = prop_oneof![number, name, select(vec!["true", "false", "[]", "{}", "[[[["]).prop_map(str::to_owned)];
    let key = select(vec![
        "algorithm",
        "decrypt",
        "tagLength",
        "padding",
        "kind",
        "hash",
        "iterations",
        "N",
        "r",
        "p",
        "maxmem",
        "length",
        "other",
    ]);
    let members = vec((key, value), 0..9);
    prop_oneof![
        members.prop_map(|members| {
            let members: Vec<String> = members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", members.join(",")).into_bytes()
        }),
        select(vec![
            r#"{"algorithm":"aes-256-gcm"}"#,
            r#"{"algorithm":"aes-256-gcm","decrypt":true,"tagLength":12}"#,
            r#"{"algorithm":"aes-256-ctr"}"#,
            r#"{"algorithm":"aes-256-cbc","decrypt":true,"padding":false}"#,
            r#"{"algorithm":"chacha20-poly1305"}"#,
            r#"{"kind":"hkdf","hash":"sha256","length":32}"#,
            r#"{"kind":"pbkdf2","hash":"sha1","iterations":2,"length":24}"#,
            r#"{"kind":"scrypt","N":2,"r":1,"p":1,"length":16}"#,
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ]
}

fn argument() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..70),
        3 => (1_u8..6).prop_map(|number| placeholder(number).into_bytes()),
        1 => (1_u8..4, 0_usize..60).prop_map(|(number, cut)| placeholder(number).into_bytes().into_iter().skip(cut).collect()),
        1 => (1_u8..4).prop_map(|number| format!("{0}{0}", placeholder(number)).into_bytes()),
        3 => option_text(),
        2 => select(vec!["hex", "base64", "base64url", "latin1", "utf8", "utf16le", "sha256", "sha1", "md5", "sha512", "12", "1048577"])
            .prop_map(|text| text.as_bytes().to_vec()),
        2 => select(vec![0, 12, 16, 24, 32]).prop_map(|length| vec![1; length]),
    ]
}

/// An operation and its arguments; an index instead of an argument means an earlier answer.
type Call = (u32, Vec<Result<Vec<u8>, prop::sample::Index>>);

fn call() -> impl Strategy<Value = Call> {
    let argument = prop_oneof![3 => argument().prop_map(Ok), 1 => any::<prop::sample::Index>().prop_map(Err)];
    prop_oneof![1 => any::<u32>(), 30 => 0_u32..11].prop_flat_map(move |operation| {
        let usual = match operation {
            RANDOM => 1..2,
            HASH | KEY | EQUAL => 2..3,
            HMAC => 3..4,
            CIPHER => 3..7,
            KDF => 3..5,
            _ => 0..9,
        };
        (Just(operation), prop_oneof![9 => vec(argument.clone(), usual), 1 => vec(argument.clone(), 0..9)])
    })
}

/// Does the calls one after the other, each with access to what came before.
fn answers(calls: &[Call]) -> Vec<Answer> {
    let mut state = run();
    let mut answers: Vec<Answer> = Vec::new();
    for (operation, arguments) in calls {
        let arguments: Vec<&[u8]> = arguments
            .iter()
            .map(|argument| match argument {
                Ok(bytes) => bytes.as_slice(),
                Err(_) if answers.is_empty() => b"",
                Err(index) => index.get(&answers).as_deref().unwrap_or(b""),
            })
            .collect();
        let answer = state.call(*operation, &arguments);
        answers.push(answer);
    }
    answers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_is_asked_is_answered_alike_and_without_a_secret(calls in vec(call(), 1..12)) {
        let first = answers(&calls);
        prop_assert_eq!(&first, &answers(&calls));
        for answer in first {
            match answer {
                Ok(bytes) => prop_assert!(!leaks(&bytes)),
                Err(HostError { name, message }) => {
                    prop_assert!(!leaks(message.as_bytes()), "{}", message);
                    prop_assert!(!message.contains(['\n', '\r']) && !message.is_empty(), "{message}");
                    prop_assert!(["Error", "TypeError", "RangeError"].contains(&name) || name.starts_with("code:ERR_"));
                }
            }
        }
    }

    #[test]
    fn options_never_panic(json in option_text(), key in argument(), iv in argument(), rest in vec(argument(), 0..4)) {
        for operation in [CIPHER, KDF] {
            let mut arguments = vec![json.as_slice(), &key, &iv];
            arguments.extend(rest.iter().map(Vec::as_slice));
            let _ = run().call(operation, &arguments);
        }
    }

    #[test]
    fn what_is_encrypted_opens_as_it_was_and_not_once_changed(
        cipher in select(vec![
            ("aes-128-gcm", 16, 12), ("aes-192-gcm", 24, 1), ("aes-256-gcm", 32, 12), ("aes-256-gcm", 32, 33), ("chacha20-poly1305", 32, 12),
        ]),
        seed: u8, aad in vec(any::<u8>(), 0..50), plain in vec(any::<u8>(), 0..100), at: prop::sample::Index, bit in 0_u32..8,
    ) {
        let (name, key, iv) = cipher;
        let (options, key, iv, mut state) = (json!({ "algorithm": name }), vec![seed; key], vec![seed; iv], without());
        let sealed = encrypt(&mut state, &options, &key, &iv, &aad, &plain).unwrap();
        prop_assert_eq!(decrypt(&mut state, &options, &key, &iv, &aad, sealed.split_at(plain.len())).unwrap(), plain.clone());
        let mut parts = [key.clone(), iv.clone(), aad.clone(), sealed.clone()];
        let whole: usize = parts.iter().map(Vec::len).sum();
        let mut index = at.index(whole);
        for part in &mut parts {
            if index < part.len() {
                part[index] ^= 1_u8 << bit;
                break;
            }
            index -= part.len();
        }
        let [key, iv, aad, sealed] = parts;
        let opened = decrypt(&mut state, &options, &key, &iv, &aad, sealed.split_at(plain.len()));
        prop_assert_eq!(opened.unwrap_err().message, "Unsupported state or unable to authenticate data");
    }

    #[test]
    fn cbc_and_ctr_open_as_it_was(
        cipher in select(vec![("aes-128-cbc", 16), ("aes-192-cbc", 24), ("aes-256-cbc", 32), ("aes-128-ctr", 16), ("aes-256-ctr", 32)]),
        seed: u8, plain in vec(any::<u8>(), 0..100),
    ) {
        let (options, key, mut state) = (json!({ "algorithm": cipher.0 }), vec![seed; cipher.1], without());
        let sealed = encrypt(&mut state, &options, &key, &[seed; 16], b"", &plain).unwrap();
        prop_assert_eq!(decrypt(&mut state, &options, &key, &[seed; 16], b"", (&sealed, b"")).unwrap(), plain);
    }
}

#[test]
fn another_number_of_arguments_is_refused() {
    for (operation, right) in
        [(RANDOM, 1..=1), (HASH, 2..=2), (HMAC, 3..=3), (CIPHER, 3..=6), (KDF, 3..=4), (KEY, 2..=2), (EQUAL, 2..=2)]
    {
        for count in 0..=8 {
            let answer = run().call(operation, &vec![&b""[..]; count]);
            let wrong = "a cryptographic operation got another number of arguments than it takes";
            assert_eq!(
                answer.is_err_and(|error| error.message == wrong),
                !right.contains(&count),
                "{operation} {count}"
            );
        }
    }
    for operation in [0, 1, 9, u32::MAX] {
        let message = format!("there is no cryptographic operation {operation}");
        refused(run().call(operation, &[]), "Error", &message);
    }
}

#[test]
fn options_of_another_form_are_refused() {
    let mut state = run();
    for json in [
        "",
        "null",
        "[]",
        "{}",
        "1",
        "{\"algorithm\":1}",
        "{\"algorithm\":\"aes-256-gcm\",\"x\":1}",
        "{\"algorithm\":\"aes-256-gcm\",\"tagLength\":-1}",
        "{\"kind\":\"bcrypt\",\"length\":1}",
        "{\"kind\":\"hkdf\",\"hash\":\"md5\"}",
        "{\"kind\":\"hkdf\",\"hash\":\"md5\",\"length\":1.0}",
        "{\"kind\":\"hkdf\",\"hash\":\"md5\",\"length\":1}}",
        "\u{feff}{}",
    ] {
        for operation in [CIPHER, KDF] {
            let answer = state.call(operation, &[json.as_bytes(), b"", b""]);
            refused(answer, "TypeError", "the options are not those of this cryptographic operation");
        }
    }
    let deep = "[".repeat(4096);
    assert!(state.call(KDF, &[deep.as_bytes(), b"", b""]).is_err());
}
