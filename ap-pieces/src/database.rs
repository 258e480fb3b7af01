//! The piece `database`: statements for the database that a connection names. Values are bound, never written into them.

use std::sync::{Arc, LazyLock};

use ap_core::{
    capability::SqlStatement,
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect, Piece, Trigger},
    property::{AuthSchema, Properties, Property, PropertyKind},
    run::StepError,
};
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::{
    exchange::{connection, step_error, time_limit, timeout},
    input::{self, wrong},
};

/// The piece `database`.
#[derive(Clone, Copy, Debug)]
pub struct Database;

impl Piece for Database {
    fn name(&self) -> &str {
        "database"
    }

    fn display_name(&self) -> &str {
        "Database"
    }

    fn description(&self) -> &str {
        "Reads and writes the tables of a PostgreSQL database."
    }

    fn auth(&self) -> Option<AuthSchema> {
        Some(AuthSchema {
            types: &["CUSTOM_AUTH"],
            required: true,
            description: "Clear fields `host`, `port`, `database` and `username`, or a `url`; a secret field `password`.",
        })
    }

    fn actions(&self) -> Vec<Arc<dyn Action>> {
        let write = |spec| Arc::new(Write { spec }) as Arc<dyn Action>;
        vec![Arc::new(Query), write(&EXECUTE), Arc::new(Insert), write(&UPDATE), write(&DELETE)]
    }

    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        Vec::new()
    }
}

/// `database.query`.
#[derive(Debug)]
struct Query;

/// `database.execute` and its other names.
#[derive(Debug)]
struct Write {
    spec: &'static LazyLock<ActionSpec>,
}

/// `database.insert`.
#[derive(Debug)]
struct Insert;

fn statement_properties() -> [Property; 4] {
    [
        connection("The database, and as whom."),
        Property::new("query", "Statement", PropertyKind::LongText)
            .describe("One SQL statement, with `$1`, `$2`, … where parameters go.")
            .required(),
        Property::new("parameters", "Parameters", PropertyKind::array(PropertyKind::Json)).describe(
            "Values for `$1`, `$2`, …, read as the types that the statement expects; bytes are base64, and an array is one \
             value (`= ANY($1)`).",
        ),
        timeout(),
    ]
}

static QUERY: LazyLock<ActionSpec> = LazyLock::new(|| ActionSpec {
    name: "query",
    display_name: "Query",
    description: "Reads rows with a statement that cannot write; an array of objects comes out, one per row.",
    properties: Properties::new(
        statement_properties().into_iter().chain([
            Property::new("result", "Result", PropertyKind::StaticDropdown { options: &["rows", "first"] })
                .describe("`rows` puts out all rows; `first` the first one, or null if there is none.")
                .default("rows"),
            Property::new("maxRows", "Most rows", PropertyKind::whole(1, 10_000))
                .describe("More rows are an error: bound the statement with `LIMIT`.")
                .default(1_000),
        ]),
    ),
});

fn write_spec(name: &'static str, display_name: &'static str, description: &'static str) -> ActionSpec {
    ActionSpec { name, display_name, description, properties: Properties::new(statement_properties()) }
}

static EXECUTE: LazyLock<ActionSpec> = LazyLock::new(|| {
    write_spec(
        "execute",
        "Execute",
        "Carries out a statement that writes; `affected` says how many rows it touched, `rows` holds what `RETURNING` gave.",
    )
});
static UPDATE: LazyLock<ActionSpec> =
    LazyLock::new(|| write_spec("update", "Update", "Another name for `execute`, for statements that change rows."));
static DELETE: LazyLock<ActionSpec> =
    LazyLock::new(|| write_spec("delete", "Delete", "Another name for `execute`, for statements that delete rows."));

static INSERT: LazyLock<ActionSpec> = LazyLock::new(|| ActionSpec {
    name: "insert",
    display_name: "Insert",
    description: "Inserts one row; `affected` is 1, and `rows` holds what `returning` names.",
    properties: Properties::new([
        connection("The database, and as whom."),
        Property::new("table", "Table", PropertyKind::ShortText)
            .describe("The table, perhaps with its schema: `app.users`. Spelled as it was created.")
            .required(),
        Property::new("data", "Data", PropertyKind::Object).describe("Values by column; null is NULL.").required(),
        Property::new("returning", "Returning", PropertyKind::array(PropertyKind::ShortText))
            .describe("Columns of the new row to put out, such as its id."),
        timeout(),
    ]),
});

fn statement(context: &ActionContext<'_>, input: &Value, text: &str, parameters: Vec<Value>) -> SqlStatement {
    let mut statement = SqlStatement::new(input::text(input, "connection"), text);
    statement.parameters = parameters;
    statement.timeout = time_limit(context, input);
    statement
}

