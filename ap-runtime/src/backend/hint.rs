//! Hints as text, for those who carry them between processes: a letter and an id each, with spaces between.

use ap_core::id::RunId;

use crate::wakeup::Hint;

/// Writes hints down.
pub(crate) fn encode(hints: &[Hint]) -> String {
    let one = |hint: &Hint| match hint {
        Hint::Ended(run) => format!("e{:032x}", run.as_u128()),
        Hint::Ready => "r".to_owned(),
        Hint::Signaled(run) => format!("s{:032x}", run.as_u128()),
    };
    hints.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Reads hints. What is not understood, say from a newer release, is worth a look at everything.
pub(crate) fn decode(text: &str) -> impl Iterator<Item = Hint> {
    text.split_ascii_whitespace().take(MOST).map(|word| {
        let run = || {
            let digits = word.get(1..).filter(|digits| digits.len() == 32)?;
            u128::from_str_radix(digits, 16).ok().map(RunId::from_u128)
        };
        match word.as_bytes().first() {
            Some(b'e') => run().map_or(Hint::Ready, Hint::Ended),
            Some(b's') => run().map_or(Hint::Ready, Hint::Signaled),
            _ => Hint::Ready,
        }
    })
}

/// Hints read from one message.
const MOST: usize = 1_024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hints_come_back(runs: Vec<(u8, u128)>) {
            let hint = |(kind, run): (u8, u128)| match kind % 3 {
                0 => Hint::Ended(RunId::from_u128(run)),
                1 => Hint::Signaled(RunId::from_u128(run)),
                _ => Hint::Ready,
            };
            let hints: Vec<Hint> = runs.into_iter().map(hint).collect();
            prop_assert_eq!(decode(&encode(&hints)).collect::<Vec<_>>(), hints);
        }

        #[test]
        fn any_text_is_read(text in "\\PC{0,200}") {
            decode(&text).for_each(drop);
        }
    }

    #[test]
    fn what_is_not_understood_is_worth_a_look() {
        for text in ["x", "e", "e12", "sé", "e+0000000000000000000000000000001"] {
            assert_eq!(decode(text).collect::<Vec<_>>(), [Hint::Ready], "{text}");
        }
        assert_eq!(decode("  ").count(), 0);
    }
}
