//! The result of a pruning search, or of a comparison of models, as one self-contained HTML page.
//!
//! [`render`] turns a [`Page`], which is plain data, into a document without scripts and
//! without any reference outside itself (its own content security policy forbids both). Its
//! layout works from phones of 360 pixels up, in light and dark mode; charts are inline SVG.
//!
//! Every string of the data is escaped; characters that change the reading order or are
//! invisible are shown by their code. Numbers that are not finite are reported and never drawn.
//!
//! ```
//! use adapruner_report::{Page, render};
//!
//! let page = Page { title: "SmolLM2 <20 %>".into(), ..Page::default() };
//! assert!(render(&page).contains("<h1>SmolLM2 &lt;20 %&gt;</h1>"));
//! ```
//!
//! Units: losses are nats per predicted token, perplexities their exponential;
//! times are seconds; FLOP are floating-point operations; shares and ratios
//! lie between 0 and 1 in the data and are shown in per cent.

mod curve;
mod document;
mod html;
mod number;
mod page;
mod section;
mod svg;

pub use document::{picture, render};
pub use page::{
    ArmRow, Best, BestValidation, CorrelationPoint, CorrelationRow, Correlations, CostRow,
    Estimate, Importance, LayerRow, Measured, ModelFacts, Models, Page, Recovery, Run, Sample,
    State, TestMedian, TextFacts, Tile, Trade, TradePoint, TrainingStep, TrialPoint, TrialsToMatch,
    Value, Width,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
