//! The order in which tokens are removed.

use std::{cmp::Reverse, collections::BinaryHeap};

use adapruner_checkpoint::tokenizer::vocabulary::{Role, Vocabulary};

use crate::error::{Error, Result};

/// A token that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub id: u32,
    /// The tokens that it becomes, all of which are there at this step.
    pub becomes: Vec<u32>,
    /// Tokens that the counted text takes more.
    pub cost: u64,
}

/// All tokens that may go, in the order in which they are best removed.
#[derive(Debug)]
pub struct Ranking {
    /// Rows of the whole vocabulary.
    rows: usize,
    /// Tokens of the counted text.
    tokens: u64,
    /// Tokens that stay whatever is asked.
    required: Vec<u32>,
    /// Tokens that no text becomes.
    unreachable: usize,
    /// The first is to go first.
    steps: Vec<Step>,
}

impl Ranking {
    /// Ranks the tokens of a vocabulary by how often each occurs in a text, `counts` by id.
    pub fn new(vocabulary: &Vocabulary, counts: &[u64]) -> Self {
        let rows = vocabulary.rows();
        let mut counts = counts.to_vec();
        counts.resize(rows, 0);
        let tokens = counts.iter().sum();
        let mut stays: Vec<bool> = (0..rows as u32)
            .map(|id| match vocabulary.role(id) {
                Role::Free | Role::Required => true,
                Role::Unassigned | Role::Unreachable => false,
            })
            .collect();
        let free: Vec<u32> = vocabulary.of_role(Role::Free).collect();
        // How many tokens that may go are merged of each.
        let mut dependents = vec![0_u32; rows];
        for id in free.iter().flat_map(|id| vocabulary.needs(*id)) {
            dependents[*id as usize] += 1;
        }
        let key = |id: u32, counts: &[u64], stays: &[bool]| {
            let becomes = vocabulary.becomes(id, &|other| stays[other as usize]);
            let more = becomes.len().saturating_sub(1) as u64;
            (counts[id as usize].saturating_mul(more), becomes)
        };
        let mut heap: BinaryHeap<(Reverse<u64>, u32)> = BinaryHeap::with_capacity(free.len());
        for id in free.iter().copied().filter(|id| dependents[*id as usize] == 0) {
            heap.push((Reverse(key(id, &counts, &stays).0), id));
        }
        let required: Vec<u32> = vocabulary.of_role(Role::Required).collect();
        let mut steps = Vec::with_capacity(free.len());
        while let Some((Reverse(cost), id)) = heap.pop() {
            let (now, becomes) = key(id, &counts, &stays);
            // Costs only rise; what is no longer the least waits.
            if now > cost {
                heap.push((Reverse(now), id));
                continue;
            }
            stays[id as usize] = false;
            for of in &becomes {
                counts[*of as usize] = counts[*of as usize].saturating_add(counts[id as usize]);
            }
            for of in vocabulary.needs(id) {
                dependents[*of as usize] -= 1;
                if dependents[*of as usize] == 0 && vocabulary.role(*of) == Role::Free {
                    heap.push((Reverse(key(*of, &counts, &stays).0), *of));
                }
            }
            steps.push(Step { id, becomes, cost });
        }
        let unreachable = vocabulary.of_role(Role::Unreachable).count();
        Self { rows, tokens, required, unreachable, steps }
    }

    /// Tokens that every vocabulary has.
    pub fn least(&self) -> usize {
        self.required.len()
    }

    /// Tokens of the largest vocabulary: all that texts can become.
    pub fn most(&self) -> usize {
        self.required.len() + self.steps.len()
    }

    /// Tokens that no text becomes, which no vocabulary has.
    pub fn unreachable(&self) -> usize {
        self.unreachable
    }

    /// The tokens that may go, the first to go first.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Ids of the `tokens` tokens that are worth most, ascending.
    ///
    /// # Errors
    /// Fewer tokens than the bytes, special tokens and the like; as many as the model has
    /// rows, or more.
    pub fn keep(&self, tokens: usize) -> Result<Vec<u32>> {
        let (least, most) = (self.least(), self.most());
        let refuse = |message: String, hint: String| {
            Err(Error::Option { option: "vocab", message, hint: Some(hint.into()) })
        };
        if tokens < least {
            return refuse(
                format!(
                    "expected at least {least}, what bytes, special and added tokens and the chat \
                     template need, found {tokens}"
                ),
                format!("keep at least {least} tokens"),
            );
        }
        if tokens >= self.rows {
            let rows = self.rows;
            return refuse(
                format!("{tokens} tokens are not fewer than the {rows} rows that there are"),
                format!("ask for {least} to {most} tokens"),
            );
        }
        let mut kept = self.required.clone();
        let gone = most.saturating_sub(tokens);
        kept.extend(self.steps[gone..].iter().map(|step| step.id));
        kept.sort_unstable();
        Ok(kept)
    }

    /// The share of tokens that a text takes more once only `tokens` tokens are left: of the
    /// text that the ranking was made by.
    pub fn growth(&self, tokens: usize) -> f64 {
        let gone = self.most().saturating_sub(tokens).min(self.steps.len());
        let more: u64 = self.steps[..gone].iter().map(|step| step.cost).sum();
        more as f64 / self.tokens.max(1) as f64
    }

    /// The same of another text, from how often each token occurs in it, by id: for every
    /// number of tokens that go, none to all.
    pub fn growths_of(&self, counts: &[u64]) -> Vec<f64> {
        let mut counts = counts.to_vec();
        counts.resize(self.rows, 0);
        let all = counts.iter().sum::<u64>().max(1) as f64;
        let mut more = 0_u64;
        let mut growths = Vec::with_capacity(self.steps.len() + 1);
        growths.push(0.0);
        for Step { id, becomes, .. } in &self.steps {
            let count = counts[*id as usize];
            more = more.saturating_add(count.saturating_mul(becomes.len() as u64 - 1));
            for of in becomes {
                counts[*of as usize] = counts[*of as usize].saturating_add(count);
            }
            growths.push(more as f64 / all);
        }
        growths
    }

    /// The least number of tokens with which a text, given by how often each token occurs in
    /// it, takes at most `tolerance` (a share) more tokens.
    pub fn within(&self, counts: &[u64], tolerance: f64) -> usize {
        // Growth only rises with what goes.
        let within = self.growths_of(counts).partition_point(|growth| *growth <= tolerance);
        self.most() - within.saturating_sub(1)
    }
}
