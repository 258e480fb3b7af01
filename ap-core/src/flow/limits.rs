//! [`FlowLimits`]: how large a flow may be.

use crate::json::JsonLimits;

/// How large a flow may be. Every limit holds when a flow is parsed, beside those on
/// templates ([`crate::expr`]); steps and nesting hold again at
/// [`ValidFlow::check`](super::ValidFlow::check), which may be given smaller ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    max_code_bytes: usize,
    max_display_name_chars: usize,
    json: JsonLimits,
    max_nesting: usize,
    max_steps: usize,
}

impl FlowLimits {
    /// The largest limits there are: for reading back what was judged under smaller ones when it was stored.
    #[must_use]
    pub fn widest() -> Self {
        Self {
            max_code_bytes: 16 << 20,
            max_display_name_chars: 1_000,
            json: JsonLimits::payload().with_max_bytes(64 << 20).with_max_values(10_000_000),
            max_nesting: 30,
            max_steps: 10_000,
        }
    }

    /// Longest script of one code step.
    #[must_use]
    pub const fn max_code_bytes(&self) -> usize {
        self.max_code_bytes
    }

    /// Longest display name of a flow or step.
    #[must_use]
    pub const fn max_display_name_chars(&self) -> usize {
        self.max_display_name_chars
    }

    /// What JSON text is read at all.
    #[must_use]
    pub const fn json(&self) -> &JsonLimits {
        &self.json
    }

    /// Deepest nesting of steps.
    #[must_use]
    pub const fn max_nesting(&self) -> usize {
        self.max_nesting
    }

    /// Most steps in one flow.
    #[must_use]
    pub const fn max_steps(&self) -> usize {
        self.max_steps
    }

    /// Sets the longest script of one code step.
    ///
    /// * Unit: bytes of UTF-8.
    /// * Default: 256 KiB. Accepted: 1 B to 16 MiB.
    ///
    /// # Errors
    /// [`FlowLimitError`] if `bytes` is outside the accepted range.
    pub fn with_max_code_bytes(self, bytes: usize) -> Result<Self, FlowLimitError> {
        Ok(Self { max_code_bytes: within("max_code_bytes", bytes, 1, 16 << 20)?, ..self })
    }

    /// Sets the longest display name of a flow or step.
    ///
    /// * Unit: characters (Unicode scalar values).
    /// * Default: 200. Accepted: 1 to 1,000.
    ///
    /// # Errors
    /// [`FlowLimitError`] if `chars` is outside the accepted range.
    pub fn with_max_display_name_chars(self, chars: usize) -> Result<Self, FlowLimitError> {
        Ok(Self { max_display_name_chars: within("max_display_name_chars", chars, 1, 1_000)?, ..self })
    }

    /// Sets what JSON text is read at all: bytes, depth, values, keys given twice. A flow handed in as a value is measured
    /// by its compact JSON text.
    ///
    /// Default: [`JsonLimits::flow`], 1 MiB and 64 levels.
    #[must_use]
    pub const fn with_json(self, json: JsonLimits) -> Self {
        Self { json, ..self }
    }

    /// Sets the deepest nesting of steps.
    ///
    /// * Unit: levels; a step of the flow's own list is at level 1, one inside it, or handling its failure, at level 2.
    /// * Default: 10. Accepted: 1 to 30.
    ///
    /// # Errors
    /// [`FlowLimitError`] if `levels` is outside the accepted range.
    pub fn with_max_nesting(self, levels: usize) -> Result<Self, FlowLimitError> {
        Ok(Self { max_nesting: within("max_nesting", levels, 1, 30)?, ..self })
    }

    /// Sets the most steps in one flow, those inside others and those that handle failures included.
    ///
    /// * Unit: steps.
    /// * Default: 100. Accepted: 1 to 10,000. Source: guide §6.3.
    ///
    /// # Errors
    /// [`FlowLimitError`] if `steps` is outside the accepted range.
    pub fn with_max_steps(self, steps: usize) -> Result<Self, FlowLimitError> {
        Ok(Self { max_steps: within("max_steps", steps, 1, 10_000)?, ..self })
    }
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            max_code_bytes: 256 << 10,
            max_display_name_chars: 200,
            json: JsonLimits::flow(),
            max_nesting: 10,
            max_steps: 100,
        }
    }
}

/// A limit outside the range it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{limit}` must be {min} to {max}")]
pub struct FlowLimitError {
    /// The limit.
    pub limit: &'static str,
    /// Smallest accepted value.
    pub min: usize,
    /// Largest accepted value.
    pub max: usize,
}

fn within(limit: &'static str, value: usize, min: usize, max: usize) -> Result<usize, FlowLimitError> {
    if (min..=max).contains(&value) { Ok(value) } else { Err(FlowLimitError { limit, min, max }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Setter = fn(FlowLimits, usize) -> Result<FlowLimits, FlowLimitError>;
    type Getter = fn(&FlowLimits) -> usize;

    #[test]
    fn each_setter_keeps_its_range() {
        let cases: [(Setter, Getter, usize, usize); 4] = [
            (FlowLimits::with_max_code_bytes, FlowLimits::max_code_bytes, 1, 16 << 20),
            (FlowLimits::with_max_display_name_chars, FlowLimits::max_display_name_chars, 1, 1_000),
            (FlowLimits::with_max_nesting, FlowLimits::max_nesting, 1, 30),
            (FlowLimits::with_max_steps, FlowLimits::max_steps, 1, 10_000),
        ];
        for (set, get, min, max) in cases {
            for accepted in [min, min + 1, max - 1, max] {
                let limits = set(FlowLimits::default(), accepted).expect("within the range");
                assert_eq!(get(&limits), accepted);
            }
            for refused in [min - 1, max + 1] {
                let error = set(FlowLimits::default(), refused).expect_err("outside the range");
                assert_eq!((error.min, error.max), (min, max));
            }
        }
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let limits = FlowLimits::default();
        assert_eq!(limits.max_code_bytes(), 262_144);
        assert_eq!(limits.max_display_name_chars(), 200);
        assert_eq!((limits.json().max_bytes(), limits.json().max_depth()), (1_048_576, 64));
        assert_eq!(limits.max_nesting(), 10);
        assert_eq!(limits.max_steps(), 100);
    }
}
