//! What a handful of pairs amount to.

/// The median; of an even number the upper of the two in the middle. 0 where there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
