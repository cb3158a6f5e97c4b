//! Numbers from text that is known to be valid JSON.

/// Powers of ten that a double holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// No digits beyond these may be summed up without a look at overflow.
const SAFE_DIGITS: usize = 19;

/// A number without fraction or exponent that fits in 64 bits. Zero has no sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Integral {
    pub(super) negative: bool,
    pub(super) magnitude: u64,
}

impl Integral {
    pub(super) fn signed(self) -> Option<i64> {
        if self.negative { 0_i64.checked_sub_unsigned(self.magnitude) } else { i64::try_from(self.magnitude).ok() }
    }

    pub(super) fn unsigned(self) -> Option<u64> {
        (!self.negative).then_some(self.magnitude)
    }
}

#[inline]
fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or(0)
}

/// Eight bytes from `at` on, as a word whose lowest byte comes first, and how many digits they begin with.
#[inline]
fn digit_block(text: &[u8], at: usize) -> Option<(u64, usize)> {
    const ONES: u64 = u64::MAX / 255;
    let word = u64::from_le_bytes(*text.get(at..)?.first_chunk()?);
    // A digit's bits above '0' are below ten; adding 0x76 to anything larger reaches the high bit.
    let values = word ^ (ONES * 0x30);
    let others = (((values & (ONES * 0x7F)) + ONES * 0x76) | values) & (ONES * 0x80);
    Some((word, others.trailing_zeros() as usize / 8))
}

/// Where the digits from `at` on end.
#[inline]
pub(super) fn digits_end(text: &[u8], mut at: usize) -> usize {
    while let Some((_, count)) = digit_block(text, at) {
        at += count;
        if count < 8 {
            return at;
        }
    }
    while byte(text, at).is_ascii_digit() {
        at += 1;
    }
    at
}

