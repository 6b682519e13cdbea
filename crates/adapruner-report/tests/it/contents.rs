//! What the page says, and that it leaves out what it has no data for.

use adapruner_report::{Page, Sample, Tile, Value, picture, render};

use crate::example;
use crate::markup::{self, Markup};
use crate::properties::check;

fn read(page: &Page) -> Markup {
    markup::read(&render(page)).expect("well formed")
}

fn sections(markup: &Markup) -> Vec<&str> {
    let sections = markup.elements.iter().filter(|element| element.name == "section");
    sections
        .filter_map(|element| element.attributes.iter().find(|(key, _)| key == "id"))
        .map(|(_, id)| id.as_str())
        .collect()
}

#[test]
fn a_full_page_has_every_section_in_order() {
    let page = example::page();
    check(&page).expect("as every page");
    let markup = read(&page);
    let expected = [
        "tests",
        "search",
        "comparison",
        "correlation",
        "parameters",
        "importances",
        "widths",
        "samples",
        "best",
        "recovery",
        "models",
        "texts",
        "costs",
        "command",
    ];
    assert_eq!(sections(&markup), expected);
    let said = [
        "64.21 → 103.5",
        "134\u{202f}515\u{202f}008 parameters → 107\u{202f}612\u{202f}928 (20.0\u{a0}% removed)",
        "the running best has not changed for 61 trials",
        "median (nats per token)",
        "WikiText2 (median perplexity)",
        "ranges overlap: no difference shown",
        "\u{25c2} lowest median",
        "one seed",
        "not reached",
        "0.4107 (92.7 %) ± 0.0131",
        "retained above chance",
        "no difference shown",
        "−0.05 (p\u{a0}0.017)",
        "not the better of two",
        "piqa (%, upwards) against log-perplexity of PTB test: Spearman −0.88 (95\u{a0}%: −0.98 \
         to −0.82), 30 models; between ratios only.",
        "30.0\u{a0}% removed",
        "the model as it was",
        "than those of 2\u{202f}000 resamples of trials",
        "Not drawn: multiple_of (always 32)",
        "LoRA of rank 8, 2\u{202f}442\u{202f}240 learned parameters, on alpaca.json",
        "Best validation: 4.300 → 2.7",
        "nats per learned token, after step 600; the parameters of step 600 were kept.",
        "Parts of the training loss",
        "The circle marks the best validation.",
        "A point of a line is the mean of 4 steps.",
        "Crossed out: attention dropped, in layers 9, 17, 21.",
        "blake3:5f3c9a0e",
        "9.06\u{a0}× the time and 8.79\u{a0}× the floating-point operations",
        "Peak memory: 1.80\u{a0}GiB.",
        "--trials 150 --seed 1 --sampler tpe",
    ];
    for words in said {
        assert!(markup.text.contains(words), "{words:?} is not on the page");
    }
    let best = page.best.expect("a best trial");
    assert!(markup.text.contains(&format!("loss {:.3} nats per predicted token", best.loss)));
}

#[test]
fn an_empty_page_has_a_headline_and_no_sections() {
    let markup = read(&Page::default());
    assert!(sections(&markup).is_empty());
    assert!(markup.elements.iter().all(|element| !["svg", "table"].contains(&&*element.name)));
    assert!(markup.text.contains("adapruner"));
}

#[test]
fn every_section_stands_alone() {
    let full = example::page();
    let empty = Page { model: full.model.clone(), ..Page::default() };
    let pages = [
        ("search", Page { runs: full.runs.clone(), ..empty.clone() }),
        ("correlation", Page { correlation: full.correlation, ..empty.clone() }),
        ("importances", Page { importances: full.importances, ..empty.clone() }),
        ("samples", Page { samples: full.samples, ..empty.clone() }),
        ("widths", Page { layers: full.layers, ..empty.clone() }),
        ("recovery", Page { recovery: full.recovery, ..empty.clone() }),
        ("models", Page { models: full.models, ..empty.clone() }),
        ("costs", Page { naive: full.naive, ..empty }),
    ];
    for (id, page) in pages {
        check(&page).expect("as every page");
        assert!(sections(&read(&page)).contains(&id), "{id}");
    }
}

#[test]
fn every_chart_has_a_name() {
    let markup = read(&example::page());
    let mut charts = 0;
    for element in markup.elements.iter().filter(|element| element.name == "svg") {
        let value = |name: &str| {
            element.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
        };
        if value("role") == Some("img") {
            charts += 1;
            assert!(value("aria-label").is_some_and(|name| name.len() > 10));
        } else {
            // The keys of legends and the clipped insides of charts.
            assert!(value("aria-hidden") == Some("true") || value("x").is_some());
        }
    }
    // Two of the search, four correlations, ten parameters, importances, widths, three
    // of the recovery, sizes.
    assert_eq!(charts, 22);
}