#[async_trait]
impl Action for Query {
    fn spec(&self) -> &ActionSpec {
        &QUERY
    }

    /// The statement runs where nothing can be written.
    fn effect(&self, _: &Value) -> Effect {
        Effect::Repeatable
    }

    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let parameters = input::items(&input, "parameters").to_vec();
        let mut statement = statement(context, &input, input::text(&input, "query"), parameters);
        let max_rows = input.get("maxRows").and_then(Value::as_u64).and_then(|max| usize::try_from(max).ok());
        statement.max_rows = max_rows.unwrap_or(statement.max_rows);
        let rows = context.sql.query(statement).await.map_err(|error| step_error(&error))?;
        let mut rows = rows.into_iter().map(Value::Object);
        Ok(if input::text(&input, "result") == "first" { rows.next().unwrap_or_default() } else { rows.collect() })
    }
}

#[async_trait]
impl Action for Write {
    fn spec(&self) -> &ActionSpec {
        self.spec
    }

    fn effect(&self, _: &Value) -> Effect {
        Effect::Once
    }

    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let parameters = input::items(&input, "parameters").to_vec();
        write(context, statement(context, &input, input::text(&input, "query"), parameters)).await
    }
}

#[async_trait]
impl Action for Insert {
    fn spec(&self) -> &ActionSpec {
        &INSERT
    }

    fn effect(&self, _: &Value) -> Effect {
        Effect::Once
    }

    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let empty = Map::new();
        let data = input.get("data").and_then(Value::as_object).unwrap_or(&empty);
        let text = insert_text(input::text(&input, "table"), data, input::items(&input, "returning"))?;
        let parameters = data.values().cloned().collect();
        write(context, statement(context, &input, &text, parameters)).await
    }
}

async fn write(context: &ActionContext<'_>, statement: SqlStatement) -> Result<Value, ActionError> {
    let done = context.sql.execute(statement).await.map_err(|error| step_error(&error))?;
    let rows: Value = done.rows.into_iter().map(Value::Object).collect();
    Ok(json!({ "affected": done.affected, "rows": rows }))
}

/// Names are quoted (SQL:2016 §5.2), values are parameters.
fn insert_text(table: &str, data: &Map<String, Value>, returning: &[Value]) -> Result<String, StepError> {
    if data.is_empty() || data.len() > MAX_COLUMNS {
        return Err(wrong("data", format_args!("must have 1 to {MAX_COLUMNS} columns")));
    }
    let parts: Vec<&str> = table.split('.').collect();
    if parts.len() > 2 {
        return Err(wrong("table", "must be a table, or a schema and a table: `app.users`"));
    }
    let table = parts.into_iter().map(|part| quoted("table", part)).collect::<Result<Vec<_>, _>>()?.join(".");
    let columns = data.keys().map(|name| quoted("data", name)).collect::<Result<Vec<_>, _>>()?.join(", ");
    let values: Vec<String> = (1..=data.len()).map(|number| format!("${number}")).collect();
    let mut text = format!("INSERT INTO {table} ({columns}) VALUES ({})", values.join(", "));
    if !returning.is_empty() {
        let names = returning.iter().map(|name| quoted("returning", name.as_str().unwrap_or_default()));
        text.push_str(" RETURNING ");
        text.push_str(&names.collect::<Result<Vec<_>, _>>()?.join(", "));
    }
    Ok(text)
}

fn quoted(property: &str, name: &str) -> Result<String, StepError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
        return Err(wrong(property, format_args!("holds a name that is not 1 to {MAX_NAME_BYTES} bytes")));
    }
    Ok(format!("\"{}\"", name.replace('"', "\"\"")))
}

