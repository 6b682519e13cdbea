//! Lazy greedy removal: the order in which to remove parts of a model, by measured loss.

use crate::error::Result;

/// What a removal is to achieve.
pub struct Goal<'a> {
    /// What the removal of a part is worth, above 0: of two parts that cost as much, the one that
    /// is worth more goes first.
    pub worth: &'a dyn Fn(usize) -> f64,
    /// Whether enough is gone; called with the parts that are.
    pub reached: &'a dyn Fn(&[usize]) -> bool,
}

impl<'a> Goal<'a> {
    /// Parts that are worth the same, until `reached`.
    pub fn alike(reached: &'a dyn Fn(&[usize]) -> bool) -> Self {
        Self { worth: &|_| 1.0, reached }
    }
}

/// Orders all `candidates` for removal. Each entry is a candidate and its cost: the increase of
/// the loss when it is removed after those before it. `loss_without` measures the loss without
/// the given candidates; `told` is called with the steps done and the most steps that there are.
///
/// The entries with which the goal is reached are a greedy choice, by cost divided by worth. The
/// cost of a part seldom falls when others are
/// removed, so only the cheapest candidate is measured again before it is removed (lazy
/// evaluation, Minoux 1978). If it now costs more, it returns to the others. The entries after
/// that are in the order of their last measured costs.
///
/// # Errors
/// Those of `loss_without`.
pub fn removal_order(
    candidates: &[usize],
    goal: &Goal<'_>,
    loss_without: &mut dyn FnMut(&[usize]) -> Result<f64>,
    told: &dyn Fn(u64, u64),
) -> Result<Vec<(usize, f64)>> {
    let work = 2 * candidates.len() as u64;
    let mut loss = loss_without(&[])?;
    // Cost, candidate, and how many were removed when the cost was measured.
    let mut costs = Vec::with_capacity(candidates.len());
    for &part in candidates {
        costs.push((loss_without(&[part])? - loss, part, 0));
        told(costs.len() as u64, work);
    }
    let price = |of: &(f64, usize, usize)| of.0 / (goal.worth)(of.1);
    let by_price = |a: &(f64, usize, usize), b: &(f64, usize, usize)| {
        price(a).total_cmp(&price(b)).then(a.1.cmp(&b.1))
    };
    let mut chosen: Vec<(usize, f64)> = Vec::with_capacity(costs.len());
    let mut gone: Vec<usize> = Vec::new();
    while !costs.is_empty() && !(goal.reached)(&gone) {
        costs.sort_by(by_price);
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
    costs.sort_by(by_price);
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
        let two = |gone: &[usize]| gone.len() == 2;
        let order =
            removal_order(&[0, 1, 2, 3], &Goal::alike(&two), &mut measure, &|_, _| ()).unwrap();
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
            let enough = |gone: &[usize]| gone.len() >= count;
            let goal = Goal::alike(&enough);
            let order = removal_order(&[0, 1, 2, 3], &goal, &mut measure, &|_, _| ()).unwrap();
            assert_eq!(order.len(), 4);
        }
    }

    #[test]
    fn of_parts_that_are_worth_more_more_may_be_lost() {
        let mut measure = |gone: &[usize]| Ok(loss(gone));
        let one = |gone: &[usize]| gone.len() == 1;
        let goal = Goal { worth: &|part| if part == 0 { 7.0 } else { 1.0 }, reached: &one };
        let order = removal_order(&[0, 1, 2, 3], &goal, &mut measure, &|_, _| ()).unwrap();
        // 3 / 7 is less than 0.5.
        assert_eq!(order[0].0, 0);
    }
}
