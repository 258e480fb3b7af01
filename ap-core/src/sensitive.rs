//! [`Sensitive`]: a value that must not be printed, logged or serialised.

use std::fmt;

/// Marks a value as coming from a credential or as private to the step that holds it.
///
/// No `Display`, no `Serialize`; `Debug` says only that something is here. Whoever calls [`Sensitive::expose`] takes
/// responsibility for where the value goes. Values that must also be wiped from memory belong in `secrecy` types.
#[derive(Clone, PartialEq, Eq)]
pub struct Sensitive<T>(T);

impl<T> Sensitive<T> {
    /// Marks `value`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// Gives the value up, unmarked.
    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_value() {
        assert_eq!(format!("{:?}", Sensitive::new("canary")), "Sensitive(…)");
    }
}
