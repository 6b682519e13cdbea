//! Contrast of the style sheet's colours in both themes, as WCAG 2 reckons it:
//! 4.5 for text, 3 for what charts are drawn with.

use std::collections::BTreeMap;

const STYLE: &str = include_str!("../../src/colours.css");

/// The colours of one theme by name.
fn theme(block: &str) -> BTreeMap<&str, f64> {
    let declared = block.split(';').filter_map(|part| {
        let (name, value) = part.split_once(':')?;
        let name = name.rsplit("--").next()?.trim();
        Some((name, luminance(value.trim().strip_prefix('#')?)))
    });
    declared.collect()
}

fn luminance(hex: &str) -> f64 {
    let part = |place: usize| {
        let value = u8::from_str_radix(&hex[place..place + 2], 16).expect("a colour");
        let part = f64::from(value) / 255.0;
        if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * part(0) + 0.7152 * part(2) + 0.0722 * part(4)
}

#[test]
fn colours_stand_out_in_both_themes() {
    let blocks: Vec<&str> = STYLE
        .split(":root {")
        .skip(1)
        .map(|after| after.split('}').next().expect("a block"))
        .collect();
    assert_eq!(blocks.len(), 2, "a light and a dark theme");
    for (name, block) in ["light", "dark"].into_iter().zip(blocks) {
        let colours = theme(block);
        let pairs = [
            ("text", "ground", 4.5),
            ("text", "panel", 4.5),
            ("muted", "ground", 4.5),
            ("muted", "panel", 4.5),
            ("link", "ground", 4.5),
            ("warn-text", "warn-ground", 4.5),
        ];
        let series = ["c0", "c1", "c2", "c3", "c4", "c5"].map(|colour| (colour, "ground", 3.0));
        for (front, back, least) in pairs.into_iter().chain(series) {
            let (front_light, back_light) = (colours[front], colours[back]);
            let (dark, light) = (front_light.min(back_light), front_light.max(back_light));
            let contrast = (light + 0.05) / (dark + 0.05);
            assert!(contrast >= least, "{name}: {front} on {back} is {contrast:.2}");
        }
    }
}
