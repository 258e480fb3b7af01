//! [`MailClient`]: messages for a mail server.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::ExchangeError;

/// Hands messages to the mail server that a connection names.
#[async_trait]
pub trait MailClient: fmt::Debug + Send + Sync {
    /// Sends `message`: done once the server has taken responsibility for it (RFC 5321 §4.2.5).
    ///
    /// # Errors
    /// [`ExchangeError`] says who must act. Either all recipients are accepted or the message is not sent.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; whether the message was sent is then unknown.
    async fn send(&self, message: MailMessage) -> Result<MailReceipt, ExchangeError>;
}

/// One message. Addresses are `local@domain` or `Name <local@domain>` (RFC 5322 §3.4).
#[derive(Clone, Default)]
pub struct MailMessage {
    /// Placeholder text of the connection: which server, as whom.
    pub connection: String,
    /// Who it is from. Default: the connection's `from` or `username`.
    pub from: Option<String>,
    /// Whom it is for.
    pub to: Vec<String>,
    /// Who gets a copy, for all to see.
    pub cc: Vec<String>,
    /// Who gets a copy that nobody else sees.
    pub bcc: Vec<String>,
    /// Where answers go.
    pub reply_to: Option<String>,
    /// One line.
    pub subject: String,
    /// The body as plain text.
    pub text: Option<String>,
    /// The body as HTML; with both, readers choose.
    pub html: Option<String>,
    /// Files that go with it.
    pub attachments: Vec<MailAttachment>,
    /// What makes the message's id, the same for every attempt: mail systems may drop a second copy, but need not.
    pub idempotency_key: Option<String>,
    /// Longest time for everything. Default: 30 s. Accepted: 1 ms to 10 min, clamped; `None` is the default.
    pub timeout: Option<Duration>,
}

impl fmt::Debug for MailMessage {
    /// Prints counts: addresses and text are private.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailMessage")
            .field("recipients", &(self.to.len() + self.cc.len() + self.bcc.len()))
            .field("attachments", &self.attachments.len())
            .finish_non_exhaustive()
    }
}

/// A file that goes with a message.
#[derive(Clone)]
pub struct MailAttachment {
    /// The file name shown.
    pub name: String,
    /// The media type (RFC 9110 §8.3.1), such as `application/pdf`.
    pub content_type: String,
    /// The bytes.
    pub content: Bytes,
}

impl fmt::Debug for MailAttachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailAttachment").field("bytes", &self.content.len()).finish_non_exhaustive()
    }
}

/// What is known of a message that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailReceipt {
    /// Its `Message-ID`.
    pub message_id: String,
    /// The server's reply, shortened and scrubbed; many name their own id for the message in it.
    pub reply: String,
}
