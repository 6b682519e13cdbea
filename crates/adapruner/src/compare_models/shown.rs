//! The tables of a comparison, and the comparison as Markdown.

use adapruner_eval::paired::{Difference, FEWEST};

use super::{Comparison, Kind, Row, Sure};

/// What the brackets of the first table mean.
const BRACKETS: &str = "After ±, the standard error (of a perplexity that of its loss, in nats per \
     token). In brackets, percent of the first model: of accuracies, sizes, speeds and seconds \
     this model's figure divided by the first's, of perplexities and bits per byte the \
     first's divided by this; of \
     speeds and seconds the median over rounds.";

/// The figures of every model, then the differences from the first one.
pub(super) struct Tables {
    pub(super) figures: Vec<Vec<String>>,
    pub(super) differences: Vec<Vec<String>>,
    pub(super) notes: Vec<String>,
}

/// Headings of the differences.
pub(super) const HEADINGS: [&str; 6] =
    ["figure", "model", "difference", "95 % interval", "retained", "retained above chance"];

impl Tables {
    pub(super) fn of(comparison: &Comparison) -> Self {
        let figures = comparison.rows.iter().map(figures).collect();
        let mut differences = Vec::new();
        for row in &comparison.rows {
            let Some(sure) = &row.sure else { continue };
            for (at, model) in comparison.models.iter().enumerate().skip(1) {
                if let Some(difference) = sure.differences.get(at).copied().flatten() {
                    differences.push(against(row, sure, (at, &model.model), difference));
                }
            }
        }
        let mut notes = vec![BRACKETS.to_owned()];
        if !differences.is_empty() {
            notes.push(explained(&comparison.rows));
        }
        notes.extend(comparison.rows.iter().filter_map(near_chance));
        notes.extend(comparison.notes.iter().cloned());
        Self { figures, differences, notes }
    }
}

/// A row of the first table.
fn figures(row: &Row) -> Vec<String> {
    let chance = row.sure.as_ref().and_then(|sure| sure.chance);
    let chance = chance.map_or_else(String::new, |chance| format!(" (guessing {chance:.3})"));
    let mut cells = vec![format!("{}{chance}", row.name)];
    for (at, (value, percent)) in row.values.iter().zip(&row.percent).enumerate() {
        let value = match row.kind {
            Kind::Size | Kind::Bytes => format!("{value:.0}"),
            Kind::Perplexity => format!("{value:.3}"),
            Kind::Accuracy | Kind::Seconds | Kind::BitsPerByte => format!("{value:.4}"),
            Kind::Speed => format!("{value:.1}"),
        };
        let stderr = row.sure.as_ref().and_then(|sure| sure.stderrs.get(at).copied().flatten());
        let loss = row.sure.as_ref().and_then(|sure| sure.losses.get(at));
        let sure = match (stderr, loss) {
            (None, _) => String::new(),
            (Some(stderr), None) => format!(" ± {stderr:.4}"),
            (Some(stderr), Some(loss)) => format!(", loss {loss:.4} ± {stderr:.4}"),
        };
        let percent = if at > 0 { format!(" ({percent:.1} %)") } else { String::new() };
        cells.push(format!("{value}{percent}{sure}"));
    }
    cells
}

/// A row of the differences.
fn against(
    row: &Row,
    sure: &Sure,
    (at, model): (usize, &str),
    difference: Difference,
) -> Vec<String> {
    let name = if sure.losses.is_empty() {
        row.name.clone()
    } else {
        format!("loss (nats), {}", row.name.trim_start_matches("perplexity, "))
    };
    let stderr = difference.stderr.map_or_else(String::new, |stderr| format!(" ± {stderr:.4}"));
    let interval = match difference.interval {
        None => format!("none: fewer than {FEWEST} pairs"),
        Some((low, high)) => {
            let shown = difference.is_shown() == Some(true);
            let verdict = if shown { "" } else { "; no difference shown" };
            format!("{low:+.4} to {high:+.4}{verdict}")
        }
    };
    let kept = match (sure.chance, sure.above_chance.get(at).copied().flatten()) {
        (None, _) => "–".to_owned(),
        (Some(_), None) => "none: the first model does not exceed chance".to_owned(),
        (Some(_), Some(percent)) => format!("{percent:.1} %"),
    };
    let retained = row.percent.get(at).map_or_else(String::new, |p| format!("{p:.1} %"));
    let value = format!("{:+.4}{stderr}", difference.value);
    vec![name, model.to_owned(), value, interval, retained, kept]
}

/// How the intervals were made.
fn explained(rows: &[Row]) -> String {
    let sure = || rows.iter().filter_map(|row| row.sure.as_ref());
    let mut text = "Differences are the model's figure minus the first model's.".to_owned();
    if sure().any(|sure| sure.chance.is_some()) {
        text.push_str(
            " Accuracies: paired over the same questions in the same order, 95 % intervals by \
             Agresti and Min's method, of a mean over tasks with the tasks as independent; \
             retained above chance: (accuracy − chance) / (first model's accuracy − chance), chance \
             the mean over questions of one divided by the number of choices.",
        );
    }
    if sure().any(|sure| !sure.losses.is_empty()) {
        text.push_str(
            " Losses: paired over the same windows or articles, normal 95 % intervals that take \
             them as independent, though neighbours of one text are alike.",
        );
    }
    if rows.iter().any(|row| row.kind == Kind::BitsPerByte) {
        text.push_str(
            " Bits per byte: the summed loss in bits by UTF-8 byte of the predicted text, which \
             does not depend on the tokenizer; paired as losses are where all tokens are the same.",
        );
    }
    text + " The intervals are of these questions and texts; they do not contain the spread \
            between seeds of a search or a training."
}

