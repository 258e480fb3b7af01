//! What kind of statement a text is.

use ap_core::capability::ExchangeError;

/// Refuses statements that would leave the bounds of their transaction, or of rows.
pub(super) fn check(text: &str) -> Result<(), ExchangeError> {
    if text.len() > MAX_BYTES {
        return Err(ExchangeError::TooLarge { what: "the statement in bytes", limit: MAX_BYTES });
    }
    let refuse = |reason: String| Err(ExchangeError::InvalidRequest { reason });
    if text.contains('\0') {
        return refuse("the statement holds a NUL character".to_owned());
    }
    let keyword = first_keyword(text);
    if keyword.is_empty() {
        return refuse("the statement is empty".to_owned());
    }
    if TRANSACTION.contains(&keyword.as_str()) {
        return refuse(format!("`{keyword}` is not possible: every statement is a transaction of its own"));
    }
    if OTHER.contains(&keyword.as_str()) {
        return refuse(format!("`{keyword}` is not possible here: use statements that give rows, or change them"));
    }
    Ok(())
}

/// The first word, in upper case, behind white space, comments and opening parentheses.
fn first_keyword(text: &str) -> String {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|char: char| char.is_whitespace() || char == '(' || char == ';');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once(['\n', '\r']).map_or("", |(_, rest)| rest);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = after_comment(comment);
        } else {
            let word = rest.split(|char: char| !char.is_alphanumeric() && char != '_').next().unwrap_or_default();
            return if word.is_empty() { rest.chars().take(1).collect() } else { word.to_ascii_uppercase() };
        }
    }
}

/// What follows a comment that has begun; they nest.
fn after_comment(text: &str) -> &str {
    let (mut depth, mut rest) = (1_usize, text);
    while depth > 0 {
        let (open, close) = (rest.find("/*"), rest.find("*/"));
        let (at, deeper) = match (open, close) {
            (Some(open), Some(close)) if open < close => (open, true),
            (_, Some(close)) => (close, false),
            (_, None) => return "",
        };
        depth = if deeper { depth + 1 } else { depth - 1 };
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    rest
}

const TRANSACTION: [&str; 9] =
    ["ABORT", "BEGIN", "COMMIT", "END", "PREPARE", "RELEASE", "ROLLBACK", "SAVEPOINT", "START"];
const OTHER: [&str; 6] = ["ATTACH", "COPY", "DETACH", "LISTEN", "LOAD", "PRAGMA"];
const MAX_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_counts_behind_comments() {
        for (text, keyword) in [
            ("select 1", "SELECT"),
            ("  (SELECT 1)", "SELECT"),
            ("-- COPY\nUPDATE t SET a = 1", "UPDATE"),
            ("/* a /* b */ COPY */ copy t from stdin", "COPY"),
            ("/**/--x\r\nCoPy(select 1) to stdout", "COPY"),
            ("; ;commit", "COMMIT"),
            ("/* open", ""),
            ("-- only", ""),
            ("", ""),
            ("$1", "$"),
            ("copy_all()", "COPY_ALL"),
        ] {
            assert_eq!(first_keyword(text), keyword, "{text}");
        }
    }

    #[test]
    fn statements_that_leave_their_bounds_are_refused() {
        for text in [
            "COPY t TO PROGRAM 'sh'",
            "/*x*/commit",
            "BEGIN",
            "prepare transaction 'a'",
            "PRAGMA writable_schema",
            "",
            "a\0",
        ] {
            assert!(matches!(check(text), Err(ExchangeError::InvalidRequest { .. })), "{text:?}");
        }
        for text in ["SELECT 1", "WITH a AS (SELECT 1) SELECT * FROM a", "INSERT INTO t VALUES ($1)", "VALUES (1)"] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        assert!(check(&format!("SELECT '{}'", "x".repeat(MAX_BYTES - 9))).is_ok());
        assert!(matches!(check(&format!("SELECT '{}'", "x".repeat(MAX_BYTES))), Err(ExchangeError::TooLarge { .. })));
    }
}
