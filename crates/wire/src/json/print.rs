//! The text of numbers. Clients compare it, so it is the original's to the letter.
//!
//! Reals have six significant digits if those lead back to the value, else as many as surely do, in the style of C's
//! `%g`. The common range is done exactly in 128-bit integers; what lies outside goes through the standard library.

/// Significant digits of the first attempt.
const SHORT: u32 = 6;

const POWERS: [u128; 28] = {
    let mut powers = [1; 28];
    let mut index = 1;
    while index < powers.len() {
        powers[index] = powers[index - 1] * 10;
        index += 1;
    }
    powers
};

const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + number as u8 / 10, b'0' + number as u8 % 10];
        number += 1;
    }
    pairs
};

/// Writes `number` at the end of `buffer`; returns where it begins.
#[inline]
fn write_backwards(mut number: u64, buffer: &mut [u8; 20]) -> usize {
    let mut start = buffer.len();
    while number >= 10 {
        start -= 2;
        buffer[start..start + 2].copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
    }
    if number > 0 || start == buffer.len() {
        start -= 1;
        buffer[start] = b'0' + number as u8;
    }
    start
}

#[inline]
pub(super) fn unsigned(number: u64, out: &mut Vec<u8>) {
    let mut buffer = [0; 20];
    let start = write_backwards(number, &mut buffer);
    out.extend_from_slice(&buffer[start..]);
}

#[inline]
pub(super) fn signed(number: i64, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    unsigned(number.unsigned_abs(), out);
}

#[inline]
pub(super) fn float(value: f32, out: &mut Vec<u8>) {
    let bits = value.to_bits();
    let fraction = u64::from(bits & 0x007F_FFFF);
    real::<Single>(f64::from(value), &Binary::new(fraction, (bits >> 23 & 0xFF) as i32, 23, 127), out);
}

#[inline]
pub(super) fn double(value: f64, out: &mut Vec<u8>) {
    let bits = value.to_bits();
    let fraction = bits & 0x000F_FFFF_FFFF_FFFF;
    real::<Double>(value, &Binary::new(fraction, (bits >> 52 & 0x7FF) as i32, 52, 1023), out);
}

/// How one of the two widths is printed.
trait Width {
    /// Significant digits that lead back to any value.
    const DIGITS: u32;
    /// Values for which all products below fit in 128 bits. Subnormal ones are not among them.
    const RANGE: std::ops::Range<f64>;
    /// More than half a unit in the last place of any value, counted in the last of its digits.
    const SLACK: u64;

    /// The digits of any value at all.
    fn format(value: f64) -> Decimal;
}

struct Single;

impl Width for Single {
    const DIGITS: u32 = 9;
    const RANGE: std::ops::Range<f64> = 1e-15..1e9;
    const SLACK: u64 = 62;

    fn format(value: f64) -> Decimal {
        let short = format!("{value:.5e}");
        // Narrowing is exact: the value was a float to begin with.
        if short.parse() == Ok(value as f32) {
            Decimal::parse(&short, SHORT)
        } else {
            Decimal::parse(&format!("{value:.8e}"), Self::DIGITS)
        }
    }
}

struct Double;

impl Width for Double {
    const DIGITS: u32 = 17;
    const RANGE: std::ops::Range<f64> = 1e-5..1e17;
    const SLACK: u64 = 13;

    fn format(value: f64) -> Decimal {
        let short = format!("{value:.5e}");
        if short.parse() == Ok(value) {
            Decimal::parse(&short, SHORT)
        } else {
            Decimal::parse(&format!("{value:.16e}"), Self::DIGITS)
        }
    }
}

/// mantissa × 2^exponent, without a sign.
struct Binary {
    mantissa: u64,
    exponent: i32,
    /// The next value below is only half as far away as the next one above.
    is_power_of_two: bool,
}

impl Binary {
    #[inline]
    fn new(fraction: u64, biased_exponent: i32, fraction_bits: i32, bias: i32) -> Self {
        Self {
            mantissa: fraction | 1 << fraction_bits,
            exponent: biased_exponent - bias - fraction_bits,
            is_power_of_two: fraction == 0,
        }
    }
}

