//! Scales from data to places, their ticks, and the lines of a chart.

use super::{Px, label, path};
use crate::curve::drawable;
use crate::html::Html;
use crate::number;

/// Width of a tick's letter, in units, at the size used on a phone.
const LETTER: f64 = 6.6;

/// A line from data to places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    log: bool,
    start: f64,
    end: f64,
}

impl Scale {
    /// A linear scale from the least to the largest of the values; somewhat
    /// wider when those are one, and 0 to 1 when there is none.
    pub(crate) fn linear(values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = extent(values);
        let room = (high - low).max(0.0);
        let (low, high) = if room > low.abs().max(high.abs()) * 1e-9 && room > 1e-140 {
            (low, high)
        } else {
            let around = (low.abs() * 0.05).max(0.5);
            (low - around, high + around)
        };
        Self { low, high, log: false, start: 0.0, end: 1.0 }
    }

    /// A logarithmic scale where all values are positive and the largest is
    /// more than `from` times the least; else a linear one.
    pub(crate) fn fitting(values: impl IntoIterator<Item = f64>, from: f64) -> Self {
        let mut scale = Self::linear(values);
        scale.log = scale.low > 1e-140 && scale.high / scale.low > from;
        scale
    }

    /// The same with some of its length free at both ends.
    pub(crate) fn padded(mut self, share: f64) -> Self {
        if self.log {
            let factor = (self.high / self.low).powf(share);
            (self.low, self.high) = (self.low / factor, self.high * factor);
        } else {
            let room = (self.high - self.low) * share;
            (self.low, self.high) = (self.low - room, self.high + room);
        }
        self
    }

    /// The same laid from one place to another.
    pub(crate) fn over(mut self, start: f64, end: f64) -> Self {
        (self.start, self.end) = (start, end);
        self
    }

    /// Whether it is logarithmic.
    pub(crate) fn is_log(self) -> bool {
        self.log
    }

    /// The place of a value; what lies outside is put at the nearer end.
    pub(crate) fn at(self, value: f64) -> f64 {
        let part = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.start + part.clamp(0.0, 1.0) * (self.end - self.start)
    }

    /// About so many round values on it, in order.
    pub(crate) fn ticks(self, about: usize) -> Vec<f64> {
        if self.log {
            let ticks = self.log_ticks(about);
            if ticks.len() >= 2 {
                return ticks;
            }
        }
        let step = round_step((self.high - self.low) / about.max(1) as f64);
        let first = (self.low / step).ceil();
        (0..=2 * about.max(1))
            .map(|place| (first + place as f64) * step)
            .take_while(|tick| *tick <= self.high + step * 1e-6)
            .collect()
    }

    fn log_ticks(self, about: usize) -> Vec<f64> {
        let (low, high) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let decades = (high - low).max(1) as usize;
        let factors: &[f64] = if decades <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let stride = decades.div_ceil(about.max(1)).max(1);
        (low..=high)
            .step_by(stride)
            .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)))
            .filter(|tick| *tick >= self.low && *tick <= self.high)
            .collect()
    }
}

/// The texts of ticks: as many decimals as tell even ones apart, one digit
/// for those of a logarithmic scale.
pub(crate) fn tick_texts(ticks: &[f64]) -> Vec<String> {
    let largest = ticks.iter().fold(0.0f64, |most, tick| most.max(tick.abs()));
    let mut steps = ticks.windows(2).map(|pair| pair[1] - pair[0]);
    let step = steps.next().unwrap_or(f64::NAN);
    let is_even = steps.all(|other| (other - step).abs() <= step * 1e-6);
    // A step of 0.25 needs two decimals, one of 0.2 one.
    let decimals = (0..=6).filter(|_| is_even).find(|&decimals| {
        let scaled = step * 10f64.powi(decimals);
        scaled >= 0.5 && (scaled - scaled.round()).abs() < 1e-6 * scaled
    });
    let text = |tick: &f64| {
        if largest >= 1e5 {
            number::prefixed(*tick, "").trim_end().to_owned()
        } else if let Some(decimals) = decimals {
            number::fixed(*tick, decimals as usize)
        } else if is_even || tick.abs() < 1e-4 {
            number::significant(*tick, 3)
        } else {
            // The shortest text of the rounded number.
            let rounded: f64 = format!("{tick:.2e}").parse().unwrap_or(*tick);
            rounded.to_string()
        }
    };
    ticks.iter().map(text).collect()
}

