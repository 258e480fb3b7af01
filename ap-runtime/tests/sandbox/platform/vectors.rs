//! Published test vectors, through the JavaScript interfaces.

use serde_json::json;

use super::evaluate;

/// Name, expression (or body with `return`), hexadecimal result.
async fn check(vectors: &[(&str, &str, &str)]) {
    for (name, code, expected) in vectors {
        let body = format!("const crypto = require('crypto'); const hex = (text) => Buffer.from(text, 'hex'); {code}");
        assert_eq!(evaluate(&body).await, json!(expected), "{name}");
    }
}

#[tokio::test]
async fn hashes() {
    check(&[
        (
            "FIPS 180-4, SHA-256",
            "return crypto.createHash('sha256').update('abc').digest('hex');",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        (
            "FIPS 180-4, SHA-256 in two blocks",
            "return crypto.createHash('sha256').update('abcdbcdecdefdefgefghfghighijhijk').update('ijkljklmklmnlmnomnopnopq').digest('hex');",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (
            "FIPS 180-4, SHA-1 by Web Crypto",
            "return Buffer.from(await crypto.subtle.digest('SHA-1', new TextEncoder().encode('abc'))).toString('hex');",
            "a9993e364706816aba3e25717850c26c9cd0d89d",
        ),
        ("RFC 1321", "return crypto.createHash('md5').update('message digest').digest('hex');", "f96b697d7cb7938d525a2f31aaf161d0"),
        (
            "FIPS 180-4, SHA-512",
            "return crypto.hash('sha512', 'abc');",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
    ])
    .await;
}

/// RFC 4231.
#[tokio::test]
async fn hmac() {
    check(&[
        (
            "case 1",
            "return crypto.createHmac('sha256', Buffer.alloc(20, 0x0b)).update('Hi There').digest('hex');",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        ),
        (
            "case 2",
            "return crypto.createHmac('sha256', 'Jefe').update('what do ya want ').update('for nothing?').digest('hex');",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            "case 6, a key longer than a block",
            "return crypto.createHmac('sha256', Buffer.alloc(131, 0xaa)).update('Test Using Larger Than Block-Size Key - Hash Key First').digest('hex');",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
        (
            "case 2 by Web Crypto",
            "const key = await crypto.subtle.importKey('raw', Buffer.from('Jefe'), { name: 'HMAC', hash: 'SHA-512' }, false, ['sign']);
             return Buffer.from(await crypto.subtle.sign('HMAC', key, Buffer.from('what do ya want for nothing?'))).toString('hex');",
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
    ])
    .await;
}

/// The GCM specification's test case 4 (AES-128) and 16 (AES-256).
#[tokio::test]
async fn aes_gcm() {
    const DATA: &str = "const plain = hex('d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39');
        const aad = hex('feedfacedeadbeeffeedfacedeadbeefabaddad2'), iv = hex('cafebabefacedbaddecaf888');";
    let node = |bits: u32, key: &str| {
        format!(
            "{DATA} const cipher = crypto.createCipheriv('aes-{bits}-gcm', hex('{key}'), iv); cipher.setAAD(aad);
             const sealed = cipher.update(plain, null, 'hex') + cipher.final('hex');
             const decipher = crypto.createDecipheriv('aes-{bits}-gcm', hex('{key}'), iv); decipher.setAAD(aad);
             decipher.setAuthTag(cipher.getAuthTag());
             if (decipher.update(sealed, 'hex', 'hex') + decipher.final('hex') !== plain.toString('hex')) throw new Error('not opened');
             return sealed + cipher.getAuthTag().toString('hex');"
        )
    };
    let case_4 = "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47";
    let case_16 = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b";
    let web = format!(
        "{DATA} const key = await crypto.subtle.importKey('raw', hex('feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308'), 'AES-GCM', false, ['encrypt']);
         return Buffer.from(await crypto.subtle.encrypt({{ name: 'AES-GCM', iv, additionalData: aad }}, key, plain)).toString('hex');"
    );
    check(&[("case 4", &node(128, "feffe9928665731c6d6a8f9467308308"), case_4)]).await;
    check(&[
        ("case 16", &node(256, "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"), case_16),
        ("case 16 by Web Crypto", &web, case_16),
    ])
    .await;
}

/// NIST SP 800-38A, F.2.5 and F.5.5.
#[tokio::test]
async fn aes_cbc_and_ctr() {
    check(&[
        (
            "CBC",
            "const cipher = crypto.createCipheriv('aes-256-cbc', hex('603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4'), hex('000102030405060708090a0b0c0d0e0f'));
             cipher.setAutoPadding(false);
             return cipher.update('6bc1bee22e409f96e93d7e117393172a', 'hex', 'hex') + cipher.update('ae2d8a571e03ac9c9eb76fac45af8e51', 'hex', 'hex') + cipher.final('hex');",
            "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
        ),
        (
            "CBC, without padding, back",
            "const decipher = crypto.createDecipheriv('aes-256-cbc', hex('603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4'), hex('000102030405060708090a0b0c0d0e0f'));
             decipher.setAutoPadding(false);
             return decipher.update('f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d', 'hex', 'hex') + decipher.final('hex');",
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
        ),
        (
            "CTR",
            "const cipher = crypto.createCipheriv('aes-256-ctr', hex('603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4'), hex('f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff'));
             return cipher.update('6bc1bee22e409f96e9', 'hex', 'hex') + cipher.update('3d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51', 'hex', 'hex');",
            "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5",
        ),
    ])
    .await;
}

/// RFC 8439, 2.8.2.
#[tokio::test]
async fn chacha20_poly1305() {
    check(&[(
        "2.8.2",
        "const key = hex('808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f');
         const cipher = crypto.createCipheriv('chacha20-poly1305', key, hex('070000004041424344454647'), { authTagLength: 16 });
         cipher.setAAD(hex('50515253c0c1c2c3c4c5c6c7'));
         const text = \"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.\";
         return cipher.update(text, 'utf8', 'hex').slice(0, 32) + cipher.final('hex') + cipher.getAuthTag().toString('hex');",
        "d31a8d34648e60db7b86afbc53ef7ec21ae10b594f09e26a7e902ecbd0600691",
    )])
    .await;
}

/// RFC 7914, sections 11 and 12; RFC 5869, A.1.
#[tokio::test]
async fn key_derivation() {
    check(&[
        (
            "PBKDF2",
            "return crypto.pbkdf2Sync('passwd', 'salt', 1, 64, 'sha256').toString('hex');",
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783",
        ),
        (
            "PBKDF2 by Web Crypto",
            "const key = await crypto.subtle.importKey('raw', Buffer.from('passwd'), 'PBKDF2', false, ['deriveBits']);
             return Buffer.from(await crypto.subtle.deriveBits({ name: 'PBKDF2', hash: 'SHA-256', salt: Buffer.from('salt'), iterations: 1 }, key, 512)).toString('hex');",
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783",
        ),
        (
            "scrypt",
            "return crypto.scryptSync('password', 'NaCl', 64, { N: 1024, r: 8, p: 16 }).toString('hex');",
            "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b3731622eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640",
        ),
        (
            "HKDF",
            "return Buffer.from(crypto.hkdfSync('sha256', Buffer.alloc(22, 0x0b), hex('000102030405060708090a0b0c'), hex('f0f1f2f3f4f5f6f7f8f9'), 42)).toString('hex');",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
    ])
    .await;
}
