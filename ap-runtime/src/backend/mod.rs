//! The backends. Each implements every record seam of [`crate::store`], so they share transactions.
