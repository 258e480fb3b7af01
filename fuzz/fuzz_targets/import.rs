//! A connection as another product stores it: the stored text as it is, and as what was encrypted.
#![no_main]

use aes::Aes256;
use ap_crypto::import::{ImportKey, open_stored};
use cbc::{
    Encryptor,
    cipher::{BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7},
};
use libfuzzer_sys::fuzz_target;

const KEY: &str = "00112233445566778899aabbccddeeff";

fuzz_target!(|data: &[u8]| {
    let key = ImportKey::new(KEY).expect("a key");
    assert!(open_stored(data, &key).is_err());
    let iv = [9; 16];
    let mut sealed = data.to_vec();
    sealed.resize(data.len() + 16, 0);
    let cipher = Encryptor::<Aes256>::new(KEY.as_bytes().try_into().expect("32 bytes"), &iv.into());
    let sealed = cipher.encrypt_padded::<Pkcs7>(&mut sealed, data.len()).expect("room for the padding");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let stored = format!(r#"{{"iv":"{}","data":"{}"}}"#, hex(&iv), hex(sealed));
    if let Ok(opened) = open_stored(stored.as_bytes(), &key) {
        let shown = format!("{opened:?}");
        assert!(shown.len() < 60, "{shown}");
        assert!(open_stored(stored.replacen("09", "08", 1).as_bytes(), &key).is_err());
    }
});
