//! A world outside that answers from lists and keeps what it was asked.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use ap_core::{
    capability::{
        ExchangeError, MailClient, MailMessage, MailReceipt, ObjectBody, ObjectClient, ObjectInfo, ObjectList,
        ObjectListing, ObjectPresign, ObjectPut, ObjectTarget, PresignedUrl, SqlClient, SqlOutcome, SqlRow,
        SqlStatement,
    },
    piece::{Action, ActionContext, ActionError, Piece},
};
use async_trait::async_trait;
use serde_json::Value;

use super::{KEY, NONE, NOW};

type Answers<T> = Mutex<VecDeque<Result<T, ExchangeError>>>;

/// Keeps what was asked, and answers from lists.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    statements: Mutex<VecDeque<SqlStatement>>,
    rows: Answers<Vec<SqlRow>>,
    outcomes: Answers<SqlOutcome>,
    messages: Mutex<VecDeque<MailMessage>>,
    receipts: Answers<MailReceipt>,
    calls: Mutex<VecDeque<ObjectCall>>,
    objects: Answers<ObjectAnswer>,
}

/// What an object store was asked.
#[derive(Debug)]
pub(crate) enum ObjectCall {
    Put(ObjectPut),
    Get(ObjectTarget, usize),
    Delete(ObjectTarget),
    List(ObjectListing),
    Presign(ObjectPresign),
}

/// What it answers.
#[derive(Debug)]
pub(crate) enum ObjectAnswer {
    Body(ObjectBody),
    Done,
    Info(ObjectInfo),
    List(ObjectList),
    Url(PresignedUrl),
}

fn next<T>(list: &Mutex<VecDeque<T>>, what: &str) -> T {
    list.lock().expect("lock").pop_front().expect(what)
}

impl Outside {
    pub(crate) fn rows(&self, answer: Result<Vec<SqlRow>, ExchangeError>) {
        self.rows.lock().expect("lock").push_back(answer);
    }

    pub(crate) fn outcome(&self, answer: Result<SqlOutcome, ExchangeError>) {
        self.outcomes.lock().expect("lock").push_back(answer);
    }

    pub(crate) fn statement(&self) -> SqlStatement {
        next(&self.statements, "a statement was sent")
    }

    pub(crate) fn receipt(&self, answer: Result<MailReceipt, ExchangeError>) {
        self.receipts.lock().expect("lock").push_back(answer);
    }

    pub(crate) fn message(&self) -> MailMessage {
        next(&self.messages, "a message was sent")
    }

    pub(crate) fn object(&self, answer: Result<ObjectAnswer, ExchangeError>) {
        self.objects.lock().expect("lock").push_back(answer);
    }

    pub(crate) fn call(&self) -> ObjectCall {
        next(&self.calls, "the store was asked")
    }

    fn asked(&self, call: ObjectCall) -> Result<ObjectAnswer, ExchangeError> {
        self.calls.lock().expect("lock").push_back(call);
        next(&self.objects, "an answer for each call")
    }
}

#[async_trait]
impl SqlClient for Outside {
    async fn query(&self, statement: SqlStatement) -> Result<Vec<SqlRow>, ExchangeError> {
        self.statements.lock().expect("lock").push_back(statement);
        next(&self.rows, "rows for each query")
    }

    async fn execute(&self, statement: SqlStatement) -> Result<SqlOutcome, ExchangeError> {
        self.statements.lock().expect("lock").push_back(statement);
        next(&self.outcomes, "an outcome for each statement")
    }
}

#[async_trait]
impl MailClient for Outside {
    async fn send(&self, message: MailMessage) -> Result<MailReceipt, ExchangeError> {
        self.messages.lock().expect("lock").push_back(message);
        next(&self.receipts, "a receipt for each message")
    }
}

#[async_trait]
impl ObjectClient for Outside {
    async fn put(&self, put: ObjectPut) -> Result<ObjectInfo, ExchangeError> {
        match self.asked(ObjectCall::Put(put))? {
            ObjectAnswer::Info(info) => Ok(info),
            other => panic!("{other:?}"),
        }
    }

    async fn get(&self, target: ObjectTarget, max_bytes: usize) -> Result<ObjectBody, ExchangeError> {
        match self.asked(ObjectCall::Get(target, max_bytes))? {
            ObjectAnswer::Body(body) => Ok(body),
            other => panic!("{other:?}"),
        }
    }

    async fn head(&self, _: ObjectTarget) -> Result<Option<ObjectInfo>, ExchangeError> {
        panic!("no action asks for this alone")
    }

    async fn delete(&self, target: ObjectTarget) -> Result<(), ExchangeError> {
        self.asked(ObjectCall::Delete(target)).map(drop)
    }

    async fn list(&self, listing: ObjectListing) -> Result<ObjectList, ExchangeError> {
        match self.asked(ObjectCall::List(listing))? {
            ObjectAnswer::List(list) => Ok(list),
            other => panic!("{other:?}"),
        }
    }

    async fn presign(&self, presign: ObjectPresign) -> Result<PresignedUrl, ExchangeError> {
        match self.asked(ObjectCall::Presign(presign))? {
            ObjectAnswer::Url(url) => Ok(url),
            other => panic!("{other:?}"),
        }
    }
}

/// The action of this name.
pub(crate) fn action(piece: &dyn Piece, name: &str) -> std::sync::Arc<dyn Action> {
    piece.actions().into_iter().find(|action| action.spec().name == name).expect("an action of the piece")
}

/// The rules that settings break when their flow is published.
pub(crate) fn check_settings(piece: &dyn Piece, name: &str, settings: Value) -> Vec<&'static str> {
    let Value::Object(settings) = settings else { panic!("an object") };
    let found = action(piece, name).spec().properties.check_settings(&settings, "/steps/0/settings");
    found.iter().map(|found| found.rule).collect()
}

/// Checks `input` against the action's properties, then runs it.
pub(crate) async fn run_outside(
    outside: &Outside,
    piece: &dyn Piece,
    name: &str,
    input: Value,
) -> Result<Value, ActionError> {
    let action = action(piece, name);
    let input = action.spec().properties.validate(input)?;
    let context = ActionContext {
        http: &NONE,
        sql: outside,
        mail: outside,
        objects: outside,
        keys: &super::NONE,
        idempotency_key: KEY,
        send_idempotency_key: false,
        timeout: Duration::from_secs(30),
        now: NOW,
    };
    action.run(&context, input).await
}
