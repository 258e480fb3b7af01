//! Writing a message (RFC 5322, MIME). Everything that could begin a header of its own is refused.

use std::time::{Duration, UNIX_EPOCH};

use ap_core::{
    capability::{ExchangeError, MailAttachment, MailMessage},
    time::Timestamp,
};
use lettre::{
    Message,
    message::{
        Attachment, Body, Mailbox, MultiPart, SinglePart,
        header::{ContentTransferEncoding, ContentType},
    },
};
use sha2::{Digest, Sha256};

/// A message ready to be sent.
pub(super) struct Written {
    pub(super) from: String,
    pub(super) to: Vec<String>,
    pub(super) id: String,
    pub(super) bytes: Vec<u8>,
}

/// What a message may be at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct MailLimits {
    pub(super) max_recipients: usize,
    pub(super) max_bytes: usize,
}

/// Writes `message`, from `from` unless it says otherwise.
pub(super) fn write(
    message: &MailMessage,
    from: Option<&str>,
    limits: MailLimits,
    now: Timestamp,
) -> Result<Written, ExchangeError> {
    let from = message.from.as_deref().or(from).ok_or_else(|| {
        invalid("it has no sender: give `from`, or a clear field `from` in the connection".to_owned())
    })?;
    let from = mailbox("from", from)?;
    let mut builder = Message::builder().from(from.clone()).date(UNIX_EPOCH + since_epoch(now));
    let mut recipients = Vec::new();
    for (name, addresses) in [("to", &message.to), ("cc", &message.cc), ("bcc", &message.bcc)] {
        for address in addresses {
            let mailbox = mailbox(name, address)?;
            recipients.push(mailbox.email.to_string());
            builder = match name {
                "to" => builder.to(mailbox),
                "cc" => builder.cc(mailbox),
                // Known to the server, and to nobody else.
                _ => builder,
            };
        }
    }
    if recipients.is_empty() {
        return Err(invalid("it has no recipient: give `to`".to_owned()));
    }
    if recipients.len() > limits.max_recipients {
        return Err(ExchangeError::TooLarge { what: "the number of recipients", limit: limits.max_recipients });
    }
    if let Some(address) = &message.reply_to {
        builder = builder.reply_to(mailbox("replyTo", address)?);
    }
    check_line("subject", &message.subject)?;
    let domain = from.email.domain().to_owned();
    let id = message_id(message, &domain, now);
    builder = builder.subject(message.subject.as_str()).message_id(Some(id.clone()));
    let raw: usize = message.attachments.iter().map(|file| file.content.len()).sum::<usize>()
        + [&message.text, &message.html].into_iter().flatten().map(String::len).sum::<usize>();
    let too_large = ExchangeError::TooLarge { what: "the message in bytes", limit: limits.max_bytes };
    if raw > limits.max_bytes {
        return Err(too_large);
    }
    let written = body(builder, message)?.formatted();
    if written.len() > limits.max_bytes {
        return Err(too_large);
    }
    Ok(Written { from: from.email.to_string(), to: recipients, id, bytes: written })
}

fn body(builder: lettre::message::MessageBuilder, message: &MailMessage) -> Result<Message, ExchangeError> {
    let failed = |error: lettre::error::Error| invalid(format!("it cannot be written: {error}"));
    let (text, html) = (message.text.clone(), message.html.clone());
    if message.attachments.is_empty() {
        return match (text, html) {
            (Some(text), Some(html)) => builder.multipart(MultiPart::alternative_plain_html(text, html)),
            (None, Some(html)) => builder.singlepart(SinglePart::html(html)),
            (text, None) => builder.singlepart(SinglePart::plain(text.unwrap_or_default())),
        }
        .map_err(failed);
    }
    let mixed = MultiPart::mixed();
    let mut parts = match (text, html) {
        (Some(text), Some(html)) => mixed.multipart(MultiPart::alternative_plain_html(text, html)),
        (None, Some(html)) => mixed.singlepart(SinglePart::html(html)),
        (text, None) => mixed.singlepart(SinglePart::plain(text.unwrap_or_default())),
    };
    for file in &message.attachments {
        parts = parts.singlepart(attachment(file)?);
    }
    builder.multipart(parts).map_err(failed)
}

fn attachment(file: &MailAttachment) -> Result<SinglePart, ExchangeError> {
    check_line("the name of an attachment", &file.name)?;
    check_line("the media type of an attachment", &file.content_type)?;
    if file.name.is_empty() || file.name.len() > MAX_NAME_BYTES || file.name.contains(['/', '\\', '"']) {
        let reason =
            format!("the name of an attachment must be 1 to {MAX_NAME_BYTES} bytes without `/`, `\\` and `\"`");
        return Err(invalid(reason));
    }
    let kind = ContentType::parse(&file.content_type)
        .map_err(|_| invalid("the media type of an attachment must be one, such as `application/pdf`".to_owned()))?;
    // Always base64: the ends of lines in text would be changed on the way.
    let body = Body::new_with_encoding(file.content.to_vec(), ContentTransferEncoding::Base64)
        .map_err(|_| invalid("an attachment cannot be encoded".to_owned()))?;
    Ok(Attachment::new(file.name.clone()).body(body, kind))
}

/// One address, perhaps with a name before it.
fn mailbox(name: &str, text: &str) -> Result<Mailbox, ExchangeError> {
    check_line(name, text)?;
    let wrong =
        || invalid(format!("`{name}` must be an address such as `ann@mail.example` or `Ann <ann@mail.example>`"));
    let mailbox: Mailbox = text.trim().parse().map_err(|_| wrong())?;
    let address = mailbox.email.to_string();
    let plain = address.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"(),:;\\[]".contains(&byte));
    if !plain || address.len() > MAX_ADDRESS_BYTES {
        return Err(wrong());
    }
    Ok(mailbox)
}

