//! Percentiles, medians, fairness.

/// The value below which `percent` percent of the ascending `values` lie; 0 if there are none.
#[must_use]
pub fn percentile(values: &[u32], percent: usize) -> u32 {
    let index = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or_default()
}

/// The middle of the values, or the mean of the two in the middle; not a number if there are none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied().unwrap_or(f64::NAN);
    if values.len() % 2 == 1 {
        return upper;
    }
    let lower = middle.checked_sub(1).and_then(|below| values.get(below)).copied().unwrap_or(f64::NAN);
    f64::midpoint(lower, upper)
}

/// Jain's index of fairness (Jain, Chiu and Hawe 1984): 1 if all have the same, 1/n if one of n has everything.
#[must_use]
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_medians_stay_inside() {
        let values: Vec<u32> = (0..100).collect();
        assert_eq!((percentile(&values, 50), percentile(&values, 99), percentile(&[], 99)), (50, 99, 0));
        assert!((median([3.0, 1.0, 2.0, 4.0]) - 2.5).abs() < 1e-9);
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!(median([]).is_nan());
    }

    #[test]
    fn fairness_is_one_for_equals_and_a_share_for_one_of_many() {
        assert!((jain(&[2.0, 2.0, 2.0, 2.0]) - 1.0).abs() < 1e-9);
        assert!((jain(&[5.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
    }
}
