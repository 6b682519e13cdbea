//! Lazy greedy removal: the order in which to remove parts of a model, by measured loss.

use crate::error::Result;

/// Orders all `candidates` for removal. Each entry is a candidate and its cost: the increase of
/// the loss when it is removed after those before it. `loss_without` measures the loss without
/// the given candidates; `told` is called with the steps done and the number of steps.
///
/// The first `count` entries are a greedy choice. The cost of a part seldom falls when others are
/// removed, so only the cheapest candidate is measured again before it is removed (lazy
/// evaluation, Minoux 1978). If it now costs more, it returns to the others. The entries after
/// `count` are in the order of their last measured costs.
///
/// # Errors
/// Those of `loss_without`.
pub fn removal_order(
    candidates: &[usize],
    count: usize,
    loss_without: &mut dyn FnMut(&[usize]) -> Result<f64>,
    told: &dyn Fn(u64, u64),
) -> Result<Vec<(usize, f64)>> {
    let count = count.min(candidates.len());
    let work = (candidates.len() + count) as u64;
    let mut loss = loss_without(&[])?;
    // Cost, candidate, and how many were removed when the cost was measured.
    let mut costs = Vec::with_capacity(candidates.len());
    for &part in candidates {
        costs.push((loss_without(&[part])? - loss, part, 0));
        told(costs.len() as u64, work);
    }
    let mut chosen: Vec<(usize, f64)> = Vec::with_capacity(costs.len());
    let mut gone: Vec<usize> = Vec::with_capacity(count);
    while chosen.len() < count {
        costs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let (cost, part, when) = costs[0];
        gone.push(part);
        if when + 1 == gone.len() {
            costs.remove(0);
            chosen.push((part, cost));
            loss += cost;
            told((candidates.len() + chosen.len()) as u64, work);
        } else {
            costs[0] = (loss_without(&gone)? - loss, part, gone.len() - 1);
            gone.pop();
        }
    }
    costs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    chosen.extend(costs.into_iter().map(|(cost, part, _)| (part, cost)));
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts 1 and 2 can replace each other: removing one is cheap, removing both is not.
    fn loss(gone: &[usize]) -> f64 {
        let alone: f64 = gone.iter().map(|part| [3.0, 0.5, 0.6, 1.0][*part]).sum();
        let both = gone.contains(&1) && gone.contains(&2);
        10.0 + alone + if both { 5.0 } else { 0.0 }
    }

    #[test]
    fn parts_that_replace_each_other_are_not_both_removed() {
        let mut asked = 0;
        let mut measure = |gone: &[usize]| {
            asked += 1;
            Ok(loss(gone))
        };
        let order = removal_order(&[0, 1, 2, 3], 2, &mut measure, &|_, _| ()).unwrap();
        let parts: Vec<usize> = order.iter().map(|(part, _)| *part).collect();
        assert_eq!(parts, [1, 3, 0, 2]);
        assert!((order[1].1 - 1.0).abs() < 1e-12 && (order[3].1 - 5.6).abs() < 1e-12);
        // The whole model, each part alone, and two parts a second time.
        assert_eq!(asked, 1 + 4 + 2);
    }

    #[test]
    fn any_number_of_parts_can_be_removed() {
        for count in [0, 4, 9] {
            let mut measure = |gone: &[usize]| Ok(loss(gone));
            let order = removal_order(&[0, 1, 2, 3], count, &mut measure, &|_, _| ()).unwrap();
            assert_eq!(order.len(), 4);
        }
    }
}