fn check_line(name: &str, text: &str) -> Result<(), ExchangeError> {
    if text.len() > MAX_LINE_BYTES {
        return Err(ExchangeError::TooLarge { what: "a line of the message's head in bytes", limit: MAX_LINE_BYTES });
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(format!("`{name}` holds a line break or another control character")));
    }
    Ok(())
}

/// The same for every attempt of one step.
fn message_id(message: &MailMessage, domain: &str, now: Timestamp) -> String {
    let mut hash = Sha256::new();
    match &message.idempotency_key {
        Some(key) => hash.update(key.as_bytes()),
        None => {
            hash.update(now.as_micros().to_be_bytes());
            message.to.iter().chain([&message.subject]).for_each(|part| hash.update(part.as_bytes()));
        }
    }
    let mut id = String::from("<");
    for byte in hash.finalize().iter().take(16) {
        for nibble in [byte >> 4, byte & 15] {
            id.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    id.push('@');
    id.push_str(domain);
    id.push('>');
    id
}

fn since_epoch(now: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(0))
}

fn invalid(reason: String) -> ExchangeError {
    ExchangeError::InvalidRequest { reason: format!("the message cannot be sent: {reason}") }
}

const MAX_LINE_BYTES: usize = 1_000;
const MAX_NAME_BYTES: usize = 200;
/// RFC 5321 §4.5.3.1.3, without the angle brackets.
const MAX_ADDRESS_BYTES: usize = 254;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const LIMITS: MailLimits = MailLimits { max_recipients: 3, max_bytes: 10_000 };

    fn message() -> MailMessage {
        MailMessage {
            to: vec!["Ann Ä <ann@mail.example>".to_owned()],
            subject: "Grüße".to_owned(),
            text: Some("Hello\n.\nbye".to_owned()),
            idempotency_key: Some("run/step".to_owned()),
            ..MailMessage::default()
        }
    }

    fn written(message: &MailMessage) -> Result<String, ExchangeError> {
        let written =
            write(message, Some("Sender <from@mail.example>"), LIMITS, Timestamp::from_millis(1_767_323_045_000))?;
        Ok(String::from_utf8(written.bytes).expect("ASCII"))
    }

    #[test]
    fn messages_have_their_headers_and_no_bcc() {
        let mut hidden = message();
        hidden.bcc = vec!["hidden@mail.example".to_owned()];
        hidden.reply_to = Some("answers@mail.example".to_owned());
        let text = written(&hidden).expect("written");
        for line in [
            "From: Sender <from@mail.example>\r\n",
            "<ann@mail.example>\r\n",
            "Reply-To: answers@mail.example\r\n",
            "Date: Fri, 02 Jan 2026 03:04:05 +0000\r\n",
            "Subject: =?utf-8?b?",
            "Message-ID: <",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("hidden"), "{text}");
        assert!(text.is_ascii());
        let of =
            |message: &MailMessage| write(message, Some("a@b.example"), LIMITS, Timestamp::EPOCH).expect("written");
        assert_eq!(of(&hidden).to, ["ann@mail.example", "hidden@mail.example"]);
        assert_eq!(of(&message()).id, of(&message()).id);
        assert_ne!(of(&message()).id, of(&MailMessage { idempotency_key: None, ..message() }).id);
    }

    #[test]
    fn headers_cannot_be_injected() {
        let with = |change: fn(&mut MailMessage)| {
            let mut message = message();
            change(&mut message);
            written(&message)
        };
        for refused in [
            with(|message| message.subject = "a\r\nBcc: x@y.example".to_owned()),
            with(|message| message.subject = "a\nb".to_owned()),
            with(|message| message.subject = "a\u{85}b".to_owned()),
            with(|message| message.from = Some("a@b.example>\r\nRCPT TO:<x@y.example".to_owned())),
            with(|message| message.to = vec!["a@b.example, c@d.example".to_owned()]),
            with(|message| message.to = vec!["a@b.example\r\nX: y".to_owned()]),
            with(|message| message.to = vec!["\"a b\"@c.example".to_owned()]),
            with(|message| message.to = vec!["a@b.example> SIZE=1".to_owned()]),
            with(|message| message.to = vec!["ä@b.example".to_owned()]),
            with(|message| message.cc = vec!["".to_owned()]),
            with(|message| message.reply_to = Some("none".to_owned())),
            with(|message| message.to = vec![]),
        ] {
            assert!(matches!(refused, Err(ExchangeError::InvalidRequest { .. })), "{refused:?}");
        }
        let file = |name: &str, kind: &str| {
            let content = Bytes::from_static(b"x");
            let mut message = message();
            message.attachments.push(MailAttachment { name: name.to_owned(), content_type: kind.to_owned(), content });
            written(&message)
        };
        assert!(file("bücher.pdf", "application/pdf").is_ok());
        for (name, kind) in [
            ("a\r\nb", "text/plain"),
            ("../a", "text/plain"),
            ("a\"b", "text/plain"),
            ("", "text/plain"),
            ("a", "none"),
            ("a", "text/plain\r\nX: y"),
        ] {
            assert!(file(name, kind).is_err(), "{name:?} {kind:?}");
        }
    }

    #[test]
    fn recipients_and_sizes_are_limited() {
        for (count, fits) in [(2, true), (3, true), (4, false)] {
            let mut many = message();
            many.to = vec!["a@b.example".to_owned(); count];
            assert_eq!(written(&many).is_ok(), fits, "{count}");
        }
        let mut large = message();
        large.text = Some("x".repeat(10_001));
        assert!(matches!(written(&large), Err(ExchangeError::TooLarge { .. })));
        large.text = Some("x y ".repeat(2_000));
        assert!(written(&large).is_ok());
    }
}
