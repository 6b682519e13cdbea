//! Projection of scores onto an exact number of units.
//!
//! Both ways are deterministic: of equal scores the earlier unit is kept.

/// The `keep` best of one list.
///
/// # Shapes
/// As many flags as scores.
pub(super) fn best(scores: &[f32], keep: usize) -> Vec<bool> {
    let mut kept = vec![false; scores.len()];
    descending(scores).into_iter().take(keep).for_each(|at| kept[at] = true);
    kept
}

/// The best `total` of several lists together, of each list a positive multiple of
/// `multiple` units, its own best. Steps of `multiple` units are ranked by the mean of
/// their scores.
///
/// `total` is a multiple of `multiple` that the lists can give.
///
/// # Shapes
/// As many flags as scores, list by list.
pub(super) fn free(lists: &[&[f32]], total: usize, multiple: usize) -> Vec<Vec<bool>> {
    let orders: Vec<Vec<usize>> = lists.iter().map(|scores| descending(scores)).collect();
    let mut ranking: Vec<(f64, usize, usize)> = Vec::new();
    for (list, (scores, order)) in lists.iter().zip(&orders).enumerate() {
        // The first step of every list is taken anyway.
        for (step, units) in order.chunks_exact(multiple).enumerate().skip(1) {
            let sum: f64 = units.iter().map(|&at| f64::from(scores[at])).sum();
            ranking.push((sum / multiple as f64, list, step));
        }
    }
    ranking.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let mut keep = vec![multiple; lists.len()];
    let steps = (total / multiple).saturating_sub(lists.len());
    ranking.iter().take(steps).for_each(|&(_, list, _)| keep[list] += multiple);
    lists.iter().zip(keep).map(|(scores, keep)| best(scores, keep)).collect()
}

/// Units by descending score.
fn descending(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(kept: &[bool]) -> usize {
        kept.iter().filter(|kept| **kept).count()
    }

    /// The least score that is kept and the largest that is not.
    fn boundary(scores: &[f32], kept: &[bool]) -> (f32, f32) {
        let of = |wanted: bool| {
            scores.iter().zip(kept).filter(move |(_, kept)| **kept == wanted).map(|(s, _)| *s)
        };
        (of(true).fold(f32::INFINITY, f32::min), of(false).fold(f32::NEG_INFINITY, f32::max))
    }

    proptest! {
        #[test]
        fn exactly_the_best_are_kept(
            // Few different values, so that many tie.
            scores in prop::collection::vec((-3_i8..4).prop_map(f32::from), 1..40),
            share in 0.0..1.0_f64,
        ) {
            let keep = (share * (scores.len() + 1) as f64) as usize;
            let kept = best(&scores, keep);
            prop_assert_eq!(count(&kept), keep);
            let (least, most) = boundary(&scores, &kept);
            prop_assert!(least >= most);
            // Of equal ones the first.
            let ties: Vec<bool> =
                scores.iter().zip(&kept).filter(|(s, _)| **s == least).map(|(_, k)| *k).collect();
            prop_assert!(ties.windows(2).all(|pair| pair[0] >= pair[1]));
        }

        /// Against every division of the total among three lists.
        #[test]
        fn free_lists_keep_the_best_division(
            lists in prop::collection::vec(
                prop::collection::vec((-6_i8..7).prop_map(f32::from), 3..9), 3),
            multiple in 1_usize..4,
            share in 0.0..1.0_f64,
        ) {
            let lists: Vec<&[f32]> = lists.iter().map(Vec::as_slice).collect();
            let most: Vec<usize> = lists.iter().map(|list| list.len() / multiple).collect();
            let least = lists.len();
            let steps = least + (share * (most.iter().sum::<usize>() - least + 1) as f64) as usize;
            let found = free(&lists, steps * multiple, multiple);
            let value = |keep: &[usize]| -> f64 {
                let of = |(list, keep): (&&[f32], &usize)| -> f64 {
                    let kept = best(list, *keep * multiple);
                    list.iter().zip(kept).filter(|(_, kept)| *kept).map(|(s, _)| f64::from(*s)).sum()
                };
                lists.iter().zip(keep).map(of).sum()
            };
            let keep: Vec<usize> = found.iter().map(|kept| count(kept) / multiple).collect();
            prop_assert!(found.iter().all(|kept| count(kept).is_multiple_of(multiple) && count(kept) > 0));
            prop_assert_eq!(keep.iter().sum::<usize>(), steps);
            for (list, kept) in lists.iter().zip(&found) {
                prop_assert_eq!(kept, &best(list, count(kept)));
            }
            for a in 1..=most[0] {
                for b in 1..=most[1] {
                    let Some(c) = steps.checked_sub(a + b) else { continue };
                    if (1..=most[2]).contains(&c) {
                        prop_assert!(value(&keep) >= value(&[a, b, c]) - 1e-9, "{:?}", keep);
                    }
                }
            }
        }
    }
}
