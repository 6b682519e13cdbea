//! What is optimised: functions of the literature, and choosing a subset.

use adapruner_study::sampler::Params;
use adapruner_study::space::SpaceBuilder;
use adapruner_study::{ParamValue, Space};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Something to minimise, with its least value.
pub struct Problem {
    pub name: &'static str,
    pub space: Space,
    pub least: f64,
    pub value: Box<dyn Fn(&Params) -> f64 + Sync>,
    /// Medians of Optuna 5.0 (multivariate TPE), or of the best prototype, after
    /// 50, 100, 150 and 300 trials, where they are of this problem.
    pub published: Option<[f64; 4]>,
}

fn floats(n: usize, low: f64, high: f64) -> Space {
    let add = |builder: SpaceBuilder, i: usize| builder.float(&format!("x{i}"), low, high);
    (0..n).fold(Space::builder(), add).build().expect("bounds in order")
}

fn vector(params: &Params) -> Vec<f64> {
    params
        .values()
        .filter_map(|(_, value)| match value {
            ParamValue::Float(x) => Some(*x),
            ParamValue::Int(_) | ParamValue::Category(_) | ParamValue::Subset(_) => None,
        })
        .collect()
}

fn of_vector(
    name: &'static str,
    space: Space,
    least: f64,
    published: [f64; 4],
    f: impl Fn(&[f64]) -> f64 + Sync + 'static,
) -> Problem {
    Problem {
        name,
        space,
        least,
        value: Box::new(move |p| f(&vector(p))),
        published: Some(published),
    }
}

fn branin(x: &[f64]) -> f64 {
    use std::f64::consts::PI;
    let (a, b) = (x[0], x[1]);
    let curve = b - 5.1 / (4.0 * PI * PI) * a * a + 5.0 / PI * a - 6.0;
    curve * curve + 10.0 * (1.0 - 1.0 / (8.0 * PI)) * a.cos() + 10.0
}