/// The place of a chart's data within it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// Left edge.
    pub(crate) left: f64,
    /// Right edge.
    pub(crate) right: f64,
    /// Upper edge.
    pub(crate) top: f64,
    /// Lower edge.
    pub(crate) bottom: f64,
}

/// Room for the texts of a vertical axis, in units.
pub(crate) fn text_room(texts: &[String]) -> f64 {
    texts.iter().map(|text| text.chars().count()).max().unwrap_or(0) as f64 * LETTER + 6.0
}

/// Lines across at the ticks of a vertical axis, with their texts.
pub(crate) fn across(html: &mut Html, frame: Frame, scale: Scale, about: usize) {
    let ticks = scale.ticks(about);
    for (tick, text) in ticks.iter().zip(tick_texts(&ticks)) {
        let y = scale.at(*tick);
        path(html, "grid", &format!("M{} {}H{}", Px(frame.left), Px(y), Px(frame.right)));
        label(html, "end", (frame.left - 4.0, y + 4.0), &text);
    }
}

/// The lower edge with the ticks of a horizontal axis and their texts, which
/// are left out where they would touch.
pub(crate) fn along(html: &mut Html, frame: Frame, scale: Scale, about: usize) {
    path(html, "edge", &format!("M{} {}H{}", Px(frame.left), Px(frame.bottom), Px(frame.right)));
    let ticks = scale.ticks(about);
    let mut free_from = f64::NEG_INFINITY;
    for (tick, text) in ticks.iter().zip(tick_texts(&ticks)) {
        let x = scale.at(*tick);
        let half = text.chars().count() as f64 * LETTER / 2.0;
        let middle = x.min(frame.right + 4.0 - half).max(half);
        path(html, "edge", &format!("M{} {}v4", Px(x), Px(frame.bottom)));
        if middle - half > free_from {
            label(html, "middle", (middle, frame.bottom + 16.0), &text);
            free_from = middle + half + 3.0;
        }
    }
}

/// The least and the largest of the values that can be drawn; 0 and 0 of none.
fn extent(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let drawn = values.into_iter().filter(|value| drawable(*value));
    let extent = drawn.fold(None, |extent, value| match extent {
        None => Some((value, value)),
        Some((low, high)) => Some((value.min(low), value.max(high))),
    });
    extent.unwrap_or((0.0, 0.0))
}

/// The least of 1, 2, 2.5, 5 and 10 times a power of ten that is no less.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powi(least.log10().floor() as i32);
    let factor = [1.0, 2.0, 2.5, 5.0].into_iter().find(|factor| factor * power >= least * 0.999);
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::{Scale, tick_texts};

    #[test]
    fn ticks_are_round_and_within() {
        let scale = Scale::linear([4.5, 5.7]);
        let ticks = scale.ticks(4);
        assert_eq!(tick_texts(&ticks), ["4.5", "5.0", "5.5"]);
        let ticks = Scale::linear([0.0, 150.0]).ticks(4);
        assert_eq!(tick_texts(&ticks), ["0", "50", "100", "150"]);
        let ticks = Scale::linear([0.0, 1.0]).ticks(4);
        assert_eq!(tick_texts(&ticks), ["0.00", "0.25", "0.50", "0.75", "1.00"]);
        let ticks = Scale::linear([0.0, 2e6]).ticks(2);
        assert_eq!(tick_texts(&ticks), ["0", "1.00\u{a0}M", "2.00\u{a0}M"]);
        let ticks = Scale::fitting([0.001, 1000.0], 100.0).ticks(3);
        assert_eq!(tick_texts(&ticks), ["0.001", "0.1", "10", "1000"]);
    }

    #[test]
    fn any_values_have_a_scale_with_finite_places() {
        let cases: [&[f64]; 8] = [
            &[],
            &[f64::NAN],
            &[3.0],
            &[0.0, 0.0],
            &[1e149, -1e149],
            &[1e300, 2.0],
            &[1e15, 1e15 + 0.125],
            &[5e-324, 1e-310],
        ];
        for values in cases {
            for scale in [
                Scale::linear(values.iter().copied()).padded(0.05),
                Scale::fitting(values.iter().copied(), 5.0).padded(0.05),
            ] {
                let scale = scale.over(10.0, 200.0);
                let ticks = scale.ticks(4);
                assert!((1..=9).contains(&ticks.len()), "{values:?}: {ticks:?}");
                for value in values.iter().chain(&ticks).filter(|value| value.is_finite()) {
                    let place = scale.at(*value);
                    assert!((10.0..=200.0).contains(&place), "{values:?}: {value} at {place}");
                }
            }
        }
    }
}