/// PostgreSQL would cut longer ones silently.
const MAX_NAME_BYTES: usize = 63;
/// PostgreSQL's own limit on the columns of a table.
const MAX_COLUMNS: usize = 1_600;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ap_core::{
        capability::{ExchangeError, SqlOutcome, SqlRow},
        run::StepErrorKind,
    };

    use super::*;
    use crate::testing::{Outside, action, check_settings, run_outside};

    fn row(id: u32) -> SqlRow {
        [("id".to_owned(), Value::from(id))].into_iter().collect()
    }

    #[test]
    fn settings_as_the_guide_writes_them_can_be_published() {
        let connection = "{{connections.postgres}}";
        for (name, settings) in [
            (
                "query",
                json!({
                    "connection": connection,
                    "query": "SELECT id, username, password_hash, mfa_enabled FROM users WHERE username = $1",
                    "parameters": ["{{steps.validate_credentials.output.username}}"],
                }),
            ),
            (
                "query",
                json!({ "connection": "{{connections.source_db}}", "query": "SELECT * FROM sensitive_data WHERE synced = false LIMIT 1000" }),
            ),
            (
                "insert",
                json!({
                    "connection": connection,
                    "table": "file_uploads",
                    "data": {
                        "filename": "{{steps.validate_file.output.secureFilename}}",
                        "size": "{{steps.validate_file.output.size}}",
                        "uploaded_at": "{{$now}}",
                    },
                }),
            ),
            (
                "update",
                json!({
                    "connection": "{{connections.source_db}}",
                    "query": "UPDATE sensitive_data SET synced = true, synced_at = NOW() WHERE id = ANY($1)",
                    "parameters": ["{{steps.ids.output}}"],
                }),
            ),
        ] {
            assert_eq!(check_settings(&Database, name, settings), [] as [&str; 0], "{name}");
        }
        let found = check_settings(&Database, "query", json!({ "connection": "db", "sql": "SELECT 1" }));
        assert_eq!(found, ["property.type", "property.unknown", "property.required"]);
    }

    #[tokio::test]
    async fn queries_read_with_parameters() {
        let outside = Outside::default();
        outside.rows(Ok(vec![row(1), row(2)]));
        let input = json!({
            "connection": "apcred_db", "query": "SELECT $1", "parameters": [[1, "a"], null], "timeout": 500, "maxRows": 7,
        });
        let output = run_outside(&outside, &Database, "query", input).await.expect("read");
        assert_eq!(output, json!([{ "id": 1 }, { "id": 2 }]));
        let sent = outside.statement();
        assert_eq!((sent.connection.as_str(), sent.text.as_str(), sent.max_rows), ("apcred_db", "SELECT $1", 7));
        assert_eq!((sent.parameters, sent.timeout), (vec![json!([1, "a"]), json!(null)], Duration::from_millis(500)));
        let input = json!({ "connection": "apcred_db", "query": "SELECT 1", "result": "first" });
        for (rows, expected) in [(vec![row(1), row(2)], json!({ "id": 1 })), (vec![], json!(null))] {
            outside.rows(Ok(rows));
            assert_eq!(run_outside(&outside, &Database, "query", input.clone()).await.expect("read"), expected);
        }
        outside.rows(Err(ExchangeError::Rejected {
            code: "42P01".to_owned(),
            reason: "no table".to_owned(),
            transient: false,
        }));
        let failed = run_outside(&outside, &Database, "query", input).await.expect_err("refused").error;
        assert_eq!((failed.kind, failed.detail), (StepErrorKind::Remote, Some(json!({ "code": "42P01" }))));
    }

    #[tokio::test]
    async fn rows_are_inserted_with_quoted_names_and_bound_values() {
        let outside = Outside::default();
        outside.outcome(Ok(SqlOutcome { affected: 1, rows: vec![row(9)] }));
        let input = json!({
            "connection": "apcred_db", "table": "app.users", "returning": ["id"],
            "data": { "na\"me": "'; DROP TABLE users; --", "age": 7, "gone": null },
        });
        let output = run_outside(&outside, &Database, "insert", input).await.expect("inserted");
        assert_eq!(output, json!({ "affected": 1, "rows": [{ "id": 9 }] }));
        let sent = outside.statement();
        assert_eq!(
            sent.text,
            r#"INSERT INTO "app"."users" ("age", "gone", "na""me") VALUES ($1, $2, $3) RETURNING "id""#
        );
        assert_eq!(sent.parameters, [json!(7), json!(null), json!("'; DROP TABLE users; --")]);
        for wrong in [
            json!({ "table": "a.b.c", "data": { "x": 1 } }),
            json!({ "table": "", "data": { "x": 1 } }),
            json!({ "table": "t", "data": {} }),
            json!({ "table": "t", "data": { "": 1 } }),
            json!({ "table": "t".repeat(64), "data": { "x": 1 } }),
            json!({ "table": "t", "data": { "x": 1 }, "returning": ["a\0"] }),
        ] {
            let mut input = wrong.clone();
            input["connection"] = json!("apcred_db");
            let refused = run_outside(&outside, &Database, "insert", input).await.expect_err("refused");
            assert_eq!(refused.error.kind, StepErrorKind::Input, "{wrong}");
        }
        assert!(insert_text(&"t".repeat(63), json!({ "x": 1 }).as_object().expect("an object"), &[]).is_ok());
    }

    #[test]
    fn only_what_cannot_write_may_be_repeated() {
        for (name, effect) in [
            ("query", Effect::Repeatable),
            ("execute", Effect::Once),
            ("insert", Effect::Once),
            ("update", Effect::Once),
            ("delete", Effect::Once),
        ] {
            assert_eq!(action(&Database, name).effect(&json!({})), effect, "{name}");
        }
    }
}
