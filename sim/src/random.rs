//! The generator behind every workload: xoshiro256++ seeded by SplitMix64, and the distributions made of it. All of it
//! is integer arithmetic and the basic operations of IEEE 754, so a seed means the same jobs on every machine for ever.

/// SplitMix64 (Steele, Lea and Flood, 2014): one step from a state, and a good mixer of 64 bits.
pub const fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The weight of a pair, for rendezvous hashing: whoever has the largest wins.
pub const fn weight(owner: u64, domain: u64) -> u64 {
    let mut state = owner ^ domain.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    splitmix(&mut state)
}

/// xoshiro256++ (Blackman and Vigna, 2019).
#[derive(Debug, Clone)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The sequence of a seed.
    pub const fn new(seed: u64) -> Self {
        let mut seed = seed;
        let state = [splitmix(&mut seed), splitmix(&mut seed), splitmix(&mut seed), splitmix(&mut seed)];
        Self { state }
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// Uniform in `[0, 1)`, with 53 bits.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub const fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Standard normal (Marsaglia's polar method).
    pub fn normal(&mut self) -> f64 {
        loop {
            let (x, y) = (2.0 * self.unit() - 1.0, 2.0 * self.unit() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                return x * (-2.0 * logarithm(square) / square).sqrt();
            }
        }
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -logarithm(1.0 - self.unit())
    }

    /// Lognormal: the exponential of a normal variable with this mean and deviation.
    pub fn lognormal(&mut self, mean: f64, deviation: f64) -> f64 {
        exp(mean + deviation * self.normal())
    }

    /// One of some values with their probabilities, which sum to 1.
    pub fn pick<T: Copy>(&mut self, values: &[(T, f64)]) -> Option<T> {
        let mut left = self.unit();
        for (value, probability) in values {
            if left < *probability {
                return Some(*value);
            }
            left -= probability;
        }
        values.last().map(|(value, _)| *value)
    }
}

/// The natural logarithm of a positive normal number. Not the library's: its last bit differs between machines.
#[expect(clippy::cast_precision_loss, reason = "an exponent has 11 bits")]
fn logarithm(value: f64) -> f64 {
    let bits = value.to_bits();
    let exponent = ((bits >> 52) & 0x7FF) as i64 - 1023;
    let mantissa = f64::from_bits((bits & 0x000F_FFFF_FFFF_FFFF) | 0x3FF0_0000_0000_0000);
    // ln(m) = 2 artanh((m - 1) / (m + 1)), by its series; m is below 2, so 24 terms are below the last bit.
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let (mut power, mut sum) = (ratio, 0.0);
    for term in 0..24 {
        sum += power / f64::from(2 * term + 1);
        power *= square;
    }
    2.0 * sum + exponent as f64 * std::f64::consts::LN_2
}

/// The exponential function, not the library's for the same reason; of values whose result is a normal number.
pub fn exp(value: f64) -> f64 {
    let whole = (value / std::f64::consts::LN_2).round();
    let rest = value - whole * std::f64::consts::LN_2;
    let (mut term, mut sum) = (1.0, 1.0);
    for number in 1..20 {
        term *= rest / f64::from(number);
        sum += term;
    }
    #[expect(clippy::cast_possible_truncation, reason = "bounded by the line before")]
    let exponent = whole.clamp(-1022.0, 1023.0) as i64;
    sum * f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_never_changes() {
        let mut random = Random::new(1);
        let bits = [(); 3].map(|()| random.bits());
        assert_eq!(bits, [0xCFC5_D07F_6F03_C29B, 0xBF42_4132_963F_E08D, 0x19A3_7D57_57AA_F520]);
        let mut random = Random::new(7);
        let normal: Vec<u64> = (0..2).map(|_| random.normal().to_bits()).collect();
        assert_eq!(normal, NORMAL);
    }

    const NORMAL: [u64; 2] = [4_610_218_009_084_539_922, 4_603_020_175_525_004_684];

    #[test]
    fn functions_are_those_of_the_library_but_for_the_last_bits() {
        for value in [1e-300, 1e-9, 0.3, 0.999_999, 1.0, 1.5, 2.0, 10.0, 8103.1] {
            assert!((logarithm(value) - f64::ln(value)).abs() <= 1e-13 * f64::ln(value).abs().max(1.0));
        }
        for value in [-20.0, -1.0, 0.0, 0.5, 1.0, 8.5, 9.0, 20.0] {
            assert!((exp(value) / f64::exp(value) - 1.0).abs() < 1e-13, "{value}");
        }
    }

    #[test]
    fn distributions_have_their_means() {
        let mut random = Random::new(3);
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let many = 200_000;
        assert!((mean((0..many).map(|_| random.unit()).collect()) - 0.5).abs() < 0.005);
        assert!((mean((0..many).map(|_| random.exponential()).collect()) - 1.0).abs() < 0.01);
        assert!(mean((0..many).map(|_| random.normal()).collect()).abs() < 0.01);
        let values = (0..many).map(|_| random.lognormal(0.0, 1.0)).collect();
        assert!((mean(values) - f64::exp(0.5)).abs() < 0.03);
        let picked = (0..many).filter(|_| random.pick(&[(1, 0.25), (2, 0.75)]) == Some(1)).count();
        assert!(picked.abs_diff(50_000) < 1000);
    }
}
