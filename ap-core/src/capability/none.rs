//! [`NoWayOut`]: the capability that refuses.

use async_trait::async_trait;

use super::{
    ExchangeError, HttpClient, HttpError, HttpRequest, HttpResponse, MailClient, MailMessage, MailReceipt, ObjectBody,
    ObjectClient, ObjectInfo, ObjectList, ObjectListing, ObjectPresign, ObjectPut, ObjectTarget, PresignedUrl,
    SqlClient, SqlOutcome, SqlRow, SqlStatement,
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
