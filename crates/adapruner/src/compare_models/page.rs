//! A comparison as a page: the verdict of the last model, size against quality, the tables.

use adapruner_report::{Models, Page, TextFacts, Tile, Trade, TradePoint};

use super::{Compared, Comparison, Kind, Row, shown::Tables};
use crate::{VERSION, footprint::Bytes, pipeline::TokensRecord};

/// Fewest models whose sizes and qualities are drawn against each other.
const FEWEST: usize = 3;

/// Most tasks that the verdict names where there is no mean over them.
const TASKS: usize = 3;

/// A page of a comparison alone. `created` is the moment it is made, ISO 8601; `command` made
/// the comparison.
pub fn page(comparison: &Comparison, command: String, created: String) -> Page {
    let names = short_names(&comparison.models);
    let title = match names.as_slice() {
        [first, .., last] => format!("{last} compared with {first}"),
        [_] | [] => "models compared".to_owned(),
    };
    let texts = comparison.models.first().map(|model| model.texts.as_slice()).unwrap_or_default();
    Page {
        title,
        version: VERSION.to_owned(),
        command,
        created,
        models: Some(models(comparison)),
        texts: texts.iter().map(|text| facts("measured on", text)).collect(),
        ..Page::default()
    }
}

/// A text as the page lists it.
pub fn facts(role: &str, tokens: &TokensRecord) -> TextFacts {
    TextFacts {
        role: role.to_owned(),
        name: tokens.text.clone(),
        windows: tokens.windows,
        window: tokens.window,
        tokens_digest: tokens.tokens_digest.to_string(),
    }
}

/// A comparison as a section of a page, with the figures of its header.
pub fn models(comparison: &Comparison) -> Models {
    let Tables { figures, differences, notes } = Tables::of(comparison);
    Models {
        names: comparison.models.iter().map(|model| model.model.clone()).collect(),
        verdict: verdict(comparison),
        trade: trade(comparison),
        figures,
        difference_headings: super::shown::HEADINGS.map(str::to_owned).to_vec(),
        differences,
        notes,
    }
}

/// Size against quality: bits per byte where every model has them, else perplexity on the same
/// tokens, of the first text. None of fewer than three models, or without a text.
pub fn trade(comparison: &Comparison) -> Option<Trade> {
    let place = |kind| comparison.rows.iter().position(|row| row.kind == kind);
    let same = same_tokens(comparison, 0, comparison.models.iter());
    let at = place(Kind::BitsPerByte).or(place(Kind::Perplexity).filter(|_| same))?;
    let (quality, bytes) = (&comparison.rows[at], &comparison.rows[place(Kind::Bytes)?]);
    if comparison.models.len() < FEWEST {
        return None;
    }
    let points = short_names(&comparison.models).into_iter().zip(&bytes.values);
    let points = points.zip(&quality.values).map(|((name, &bytes), &quality)| TradePoint {
        name,
        bytes,
        quality,
    });
    // The text by its name alone: a path has no room in a picture.
    let text = comparison.models.first().and_then(|model| model.texts.get(text_of(comparison, at)));
    let shown = match (text, quality.name.split_once(", ")) {
        (Some(text), Some((kind, _))) => {
            format!("{kind}, {}, windows of {}", last_part(&text.text, 1), text.window)
        }
        (Some(_) | None, _) => quality.name.clone(),
    };
    Some(Trade { quality: shown, points: points.collect() })
}

/// Which text the row `at` is of: every text has a perplexity, and behind it bits per byte where
/// every model has them.
fn text_of(comparison: &Comparison, at: usize) -> usize {
    let before = comparison.rows.iter().take(at + 1);
    before.filter(|row| row.kind == Kind::Perplexity).count().saturating_sub(1)
}

/// Whether models read the `at`-th text in the tokens of the first model.
fn same_tokens<'a>(
    of: &Comparison,
    at: usize,
    mut models: impl Iterator<Item = &'a Compared>,
) -> bool {
    let tokens = |model: &Compared| model.texts.get(at).map(|text| text.tokens_digest);
    let first = of.models.first().and_then(tokens);
    models.all(|model| tokens(model) == first)
}

