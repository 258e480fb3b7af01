use ap_core::capability::{ExchangeError, ObjectBody, ObjectEntry, ObjectList, PresignedUrl};

use super::*;
use crate::testing::{NOW, ObjectAnswer, ObjectCall, Outside, action, check_settings, run_outside};

fn info() -> ObjectInfo {
    ObjectInfo {
        bucket: "b".to_owned(),
        key: "k".to_owned(),
        size: 2,
        content_type: Some("text/plain".to_owned()),
        etag: Some("e".to_owned()),
    }
}

#[test]
fn what_the_guide_writes_is_refused_for_its_missing_content_alone() {
    let mut settings = json!({
        "connection": "{{connections.s3_storage}}",
        "bucket": "secure-uploads",
        "filename": "{{steps.validate_file.output.secureFilename}}",
        "encryption": "AES256",
        "acl": "private",
    });
    assert_eq!(check_settings(&Storage, "upload", settings.clone()), ["property.required"]);
    settings["content"] = json!("{{trigger.body.file}}");
    assert_eq!(check_settings(&Storage, "upload", settings.clone()), [] as [&str; 0]);
    settings["acl"] = json!("public-read");
    assert_eq!(check_settings(&Storage, "upload", settings), ["property.type"]);
}

#[tokio::test]
async fn uploads_write_text_json_and_bytes() {
    for (more, bytes, kind) in [
        (json!({ "content": "é" }), "é".as_bytes(), "text/plain; charset=utf-8"),
        (json!({ "content": { "a": [1] } }), br#"{"a":[1]}"#, "application/json"),
        (json!({ "content": "AP8=", "encoding": "base64" }), &[0, 255], "application/octet-stream"),
        (json!({ "content": "<a/>", "contentType": "text/xml" }), b"<a/>", "text/xml"),
    ] {
        let outside = Outside::default();
        outside.object(Ok(ObjectAnswer::Info(info())));
        let mut input = json!({ "connection": "apcred_s3", "bucket": "b", "filename": "k", "encryption": "AES256" });
        input.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let output = run_outside(&outside, &Storage, "upload", input).await.expect("written");
        assert_eq!(
            output,
            json!({ "bucket": "b", "filename": "k", "size": 2, "contentType": "text/plain", "etag": "e" })
        );
        let ObjectCall::Put(put) = outside.call() else { panic!("a write") };
        assert_eq!((&put.content[..], put.content_type.as_deref()), (bytes, Some(kind)));
        assert_eq!((put.target.bucket.as_deref(), put.target.key.as_str()), (Some("b"), "k"));
        assert_eq!((put.encryption.as_deref(), put.acl, put.only_if_absent), (Some("AES256"), None, false));
    }
    for wrong in [json!({ "content": "%", "encoding": "base64" }), json!({ "content": 7, "encoding": "base64" })] {
        let mut input = json!({ "connection": "apcred_s3", "filename": "k" });
        input.as_object_mut().expect("an object").extend(wrong.as_object().expect("an object").clone());
        let refused = run_outside(&Outside::default(), &Storage, "upload", input).await.expect_err("refused");
        assert_eq!(refused.error.kind, StepErrorKind::Input);
    }
}

#[tokio::test]
async fn downloads_are_text_or_base64() {
    let body = |content: &'static [u8]| Ok(ObjectAnswer::Body(ObjectBody { info: info(), content: content.into() }));
    let input =
        |encoding: &str| json!({ "connection": "apcred_s3", "filename": "k", "encoding": encoding, "maxBytes": 10 });
    let outside = Outside::default();
    for (content, encoding, expected) in
        [(&b"hi"[..], "text", Some("hi")), (&[0, 255], "base64", Some("AP8=")), (&[0, 255], "text", None)]
    {
        outside.object(body(content));
        let output = run_outside(&outside, &Storage, "download", input(encoding)).await;
        assert_eq!(output.ok().and_then(|output| output["content"].as_str().map(str::to_owned)).as_deref(), expected);
        assert!(matches!(outside.call(), ObjectCall::Get(target, 10) if target.key == "k"));
    }
    outside.object(Err(ExchangeError::Rejected {
        code: "NoSuchKey".to_owned(),
        reason: "none".to_owned(),
        transient: false,
    }));
    let missing = run_outside(&outside, &Storage, "download", input("text")).await.expect_err("missing").error;
    assert_eq!((missing.kind, missing.detail), (StepErrorKind::Remote, Some(json!({ "code": "NoSuchKey" }))));
}

#[tokio::test]
async fn objects_are_deleted_listed_and_presigned() {
    let outside = Outside::default();
    let input = json!({ "connection": "apcred_s3", "filename": "k" });
    outside.object(Ok(ObjectAnswer::Done));
    let deleted = run_outside(&outside, &Storage, "delete", input.clone()).await;
    assert_eq!(deleted, Ok(json!({ "deleted": true })));
    outside.object(Ok(ObjectAnswer::Url(PresignedUrl {
        url: "https://s3.example/k?x".to_owned(),
        method: "PUT",
        expires: NOW,
    })));
    let mut presign = input;
    presign["access"] = json!("write");
    let url = run_outside(&outside, &Storage, "presign", presign).await;
    assert_eq!(
        url,
        Ok(json!({ "url": "https://s3.example/k?x", "method": "PUT", "expiresAt": "2026-01-02T03:04:05Z" }))
    );
    let entry = ObjectEntry { key: "k".to_owned(), size: 2, etag: None, modified: None };
    outside.object(Ok(ObjectAnswer::List(ObjectList { entries: vec![entry], next: Some("n".to_owned()) })));
    let list =
        run_outside(&outside, &Storage, "list", json!({ "connection": "apcred_s3", "prefix": "p", "limit": 1 })).await;
    let file = json!({ "filename": "k", "size": 2, "etag": null, "modified": null });
    assert_eq!(list, Ok(json!({ "files": [file], "next": "n" })));
    let calls = [outside.call(), outside.call(), outside.call()];
    let [ObjectCall::Delete(deleted), ObjectCall::Presign(presign), ObjectCall::List(listing)] = calls else {
        panic!("three calls")
    };
    assert_eq!(deleted.key, "k");
    assert_eq!((presign.access, presign.expires_in), (ObjectAccess::Write, Duration::from_secs(3_600)));
    assert_eq!((listing.prefix.as_str(), listing.limit), ("p", 1));
}

#[test]
fn only_an_upload_that_must_not_overwrite_is_not_repeated() {
    for (name, input, effect) in [
        ("upload", json!({}), Effect::Repeatable),
        ("upload", json!({ "overwrite": true }), Effect::Repeatable),
        ("upload", json!({ "overwrite": false }), Effect::Once),
        ("download", json!({}), Effect::Repeatable),
        ("delete", json!({}), Effect::Repeatable),
        ("presign", json!({}), Effect::Repeatable),
        ("list", json!({}), Effect::Repeatable),
    ] {
        assert_eq!(action(&Storage, name).effect(&input), effect, "{name} {input}");
    }
}
