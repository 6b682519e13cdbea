//! Warnings about a result, each with a next step.

use std::fmt;

use adapruner_prune::{PlanOptions, Unmet};

/// A warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caution {
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// As one line, for manifests.
impl fmt::Display for Caution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (hint: {})", self.message, self.hint)
    }
}

impl From<Unmet> for Caution {
    fn from(unmet: Unmet) -> Self {
        Self { message: unmet.to_string(), hint: unmet.hint }
    }
}

/// Factor by which a perplexity must grow to count as a collapse.
const COLLAPSE: f64 = 2.0;

/// How a model was pruned.
#[derive(Debug, Clone, Copy)]
pub struct Pruned<'a> {
    /// The requested plan.
    pub plan: &'a PlanOptions,
    /// Layers of the model.
    pub layers: usize,
    /// Whether its units were learned.
    pub learned: bool,
    /// Whether the remaining weights were compensated.
    pub compensated: bool,
}

/// Layers to protect first: the first four and the last two, up to half of the layers.
fn protect(layers: usize) -> Option<(usize, usize)> {
    match layers {
        0..=3 => None,
        4..=11 => Some((1, 1)),
        _ => Some((4, 2)),
    }
}

/// A warning if perplexity on `text` has more than doubled; the next steps are those not tried
/// yet.
pub fn collapse(
    (before, after): (f64, f64),
    text: &str,
    pruned: Option<&Pruned<'_>>,
) -> Option<Caution> {
    // A NaN perplexity counts as a collapse.
    if after <= COLLAPSE * before {
        return None;
    }
    let mut steps = Vec::new();
    if let Some(Pruned { plan, layers, learned, compensated }) = pruned {
        if let Some((first, last)) = protect(*layers).filter(|_| plan.protect == (0, 0)) {
            steps.push(format!("--protect {first},{last}"));
        }
        if !learned {
            steps.push("--learn-masks 60".to_owned());
        }
        if !compensated {
            steps.push("--compensate".to_owned());
        }
        steps.push("`adapruner search` for a better cut".to_owned());
    }
    steps.push("`adapruner recover` to train what remains".to_owned());
    steps.push("a smaller --ratio".to_owned());
    Some(Caution {
        message: format!(
            "quality collapsed: perplexity on {text} went from {before:.3} to {after:.3}, more \
             than {COLLAPSE} times as much"
        ),
        hint: format!("try {}", steps.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perplexity_that_more_than_doubles_is_said_with_what_was_not_tried() {
        let plain = PlanOptions::new(0.2);
        let pruned = Pruned { plan: &plain, layers: 30, learned: false, compensated: false };
        let of = |after, pruned: &Pruned<'_>| collapse((63.8, after), "a text", Some(pruned));
        assert_eq!(of(127.6, &pruned), None);
        let said = of(252.0, &pruned).unwrap();
        assert!(said.message.contains("63.800 to 252.000"), "{said}");
        for step in ["--protect 4,2", "--learn-masks", "--compensate", "search", "recover"] {
            assert!(said.hint.contains(step), "{said}");
        }
        let spared = PlanOptions { protect: (4, 2), ..plain.clone() };
        let said = of(147.0, &Pruned { plan: &spared, learned: true, compensated: true, ..pruned });
        let said = said.unwrap();
        for tried in ["--protect", "--learn-masks", "--compensate"] {
            assert!(!said.hint.contains(tried), "{said}");
        }
        assert!(of(f64::NAN, &pruned).is_some(), "no number");
        // A plan that spares layers must be one that the model takes.
        for layers in 0..40 {
            let spared = protect(layers);
            assert!(spared.is_none_or(|(first, last)| 2 * (first + last) <= layers), "{layers}");
        }
    }
}
