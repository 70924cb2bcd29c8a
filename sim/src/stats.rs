//! Means over seeds with their 95 % confidence intervals, and quantiles.

/// A mean over seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half the width of its 95 % confidence interval (Student's t); not a number for one value.
    pub half_width: f64,
}

/// Of independent values.
#[expect(clippy::cast_precision_loss, reason = "a few seeds")]
pub fn estimate(values: &[f64]) -> Estimate {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    let deviation = (squares / (count - 1.0)).sqrt();
    Estimate { mean, half_width: student(values.len().saturating_sub(1)) * deviation / count.sqrt() }
}

/// The 97.5 % quantile of Student's t distribution with so many degrees of freedom.
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
        2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
        2.045, 2.042,
    ];
    match freedom.checked_sub(1) {
        None => f64::NAN,
        Some(index) => TABLE.get(index).copied().unwrap_or(1.96),
    }
}

/// The value below which this part of some sorted values lies.
pub fn quantile<T: Copy>(sorted: &[T], part: f64) -> Option<T> {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a length"
    )]
    let index = (sorted.len() as f64 * part) as usize;
    sorted.get(index.min(sorted.len().checked_sub(1)?)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_by_hand() {
        let ten = estimate(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]);
        assert_eq!(ten.mean, 5.5);
        assert!((ten.half_width - 2.262 * 3.027_65 / 10_f64.sqrt()).abs() < 1e-4);
        assert!(estimate(&[1.0]).half_width.is_nan());
        assert_eq!(quantile(&[1, 2, 3, 4], 0.5), Some(3));
        assert_eq!(quantile(&[1, 2], 1.0), Some(2));
        assert_eq!(quantile::<u32>(&[], 0.5), None);
    }
}
