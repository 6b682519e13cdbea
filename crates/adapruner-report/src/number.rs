//! Numbers as they are read: few digits, a unit, and words for what is no
//! number.

/// Between the thousands: a narrow space at which no line breaks.
const GAP: char = '\u{202f}';
/// Placeholder for a missing number.
pub(crate) const NONE: &str = "–";

/// A count with its thousands apart.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut spaced = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            spaced.push(GAP);
        }
        spaced.push(digit);
    }
    spaced
}

/// A count and its noun, which takes an s unless there is one of it.
pub(crate) fn counted(value: usize, noun: &str) -> String {
    let plural = if value == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(value as u64))
}

/// A number with a fixed number of decimals, or in scientific notation if that is too long.
pub(crate) fn fixed(value: f64, decimals: usize) -> String {
    if let Some(word) = not_finite(value) {
        return word.to_owned();
    }
    let size = value.abs();
    if size >= 1e7 {
        return minus(format!("{value:.3e}"));
    }
    let text = format!("{value:.decimals$}");
    let is_zero = text.bytes().all(|byte| matches!(byte, b'-' | b'0' | b'.'));
    if is_zero { text.trim_start_matches('-').to_owned() } else { minus(text) }
}

/// A number with about this many significant digits.
pub(crate) fn significant(value: f64, digits: usize) -> String {
    if let Some(word) = not_finite(value) {
        return word.to_owned();
    }
    let size = value.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e7).contains(&size) {
        let decimals = digits.saturating_sub(1);
        return minus(format!("{value:.decimals$e}"));
    }
    let before = size.log10().floor() as i64 + 1;
    let decimals = (digits as i64 - before).max(0) as usize;
    let text = format!("{size:.decimals$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), ""), |parts| parts);
    let whole = whole.parse().map_or_else(
        |_| whole.to_owned(),
        |whole: u64| {
            if whole < 10_000 { whole.to_string() } else { count(whole) }
        },
    );
    let sign = if value < 0.0 { "−" } else { "" };
    if rest.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{rest}") }
}

/// A loss or a difference of losses in nats, without the unit.
pub(crate) fn nats(value: f64) -> String {
    fixed(value, 3)
}

/// A perplexity.
pub(crate) fn perplexity(value: f64) -> String {
    significant(value, 4)
}

/// A number in full, as long as it is short.
pub(crate) fn plain(value: f64) -> String {
    let short = value.to_string();
    if value.is_finite() && short.len() <= 8 { minus(short) } else { significant(value, 4) }
}

/// A share between 0 and 1, in per cent.
pub(crate) fn percent(share: f64) -> String {
    format!("{}\u{a0}%", fixed(share * 100.0, 1))
}

/// Of a whole, in per cent; nothing of nothing.
pub(crate) fn percent_of(part: f64, whole: f64) -> String {
    if whole > 0.0 && whole.is_finite() && part.is_finite() {
        percent(part / whole)
    } else {
        NONE.to_owned()
    }
}

/// How many times as large; nothing to compare with is a dash.
pub(crate) fn times(larger: f64, smaller: f64) -> String {
    let ratio = larger / smaller;
    if ratio.is_finite() && smaller != 0.0 {
        format!("{}\u{a0}×", significant(ratio, 3))
    } else {
        NONE.to_owned()
    }
}

/// A duration in seconds, minutes or hours.
pub(crate) fn duration(seconds: f64) -> String {
    let (divisor, unit) = clock_unit(seconds);
    format!("{}\u{a0}{unit}", significant(seconds / divisor, 3))
}

/// The unit in which a duration is best said: its seconds and its sign.
pub(crate) fn clock_unit(seconds: f64) -> (f64, &'static str) {
    match seconds.abs() {
        long if long.is_finite() && long >= 7200.0 => (3600.0, "h"),
        middle if middle.is_finite() && middle >= 120.0 => (60.0, "min"),
        _ => (1.0, "s"),
    }
}

/// A number with a decimal prefix before its unit and about so many
/// significant digits.
pub(crate) fn prefixed(value: f64, unit: &str, digits: usize) -> String {
    const PREFIXES: [(&str, f64); 6] =
        [("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)];
    let size = value.abs();
    for (prefix, factor) in PREFIXES {
        if size.is_finite() && size >= factor {
            return format!("{}\u{a0}{prefix}{unit}", significant(value / factor, digits));
        }
    }
    format!("{}\u{a0}{unit}", significant(value, digits))
}

/// Bytes with a binary prefix.
pub(crate) fn bytes(value: u64) -> String {
    const PREFIXES: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in PREFIXES {
        if value >> shift > 0 {
            let scaled = value as f64 / (1u64 << shift) as f64;
            return format!("{}\u{a0}{unit}", significant(scaled, 3));
        }
    }
    format!("{value}\u{a0}bytes")
}

fn not_finite(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value.is_infinite() {
        Some(if value > 0.0 { "∞" } else { "−∞" })
    } else {
        None
    }
}

fn minus(text: String) -> String {
    match text.strip_prefix('-') {
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, count, duration, fixed, percent, perplexity, prefixed, significant, times};

    #[test]
    fn numbers_are_short_and_have_units() {
        assert_eq!(count(134_515_008), "134\u{202f}515\u{202f}008");
        assert_eq!(count(999), "999");
        assert_eq!(fixed(-0.0004, 3), "0.000");
        assert_eq!(fixed(-1.5, 1), "−1.5");
        assert_eq!(significant(0.012_345, 3), "0.0123");
        assert_eq!(significant(99.95, 3), "100.0");
        assert_eq!(significant(123_456.0, 3), "123\u{202f}456");
        assert_eq!(perplexity(64.234), "64.23");
        assert_eq!(percent(0.2), "20.0\u{a0}%");
        assert_eq!(duration(41.24), "41.2\u{a0}s");
        assert_eq!(duration(7_500.0), "2.08\u{a0}h");
        assert_eq!(prefixed(3.21e15, "FLOP", 3), "3.21\u{a0}PFLOP");
        assert_eq!(bytes(1_610_612_736), "1.50\u{a0}GiB");
    }

    #[test]
    fn what_is_no_number_is_said() {
        assert_eq!(fixed(f64::NAN, 2), "NaN");
        assert_eq!(duration(f64::INFINITY), "∞\u{a0}s");
        assert_eq!(times(1.0, 0.0), "–");
        assert_eq!(significant(1e300, 3), "1.00e300");
    }
}