/// Sums up the digits from `at` on, modulo 2^64; returns where they end.
///
/// A branch per digit would be mispredicted at the end of nearly every number; a block of up to eight takes none.
#[inline]
fn digits(text: &[u8], mut at: usize, sum: &mut u64) -> usize {
    const SCALES: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
    while let Some((word, count)) = digit_block(text, at) {
        if count == 0 {
            return at;
        }
        // Moved up, the digits have zeros before them; then pairs, fours and eights are joined.
        let ones = (word << (64 - 8 * count)) & 0x0F0F_0F0F_0F0F_0F0F;
        let pairs = (ones.wrapping_mul(10) + (ones >> 8)) & 0x00FF_00FF_00FF_00FF;
        let fours = (pairs.wrapping_mul(100) + (pairs >> 16)) & 0x0000_FFFF_0000_FFFF;
        let eight = (fours.wrapping_mul(10_000) + (fours >> 32)) & 0xFFFF_FFFF;
        *sum = sum.wrapping_mul(SCALES[count]).wrapping_add(eight);
        at += count;
        if count < 8 {
            return at;
        }
    }
    loop {
        let digit = byte(text, at).wrapping_sub(b'0');
        if digit > 9 {
            return at;
        }
        *sum = sum.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
}

/// The integral number that `text` begins with, and its length.
#[inline]
pub(super) fn integral(text: &[u8]) -> Option<(Integral, usize)> {
    let minus = byte(text, 0) == b'-';
    let start = usize::from(minus);
    let mut magnitude = 0;
    let end = digits(text, start, &mut magnitude);
    if end == start || matches!(byte(text, end), b'.' | b'e' | b'E') {
        return None;
    }
    if end - start > SAFE_DIGITS {
        magnitude = std::str::from_utf8(&text[start..end]).ok()?.parse().ok()?;
    }
    let number = Integral { negative: minus && magnitude != 0, magnitude };
    let fits = !number.negative || number.signed().is_some();
    fits.then_some((number, end))
}

/// The number that `text` begins with, correctly rounded, and its length.
#[inline]
pub(super) fn real(text: &[u8]) -> Option<(f64, usize)> {
    let negative = byte(text, 0) == b'-';
    let start = usize::from(negative);
    let mut mantissa = 0;
    let mut end = digits(text, start, &mut mantissa);
    if end == start {
        return non_finite(text, start).map(|(value, end)| (if negative { -value } else { value }, end));
    }
    let mut digit_count = end - start;
    let mut exponent = 0_i64;
    let mut is_integral = true;
    if byte(text, end) == b'.' {
        let fraction = end + 1;
        end = digits(text, fraction, &mut mantissa);
        digit_count += end - fraction;
        exponent = -((end - fraction) as i64);
        is_integral = false;
    }
    if matches!(byte(text, end), b'e' | b'E') {
        let sign = byte(text, end + 1);
        let first = end + 1 + usize::from(matches!(sign, b'+' | b'-'));
        let mut written = 0;
        end = digits(text, first, &mut written);
        // Anything this long is far from the exact cases below, whatever its value.
        let written = if end - first > 9 { 1 << 40 } else { written as i64 };
        exponent += if sign == b'-' { -written } else { written };
        is_integral = false;
    }
    if digit_count > SAFE_DIGITS {
        return parsed(text, end);
    }
    let value = if is_integral {
        mantissa as f64
    } else if mantissa <= 1 << 53 && exponent.unsigned_abs() < EXACT_POWERS.len() as u64 {
        // Clinger: both operands are exact, so one operation rounds once.
        let power = EXACT_POWERS[exponent.unsigned_abs() as usize];
        if exponent < 0 { mantissa as f64 / power } else { mantissa as f64 * power }
    } else {
        return parsed(text, end);
    };
    // The sign of an integral zero is lost in the original; `-0.0` keeps it.
    let value = if negative && !(is_integral && mantissa == 0) { -value } else { value };
    Some((value, end))
}

#[cold]
fn non_finite(text: &[u8], start: usize) -> Option<(f64, usize)> {
    let rest = text.get(start..)?;
    [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("Inf", f64::INFINITY)]
        .into_iter()
        .find(|(word, _)| rest.starts_with(word.as_bytes()))
        .map(|(word, value)| (value, start + word.len()))
}

fn parsed(text: &[u8], end: usize) -> Option<(f64, usize)> {
    let value: f64 = std::str::from_utf8(text.get(..end)?).ok()?.parse().ok()?;
    let is_negative_zero = value == 0.0 && text[..end].iter().all(|byte| matches!(byte, b'-' | b'0'));
    Some((if is_negative_zero { 0.0 } else { value }, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_numbers_are_correctly_rounded() {
        for text in [
            "0",
            "1",
            "10",
            "0.1",
            "2.5",
            "1e2",
            "1E+2",
            "-1.5e-3",
            "9007199254740993",
            "9007199254740993.0",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775809",
            "123456789012345678901234567890",
            "0.1000000000000000055511151231257827021181583404541015625",
            "1e22",
            "1e23",
            "1.7976931348623157e308",
            "2.2250738585072014e-308",
            "4e-324",
            "1e-400",
            "0e5",
            "0.00000000000000000000000000000001",
            "0.30000000000000004",
            "1.0000000000000002e+300",
        ] {
            let wanted: f64 = text.parse().expect("a number");
            assert_eq!(real(text.as_bytes()), Some((wanted, text.len())), "{text}");
            let followed = format!("{text},7");
            assert_eq!(real(followed.as_bytes()), Some((wanted, text.len())), "{followed}");
        }
    }

    #[test]
    fn only_an_integral_zero_loses_its_sign() {
        let is_negative = |text: &[u8]| real(text).expect("a number").0.is_sign_negative();
        assert!(!is_negative(b"-0"));
        assert!(is_negative(b"-0.0"));
        assert!(is_negative(b"-0.00000000000000000000000000"));
        assert!(is_negative(b"-1e-400"));
    }

    #[test]
    fn words_stand_for_what_digits_cannot_say() {
        assert_eq!(real(b"-Infinity]"), Some((f64::NEG_INFINITY, 9)));
        assert_eq!(real(b"Inf]"), Some((f64::INFINITY, 3)));
        assert!(real(b"NaN").expect("a number").0.is_nan());
        assert_eq!(real(b"true"), None);
    }

    #[test]
    fn an_integral_number_fits_in_64_bits() {
        let read = |text: &str| integral(text.as_bytes()).map(|(number, _)| number);
        assert_eq!(read("-0"), Some(Integral { negative: false, magnitude: 0 }));
        assert_eq!(read("18446744073709551615").and_then(Integral::unsigned), Some(u64::MAX));
        assert_eq!(read("-9223372036854775808").and_then(Integral::signed), Some(i64::MIN));
        assert_eq!(read("9223372036854775808").and_then(Integral::signed), None);
        assert_eq!(read("-1").and_then(Integral::unsigned), None);
        for text in ["18446744073709551616", "-9223372036854775809", "1.0", "1e2", "NaN", "-", "x"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
