//! What is measured: each line of the table, its floor and its aim.

use std::hint::black_box;

use anyhow::Result;
use ap_crypto::{
    connection::{decode_connection, encode_connection},
    entropy::SystemEntropy,
    redact::Redactor,
};
use chacha20poly1305::{AeadInOut, KeyInit, Tag, XChaCha20Poly1305, XNonce};

use crate::{text, vault};

/// One line of the table.
pub(crate) struct Contender {
    /// What is done.
    pub(crate) name: String,
    /// How many bytes go through it.
    pub(crate) bytes: usize,
    /// How often it is done between two looks at the time.
    pub(crate) batch: u32,
    /// What it is compared with: the index of another line, before this one.
    pub(crate) floor: Option<usize>,
    /// What is promised, if anything is.
    pub(crate) aim: Option<Aim>,
    pub(crate) work: Box<dyn FnMut()>,
}

/// A promise about one line.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    /// At least so many bytes. Unit: megabytes (10⁶ bytes) per second.
    Throughput(f64),
    /// At most so long. Unit: nanoseconds.
    Time(f64),
}

/// Every line, floors first.
pub(crate) fn contenders() -> Result<Vec<Contender>> {
    let mut all = Vec::new();
    sealing(&mut all)?;
    redaction(&mut all)?;
    Ok(all)
}

fn sealing(all: &mut Vec<Contender>) -> Result<()> {
    let keys = vault::tenant_keys()?;
    let connection = vault::credential(CREDENTIAL_BYTES)?;
    let encoded = encode_connection(&connection)?;
    for (what, plain) in [("credential", encoded.to_vec()), ("payload", vec![b'x'; PAYLOAD_BYTES])] {
        let bytes = plain.len();
        let bare = all.len();
        let message = plain.clone();
        all.push(Contender::short(format!("bare cipher, seal {bytes} bytes"), bytes, None, move || {
            let mut message = message.clone();
            let cipher = XChaCha20Poly1305::new(&[7; 32].into());
            let nonce = XNonce::from([9; 24]);
            black_box(cipher.encrypt_inout_detached(&nonce, b"", message.as_mut_slice().into()).ok());
        }));
        let mut cut = plain.clone();
        let tag = XChaCha20Poly1305::new(&[7; 32].into())
            .encrypt_inout_detached(&XNonce::from([9; 24]), b"", cut.as_mut_slice().into())
            .map_err(|_| anyhow::anyhow!("the cipher refused"))?;
        all.push(Contender::short(format!("bare cipher, open {bytes} bytes"), bytes, None, move || {
            let mut message = cut.clone();
            let cipher = XChaCha20Poly1305::new(&[7; 32].into());
            let nonce = XNonce::from([9; 24]);
            let opened = cipher.decrypt_inout_detached(&nonce, b"", message.as_mut_slice().into(), &Tag::from(tag));
            assert!(black_box(opened).is_ok());
        }));
        let sealed = keys.seal(&vault::context(), &plain, &SystemEntropy)?;
        let seal = std::sync::Arc::clone(&keys);
        all.push(Contender::short(format!("seal a {what} of {bytes} bytes"), bytes, Some(bare), move || {
            black_box(seal.seal(&vault::context(), &plain, &SystemEntropy).ok());
        }));
        let open = std::sync::Arc::clone(&keys);
        let stored = sealed.clone();
        let mut opening =
            Contender::short(format!("open a {what} of {bytes} bytes"), bytes, Some(bare + 1), move || {
                assert!(black_box(open.open(&vault::context(), &stored)).is_ok());
            });
        if what == "credential" {
            opening.aim = Some(Aim::Time(OPEN_AIM_NS));
            all.push(opening);
            let open = std::sync::Arc::clone(&keys);
            all.push(Contender::short(
                "… and read it as a connection".to_owned(),
                bytes,
                Some(bare + 1),
                move || {
                    let plain = open.open(&vault::context(), &sealed).unwrap_or_default();
                    assert!(black_box(decode_connection(&plain)).is_ok());
                },
            ));
        } else {
            all.push(opening);
        }
    }
    Ok(())
}

fn redaction(all: &mut Vec<Contender>) -> Result<()> {
    let text = text::json(TEXT_BYTES);
    let bytes = text.len();
    let copied = text.clone();
    all.push(Contender::long("plain copy".to_owned(), bytes, None, move || {
        black_box(copied.as_bytes().to_vec());
    }));
    let searched = text.clone();
    let floor = all.len();
    all.push(Contender::long("memchr, one byte that is not there".to_owned(), bytes, None, move || {
        black_box(memchr::memchr(0, black_box(searched.as_bytes())));
    }));
    let body = text.clone();
    all.push(Contender::long("mask token shapes in a text".to_owned(), bytes, Some(floor), move || {
        black_box(Redactor::token_shapes().redact_bytes(black_box(body.as_bytes())));
    }));
    for (count, aim) in [(1, None), (10, Some(500.0)), (100, Some(250.0)), (1_000, Some(100.0))] {
        let secrets = text::secrets(count);
        let build = move |secrets: &[_]| Redactor::new(secrets.iter().map(|secret| ("crm", secret)));
        let redactor = build(&secrets)?;
        let body = text.clone();
        let mut whole = Contender::long(format!("redact a body, {count} secrets"), bytes, Some(floor), move || {
            black_box(redactor.redact_bytes(black_box(body.as_bytes())));
        });
        whole.aim = aim.map(Aim::Throughput);
        all.push(whole);
        let redactor = build(&secrets)?;
        let body = text.clone();
        all.push(Contender::long(format!("… in chunks of 16 KiB, {count} secrets"), bytes, Some(floor), move || {
            let mut stream = redactor.stream();
            for chunk in body.as_bytes().chunks(16 << 10) {
                black_box(stream.push(chunk));
            }
            black_box(stream.finish());
        }));
        let redactor = build(&secrets)?;
        let mut value = Some(serde_json::from_str::<serde_json::Value>(&text)?);
        all.push(Contender::long(format!("… as JSON values, {count} secrets"), bytes, Some(floor), move || {
            value = value.take().map(|value| redactor.redact_json(value));
        }));
        all.push(Contender::short(format!("build a redactor, {count} secrets"), 0, None, move || {
            black_box(build(&secrets).ok());
        }));
    }
    Ok(())
}

impl Contender {
    fn short(name: String, bytes: usize, floor: Option<usize>, work: impl FnMut() + 'static) -> Self {
        Self { name, bytes, batch: 32, floor, aim: None, work: Box::new(work) }
    }

    fn long(name: String, bytes: usize, floor: Option<usize>, work: impl FnMut() + 'static) -> Self {
        Self { batch: 1, ..Self::short(name, bytes, floor, work) }
    }
}

/// What a credential weighs when it is encoded.
const CREDENTIAL_BYTES: usize = 200;
const PAYLOAD_BYTES: usize = 1 << 10;
const TEXT_BYTES: usize = 1 << 20;
const OPEN_AIM_NS: f64 = 3_000.0;
