//! What a piece may use: capabilities, handed to it as `dyn` traits. A piece has no other way out.
//!
//! A capability never gives a credential away. A piece builds a request in which credentials and connections stand as
//! placeholder text; the egress layer puts the real values in, outside the piece, and scrubs the answer.
//!
//! | Capability | What it reaches |
//! | --- | --- |
//! | [`HttpClient`] | any HTTP API |
//! | [`SqlClient`] | the database that a connection names |
//! | [`MailClient`] | the mail server that a connection names |
//! | [`ObjectClient`] | the object store that a connection names |
//! | [`KeyClient`] | nothing outside: it uses the secret of a connection as a key |
//! | [`NoWayOut`] | nothing: what stands in the place of a capability that a host does not give |

mod error;
mod http;
mod key;
mod mail;
mod none;
mod object;
mod sql;

pub use self::{
    error::ExchangeError,
    http::{HttpClient, HttpError, HttpRequest, HttpResponse},
    key::{CipherText, FieldKeyUse, KeyClient},
    mail::{MailAttachment, MailClient, MailMessage, MailReceipt},
    none::NoWayOut,
    object::{
        ObjectAccess, ObjectBody, ObjectClient, ObjectEntry, ObjectInfo, ObjectList, ObjectListing, ObjectPresign,
        ObjectPut, ObjectTarget, PresignedUrl,
    },
    sql::{SqlClient, SqlOutcome, SqlRow, SqlStatement},
};