/// The last model beside the first: its sizes, its quality on every text, its tasks, its speed.
fn verdict(comparison: &Comparison) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let last = comparison.models.len().saturating_sub(1);
    let last_model = || comparison.models.iter().skip(last);
    let is_mean = |row: &Row| row.kind == Kind::Accuracy && row.name.starts_with("mean of");
    let has_mean = comparison.rows.iter().any(is_mean);
    let mut tasks = 0;
    for (at, row) in comparison.rows.iter().enumerate() {
        let same = || same_tokens(comparison, text_of(comparison, at), last_model());
        let (Some(&before), Some(&after)) = (row.values.first(), row.values.get(last)) else {
            continue;
        };
        let shown = match row.kind {
            Kind::Size => {
                let decimals = if before < 1e7 { 3 } else { 1 };
                let million = |count: f64| format!("{:.decimals$} M", count / 1e6);
                let number = format!("{} → {}", million(before), million(after));
                Some((number, change(before, after, "fewer", "more")))
            }
            Kind::Bytes => {
                let number = format!("{} → {}", Bytes(before as u64), Bytes(after as u64));
                Some((number, change(before, after, "smaller", "larger")))
            }
            Kind::Perplexity => {
                let times = format!("{:.3} times{}", after / before, difference(row, last, "loss"));
                same().then(|| (format!("{before:.2} → {after:.2}"), times))
            }
            Kind::BitsPerByte => {
                let times = format!("{:.3} times{}", after / before, difference(row, last, ""));
                (!same()).then(|| (format!("{before:.4} → {after:.4}"), times))
            }
            Kind::Accuracy if has_mean != is_mean(row) || tasks == TASKS => None,
            Kind::Accuracy => {
                tasks += if has_mean { TASKS } else { 1 };
                let above = row.sure.as_ref().and_then(|sure| *sure.above_chance.get(last)?);
                let above = above.map_or_else(String::new, |p| format!(", {p:.1} % above chance"));
                let kept = format!("{:.1} % retained{above}", 100.0 * after / before);
                let number = format!("{:.1} % → {:.1} %", 100.0 * before, 100.0 * after);
                Some((number, kept + &difference(row, last, "")))
            }
            Kind::Speed => {
                let percent = row.percent.get(last).copied().unwrap_or(f64::NAN);
                let times = format!("{:.2} times as fast", percent / 100.0);
                Some((format!("{before:.1} → {after:.1}"), times))
            }
            // The same as the speed of the prompt.
            Kind::Seconds => None,
        };
        let Some((number, below)) = shown else { continue };
        tiles.push(Tile { above: row.name.clone(), number, below });
    }
    tiles
}

/// The change of a size, in words.
fn change(before: f64, after: f64, fewer: &str, more: &str) -> String {
    let percent = 100.0 * (after / before - 1.0);
    match percent {
        less if less < -0.05 => format!("{:.1} % {fewer}", -less),
        most if most > 0.05 => format!("{most:.1} % {more}"),
        _ => "the same".into(),
    }
}

/// The paired difference from the first model, with its interval.
fn difference(row: &Row, at: usize, of: &str) -> String {
    let found = row.sure.as_ref().and_then(|sure| sure.differences.get(at).copied().flatten());
    let Some(found) = found else { return String::new() };
    let of = if of.is_empty() { String::new() } else { format!("{of} ") };
    match found.interval {
        None => format!("; {of}{:+.4}", found.value),
        Some((low, high)) => {
            format!("; {of}{:+.4} (95 %: {low:+.4} to {high:+.4})", found.value)
        }
    }
}

/// The end of a path, `parts` of it.
fn last_part(path: &str, parts: usize) -> &str {
    let path = path.trim_end_matches('/');
    match path.rmatch_indices('/').nth(parts - 1) {
        Some((at, _)) => &path[at + 1..],
        None => path,
    }
}

/// Names as short as tells the models apart: the ends of their paths.
fn short_names(models: &[Compared]) -> Vec<String> {
    let most = models.iter().map(|model| model.model.matches('/').count() + 1).max().unwrap_or(1);
    let named = |parts| models.iter().map(move |model| last_part(&model.model, parts).to_owned());
    let distinct = |parts: &usize| {
        let mut names: Vec<String> = named(*parts).collect();
        names.sort_unstable();
        names.windows(2).all(|pair| pair[0] != pair[1])
    };
    let parts = (1..=most).find(distinct).unwrap_or(most);
    named(parts).collect()
}

#[cfg(test)]
mod tests {
    use adapruner_checkpoint::Digest;
    use adapruner_eval::{metrics::Estimate, paired::Difference};

    use super::*;

    fn comparison(names: &[&str], rows: Vec<Row>) -> Comparison {
        let model = |name: &&str| Compared {
            model: (*name).into(),
            digest: Digest::of_bytes(name.as_bytes()),
            texts: Vec::new(),
        };
        let models = names.iter().map(model).collect();
        Comparison { models, rows, latency: None, notes: Vec::new() }
    }

