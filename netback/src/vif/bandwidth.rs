//! A limit on bytes over time, as `xl` and the configuration write it.
use super::handshake::parse_number;
use std::fmt;

/// Longest window, in microseconds: a credit for longer than that is a pause.
const LONGEST_WINDOW: u32 = 10_000_000;
/// The window where none is written, in microseconds (xl-network-configuration(5)).
const DEFAULT_WINDOW: u32 = 50_000;

/// A number of bytes in each window of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes in each window, at least one.
    pub bytes: u64,
    /// The window in microseconds, at least one.
    pub window: u32,
}

impl Bandwidth {
    /// The `rate` key as libxl writes it: `<bytes>,<microseconds>`. `None`: the text is something else, or either is zero.
    pub fn from_key(text: &str) -> Option<Self> {
        let (bytes, window) = text.split_once(',')?;
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
        let bytes = plain(bytes).then(|| bytes.parse().ok()).flatten()?;
        Self::new(bytes, parse_number(window)?)
    }

    /// A rate as `xl` takes it: `10Mb/s`, `250KB/s`, `1MB/s@20ms`. `None`: the text is something else, or the rate is zero.
    pub fn from_text(text: &str) -> Option<Self> {
        let (rate, window) = match text.split_once('@') {
            Some((rate, window)) => (rate, microseconds(window)?),
            None => (text, DEFAULT_WINDOW),
        };
        let rate = rate.strip_suffix("/s")?;
        let (rate, bits) = match (rate.strip_suffix('B'), rate.strip_suffix('b')) {
            (Some(rate), _) => (rate, 1),
            (_, Some(rate)) => (rate, 8),
            _ => return None,
        };
        let (digits, unit) = match rate.strip_suffix(['K', 'M', 'G']) {
            Some(digits) => (digits, &rate[digits.len()..]),
            None => (rate, ""),
        };
        let unit = match unit {
            "K" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            _ => 1,
        };
        let a_second = u128::from(parse_number(digits)?) * unit / bits;
        let bytes = a_second * u128::from(window) / 1_000_000;
        Self::new(u64::try_from(bytes).ok()?, window)
    }

    fn new(bytes: u64, window: u32) -> Option<Self> {
        let fits = bytes > 0 && (1..=LONGEST_WINDOW).contains(&window);
        fits.then_some(Self { bytes, window })
    }

    /// Bytes a second.
    pub fn a_second(self) -> u64 {
        let bytes = u128::from(self.bytes) * 1_000_000 / u128::from(self.window);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// A time as `xl` takes it: `20ms`, `100us`, `1s`, or a plain number of microseconds.
fn microseconds(text: &str) -> Option<u32> {
    let (digits, unit) = match (text.strip_suffix("us"), text.strip_suffix("ms")) {
        (Some(digits), _) => (digits, 1),
        (_, Some(digits)) => (digits, 1_000),
        _ => match text.strip_suffix('s') {
            Some(digits) => (digits, 1_000_000),
            None => (text, 1),
        },
    };
    parse_number(digits)?.checked_mul(unit)
}

impl fmt::Display for Bandwidth {
    /// Bits a second, with the window where it is not the default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A window holds whole bytes, so that 250Kb/s is a little less.
        let bits = u128::from(self.bytes) * 8_000_000 / u128::from(self.window);
        match (bits + 500) / 1_000 {
            _ if bits < 1_000 => write!(f, "{bits}b/s")?,
            kilobits if kilobits % 1_000 == 0 => write!(f, "{}Mb/s", kilobits / 1_000)?,
            kilobits => write!(f, "{kilobits}Kb/s")?,
        }
        match self.window {
            DEFAULT_WINDOW => Ok(()),
            window if window.is_multiple_of(1_000) => write!(f, "@{}ms", window / 1_000),
            window => write!(f, "@{window}us"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_two_plain_numbers() {
        let rate = Bandwidth::from_key("62500,50000").unwrap();
        assert_eq!((rate.bytes, rate.window), (62_500, 50_000));
        assert_eq!(rate.a_second(), 1_250_000);
        assert_eq!(rate.to_string(), "10Mb/s");
        for wrong in [
            "",
            ",",
            "62500",
            "62500,",
            ",50000",
            "0,50000",
            "62500,0",
            "-1,50000",
            " 1,50000",
            "1,50000 ",
            "1,5e4",
            "1,2,3",
            "62500,4294967296",
            "62500,10000001",
            "99999999999999999999,50000",
        ] {
            assert_eq!(Bandwidth::from_key(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn text_is_what_xl_takes() {
        for (text, bytes, window) in [
            ("10Mb/s", 62_500, 50_000),
            ("250KB/s", 12_500, 50_000),
            ("1MB/s@20ms", 20_000, 20_000),
            ("1GB/s@100us", 100_000, 100),
            ("8000b/s@1s", 1_000, 1_000_000),
            ("5000000B/s@1000", 5_000, 1_000),
            ("40Gb/s", 250_000_000, 50_000),
        ] {
            let rate = Bandwidth::from_text(text);
            assert_eq!(rate, Some(Bandwidth { bytes, window }), "{text}");
        }
        for wrong in [
            "",
            "10",
            "10Mb",
            "Mb/s",
            "10mb/s",
            "10 Mb/s",
            "0Mb/s",
            "10Mb/s@",
            "10Mb/s@0ms",
            "10Mb/s@20m",
            "1b/s",
            "10Mb/s@11s",
            "1.5Mb/s",
            "-1Mb/s",
        ] {
            assert_eq!(Bandwidth::from_text(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn shown_in_the_unit_that_fits() {
        for text in ["10Mb/s", "250Kb/s", "800b/s", "8Mb/s@20ms", "8Mb/s@500us"] {
            assert_eq!(Bandwidth::from_text(text).unwrap().to_string(), text);
        }
    }
}
