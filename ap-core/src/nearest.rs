//! "Did you mean …": the known name nearest to an unknown one.

/// The candidate that `needle` most likely meant: the one with the fewest edits (insert, delete, replace, swap of
/// neighbours; case does not count), at most one per three characters begun. The first of several equally near.
///
/// `None` if nothing is near, or if `needle` has more than [`MAX_CHARS`] characters; longer candidates are passed over.
///
/// # Examples
/// ```
/// use ap_core::nearest::nearest_match;
/// assert_eq!(nearest_match("htpp", ["http", "text"]), Some("http"));
/// assert_eq!(nearest_match("slack", ["http", "text"]), None);
/// ```
pub fn nearest_match<'c>(needle: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let needle = folded(needle)?;
    let most = needle.len().div_ceil(3);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let Some(other) = folded(candidate) else { continue };
        if other.len().abs_diff(needle.len()) > most {
            continue;
        }
        let edits = edits(&needle, &other);
        if edits <= most && best.is_none_or(|(fewest, _)| edits < fewest) {
            best = Some((edits, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Lower-case characters, unless empty or too many.
fn folded(name: &str) -> Option<Vec<char>> {
    let chars: Vec<char> = name.chars().take(MAX_CHARS + 1).flat_map(char::to_lowercase).collect();
    (1..=MAX_CHARS).contains(&chars.len()).then_some(chars)
}

/// Optimal string alignment distance, three rows at a time.
fn edits(left: &[char], right: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    let mut left_before = None;
    for (row, &l) in (1..).zip(left) {
        let mut current = vec![row];
        let mut right_before = None;
        for (column, &r) in right.iter().enumerate() {
            // Cell `column` of a row stands for `column` characters of `right`; all rows are full or being filled.
            let at = |cells: &[usize], index: usize| cells.get(index).copied().unwrap_or(usize::MAX - 1);
            let mut fewest = at(&above, column) + usize::from(l != r);
            fewest = fewest.min(at(&above, column + 1) + 1).min(at(&current, column) + 1);
            if column > 0 && left_before == Some(r) && right_before == Some(l) {
                fewest = fewest.min(at(&before, column - 1) + 1);
            }
            current.push(fewest);
            right_before = Some(r);
        }
        before = std::mem::replace(&mut above, current);
        left_before = Some(l);
    }
    above.last().copied().unwrap_or(left.len())
}

/// Longest name that is compared. Unit: characters.
pub const MAX_CHARS: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn distance(left: &str, right: &str) -> usize {
        edits(&left.chars().collect::<Vec<_>>(), &right.chars().collect::<Vec<_>>())
    }

    #[test]
    fn distances_count_edits() {
        for (left, right, expected) in [
            ("a", "a", 0),
            ("abc", "abd", 1),
            ("abc", "ab", 1),
            ("ab", "abc", 1),
            ("abcd", "acbd", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
            ("abc", "xyz", 3),
        ] {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }

    #[test]
    fn the_nearest_wins_and_the_far_do_not() {
        let operators = ["TEXT_CONTAINS", "TEXT_STARTS_WITH", "LIST_CONTAINS"];
        assert_eq!(nearest_match("TEXT_CONTAIN", operators), Some("TEXT_CONTAINS"));
        assert_eq!(nearest_match("text_contains", operators), Some("TEXT_CONTAINS"));
        assert_eq!(nearest_match("zzz", operators), None);
        assert_eq!(nearest_match("", operators), None);
        assert_eq!(nearest_match("ab", ["ac", "ad"]), Some("ac"), "the first of equals");
        assert_eq!(nearest_match("x", [""]), None);
    }

    #[test]
    fn names_of_at_most_64_characters_are_compared() {
        let of = |chars: usize| "x".repeat(chars);
        for chars in [MAX_CHARS - 1, MAX_CHARS] {
            assert_eq!(nearest_match(&of(chars), [of(chars).as_str()]), Some(of(chars).as_str()));
        }
        assert_eq!(nearest_match(&of(MAX_CHARS + 1), [of(MAX_CHARS + 1).as_str()]), None);
        assert_eq!(nearest_match(&of(MAX_CHARS), [of(MAX_CHARS + 1).as_str()]), None);
    }

    proptest! {
        #[test]
        fn distance_is_symmetric_and_bounded(left in "[a-c]{1,8}", right in "[a-c]{1,8}") {
            prop_assert_eq!(distance(&left, &right), distance(&right, &left));
            prop_assert!(distance(&left, &right) <= left.len().max(right.len()));
            prop_assert_eq!(distance(&left, &right) == 0, left == right);
        }
    }
}