    #[test]
    fn names_are_as_short_as_tells_models_apart() {
        let of = |names: &[&str]| short_names(&comparison(names, Vec::new()).models);
        assert_eq!(of(&["a/b/dense.gguf", "a/pruned/"]), ["dense.gguf", "pruned"]);
        assert_eq!(of(&["x/model.gguf", "y/model.gguf"]), ["x/model.gguf", "y/model.gguf"]);
        assert_eq!(of(&["m", "m"]), ["m", "m"]);
    }

    #[test]
    fn the_verdict_is_of_the_last_model() {
        let row = |name: &str, kind, values| Row::new(name.to_owned(), kind, values);
        let losses = vec![(4.0, None), (4.2, None), (4.5, None)];
        let apart = Difference { value: 0.5, stderr: None, interval: Some((0.4, 0.6)) };
        let differences = vec![None, None, Some(apart)];
        let estimates = [0.6, 0.5, 0.55].map(|value| Estimate { value, stderr: None });
        let rows = vec![
            row("parameters", Kind::Size, vec![134.5e6, 120e6, 107.6e6]),
            row("bytes of the tensors", Kind::Bytes, vec![97.3e6, 200e6, 98e6]),
            Row::perplexities("perplexity, t".into(), losses, differences),
            row("bits per byte, t", Kind::BitsPerByte, vec![1.0, 1.1, 1.2]),
            Row::accuracies("piqa".into(), &estimates, 0.5, [None, None].into_iter()),
            row("prompt tokens per second", Kind::Speed, vec![100.0, 110.0, 130.0]),
            row("seconds to the first token", Kind::Seconds, vec![1.0, 1.0, 1.0]),
        ];
        let comparison = comparison(&["a/dense", "a/half", "a/final"], rows);
        let tiles = verdict(&comparison);
        let shown: Vec<String> = tiles
            .iter()
            .map(|tile| format!("{}: {}, {}", tile.above, tile.number, tile.below))
            .collect();
        assert_eq!(
            shown,
            [
                "parameters: 134.5 M → 107.6 M, 20.0 % fewer",
                "bytes of the tensors: 97.3 MB → 98.0 MB, 0.7 % larger",
                "perplexity, t: 54.60 → 90.02, 1.649 times; loss +0.5000 (95 %: +0.4000 to \
                 +0.6000)",
                "piqa: 60.0 % → 55.0 %, 91.7 % retained, 50.0 % above chance",
                "prompt tokens per second: 100.0 → 130.0, 1.30 times as fast",
            ]
        );
        let trade = trade(&comparison).unwrap();
        assert_eq!(trade.quality, "bits per byte, t");
        assert_eq!(trade.points[2].name, "final");
        assert_eq!((trade.points[2].bytes, trade.points[2].quality), (98e6, 1.2));
    }

    /// A text without bits per byte (of token ids) does not lend its name to the next one's.
    #[test]
    fn a_figure_is_of_its_own_text() {
        let row = |name: &str, kind, values| Row::new(name.to_owned(), kind, values);
        let rows = vec![
            row("bytes of the tensors", Kind::Bytes, vec![3.0, 2.0, 1.0]),
            row("perplexity, ids.json", Kind::Perplexity, vec![1.0, 2.0, 3.0]),
            row("perplexity, t/b.txt, windows of 32", Kind::Perplexity, vec![1.0, 2.0, 3.0]),
            row("bits per byte, t/b.txt, windows of 32", Kind::BitsPerByte, vec![1.0, 1.1, 1.2]),
        ];
        let mut comparison = comparison(&["a", "b", "c"], rows);
        for (number, model) in comparison.models.iter_mut().enumerate() {
            // The last model reads the second text in tokens of its own.
            let own = format!("b{}", number / 2);
            model.texts = [("ids.json", "ids"), ("t/b.txt", own.as_str())]
                .map(|(text, tokens)| TokensRecord {
                    text: text.to_owned(),
                    text_digest: Digest::of_bytes(text.as_bytes()),
                    tokens_digest: Digest::of_bytes(tokens.as_bytes()),
                    windows: 4,
                    window: 32,
                })
                .to_vec();
        }
        assert_eq!(trade(&comparison).unwrap().quality, "bits per byte, b.txt, windows of 32");
        let tiles: Vec<String> = verdict(&comparison).into_iter().map(|tile| tile.above).collect();
        assert_eq!(
            tiles,
            [
                "bytes of the tensors",
                "perplexity, ids.json",
                "bits per byte, t/b.txt, windows of 32"
            ]
        );
    }

    #[test]
    fn two_models_are_no_picture() {
        let row = |name: &str, kind| Row::new(name.to_owned(), kind, vec![1.0, 2.0]);
        let rows = vec![row("bytes", Kind::Bytes), row("perplexity, t", Kind::Perplexity)];
        assert!(trade(&comparison(&["a", "b"], rows)).is_none());
    }
}