/// A warning where the first model's accuracy is within two standard errors of
/// guessing.
fn near_chance(row: &Row) -> Option<String> {
    let sure = row.sure.as_ref()?;
    let (chance, first) = (sure.chance?, *row.values.first()?);
    let stderr = sure.stderrs.first().copied().flatten()?;
    (first - chance <= 2.0 * stderr).then(|| {
        format!(
            "{}: the first model ({first:.4} ± {stderr:.4}) is not clearly above guessing \
             ({chance:.4}), so what is retained of it says nothing.",
            row.name
        )
    })
}

/// The comparison as Markdown tables.
pub fn markdown(comparison: &Comparison) -> String {
    let Tables { figures, differences, notes } = Tables::of(comparison);
    let models = comparison.models.iter().map(|model| model.model.clone());
    let heads: Vec<String> = std::iter::once(String::new()).chain(models).collect();
    let mut out = table(&heads, 1, &figures);
    if !differences.is_empty() {
        let heads: Vec<String> = HEADINGS.map(str::to_owned).to_vec();
        out.push_str(&format!("\n{}", table(&heads, 2, &differences)));
    }
    for note in &notes {
        out.push_str(&format!("\n{note}\n"));
    }
    out
}

/// A Markdown table whose columns from `words` on stand at the right.
fn table(heads: &[String], words: usize, rows: &[Vec<String>]) -> String {
    let cell = |text: &String| text.replace('|', "\\|").replace('\n', " ");
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(cell).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rules = heads.iter().enumerate().map(|(at, _)| if at < words { "---" } else { "---:" });
    let rules = rules.collect::<Vec<_>>().join("|");
    let rows: String = rows.iter().map(|row| line(row)).collect();
    format!("{}|{rules}|\n{rows}", line(heads))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare_models::Compared;
    use adapruner_checkpoint::Digest;
    use adapruner_eval::metrics::Estimate;

    fn comparison(rows: Vec<Row>) -> Comparison {
        let model = |name: &str| Compared {
            model: name.into(),
            digest: Digest::of_bytes(name.as_bytes()),
            texts: Vec::new(),
        };
        Comparison {
            models: vec![model("dense"), model("a|b")],
            rows,
            latency: None,
            notes: Vec::new(),
        }
    }

    fn difference(value: f64, interval: Option<(f64, f64)>) -> Difference {
        Difference { value, stderr: Some(0.02), interval }
    }

    fn accuracy(values: [f64; 2], chance: f64, interval: (f64, f64)) -> Row {
        let estimates = values.map(|value| Estimate { value, stderr: Some(0.03) });
        let difference = difference(values[1] - values[0], Some(interval));
        Row::accuracies("piqa".into(), &estimates, chance, [Some(difference)].into_iter())
    }

    #[test]
    fn a_table_says_how_sure_it_is() {
        let losses = vec![(4.0, Some(0.1)), (4.5, Some(0.12))];
        let few = vec![None, Some(difference(0.5, None))];
        let text = Row::perplexities("perplexity, t".into(), losses, few);
        let shown = markdown(&comparison(vec![
            text,
            accuracy([0.70, 0.60], 0.5, (-0.14, -0.06)),
            accuracy([0.70, 0.69], 0.5, (-0.05, 0.03)),
            accuracy([0.52, 0.51], 0.5, (-0.05, 0.03)),
            accuracy([0.45, 0.51], 0.5, (-0.05, 0.03)),
        ]));
        for line in [
            "|  | dense | a\\|b |\n|---|---:|---:|",
            "| perplexity, t | 54.598, loss 4.0000 ± 0.1000 | 90.017 (60.7 %), loss 4.5000 ± \
             0.1200 |",
            "| piqa (guessing 0.500) | 0.7000 ± 0.0300 | 0.6000 (85.7 %) ± 0.0300 |",
            "| loss (nats), t | a\\|b | +0.5000 ± 0.0200 | none: fewer than 30 pairs | 60.7 % | – |",
            "| piqa | a\\|b | -0.1000 ± 0.0200 | -0.1400 to -0.0600 | 85.7 % | 50.0 % |",
            "-0.0500 to +0.0300; no difference shown | 98.6 % | 95.0 % |",
            "| none: the first model does not exceed chance |",
            "piqa: the first model (0.5200 ± 0.0300) is not clearly above guessing (0.5000)",
        ] {
            assert!(shown.contains(line), "{line}\n{shown}");
        }
        let page = crate::compare_models::models(&comparison(vec![accuracy(
            [0.70, 0.60],
            0.5,
            (-0.14, -0.06),
        )]));
        assert_eq!(page.differences[0][5], "50.0 %");
    }

    #[test]
    fn figures_of_older_runs_are_shown_without() {
        let row = r#"{"name": "p", "kind": "perplexity", "values": [10.0, 20.0],
            "percent": [100.0, 50.0]}"#;
        let shown = markdown(&comparison(vec![serde_json::from_str(row).unwrap()]));
        assert!(shown.contains("| p | 10.000 | 20.000 (50.0 %) |"), "{shown}");
        assert!(!shown.contains("difference"), "{shown}");
    }
}
