//! Log-likelihoods of continuations of shared contexts.
//!
//! The sequences of a question share a prefix, which runs once; each continues from there.
//! Questions are packed into one matrix of rows up to a limit, the longest first, so there is
//! no padding; only rows that predict a scored token reach the head. Other questions of the
//! batch change a question's figures by rounding at most. Sums are in f64, in nats.

use adapruner_model::{Branches, Decoder};

use crate::{error::Result, requests::Sequence};

/// Sums of the log-likelihoods of the targets of every sequence; the sequences
/// of a group are those that may begin alike. About `batch_rows` rows run
/// together, at least one group. `progress` is told (rows done, rows in all).
///
/// # Errors
/// Ids outside the vocabulary, more positions than the model has, damaged
/// weights, or no memory.
pub fn log_likelihoods(
    decoder: &Decoder,
    groups: &[Vec<Sequence>],
    batch_rows: usize,
    progress: &dyn Fn(u64, u64),
) -> Result<Vec<Vec<f64>>> {
    let branched: Vec<Vec<Branches>> = groups.iter().map(|group| branches(group)).collect();
    let rows = |group: usize| branched[group].iter().map(Branches::rows).sum::<usize>();
    let all = (0..groups.len()).map(rows).sum::<usize>() as u64;
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|&group| std::cmp::Reverse(rows(group)));

    let mut out: Vec<Vec<f64>> = vec![Vec::new(); groups.len()];
    let (mut from, mut done) = (0, 0);
    while from < order.len() {
        let mut packed = rows(order[from]);
        let mut to = from + 1;
        while to < order.len() && packed + rows(order[to]) <= batch_rows {
            packed += rows(order[to]);
            to += 1;
        }
        let batch = &order[from..to];
        score(decoder, batch, groups, &branched, &mut out)?;
        from = to;
        done += packed as u64;
        progress(done, all);
    }
    Ok(out)
}

/// Rows that [`log_likelihoods`] runs for these groups.
pub fn rows(groups: &[Vec<Sequence>]) -> u64 {
    groups.iter().flat_map(|group| branches(group)).map(|branch| branch.rows() as u64).sum()
}

/// Scores some groups in one pass.
fn score(
    decoder: &Decoder,
    batch: &[usize],
    groups: &[Vec<Sequence>],
    branched: &[Vec<Branches>],
    out: &mut [Vec<f64>],
) -> Result<()> {
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    let mut packed = Vec::new();
    let mut start = 0;
    for &group in batch {
        let mut sequences = groups[group].iter();
        for branch in &branched[group] {
            for ending in 0..branch.endings.len() {
                let Some(sequence) = sequences.next() else { break };
                let first = sequence.input.len() - sequence.targets.len();
                let scored = first..sequence.input.len();
                rows.extend(scored.map(|at| (start + branch.row(ending, at)) as u32));
                targets.extend_from_slice(&sequence.targets);
            }
            start += branch.rows();
            packed.push(branch.clone());
        }
    }
    if packed.is_empty() {
        return Ok(());
    }
    let hidden = decoder.packed(&packed)?;
    let losses = decoder.nll_of_rows(&hidden, &rows, &targets)?;
    let mut losses = losses.into_iter().map(f64::from);
    for &group in batch {
        let sum = |sequence: &Sequence| -losses.by_ref().take(sequence.targets.len()).sum::<f64>();
        out[group] = groups[group].iter().map(sum).collect();
    }
    Ok(())
}

/// Sequences as one beginning with endings, or each for itself where they begin
/// differently.
fn branches(group: &[Sequence]) -> Vec<Branches> {
    let Some((first, others)) = group.split_first() else { return Vec::new() };
    let shared = others.iter().fold(first.input.len(), |shared, sequence| {
        let alike = first.input.iter().zip(&sequence.input).take_while(|(a, b)| a == b);
        shared.min(alike.count())
    });
    if shared == 0 {
        let alone = |sequence: &Sequence| Branches {
            beginning: sequence.input.clone(),
            endings: vec![Vec::new()],
        };
        return group.iter().map(alone).collect();
    }
    vec![Branches {
        beginning: first.input[..shared].to_vec(),
        endings: group.iter().map(|sequence| sequence.input[shared..].to_vec()).collect(),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(input: &[u32]) -> Sequence {
        Sequence { input: input.to_vec(), targets: vec![1], truncated: 0 }
    }

    #[test]
    fn what_is_shared_is_run_once() {
        let group = [sequence(&[1, 2, 3]), sequence(&[1, 2]), sequence(&[1, 2, 4, 5])];
        let [branch] = &branches(&group)[..] else { panic!("one beginning expected") };
        assert_eq!(branch.beginning, [1, 2]);
        assert_eq!(branch.endings, [vec![3], vec![], vec![4, 5]]);
        assert_eq!((branch.rows(), branch.row(2, 1), branch.row(2, 3)), (5, 1, 4));
        assert_eq!(branches(&[sequence(&[1]), sequence(&[2])]).len(), 2);
        assert_eq!(rows(&[group.to_vec(), vec![sequence(&[1]), sequence(&[2])]]), 7);
    }
}
