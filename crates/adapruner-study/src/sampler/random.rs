//! Random search.

use crate::distribution::{Distribution, ParamValue};
use crate::error::Result;
use crate::sampler::axis::Axis;
use crate::sampler::stream::Stream;
use crate::sampler::{Params, Sampler, View};

/// Draws every parameter by itself, uniformly: in the logarithm where the
/// distribution says so, over sizes and then over sets of that size for
/// subsets.
#[derive(Debug, Clone, Copy)]
pub struct RandomSampler {
    seed: u64,
}

impl RandomSampler {
    /// A sampler with this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }
}

impl Sampler for RandomSampler {
    fn joint(&self, _view: &View<'_>) -> Result<Params> {
        Ok(Params::new())
    }

    fn single(
        &self,
        view: &View<'_>,
        name: &str,
        distribution: &Distribution,
    ) -> Result<ParamValue> {
        distribution.validate(name)?;
        Ok(uniform(distribution, &mut Stream::new(self.seed, view.draw, name)))
    }
}

/// Draws uniformly from a distribution that makes sense.
pub(crate) fn uniform(distribution: &Distribution, stream: &mut Stream) -> ParamValue {
    if let Distribution::Subset { pool, least, most } = *distribution {
        let n = least + stream.below((most - least + 1) as u64) as usize;
        return ParamValue::Subset(uniform_subset(pool, n, stream));
    }
    match Axis::new(distribution) {
        Some(axis) => axis.value(axis.draw(stream)),
        // Every distribution but a subset has an axis.
        None => ParamValue::Subset(Vec::new()),
    }
}

/// `n` of `0..pool`, every set of them as likely: the first steps of a shuffle.
fn uniform_subset(pool: usize, n: usize, stream: &mut Stream) -> Vec<usize> {
    let mut items: Vec<usize> = (0..pool).collect();
    for i in 0..n {
        items.swap(i, i + stream.below((pool - i) as u64) as usize);
    }
    items.truncate(n);
    items.sort_unstable();
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(distribution: &Distribution, n: u64) -> Vec<ParamValue> {
        (0..n).map(|draw| uniform(distribution, &mut Stream::new(7, draw, "x"))).collect()
    }

    #[test]
    fn every_integer_and_choice_is_as_likely() {
        for distribution in [Distribution::int(1, 4), Distribution::categorical(["a", "b", "c"])] {
            let mut counts = [0_usize; 5];
            for value in draws(&distribution, 4000) {
                counts[Axis::number(&value).unwrap() as usize] += 1;
            }
            let seen: Vec<usize> = counts.into_iter().filter(|&n| n > 0).collect();
            // Five standard errors.
            let mean = 4000 / seen.len();
            assert!(seen.iter().all(|n| n.abs_diff(mean) < 160), "{counts:?}");
        }
    }

    #[test]
    fn logarithms_are_uniform() {
        let below = draws(&Distribution::float_log(1e-4, 1.0), 2000)
            .iter()
            .filter(|value| Axis::number(value).unwrap() < 1e-2)
            .count();
        assert!(below.abs_diff(1000) < 120, "{below}");
    }

    #[test]
    fn items_of_subsets_are_as_likely_and_sizes_too() {
        let distribution = Distribution::Subset { pool: 10, least: 1, most: 4 };
        let (mut items, mut sizes) = ([0_usize; 10], [0_usize; 5]);
        for value in draws(&distribution, 4000) {
            let ParamValue::Subset(set) = value else { panic!("{value:?}") };
            sizes[set.len()] += 1;
            set.iter().for_each(|&item| items[item] += 1);
        }
        assert!(sizes[1..].iter().all(|n| n.abs_diff(1000) < 150), "{sizes:?}");
        assert!(items.iter().all(|n| n.abs_diff(1000) < 150), "{items:?}");
    }
}
