//! The byte strings a secret may appear as, once per-character escapes are undone.

use base64::{Engine, engine::general_purpose};
use zeroize::Zeroizing;

use crate::hex::push_hex;

/// One spelling of one secret.
pub(super) struct Form {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Index of the name that is shown in its place.
    pub(super) name: usize,
    /// The base64 digit before the form holds some of its bits, and so does the one behind it.
    pub(super) shares_digit_before: bool,
    pub(super) shares_digit_after: bool,
}

/// Appends every form of `secret`; what white space surrounds it does not matter, because peers strip it.
pub(super) fn push_forms(secret: &str, name: usize, forms: &mut Vec<Form>) {
    let trimmed = secret.trim();
    let whole = if trimmed.len() < super::MIN_SECRET_BYTES { secret } else { trimmed };
    let first = forms.len();
    push_text_forms(whole, name, forms);
    // Keys in PEM (RFC 7468) are printed line by line, indented, with other line ends. The armour is no secret.
    let lines = whole.lines().map(str::trim).filter(|line| *line != whole);
    for line in lines.filter(|line| line.len() >= MIN_LINE_BYTES && !line.starts_with("-----")) {
        push_text_forms(line, name, forms);
    }
    // Three characters of three bytes each have six in UTF-16, which any other six bytes could be.
    if forms.iter().skip(first).any(|form| form.bytes.len() < super::MIN_SECRET_BYTES) {
        forms.retain(|form| form.bytes.len() >= super::MIN_SECRET_BYTES);
    }
}

fn push_text_forms(text: &str, name: usize, forms: &mut Vec<Form>) {
    let mut push = |bytes: Vec<u8>| forms.push(Form::exact(bytes, name));
    push(text.as_bytes().to_vec());
    if text.contains(' ') {
        // What remains of a form-encoded text after its percent escapes are undone.
        push(text.bytes().map(|byte| if byte == b' ' { b'+' } else { byte }).collect());
    }
    let mut hex = String::with_capacity(2 * text.len());
    push_hex(text.as_bytes(), &mut hex);
    push(hex.to_ascii_uppercase().into_bytes());
    push(hex.into_bytes());
    push(utf16(text, u16::to_le_bytes));
    push(utf16(text, u16::to_be_bytes));
    for engine in [&general_purpose::STANDARD_NO_PAD, &general_purpose::URL_SAFE_NO_PAD] {
        forms.extend((0..3).filter_map(|bytes_before| base64_inside(text.as_bytes(), bytes_before, name, engine)));
    }
}

impl Form {
    fn exact(bytes: Vec<u8>, name: usize) -> Self {
        Self { bytes: Zeroizing::new(bytes), name, shares_digit_before: false, shares_digit_after: false }
    }
}

/// The digits that `secret` alone determines when `bytes_before` other bytes (modulo 3) stand before it.
fn base64_inside(
    secret: &[u8],
    bytes_before: usize,
    name: usize,
    engine: &general_purpose::GeneralPurpose,
) -> Option<Form> {
    let mut padded = Zeroizing::new(vec![0; bytes_before]);
    padded.reserve_exact(secret.len());
    padded.extend_from_slice(secret);
    let digits = Zeroizing::new(engine.encode(&*padded));
    // A digit is six bits: the first that starts at or behind the secret's first bit, up to the last that ends inside it.
    let (first, end) = ((8 * bytes_before).div_ceil(6), 8 * padded.len() / 6);
    Some(Form {
        bytes: Zeroizing::new(digits.as_bytes().get(first..end)?.to_vec()),
        name,
        shares_digit_before: !(8 * bytes_before).is_multiple_of(6),
        shares_digit_after: !(8 * padded.len()).is_multiple_of(6),
    })
}

fn utf16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(to_bytes).collect()
}

/// Shorter lines of a multi-line secret are not looked for by themselves.
const MIN_LINE_BYTES: usize = 16;
