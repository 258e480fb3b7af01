//! [`NoWayOut`]: the capability that refuses.

use async_trait::async_trait;

use super::{
    CipherText, ExchangeError, FieldKeyUse, HttpClient, HttpError, HttpRequest, HttpResponse, KeyClient, MailClient,
    MailMessage, MailReceipt, ObjectBody, ObjectClient, ObjectInfo, ObjectList, ObjectListing, ObjectPresign,
    ObjectPut, ObjectTarget, PresignedUrl, SqlClient, SqlOutcome, SqlRow, SqlStatement,
};

/// Refuses every request: what stands in the place of a capability that is not given.
#[derive(Clone, Copy, Debug)]
pub struct NoWayOut {
    reason: &'static str,
}

impl NoWayOut {
    /// Refuses because of `reason`.
    #[must_use]
    pub const fn new(reason: &'static str) -> Self {
        Self { reason }
    }

    fn refuse<T>(self) -> Result<T, ExchangeError> {
        Err(ExchangeError::Refused { reason: self.reason.to_owned() })
    }
}

#[async_trait]
impl HttpClient for NoWayOut {
    async fn send(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        Err(HttpError::Refused { reason: self.reason.to_owned() })
    }
}

#[async_trait]
impl SqlClient for NoWayOut {
    async fn query(&self, _: SqlStatement) -> Result<Vec<SqlRow>, ExchangeError> {
        self.refuse()
    }

    async fn execute(&self, _: SqlStatement) -> Result<SqlOutcome, ExchangeError> {
        self.refuse()
    }
}

impl KeyClient for NoWayOut {
    fn encrypt(&self, _: &FieldKeyUse, _: &[u8], _: &str) -> Result<CipherText, ExchangeError> {
        self.refuse()
    }

    fn decrypt(&self, _: &FieldKeyUse, _: &CipherText, _: &str) -> Result<Vec<u8>, ExchangeError> {
        self.refuse()
    }

    fn hmac_sha256(&self, _: &str, _: &str) -> Result<[u8; 32], ExchangeError> {
        self.refuse()
    }
}

#[async_trait]
impl MailClient for NoWayOut {
    async fn send(&self, _: MailMessage) -> Result<MailReceipt, ExchangeError> {
        self.refuse()
    }
}

#[async_trait]
impl ObjectClient for NoWayOut {
    async fn put(&self, _: ObjectPut) -> Result<ObjectInfo, ExchangeError> {
        self.refuse()
    }

    async fn get(&self, _: ObjectTarget, _: usize) -> Result<ObjectBody, ExchangeError> {
        self.refuse()
    }

    async fn head(&self, _: ObjectTarget) -> Result<Option<ObjectInfo>, ExchangeError> {
        self.refuse()
    }

    async fn delete(&self, _: ObjectTarget) -> Result<(), ExchangeError> {
        self.refuse()
    }

    async fn list(&self, _: ObjectListing) -> Result<ObjectList, ExchangeError> {
        self.refuse()
    }

    async fn presign(&self, _: ObjectPresign) -> Result<PresignedUrl, ExchangeError> {
        self.refuse()
    }
}