/// digits × 10^(exponent + 1 - number of digits): the point stands after the first digit, then 10^exponent.
struct Decimal {
    digits: u64,
    exponent: i32,
    /// Significant digits that were asked for; decides between positional and scientific notation.
    precision: u32,
}

impl Decimal {
    /// From Rust's `1.2345e-6`.
    fn parse(text: &str, precision: u32) -> Self {
        let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let number = mantissa.bytes().filter(u8::is_ascii_digit);
        let digits = number.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        Self { digits, exponent: exponent.parse().unwrap_or(0), precision }
    }

    fn write(mut self, out: &mut Vec<u8>) {
        while self.digits > 0 && self.digits.is_multiple_of(10) {
            self.digits /= 10;
        }
        let mut buffer = [0; 20];
        let start = write_backwards(self.digits, &mut buffer);
        let digits = &buffer[start..];
        if self.exponent < -4 || self.exponent >= self.precision as i32 {
            out.push(digits[0]);
            if digits.len() > 1 {
                out.push(b'.');
                out.extend_from_slice(&digits[1..]);
            }
            out.extend_from_slice(if self.exponent < 0 { b"e-" } else { b"e+" });
            let exponent = self.exponent.unsigned_abs();
            if exponent < 10 {
                out.push(b'0');
            }
            unsigned(u64::from(exponent), out);
        } else if self.exponent < 0 {
            out.extend_from_slice(&b"0.000"[..=self.exponent.unsigned_abs() as usize]);
            out.extend_from_slice(digits);
        } else {
            let point = self.exponent as usize + 1;
            if digits.len() > point {
                out.extend_from_slice(&digits[..point]);
                out.push(b'.');
                out.extend_from_slice(&digits[point..]);
            } else {
                out.extend_from_slice(digits);
                out.resize(out.len() + point - digits.len(), b'0');
                out.extend_from_slice(b".0");
            }
        }
    }
}

