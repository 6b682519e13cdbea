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

    /// About this many round values on it, in order.
    pub(crate) fn ticks(self, about: usize) -> Vec<Tick> {
        if self.log {
            let ticks = self.log_ticks(about);
            if ticks.len() >= 2 {
                return ticks;
            }
        }
        let step = round_step((self.high - self.low) / about.max(1) as f64);
        let first = (self.low / step).ceil();
        let ticks: Vec<f64> = (0..=2 * about.max(1))
            .map(|place| (first + place as f64) * step)
            .take_while(|tick| *tick <= self.high + step * 1e-6)
            .collect();
        let largest = ticks.iter().fold(0.0f64, |most, tick| most.max(tick.abs()));
        let text = tick_text(step, largest);
        ticks.into_iter().map(|at| Tick { at, text: text(at) }).collect()
    }

    fn log_ticks(self, about: usize) -> Vec<Tick> {
        let (low, high) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let decades = (high - low).max(1) as usize;
        let factors: &[i32] = if decades <= 2 { &[1, 2, 5] } else { &[1] };
        let stride = decades.div_ceil(about.max(1)).max(1);
        (low..=high)
            .step_by(stride)
            .flat_map(|power| factors.iter().map(move |factor| (*factor, power)))
            .map(|(factor, power)| {
                let at = f64::from(factor) * 10f64.powi(power);
                let text = match power {
                    -4..=-1 => {
                        format!("0.{}{factor}", "0".repeat(power.unsigned_abs() as usize - 1))
                    }
                    0..=3 => format!("{factor}{}", "0".repeat(power.unsigned_abs() as usize)),
                    _ => format!("{factor}e{power}"),
                };
                Tick { at, text }
            })
            .filter(|tick| tick.at >= self.low && tick.at <= self.high)
            .collect()
    }
}

/// A round value on a scale.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tick {
    /// The value.
    pub(crate) at: f64,
    /// How it is written.
    pub(crate) text: String,
}

/// How ticks so far apart are written: with as many decimals as tell them
/// apart.
fn tick_text(step: f64, largest: f64) -> impl Fn(f64) -> String {
    // A step of 0.25 needs two decimals, one of 0.2 one.
    let decimals = (0..=6).find(|&decimals| {
        let scaled = step * 10f64.powi(decimals);
        scaled >= 0.5 && (scaled - scaled.round()).abs() < 1e-6 * scaled
    });
    move |tick| match decimals {
        Some(_) if largest >= 1e5 && step >= largest * 2e-3 => {
            number::prefixed(tick, "", 3).trim_end().to_owned()
        }
        Some(decimals) => number::fixed(tick, decimals as usize),
        None => number::significant(tick, 3),
    }
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
pub(crate) fn text_room(scale: Scale, about: usize) -> f64 {
    let texts = scale.ticks(about).into_iter().map(|tick| tick.text.chars().count());
    texts.max().unwrap_or(0) as f64 * LETTER + 6.0
}

/// Lines across at the ticks of a vertical axis, with their texts.
pub(crate) fn across(html: &mut Html, frame: Frame, scale: Scale, about: usize) {
    for tick in scale.ticks(about) {
        let y = scale.at(tick.at);
        path(html, "grid", &format!("M{} {}H{}", Px(frame.left), Px(y), Px(frame.right)));
        label(html, "end", (frame.left - 4.0, y + 4.0), &tick.text);
    }
}

/// The lower edge with the ticks of a horizontal axis and their texts, which
/// are left out where they would touch.
pub(crate) fn along(html: &mut Html, frame: Frame, scale: Scale, about: usize) {
    path(html, "edge", &format!("M{} {}H{}", Px(frame.left), Px(frame.bottom), Px(frame.right)));
    let mut free_from = f64::NEG_INFINITY;
    for Tick { at, text } in scale.ticks(about) {
        let x = scale.at(at);
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

/// The round step, 1, 2, 2.5 or 5 times a power of ten, that is next to the
/// wanted one or somewhat less.
fn round_step(wanted: f64) -> f64 {
    let least = wanted * 0.75;
    let power = 10f64.powi(least.log10().floor() as i32);
    let factor = [1.0, 2.0, 2.5, 5.0].into_iter().find(|factor| factor * power >= least);
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::Scale;

    fn texts(scale: Scale, about: usize) -> Vec<String> {
        scale.ticks(about).into_iter().map(|tick| tick.text).collect()
    }

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(texts(Scale::linear([4.5, 5.97]), 3), ["4.5", "5.0", "5.5"]);
        assert_eq!(texts(Scale::linear([0.0, 150.0]), 4), ["0", "50", "100", "150"]);
        assert_eq!(texts(Scale::linear([-1.0, 1.0]), 4), ["−1.0", "−0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(texts(Scale::linear([4.5, 4.55]), 2), ["4.50", "4.52", "4.54"]);
        assert_eq!(texts(Scale::linear([0.0, 2e6]), 2), ["0", "1.00\u{a0}M", "2.00\u{a0}M"]);
        let near = Scale::linear([1e6, 1e6 + 20.0]);
        assert_eq!(texts(near, 2), ["1000000", "1000010", "1000020"]);
        let log = Scale::fitting([0.001, 1000.0], 100.0);
        assert_eq!(texts(log, 3), ["0.001", "0.1", "10", "1000"]);
        assert_eq!(texts(Scale::fitting([1e-8, 1e9], 100.0), 2), ["1e-8", "10"]);
        assert_eq!(texts(Scale::fitting([3.0, 30.0], 5.0), 3), ["5", "10", "20"]);
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
                let ticks: Vec<f64> = scale.ticks(4).into_iter().map(|tick| tick.at).collect();
                assert!((2..=9).contains(&ticks.len()), "{values:?}: {ticks:?}");
                for value in values.iter().chain(&ticks).filter(|value| value.is_finite()) {
                    let place = scale.at(*value);
                    assert!((10.0..=200.0).contains(&place), "{values:?}: {value} at {place}");
                }
            }
        }
    }
}
