//! The plaintext of a stored connection.
#![no_main]

use ap_crypto::connection::{decode_connection, encode_connection};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(connection) = decode_connection(data) else { return };
    let encoded = encode_connection(&connection).expect("what was read can be written");
    let again = decode_connection(&encoded).expect("and read back");
    assert_eq!(encode_connection(&again).expect("written again"), encoded);
});
