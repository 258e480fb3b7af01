//! How a peer gives a secret back.

/// One way of giving a secret back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    Base64,
    Base64By1,
    Base64By2,
    Base64Url,
    Chunks,
    Gzip,
    Headers,
    Hex,
    HexUpper,
    Json,
    JsonInText,
    Large,
    Latin1,
    NotFound,
    Percent,
    ServerError,
    Text,
    Utf16Be,
    Utf16Le,
}

impl Echo {
    pub const ALL: [Self; 19] = [
        Self::Base64,
        Self::Base64By1,
        Self::Base64By2,
        Self::Base64Url,
        Self::Chunks,
        Self::Gzip,
        Self::Headers,
        Self::Hex,
        Self::HexUpper,
        Self::Json,
        Self::JsonInText,
        Self::Large,
        Self::Latin1,
        Self::NotFound,
        Self::Percent,
        Self::ServerError,
        Self::Text,
        Self::Utf16Be,
        Self::Utf16Le,
    ];

    pub fn name(self) -> String {
        format!("{self:?}")
    }

    pub fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|echo| echo.name() == name).unwrap_or_else(|| panic!("no echo is named `{name}`"))
    }

    /// Whether a mask in the body can be read as text.
    pub fn stays_text(self) -> bool {
        !matches!(self, Self::Latin1 | Self::Utf16Be | Self::Utf16Le)
    }

    /// The secret in this form.
    pub fn write(self, secret: &str) -> Vec<u8> {
        let bytes = secret.as_bytes();
        match self {
            Self::Base64 => base64(bytes, STANDARD).into(),
            Self::Base64By1 => base64(&[b":", bytes].concat(), STANDARD).into(),
            Self::Base64By2 => base64(&[b"u:", bytes].concat(), STANDARD).into(),
            Self::Base64Url => base64(bytes, URL_SAFE).into(),
            Self::Hex => bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect(),
            Self::HexUpper => bytes.iter().flat_map(|byte| format!("{byte:02X}").into_bytes()).collect(),
            Self::Json | Self::JsonInText => json_inside(secret).into(),
            Self::Latin1 => secret.chars().map(|char| u8::try_from(char).unwrap()).collect(),
            // Not every secret fits a header field as it is.
            Self::Headers | Self::Percent => percent(secret, |byte| format!("%{byte:02X}")).into(),
            Self::Utf16Be => utf16(secret, u16::to_be_bytes),
            Self::Utf16Le => utf16(secret, u16::to_le_bytes),
            Self::Chunks | Self::Gzip | Self::Large | Self::NotFound | Self::ServerError | Self::Text => bytes.to_vec(),
        }
    }
}

pub const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
pub const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

pub fn base64(bytes: &[u8], digits: &[u8; 64]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= chunk.len() { char::from(digits[index]) } else { '=' });
        }
    }
    text
}

pub fn utf16<const N: usize>(text: &str, order: fn(u16) -> [u8; N]) -> Vec<u8> {
    text.encode_utf16().flat_map(order).collect()
}

/// Everything but what RFC 3986 calls unreserved.
pub fn percent(text: &str, escape: impl Fn(u8) -> String) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if kept(byte) { char::from(byte).to_string() } else { escape(byte) }).collect()
}

/// A JSON string without its quotes.
pub fn json_inside(text: &str) -> String {
    text.chars()
        .map(|char| match char {
            '"' | '\\' => format!("\\{char}"),
            _ => char.to_string(),
        })
        .collect()
}
