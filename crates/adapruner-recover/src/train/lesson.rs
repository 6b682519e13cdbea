//! Sequences as the model's terms of loss.
//!
//! Axes: `R` predicted places, all but the first token of each sequence.

use std::collections::BTreeMap;

use adapruner_model::{
    Decoder,
    train::{Lesson, Term},
};

use super::options::Distillation;
use crate::{data::Example, distill::TeacherCache, error::Result};

/// The sequences of one part of a step and the terms of their loss: the data's
/// own tokens, then the teacher's.
pub(crate) fn of(
    examples: &[Example],
    rows: &[usize],
    distillation: Option<Distillation>,
    teacher: Option<&TeacherCache>,
) -> Result<(Vec<Vec<u32>>, Vec<Term>)> {
    let sequences: Vec<Vec<u32>> = rows.iter().map(|&at| examples[at].ids.clone()).collect();
    let share = distillation.map_or(1.0, |d| 1.0 - d.mix) as f32;
    let mut own = Term { temperature: 1.0, k: 1, ids: Vec::new(), weights: Vec::new() };
    for &at in rows {
        let Example { ids, learned } = &examples[at];
        own.ids.extend(&ids[1..]);
        own.weights.extend(learned[1..].iter().map(|l| if *l { share } else { 0.0 }));
    }
    let mut terms = vec![own];
    if let (Some(Distillation { temperature, mix, top }), Some(cache)) = (distillation, teacher) {
        let scale = (mix * temperature * temperature) as f32;
        let mut term = Term { temperature, k: top, ids: Vec::new(), weights: Vec::new() };
        for &at in rows {
            cache.append(at, &examples[at], scale, &mut term)?;
        }
        terms.push(term);
    }
    Ok((sequences, terms))
}

/// The lesson of some sequences.
pub(crate) fn lesson(sequences: &[Vec<u32>], terms: Vec<Term>) -> Lesson<'_> {
    Lesson { sequences, terms, hidden: None }
}

/// Indices of sequences of one length each, so many tokens together.
pub(crate) fn of_one_length(examples: &[Example], tokens: usize) -> Vec<Vec<usize>> {
    let mut lengths: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, example) in examples.iter().enumerate() {
        lengths.entry(example.ids.len()).or_default().push(at);
    }
    let parts = lengths.into_iter().flat_map(|(length, rows)| {
        rows.chunks((tokens / length).max(1)).map(<[usize]>::to_vec).collect::<Vec<_>>()
    });
    parts.collect()
}

/// Sum of the losses of the learned tokens of sequences of one length, in nats.
pub(crate) fn loss(decoder: &Decoder, examples: &[Example], rows: &[usize]) -> Result<f64> {
    let sequences: Vec<&[u32]> = rows.iter().map(|&at| examples[at].ids.as_slice()).collect();
    let nll = decoder.nll(&decoder.tokens(&sequences)?)?.to_vec2::<f32>()?;
    let of_one = |(losses, &at): (Vec<f32>, &usize)| {
        let learned = examples[at].learned[1..].iter();
        losses.iter().zip(learned).filter(|(_, l)| **l).map(|(x, _)| f64::from(*x)).sum::<f64>()
    };
    Ok(nll.into_iter().zip(rows).map(of_one).sum())
}
