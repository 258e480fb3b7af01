//! [`MarkedText`]: follows pieces of a text through a parser.

use std::{
    hash::{BuildHasher, RandomState},
    ops::Range,
};

use ap_crypto::placeholder::CredentialRef;

/// A text in which marks stand in the place of some ranges, so that these are known again in what a parser makes of it.
///
/// A mark starts with a letter that is no hexadecimal digit and names no escape of JSON, so it never becomes part of an
/// escape in front of it; that letter stands nowhere else in it, so marks do not overlap. It is as long as a placeholder:
/// lines and columns stay the same.
///
/// # Security
/// Marks hold a number drawn for this text. Should the text spell one nevertheless, it is met twice: callers refuse that.
pub(super) struct MarkedText {
    text: String,
    /// What every mark of this text starts with; the index of the range follows in [`INDEX_DIGITS`] digits.
    prefix: String,
}

impl MarkedText {
    /// `text` with marks in the place of `ranges` (ascending, disjoint).
    pub(super) fn new(text: &str, ranges: &[Range<usize>]) -> Self {
        let prefix = format!("z{:0NONCE_DIGITS$}", RandomState::new().hash_one(text.len()));
        let mut marked = String::with_capacity(text.len());
        let mut done = 0;
        for (index, range) in ranges.iter().enumerate() {
            marked.push_str(text.get(done..range.start).unwrap_or_default());
            marked.push_str(&prefix);
            marked.push_str(&format!("{index:0INDEX_DIGITS$}"));
            done = range.end;
        }
        marked.push_str(text.get(done..).unwrap_or_default());
        Self { text: marked, prefix }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The index of each mark in `string`; `None` for what only begins like one.
    pub(super) fn marks_in<'s>(&'s self, string: &'s str) -> impl Iterator<Item = Option<usize>> + 's {
        string.match_indices(&self.prefix).map(|(at, prefix)| {
            let digits = string.get(at + prefix.len()..at + prefix.len() + INDEX_DIGITS)?;
            digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
        })
    }
}

/// Those of the largest `u64`.
const NONCE_DIGITS: usize = 20;
const INDEX_DIGITS: usize = CredentialRef::BYTES - NONCE_DIGITS - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_met_where_they_were_put() {
        let text = format!("a{0}b{0}", "x".repeat(CredentialRef::BYTES));
        let ranges = [1..51, 52..102];
        let marked = MarkedText::new(&text, &ranges);
        assert_eq!(marked.as_str().len(), text.len());
        assert_eq!(marked.marks_in(marked.as_str()).collect::<Vec<_>>(), [Some(0), Some(1)]);
        assert_eq!(marked.marks_in(&text).count(), 0);
        assert_eq!(marked.marks_in(&marked.as_str()[..50]).collect::<Vec<_>>(), [None]);
        assert_eq!(marked.marks_in(&marked.as_str().replace("000", "0+0")).flatten().count(), 0);
        assert_ne!(MarkedText::new(&text, &ranges).as_str(), marked.as_str());
    }

    #[test]
    fn a_mark_in_front_of_a_mark_hides_none() {
        let marked = MarkedText::new("", &[0..0, 0..0]);
        let cut = &marked.as_str()[..20];
        assert_eq!(marked.marks_in(&format!("{cut}{}", marked.as_str())).collect::<Vec<_>>(), [Some(0), Some(1)]);
    }
}
