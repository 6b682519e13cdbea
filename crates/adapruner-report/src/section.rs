//! The sections of a page, each left out where its data is empty.

mod best;
mod comparison;
mod convergence;
mod correlation;
mod costs;
mod front;
pub(crate) mod headline;
mod importances;
mod legend;
mod models;
mod parameters;
mod recovery;
mod samples;
mod table;
mod texts;
mod widths;

use crate::html::Html;
use crate::page::Page;

/// One section.
pub(crate) struct Section {
    /// Its anchor.
    pub(crate) id: &'static str,
    /// Its heading.
    pub(crate) heading: &'static str,
    /// Whether there is anything to show.
    pub(crate) shown: fn(&Page) -> bool,
    /// Writes what stands below the heading.
    pub(crate) write: fn(&Page, &mut Html),
}

/// From top to bottom.
pub(crate) const SECTIONS: &[Section] = &[
    Section {
        id: "tests",
        heading: "Test perplexity",
        shown: |page| !page.measured.is_empty(),
        write: headline::measured,
    },
    Section {
        id: "front",
        heading: "Loss against size",
        shown: |page| page.front.is_some(),
        write: front::write,
    },
    Section {
        id: "search",
        heading: "Best so far",
        // A front has no best trial; the smallest cut would win.
        shown: |page| page.front.is_none() && convergence::is_shown(page),
        write: convergence::write,
    },
    Section {
        id: "comparison",
        heading: "Comparison",
        shown: |page| !page.comparison.is_empty(),
        write: comparison::write,
    },
    Section {
        id: "correlation",
        heading: "Loss and accuracy",
        shown: |page| page.correlation.is_some(),
        write: correlation::write,
    },
    Section {
        id: "parameters",
        heading: "Parameters and loss",
        shown: parameters::is_shown,
        write: parameters::write,
    },
    Section {
        id: "importances",
        heading: "Parameter importance",
        shown: |page| !page.importances.is_empty(),
        write: importances::write,
    },
    Section {
        id: "widths",
        heading: "Kept widths",
        shown: |page| !page.layers.is_empty(),
        write: widths::write,
    },
    Section {
        id: "samples",
        heading: "Calibration samples",
        shown: |page| !page.samples.is_empty(),
        write: samples::write,
    },
    Section {
        id: "best",
        heading: "Best trial",
        shown: |page| page.best.is_some(),
        write: best::write,
    },
    Section {
        id: "recovery",
        heading: "Recovery",
        shown: |page| page.recovery.is_some(),
        write: recovery::write,
    },
    Section {
        id: "models",
        heading: "Models side by side",
        shown: |page| page.models.is_some(),
        write: models::write,
    },
    Section {
        id: "texts",
        heading: "Texts and digests",
        shown: |page| !page.texts.is_empty() || !page.model.digest.is_empty(),
        write: texts::write,
    },
    Section {
        id: "costs",
        heading: "Costs",
        shown: |page| {
            !page.costs.is_empty() || page.naive.is_some() || page.peak_memory_bytes.is_some()
        },
        write: costs::write,
    },
    Section {
        id: "command",
        heading: "To compute this again",
        shown: |page| !page.command.is_empty(),
        write: texts::command,
    },
];
