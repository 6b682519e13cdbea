//! Sequences as loss terms of the model.
//!
//! Axes: `R` predicted positions, all but the first token of each sequence.

use adapruner_model::{Branches, Decoder, train::Term};

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
    if let (Some(Distillation { temperature, mix, top, .. }), Some(cache)) = (distillation, teacher)
    {
        let scale = (mix * temperature * temperature) as f32;
        let mut term = Term { temperature, k: top, ids: Vec::new(), weights: Vec::new() };
        for &at in rows {
            cache.append(at, &examples[at], scale, &mut term)?;
        }
        terms.push(term);
    }
    Ok((sequences, terms))
}

/// Sum of the losses of the learned tokens of some sequences, in nats; they run
/// together, of any lengths.
pub(crate) fn loss(decoder: &Decoder, examples: &[Example], rows: &[usize]) -> Result<f64> {
    let mut sequences = Vec::with_capacity(rows.len());
    let (mut places, mut targets, mut before) = (Vec::new(), Vec::new(), 0);
    for &at in rows {
        let Example { ids, learned } = &examples[at];
        for (place, _) in learned.iter().enumerate().filter(|(_, learned)| **learned) {
            places.push((before + place - 1) as u32);
            targets.push(ids[place]);
        }
        before += ids.len();
        sequences.push(Branches { beginning: ids.clone(), endings: Vec::new() });
    }
    let hidden = decoder.packed(&sequences)?;
    let losses = decoder.nll_of_rows(&hidden, &places, &targets)?;
    Ok(losses.into_iter().map(f64::from).sum())
}
