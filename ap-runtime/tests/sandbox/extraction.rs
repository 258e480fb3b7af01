//! Scripts that want the secret behind a placeholder, or anything that tells them about it.

use std::sync::Arc;

use ap_core::capability::{HttpError, HttpRequest, HttpResponse};
use ap_runtime::sandbox::{CodeError, CodeHost, NoCodeHost, StoreCall, StoreCallError};
use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::{SANDBOX, request, step};

/// The placeholders of this run, and what they stand for: 32 bytes in hex, and words.
const KEY: (&str, &str) = (
    "apcred_dpLDrTVAu4A8Ags67mbNiIcSMjTqDG5xQ8Ct1z_0Me0",
    "7365637265742d6b65792d6f662d746869732d746573742d30303030303032a1",
);
const WORDS: (&str, &str) = ("apcred_P8TM_nRYcOLA2Z9x8w_wZWyN7dQcwdfT03aw2-aF4vM", "correct horse battery staple 0042");
/// Of another run.
const FOREIGN: &str = "apcred_CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCA";

/// Knows two placeholders, and gives every request back.
#[derive(Debug)]
struct Vault;

#[async_trait]
impl CodeHost for Vault {
    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let body = request.body.as_deref().map(|body| String::from_utf8_lossy(body).into_owned());
        let echo = json!({ "url": request.url, "headers": request.headers, "body": body });
        Ok(HttpResponse { status: 200, headers: Vec::new(), body: echo.to_string().into(), redirected_to: None })
    }

    fn key(&self, placeholder: &str) -> Option<Result<SecretString, HttpError>> {
        let found = [KEY, WORDS].into_iter().find(|(known, _)| *known == placeholder)?;
        Some(Ok(found.1.into()))
    }

    fn mentions(&self, bytes: &[u8]) -> bool {
        let text = String::from_utf8_lossy(bytes);
        [KEY, WORDS].iter().any(|(known, _)| text.contains(known))
    }

    fn placeholders(&self) -> Vec<String> {
        vec![KEY.0.to_owned(), WORDS.0.to_owned()]
    }

    async fn store(&self, call: StoreCall) -> Result<Option<String>, StoreCallError> {
        NoCodeHost.store(call).await
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        let text = String::from_utf8_lossy(&bytes);
        if text.contains(KEY.1) || text.contains(WORDS.1) { b"(masked)".to_vec() } else { bytes }
    }
}

