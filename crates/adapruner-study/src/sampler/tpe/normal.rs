//! The normal distribution cut to an interval, in logarithms.
//!
//! Notation: Φ the normal distribution function, φ its density, both of mean 0
//! and deviation 1. Probabilities are natural logarithms, so that kernels far
//! from a point still compare. The formulas and their cases are those of
//! Optuna 5 (`samplers/_tpe/_truncnorm.py`, after SciPy), for equal densities.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// Φ below this is computed by its asymptotic series.
const FAR_LEFT: f64 = -20.0;
/// Relative step at which Newton's method ends.
const CONVERGED: f64 = 1e-8;

/// ln √(2π).
fn log_sqrt_2pi() -> f64 {
    0.5 * (2.0 * PI).ln()
}

fn cdf(a: f64) -> f64 {
    let x = a * FRAC_1_SQRT_2;
    if x < -FRAC_1_SQRT_2 {
        0.5 * libm::erfc(-x)
    } else if x < FRAC_1_SQRT_2 {
        0.5 + 0.5 * libm::erf(x)
    } else {
        1.0 - 0.5 * libm::erfc(x)
    }
}

/// ln Φ(a).
pub(super) fn log_cdf(a: f64) -> f64 {
    if a > 6.0 {
        return -cdf(-a);
    }
    if a > FAR_LEFT {
        return cdf(a).ln();
    }
    if a == f64::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    // Φ(a) = φ(a)/|a| · (1 − 1/a² + 3/a⁴ − …)
    let leading = -0.5 * a * a - (-a).ln() - log_sqrt_2pi();
    let inverse = 1.0 / (a * a);
    let (mut sum, mut last, mut term, mut i) = (1.0_f64, 0.0, 1.0, 0.0);
    while (last - sum).abs() > f64::EPSILON {
        i += 1.0;
        last = sum;
        term *= -(2.0 * i - 1.0) * inverse;
        sum += term;
    }
    leading + sum.ln()
}

/// ln φ(x).
pub(super) fn log_density(x: f64) -> f64 {
    -0.5 * x * x - log_sqrt_2pi()
}

/// ln(eᵖ + e^q).
fn log_sum(p: f64, q: f64) -> f64 {
    let (large, small) = if p >= q { (p, q) } else { (q, p) };
    if large == f64::NEG_INFINITY { large } else { large + (small - large).exp().ln_1p() }
}

/// ln(eᵖ − e^q), p ≥ q.
fn log_difference(p: f64, q: f64) -> f64 {
    p + (-(q - p).exp()).ln_1p()
}

/// ln(Φ(b) − Φ(a)), a ≤ b: computed in the left tail wherever possible, since
/// differences of numbers near 1 lose digits.
pub(crate) fn log_mass(a: f64, b: f64) -> f64 {
    if b <= 0.0 {
        log_difference(log_cdf(b), log_cdf(a))
    } else if a > 0.0 {
        log_difference(log_cdf(-a), log_cdf(-b))
    } else {
        let below = 0.5 + 0.5 * libm::erf(a * FRAC_1_SQRT_2);
        let above = 0.5 + 0.5 * libm::erf(-b * FRAC_1_SQRT_2);
        (-below - above).ln_1p()
    }
}

/// The x of ln Φ(x) = y, by Newton's method.
fn inverse_log_cdf(y: f64) -> f64 {
    // Near Φ = 1 the other tail has more digits.
    let flipped = y > -1e-2;
    let z = if flipped { (-y.exp_m1()).ln() } else { y };
    let mut x = if z < -5.0 {
        // The normal density's exponent alone.
        -(-2.0 * (z + log_sqrt_2pi())).sqrt()
    } else {
        // The logistic distribution of the same variance.
        -(3.0_f64.sqrt() / PI) * (-z).exp_m1().ln()
    };
    for _ in 0..100 {
        let log_cdf_x = log_cdf(x);
        let step = (log_cdf_x - z) * (log_cdf_x - log_density(x)).exp();
        x -= step;
        if step.is_nan() || step.abs() < CONVERGED * x.abs() {
            break;
        }
    }
    if flipped { -x } else { x }
}

/// The value below which a share `q` of the normal distribution between `a`
/// and `b` lies.
pub(super) fn quantile(q: f64, a: f64, b: f64) -> f64 {
    if q <= 0.0 {
        return a;
    }
    if q >= 1.0 {
        return b;
    }
    let mass = log_mass(a, b);
    let x = if a < 0.0 {
        inverse_log_cdf(log_sum(log_cdf(a), q.ln() + mass))
    } else {
        -inverse_log_cdf(log_sum(log_cdf(-b), (-q).ln_1p() + mass))
    };
    // What rounding put outside, or could not compute, is at an end.
    if x.is_nan() { a } else { x.clamp(a, b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of SciPy 1.17 (`scipy.special.log_ndtr`), relative.
    const TOLERANCE: f64 = 1e-12;

    #[test]
    fn log_cdf_agrees_with_scipy() {
        for (a, expected) in [
            (-40.0, -804.6084420137539),
            (-20.5, -214.06672896326387),
            (-5.0, -15.064998393988727),
            (-0.3, -0.9621028181688505),
            (0.5, -0.36894641528865635),
            (7.0, -1.2798125438866539e-12),
        ] {
            let found = log_cdf(a);
            assert!(((found - expected) / expected).abs() < TOLERANCE, "{a}: {found}");
        }
    }

    #[test]
    fn quantile_inverts_the_mass() {
        for (a, b) in [(-1.0, 2.0), (3.0, 9.0), (-30.0, -25.0), (-0.01, 0.01), (8.0, 8.5)] {
            for q in [1e-6, 0.1, 0.5, 0.9, 1.0 - 1e-6] {
                let x = quantile(q, a, b);
                assert!(a <= x && x <= b);
                let share = (log_mass(a, x) - log_mass(a, b)).exp();
                // Digits lost where q is the difference of nearly equal masses.
                assert!((share - q).abs() < 1e-6, "{a} {b} {q}: {share}");
            }
        }
    }

    #[test]
    fn masses_of_empty_intervals_are_zero() {
        assert_eq!(log_mass(-1.0, -1.0), f64::NEG_INFINITY);
        assert_eq!(log_mass(2.0, 2.0), f64::NEG_INFINITY);
        assert_eq!(quantile(0.0, -2.0, 3.0), -2.0);
        assert_eq!(quantile(1.0, -2.0, 3.0), 3.0);
    }
}