#[test]
fn sizes_are_drawn_against_quality() {
    let models = example::page().models.expect("models");
    let markup = read(&Page { models: Some(models.clone()), ..Page::default() });
    let circles = |markup: &Markup| {
        let all = markup.elements.iter().filter(|element| element.name == "circle");
        let class = |element: &markup::Element| element.attributes[0].1.clone();
        all.map(class).collect::<Vec<_>>()
    };
    // The last one has no quality, so it is listed and not drawn.
    let expected = ["point", "point", "point beaten", "point", "point"];
    assert_eq!(circles(&markup), expected);
    for words in [
        "Beaten by one that is no larger and no worse: 3 by 5.",
        "dense-q4_k_m.gguf98.3 MB1.102",
        "pruned-10/model-with-a-long-nam…90.2 MB1.148",
        "unmeasured.gguf70.0 MB–",
        "MB as stored",
    ] {
        assert!(markup.text.contains(words), "{words:?} is not on the page: {}", markup.text);
    }
    let trade = models.trade.expect("sizes");
    let picture = picture(&trade);
    assert!(picture.starts_with("<svg viewBox=\"0 0 360 "), "{picture}");
    let drawn = markup::read(&format!("<!DOCTYPE html>\n{picture}")).expect("well formed");
    assert_eq!(circles(&drawn), expected);
    let attribute = |name: &str| {
        let mut all = drawn.elements[0].attributes.iter();
        all.find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    };
    assert_eq!(attribute("xmlns"), Some("http://www.w3.org/2000/svg"));
    assert!(attribute("width").is_some() && attribute("height").is_some());
    assert!(picture.contains("prefers-color-scheme: dark"));
}

#[test]
fn a_verdict_takes_the_place_of_the_searchs_figures() {
    let mut page = example::page();
    let before = read(&page).text;
    assert!(before.contains("best loss in the search"));
    let tile = |above: &str| Tile {
        above: above.to_owned(),
        number: "97.3 MB → 78.0 MB".to_owned(),
        below: "19.8 % smaller".to_owned(),
    };
    let models = page.models.as_mut().expect("models");
    models.verdict = vec![tile("bytes of the tensors"), tile("others")];
    let after = read(&page).text;
    assert!(after.contains("bytes of the tensors97.3 MB → 78.0 MB19.8 % smaller"), "{after}");
    assert!(!after.contains("best loss in the search"));
    check(&page).expect("as every page");
}

#[test]
fn a_recovery_without_teacher_or_validation_is_shown_as_far_as_it_goes() {
    let mut recovery = example::page().recovery.expect("a recovery");
    recovery.teacher = None;
    recovery.validation_before = None;
    recovery.best = None;
    for step in &mut recovery.steps {
        (step.teacher_loss, step.hidden_loss, step.validation_loss) = (None, None, None);
    }
    let page = |recovery| Page { recovery: Some(recovery), ..Page::default() };
    let charts = |markup: &Markup| markup.text.matches(" over steps.").count();
    let plain = read(&page(recovery.clone()));
    assert_eq!(charts(&plain), 2);
    assert!(plain.text.contains("Nothing was kept for validation."));
    for absent in ["Parts of", "Teacher", "Best validation", "circle"] {
        assert!(!plain.text.contains(absent), "{absent}");
    }
    recovery.steps.clear();
    let markup = read(&page(recovery));
    assert_eq!(charts(&markup), 0);
    assert!(markup.text.contains("0 steps"));
}

#[test]
fn hostile_texts_are_shown_and_do_nothing() {
    let text = "<script>alert(\"1\")</script> \u{202e}evil\u{0} &amp; 'x'";
    let mut page = example::page();
    page.title = text.to_owned();
    page.warnings = vec![text.to_owned()];
    page.command = text.to_owned();
    page.runs[0].group = text.to_owned();
    page.runs[0].trials[0].values[0] = (text.to_owned(), Value::Text(text.to_owned()));
    page.samples[0] = Sample { text: text.to_owned(), ..page.samples[0].clone() };
    check(&page).expect("as every page");
    let markup = read(&page);
    let shown = "<script>alert(\"1\")</script> [U+202E]evil[U+0000] &amp; 'x'";
    assert!(markup.text.matches(shown).count() >= 5);
}

#[test]
fn samples_are_ordered_by_influence_with_the_unknown_last() {
    let sample = |index, influence| Sample {
        index,
        source: "s".to_owned(),
        text: format!("text-{index}-end"),
        loss: 3.0,
        influence,
        deviation: None,
        chosen: true,
    };
    let samples = vec![
        sample(0, None),
        sample(1, Some(0.5)),
        sample(2, Some(f64::NAN)),
        sample(3, Some(-0.5)),
    ];
    let text = read(&Page { samples, ..Page::default() }).text;
    let place = |index| text.find(&format!("text-{index}-end")).expect("shown");
    let mut order = [0, 1, 2, 3];
    order.sort_by_key(|index| place(*index));
    assert_eq!(order, [3, 1, 0, 2]);
}

#[test]
fn outliers_are_said_and_drawn_on_the_edge() {
    let markup = read(&example::page());
    assert!(markup.text.contains("larger than shown ("), "the example has outliers");
    let above = markup.elements.iter().filter(|element| {
        element.attributes.iter().any(|(key, value)| key == "class" && value == "above")
    });
    assert!(above.count() > 5, "in the legend and the charts");
}

#[test]
fn a_file_may_leave_lists_out() {
    let text = r#"{"title": "t", "version": "0", "command": "c", "created": "",
        "model": {"path": "m", "digest": "", "parameters": 5, "ratio": null, "layout": ""}}"#;
    let page: Page = serde_json::from_str(text).expect("lists have defaults");
    assert!(page.model.ratio.is_nan());
    check(&page).expect("as every page");
}