fn hartmann6(x: &[f64]) -> f64 {
    const ALPHA: [f64; 4] = [1.0, 1.2, 3.0, 3.2];
    const A: [[f64; 6]; 4] = [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
        [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
        [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ];
    const P: [[f64; 6]; 4] = [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ];
    let term = |i: usize| {
        let inner: f64 = (0..6).map(|j| A[i][j] * (x[j] - P[i][j]).powi(2)).sum();
        ALPHA[i] * (-inner).exp()
    };
    -(0..4).map(term).sum::<f64>()
}

fn rosenbrock(x: &[f64]) -> f64 {
    x.windows(2).map(|w| 100.0 * (w[1] - w[0] * w[0]).powi(2) + (1.0 - w[0]).powi(2)).sum()
}

fn ackley(x: &[f64]) -> f64 {
    let n = x.len() as f64;
    let squares = x.iter().map(|x| x * x).sum::<f64>() / n;
    let cosines = x.iter().map(|x| (std::f64::consts::TAU * x).cos()).sum::<f64>() / n;
    20.0 + std::f64::consts::E - 20.0 * (-0.2 * squares.sqrt()).exp() - cosines.exp()
}

/// Three numbers and two choices, whose best number depends on the choice.
fn mixed() -> Problem {
    let choices = || ["a", "b", "c", "d", "e"];
    let builder = (0..3).fold(Space::builder(), |b, i| b.float(&format!("x{i}"), -5.0, 5.0));
    let space = builder.categorical("y0", choices()).categorical("y1", choices()).build();
    let value = |params: &Params| {
        let x = vector(params);
        let choice = |name| match params[name].1 {
            ParamValue::Category(index) => index as f64,
            ParamValue::Float(_) | ParamValue::Int(_) | ParamValue::Subset(_) => f64::NAN,
        };
        let (first, second) = (choice("y0"), choice("y1"));
        let shifts = [first - 2.0, second - 2.0, 0.5 * (first - second)];
        let bowl: f64 = x.iter().zip(shifts).map(|(x, shift)| (x - shift).powi(2)).sum();
        0.1 * bowl + 0.5 * (first - 3.0).abs() + 0.5 * (second - 1.0).abs()
    };
    Problem {
        name: "mixed",
        space: space.expect("parameters that make sense"),
        least: 0.0,
        value: Box::new(value),
        published: None,
    }
}

pub fn functions() -> Vec<Problem> {
    let sphere = |x: &[f64]| x.iter().map(|x| x * x).sum();
    // Branin's bounds are those of x0; x1 is shifted by 5.
    let shifted = |x: &[f64]| branin(&[x[0], x[1] + 5.0]);
    vec![
        of_vector("sphere-5", floats(5, -5.0, 5.0), 0.0, [1.1, 0.19, 0.087, 0.023], sphere),
        of_vector(
            "branin",
            floats(2, -5.0, 10.0),
            0.397_887_357_729_739,
            [0.11, 0.019, 0.0069, 0.0009],
            shifted,
        ),
        of_vector(
            "hartmann6",
            floats(6, 0.0, 1.0),
            -3.322_368_011_391_34,
            [0.33, 0.094, 0.049, 0.017],
            hartmann6,
        ),
        of_vector("rosenbrock-4", floats(4, -5.0, 10.0), 0.0, [175.0, 24.0, 9.9, 3.7], rosenbrock),
        of_vector("ackley-10", floats(10, -32.768, 32.768), 0.0, [17.1, 13.5, 10.9, 6.0], ackley),
        mixed(),
    ]
}

const POOL: usize = 128;
const CHOSEN: usize = 10;
const CLUSTERS: u64 = 16;

/// Choosing 10 of 128 items together with two coefficients.
///
/// Item i has a utility uᵢ ~ N(0, 0.65²) and belongs to one of 16 clusters. Every
/// pair of chosen items of one cluster loses 0.3 to redundancy. Coefficients a,
/// b in 0…1 cost 4 (a − a*)² + 4 (b − b*)² + 4 (a − a*)(b − b*). The value is
/// the cost less the utilities, with noise of a given deviation; the regret is
/// without the noise. The least value is found by exchanges, from many starts.
pub fn subset(instance: u64) -> Problem {
    let mut rng = ChaCha8Rng::seed_from_u64(instance);
    let mut uniform = move || (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut normal = || {
        let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * uniform()).cos(), uniform())
    };
    let items: Vec<(f64, f64)> = (0..POOL).map(|_| normal()).collect();
    let utilities: Vec<f64> = items.iter().map(|(u, _)| 0.65 * u).collect();
    let clusters: Vec<u64> = items.iter().map(|(_, c)| (c * CLUSTERS as f64) as u64).collect();
    let best = (0.2 + 0.6 * normal().1, 0.2 + 0.6 * normal().1);
    let gain = move |set: &[usize]| {
        let pairs =
            set.iter().enumerate().flat_map(|(k, &i)| set[..k].iter().map(move |&j| (i, j)));
        let redundant = pairs.filter(|&(i, j)| clusters[i] == clusters[j]).count();
        set.iter().map(|&i| utilities[i]).sum::<f64>() - 0.3 * redundant as f64
    };
    let least = -best_gain(&gain, &mut || normal().1);
    let value = move |params: &Params| {
        let (ParamValue::Float(a), ParamValue::Float(b), ParamValue::Subset(set)) =
            (&params["a"].1, &params["b"].1, &params["set"].1)
        else {
            return f64::NAN;
        };
        let (a, b) = (a - best.0, b - best.1);
        4.0 * (a * a + b * b + a * b) - gain(set)
    };
    let space = Space::builder().float("a", 0.0, 1.0).float("b", 0.0, 1.0);
    Problem {
        name: "subset",
        space: space.subset("set", POOL, CHOSEN).build().expect("a set within the pool"),
        least,
        value: Box::new(value),
        published: Some([5.6, 3.7, 1.7, 0.71]),
    }
}

/// As [`subset`], without redundancy, but what items are worth depends on the first
/// coefficient: item i has the utility uᵢ + (2a − 1) vᵢ, both ~ N(0, 0.65²), so that
/// the best set for one a is far from the best for another.
pub fn coupled(instance: u64) -> Problem {
    let mut rng = ChaCha8Rng::seed_from_u64(instance);
    let mut uniform = move || (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut normal = || {
        let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
        0.65 * radius * (std::f64::consts::TAU * uniform()).cos()
    };
    let items: Vec<(f64, f64)> = (0..POOL).map(|_| (normal(), normal())).collect();
    let best = (0.2 + 0.6 * uniform(), 0.2 + 0.6 * uniform());
    let utility = |a: f64, (u, v): &(f64, f64)| u + (2.0 * a - 1.0) * v;
    let cost = move |a: f64, b: f64| {
        let (a, b) = (a - best.0, b - best.1);
        4.0 * (a * a + b * b + a * b)
    };
    // Given a, the best b lies between, and the best items are those of most utility.
    let least = (0..=1000).map(|step| {
        let a = f64::from(step) / 1000.0;
        let b = (best.1 - 0.5 * (a - best.0)).clamp(0.0, 1.0);
        let mut utilities: Vec<f64> = items.iter().map(|item| utility(a, item)).collect();
        utilities.sort_by(|a, b| b.total_cmp(a));
        cost(a, b) - utilities[..CHOSEN].iter().sum::<f64>()
    });
    let least = least.fold(f64::INFINITY, f64::min);
    let value = move |params: &Params| {
        let (ParamValue::Float(a), ParamValue::Float(b), ParamValue::Subset(set)) =
            (&params["a"].1, &params["b"].1, &params["set"].1)
        else {
            return f64::NAN;
        };
        cost(*a, *b) - set.iter().map(|&i| utility(*a, &items[i])).sum::<f64>()
    };
    let space = Space::builder().float("a", 0.0, 1.0).float("b", 0.0, 1.0);
    Problem {
        name: "coupled",
        space: space.subset("set", POOL, CHOSEN).build().expect("a set within the pool"),
        least,
        value: Box::new(value),
        published: None,
    }
}

/// The largest gain that exchanges of one item find from 30 starts.
fn best_gain(gain: &impl Fn(&[usize]) -> f64, uniform: &mut impl FnMut() -> f64) -> f64 {
    let mut best = f64::NEG_INFINITY;
    for _ in 0..30 {
        let mut order: Vec<usize> = (0..POOL).collect();
        for i in 0..CHOSEN {
            order.swap(i, i + (uniform() * (POOL - i) as f64) as usize);
        }
        let mut here = gain(&order[..CHOSEN]);
        let mut better = true;
        while better {
            better = false;
            for i in 0..CHOSEN {
                for j in CHOSEN..POOL {
                    order.swap(i, j);
                    let there = gain(&order[..CHOSEN]);
                    if there > here + 1e-12 {
                        here = there;
                        better = true;
                    } else {
                        order.swap(i, j);
                    }
                }
            }
        }
        best = best.max(here);
    }
    best
}
