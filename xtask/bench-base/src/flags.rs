//! Values of command-line flags.

use std::time::Duration;

use anyhow::{Context, Result};

/// A whole number.
///
/// # Errors
/// If it is none, or not from `min` to `max`.
pub fn number(flag: &str, text: &str, min: usize, max: usize) -> Result<usize> {
    let value = text.parse().ok().filter(|value| (min..=max).contains(value));
    value.with_context(|| format!("`{flag}` takes a whole number from {min} to {max}, not `{text}`"))
}

/// Whole numbers between commas.
///
/// # Errors
/// As [`number`].
pub fn numbers(flag: &str, text: &str, min: usize, max: usize) -> Result<Vec<usize>> {
    text.split(',').map(|part| number(flag, part.trim(), min, max)).collect()
}

/// A time in seconds, from 0.2 to 600.
///
/// # Errors
/// If it is none.
pub fn seconds(flag: &str, text: &str) -> Result<Duration> {
    let value = text.parse::<f64>().ok().filter(|value| (0.2..=600.0).contains(value));
    let value = value.with_context(|| format!("`{flag}` takes a number from 0.2 to 600, not `{text}`"))?;
    Ok(Duration::from_secs_f64(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_bounded() {
        assert_eq!(number("--n", "1", 1, 3).unwrap(), 1);
        assert_eq!(number("--n", "3", 1, 3).unwrap(), 3);
        assert!(number("--n", "0", 1, 3).is_err());
        assert!(number("--n", "4", 1, 3).is_err());
        assert!(number("--n", "x", 1, 3).is_err());
        assert_eq!(numbers("--n", "1, 3", 1, 3).unwrap(), [1, 3]);
        assert!(numbers("--n", "1,,3", 1, 3).is_err());
        assert_eq!(seconds("--s", "0.5").unwrap(), Duration::from_millis(500));
        assert!(seconds("--s", "0.1").is_err());
        assert!(seconds("--s", "601").is_err());
    }
}