#[inline]
fn real<W: Width>(value: f64, binary: &Binary, out: &mut Vec<u8>) {
    if !value.is_finite() {
        out.extend_from_slice(if value.is_nan() {
            b"NaN"
        } else if value > 0.0 {
            b"Infinity"
        } else {
            b"-Infinity"
        });
        return;
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let size = value.abs();
    let whole = size as u32;
    if whole < 1_000_000 && f64::from(whole).to_bits() == size.to_bits() {
        unsigned(u64::from(whole), out);
        out.extend_from_slice(b".0");
        return;
    }
    let decimal = if W::RANGE.contains(&size) { decimal::<W>(binary) } else { W::format(size) };
    decimal.write(out);
}

/// The digits of a value in the width's range.
fn decimal<W: Width>(binary: &Binary) -> Decimal {
    let count = W::DIGITS;
    let limit = POWERS[count as usize] as u64;
    let magnitude = binary.exponent + binary.mantissa.ilog2() as i32;
    // 1233 / 4096 is just below log10(2): an estimate of the decimal exponent that is off by one at most.
    let mut exponent = (magnitude * 1233) >> 12;
    let shift = (-binary.exponent).max(0) as u32;
    loop {
        // The value times 10^places is product / 2^shift; one unit in the value's last place is unit / 2^shift.
        let places = count as i32 - 1 - exponent;
        let unit = POWERS[places.max(0) as usize] << binary.exponent.max(0);
        let product = unit * u128::from(binary.mantissa);
        let digits = round_half_even(product, shift);
        if digits >= limit {
            exponent += 1;
            continue;
        }
        if digits < limit / 10 {
            exponent -= 1;
            continue;
        }
        let step = POWERS[(count - SHORT) as usize] as u64;
        let below = digits % step;
        let is_below = below > step / 2;
        let distance = if is_below { step - below } else { below };
        if distance <= W::SLACK {
            let short = digits / step + u64::from(is_below);
            let candidate = u128::from(short * step) << shift;
            let leads_back = {
                let halves = if binary.is_power_of_two && candidate < product { 4 } else { 2 };
                let difference = candidate.abs_diff(product) * halves;
                difference < unit || difference == unit && binary.mantissa.is_multiple_of(2)
            };
            if leads_back {
                let is_carried = short == POWERS[SHORT as usize] as u64;
                return Decimal { digits: short, exponent: exponent + i32::from(is_carried), precision: SHORT };
            }
        }
        return Decimal { digits, exponent, precision: count };
    }
}

#[inline]
fn round_half_even(product: u128, shift: u32) -> u64 {
    let whole = (product >> shift) as u64;
    if shift == 0 {
        return whole;
    }
    let rest = product & ((1 << shift) - 1);
    let half = 1 << (shift - 1);
    whole + u64::from(rest > half || rest == half && whole % 2 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float_text(value: f32) -> String {
        let mut out = Vec::new();
        float(value, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    fn double_text(value: f64) -> String {
        let mut out = Vec::new();
        double(value, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    /// `%g` through the standard library, for comparison.
    fn plain<W: Width>(value: f64) -> String {
        let mut out = Vec::new();
        if value.is_sign_negative() {
            out.push(b'-');
        }
        W::format(value.abs()).write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn floats_read_as_the_original_writes_them() {
        for (value, wanted) in [
            (2.5, "2.5"),
            (3.0, "3.0"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1.0 / 3.0, "0.333333343"),
            (100_000.0, "100000.0"),
            (1e6, "1e+06"),
            (1_234_567.0, "1234567.0"),
            (16_777_216.0, "16777216.0"),
            (9e6, "9e+06"),
            (123_456.7, "123456.703"),
            (3e-5, "3e-05"),
            (1e-7, "1e-07"),
            (1.5e10, "1.5e+10"),
            (1_435_774_336.0, "1.43577434e+09"),
            (f32::MAX, "3.40282347e+38"),
            (f32::MIN_POSITIVE, "1.17549435e-38"),
            (99999.9, "99999.9"),
            (999_999.9, "999999.875"),
            (0.123_456_7, "0.123456702"),
            (1.0 / 8192.0, "0.000122070312"),
            (0.000_123, "0.000123"),
            (1e-45, "1.4013e-45"),
            (f32::NAN, "NaN"),
            (f32::INFINITY, "Infinity"),
            (f32::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float_text(value), wanted);
        }
    }

    #[test]
    fn doubles_read_as_the_original_writes_them() {
        for (value, wanted) in [
            (0.1, "0.1"),
            (1.0 / 3.0, "0.33333333333333331"),
            (16_777_217.0, "16777217.0"),
            (123_456_789.0, "123456789.0"),
            (1e15, "1e+15"),
            (1e-7, "1e-07"),
            (f64::from(0.1_f32), "0.10000000149011612"),
            (-9_223_372_036_854_775_808.0, "-9.2233720368547758e+18"),
            (18_446_744_073_709_551_616.0, "1.8446744073709552e+19"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (1e300, "1e+300"),
            (-1e100, "-1e+100"),
        ] {
            assert_eq!(double_text(value), wanted);
        }
    }

    #[test]
    fn the_fast_digits_are_the_exact_ones() {
        let mut seed = 1_u64;
        for round in 0..200_000_u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let random = seed >> 11;
            // Any bits; the common range; few decimals; powers of two.
            let value = match round % 4 {
                0 => f64::from_bits(seed),
                1 => random as f64 / (1_u64 << 53) as f64,
                2 => (random % 100_000_000) as f64 / 10_f64.powi((seed >> 60) as i32),
                _ => 2_f64.powi((random % 120) as i32 - 60),
            };
            let narrow = value as f32;
            if narrow.is_finite() && narrow != 0.0 {
                let is_short_integer = narrow.abs() < 1e6 && narrow.fract() == 0.0;
                assert!(is_short_integer || float_text(narrow) == plain::<Single>(f64::from(narrow)), "{narrow:e}");
                assert_eq!(float_text(narrow).parse(), Ok(narrow));
            }
            if value.is_finite() && value != 0.0 {
                assert_eq!(double_text(value), plain::<Double>(value), "{value:e}");
                assert_eq!(double_text(value).parse(), Ok(value));
            }
        }
    }

    #[test]
    fn integers_are_plain() {
        let text = |number| {
            let mut out = Vec::new();
            signed(number, &mut out);
            String::from_utf8(out).expect("ASCII")
        };
        for number in [0, 1, 9, 10, 99, 100, 101, 1000, -1, -10, i64::MAX, i64::MIN] {
            assert_eq!(text(number), number.to_string());
        }
    }
}