/// How a script must end.
enum End {
    /// With this value.
    Gives(Value),
    /// With an exception whose message has this in it.
    Refused(&'static str),
    /// With any value or exception that tells nothing.
    Harmless,
}

use End::{Gives, Harmless, Refused};

const AS_KEY_ONLY: &str = "as a key only";
const A_PART: &str = "use the whole value as the key";
const ELSEWHERE: &str = "Name the connection in the parameters of this step";

fn attacks() -> Vec<(&'static str, &'static str, End)> {
    vec![
        // As a key: what it is for.
        ("hmac", "return c.createHmac('sha256', key).update('x').digest('hex').length;", Gives(json!(64))),
        ("hmac of bytes", "return c.createHmac('sha256', Buffer.from(key, 'hex')).update('x').digest('hex').length;", Gives(json!(64))),
        (
            "encrypt and decrypt",
            "const k = Buffer.from(key, 'hex'), iv = c.randomBytes(12); const e = c.createCipheriv('aes-256-gcm', k, iv);
             const data = Buffer.concat([e.update('text'), e.final()]); const d = c.createDecipheriv('aes-256-gcm', k, iv);
             d.setAuthTag(e.getAuthTag()); return d.update(data, null, 'utf8') + d.final('utf8');",
            Gives(json!("text")),
        ),
        (
            "derive and sign",
            "return c.createHmac('sha256', c.scryptSync(words, 'salt-of-16-bytes', 32, { N: 1024 })).update('x').digest('hex').length;",
            Gives(json!(64)),
        ),
        // As anything else.
        ("hash", "return c.createHash('sha256').update(key).digest('hex');", Refused(AS_KEY_ONLY)),
        ("hash of a part around it", "return c.createHash('md5').update('a' + key + 'b').digest('hex');", Refused(AS_KEY_ONLY)),
        ("hash in two updates", "const h = c.createHash('sha1'); h.update(key.slice(0, 20)); h.update(key.slice(20)); return h.digest('hex');", Refused(AS_KEY_ONLY)),
        ("message of an hmac", "return c.createHmac('sha256', 'mine').update(key).digest('hex');", Refused(AS_KEY_ONLY)),
        (
            "plain text under one's own key",
            "const e = c.createCipheriv('aes-256-gcm', Buffer.alloc(32), Buffer.alloc(12)); return e.update(key, 'utf8', 'hex') + e.final('hex');",
            Refused(AS_KEY_ONLY),
        ),
        (
            "decoded plain text under one's own key",
            "const e = c.createCipheriv('aes-256-ctr', Buffer.alloc(32), Buffer.alloc(16)); return e.update(Buffer.from(key, 'hex'), null, 'hex') + e.final('hex');",
            Refused(AS_KEY_ONLY),
        ),
        ("as an iv", "const e = c.createCipheriv('aes-256-gcm', Buffer.alloc(32), key); return e.final('hex');", Refused(AS_KEY_ONLY)),
        (
            "as associated data",
            "const e = c.createCipheriv('aes-256-gcm', Buffer.alloc(32), Buffer.alloc(12)); e.setAAD(Buffer.from(key)); e.final(); return e.getAuthTag().toString('hex');",
            Refused(AS_KEY_ONLY),
        ),
        ("as a salt", "return c.pbkdf2Sync('mine', key, 1, 32, 'sha256').toString('hex');", Refused(AS_KEY_ONLY)),
        ("as a salt of scrypt", "return c.scryptSync('mine', key, 32, { N: 1024 }).toString('hex');", Refused(AS_KEY_ONLY)),
        ("as the info of hkdf", "return Buffer.from(c.hkdfSync('sha256', 'mine', 'salt', key, 32)).toString('hex');", Refused(AS_KEY_ONLY)),
        (
            "compared in constant time",
            "return c.timingSafeEqual(Buffer.from(key), Buffer.from('x'.repeat(50)));",
            Refused(AS_KEY_ONLY),
        ),
        ("compared with itself", "return c.timingSafeEqual(Buffer.from(key), Buffer.from(key));", Refused(AS_KEY_ONLY)),
        ("web crypto digest", "return Buffer.from(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(key))).toString('hex');", Refused(AS_KEY_ONLY)),
        (
            "web crypto export",
            "const k = await crypto.subtle.importKey('raw', Buffer.from(key, 'hex'), { name: 'HMAC', hash: 'SHA-256' }, true, ['sign']);
             return Buffer.from(await crypto.subtle.exportKey('raw', k)).toString('latin1');",
            Harmless,
        ),
        (
            "web crypto derived bits",
            "const k = await crypto.subtle.importKey('raw', new TextEncoder().encode(words), 'PBKDF2', false, ['deriveBits']);
             return Buffer.from(await crypto.subtle.deriveBits({ name: 'PBKDF2', hash: 'SHA-256', salt: Buffer.alloc(16), iterations: 1000 }, k, 256)).toString('hex');",
            Harmless,
        ),
        ("derived key as bytes", "return c.pbkdf2Sync(words, 'salt', 1, 32, 'sha256').toString('hex');", Harmless),
        ("derived key as data", "return c.createHash('sha256').update(c.pbkdf2Sync(words, 'salt', 1, 32, 'sha256')).digest('hex');", Refused(AS_KEY_ONLY)),
        ("a few bits of a derived key", "return c.createHmac('sha256', c.pbkdf2Sync(words, 'salt', 1, 1, 'sha256')).update('x').digest('hex');", Refused("")),
        // Looking at it.
        ("the text itself", "return key;", Gives(json!(KEY.0))),
        ("its length", "return [key.length, words.length, Buffer.from(key, 'hex').length, Buffer.from(words, 'utf8').length];", Gives(json!([50, 50, 50, 50]))),
        ("its first characters", "return key.slice(0, 12);", Gives(json!("apcred_dpLDr"))),
        ("equality with a guess", "return [key === '7365637265742d6b', words == 'correct horse battery staple 0042'];", Gives(json!([false, false]))),
        ("order against a guess", "return [key < '7365', words < 'correct horse', Buffer.compare(Buffer.from(words), Buffer.from('correct horse')) ];", Harmless),
        ("bytes of the decoded key", "return [...Buffer.from(key, 'hex')].join();", Harmless),
        ("xor with zeros", "return Buffer.from(Buffer.from(key, 'hex').map((byte) => byte ^ 0)).toString('hex');", Harmless),
        ("as base64, which it is not", "return Buffer.from(words, 'base64').toString('hex');", Refused("")),
        ("a length by the wrong cipher", "return c.createCipheriv('aes-128-gcm', Buffer.from(key, 'hex'), Buffer.alloc(12)).final('hex');", Refused("")),
        ("a key with something behind it", "return c.createHmac('sha256', key + 'x').update('x').digest('hex');", Refused("as a whole only")),
        ("half of a placeholder as data", "return c.createHash('sha256').update(key.slice(0, 25)).digest('hex').length;", Gives(json!(64))),
        ("half of a placeholder as a key", "return c.createHmac('sha256', key.slice(0, 25)).update('x').digest('hex');", Refused(A_PART)),
        ("the other half", "return c.createHmac('sha256', key.slice(25)).update('x').digest('hex');", Refused(A_PART)),
        ("a secret without what one thinks its prefix is", "return c.createHmac('sha256', Buffer.from(key.slice(6), 'base64')).update('x').digest('hex');", Refused(A_PART)),
        ("half of a key", "return c.createCipheriv('aes-128-gcm', Buffer.from(key, 'hex').subarray(0, 16), Buffer.alloc(12)).final('hex');", Refused(A_PART)),
        ("a part of a derived key", "return c.createCipheriv('aes-256-cbc', c.scryptSync(words, 'salt', 64, { N: 1024 }).subarray(0, 32), Buffer.alloc(16)).final('hex');", Refused(A_PART)),
        ("the end of a derived key", "return c.createCipheriv('aes-256-cbc', c.scryptSync(words, 'salt', 64, { N: 1024 }).subarray(-32), Buffer.alloc(16)).final('hex');", Refused(A_PART)),
        ("a part as a password", "return c.scryptSync(key.slice(9), 'salt', 32, { N: 1024 }).toString('hex');", Refused(A_PART)),
        ("a part with one's own text", "return c.createHmac('sha256', 'v1:' + words.slice(10, 30) + ':').update('x').digest('hex');", Refused(A_PART)),
        (
            "web crypto with a part",
            "const k = await crypto.subtle.importKey('raw', Buffer.from(key, 'hex').subarray(0, 32), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
             return Buffer.from(await crypto.subtle.sign('HMAC', k, Buffer.from('x'))).toString('hex');",
            Refused(A_PART),
        ),
        (
            "a derived key of the length that is wanted",
            "const k = c.scryptSync(words, 'salt', 32, { N: 1024 }), e = c.createCipheriv('aes-256-cbc', k, Buffer.alloc(16)); return (e.update('text', 'utf8', 'hex') + e.final('hex')).length;",
            Gives(json!(32)),
        ),
        (
            "a short tag under the key",
            "const e = c.createCipheriv('aes-256-gcm', Buffer.from(key, 'hex'), Buffer.alloc(12), { authTagLength: 4 }); e.final(); return e.getAuthTag().toString('hex');",
            Refused(""),
        ),
        // Of another run.
        ("a placeholder of another run as data", "return c.createHash('sha256').update(foreign).digest('hex').length;", Gives(json!(64))),
        ("a placeholder of another run as a key", "return c.createHmac('sha256', foreign).update('x').digest('hex');", Refused(ELSEWHERE)),
        ("its bytes as a key", "return c.createHmac('sha256', Buffer.from(foreign)).update('x').digest('hex');", Refused(ELSEWHERE)),
        ("what it spells as a key", "return c.createHmac('sha256', Buffer.from(foreign, 'hex')).update('x').digest('hex');", Refused(ELSEWHERE)),
        ("a part of it as a key", "return c.createHmac('sha256', foreign.slice(0, 32)).update('x').digest('hex');", Refused(A_PART)),
        (
            "a guessed handle",
            "const guess = 'apcred_' + Buffer.alloc(32, 1).toString('base64url'); return c.createHmac('sha256', guess).update('x').digest('hex').length;",
            Refused(ELSEWHERE),
        ),
        // Getting at what the platform holds.
        (
            "hooks on buffers",
            "const seen = []; const from = Uint8Array.prototype.set; Uint8Array.prototype.set = function (...a) { seen.push(String(a[0])); return from.apply(this, a); };
             c.createHmac('sha256', Buffer.from(key, 'hex')).update('x').digest(); return seen.join();",
            Harmless,
        ),
        (
            "hooks on JSON",
            "const seen = []; JSON.stringify = (v) => { seen.push(v); return '{}'; }; try { c.createCipheriv('aes-256-gcm', Buffer.from(key, 'hex'), Buffer.alloc(12)).final(); } catch (e) { seen.push(String(e)); } return seen.map(String).join();",
            Harmless,
        ),
        ("stacks of errors", "try { c.createHash('x').update(key).digest(); } catch (e) { return e.stack + e.message + Object.keys(e); }", Harmless),
        ("inspection", "return require('util').inspect([key, Buffer.from(key, 'hex'), c.createHmac('sha256', key), c.createSecretKey(Buffer.from(key, 'hex'))], { depth: 9, showHidden: true });", Harmless),
        ("a cloned key", "return structuredClone({ k: Buffer.from(key, 'hex') }).k.length;", Harmless),
        ("logging it", "console.log(key, Buffer.from(key, 'hex'), c.pbkdf2Sync(words, 's', 1, 32, 'sha1')); return 1;", Harmless),
        // Sending it: what stands in requests is text that the way out puts secrets in for, or not.
        ("in a body", "return (await fetch('https://api.example/', { method: 'POST', body: key })).json();", Harmless),
        ("in a path", "return (await fetch('https://api.example/' + key)).json();", Harmless),
        ("a derived key in a header", "return (await fetch('https://api.example/', { headers: { a: c.pbkdf2Sync(words, 's', 1, 32, 'sha1').toString('latin1') } })).json();", Harmless),
        ("decoded in a body", "return (await fetch('https://api.example/', { method: 'POST', body: Buffer.from(key, 'hex') })).json();", Harmless),
        (
            "asking what a value is by decrypting a guess",
            "const k = Buffer.from(key, 'hex'), iv = Buffer.alloc(12); const e = c.createCipheriv('aes-256-gcm', k, iv); const data = e.update('correct horse', 'utf8', 'hex') + e.final('hex');
             const d = c.createDecipheriv('aes-256-gcm', k, iv); d.setAuthTag(e.getAuthTag()); return d.update(data, 'hex', 'utf8') + d.final('utf8');",
            Gives(json!("correct horse")),
        ),
    ]
}

#[tokio::test]
async fn no_script_learns_a_secret() {
    let mut surprises = Vec::new();
    for (name, body, end) in attacks() {
        let body = format!("const c = require('crypto'); const {{ key, words, foreign }} = params; {body}");
        let params = json!({ "key": KEY.0, "words": WORDS.0, "foreign": FOREIGN });
        let mut request = request(&step(&body), &params.to_string());
        request.host = Arc::new(Vault);
        let result = SANDBOX.run(request).await;
        let as_expected = match (&result, &end) {
            (Ok(output), Gives(value)) => output.value == *value,
            (Err(CodeError::Thrown { message, .. }), Refused(part)) => message.contains(part),
            (Ok(_) | Err(CodeError::Thrown { .. }), Harmless) => true,
            _ => false,
        };
        // The host's own errors among it; the step's console as well.
        let told = format!("{result:?}");
        if !as_expected {
            surprises.push(format!("{name}: {told}"));
        }
        surprises
            .extend(forms().into_iter().filter(|form| told.contains(form)).map(|form| format!("{name} told {form}")));
    }
    assert!(surprises.is_empty(), "{surprises:#?}");
}

/// The secrets as a script would bring them out.
fn forms() -> Vec<String> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let bytes: Vec<u8> = KEY.1.as_bytes().chunks(2).map(byte).collect();
    let hex = |text: &[u8]| text.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let decimal = |text: &[u8]| text.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
    let backwards = |text: &str| text.chars().rev().collect::<String>();
    vec![
        KEY.1[..24].to_owned(),
        WORDS.1[..13].to_owned().replace("correct horse", "correct horse battery"),
        hex(WORDS.1.as_bytes()),
        hex(KEY.1.as_bytes()),
        decimal(&bytes),
        decimal(WORDS.1.as_bytes()),
        backwards(KEY.1),
        backwards(WORDS.1),
        String::from_utf8_lossy(bytes.first_chunk::<20>().unwrap()).into_owned(),
        "c2VjcmV0LWtleS1vZi10aGlzLXRlc3Q".to_owned(),
        "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5".to_owned(),
    ]
}
