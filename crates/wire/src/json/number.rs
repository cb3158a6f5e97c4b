//! Numbers from text.

/// Powers of ten that a double holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Integers up to this are doubles.
const EXACT_INTEGERS: u64 = 1 << 53;

/// No digits beyond these may be summed up without a look at overflow.
const SAFE_DIGITS: usize = 19;

/// Those, a sign, a point, and more bytes than a number can have that ends among them.
const WINDOW: usize = 32;

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
#[inline(always)]
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
#[inline(always)]
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
        if count < 8 || !byte(text, at).is_ascii_digit() {
            return at;
        }
    }
    few_digits(text, at, sum)
}

/// The same, digit by digit: quicker for one or two, and all there is near the end of the text.
#[inline]
fn few_digits(text: &[u8], mut at: usize, sum: &mut u64) -> usize {
    loop {
        let digit = byte(text, at).wrapping_sub(b'0');
        if digit > 9 {
            return at;
        }
        *sum = sum.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
}

/// The integral number that `text` begins with, if it is one in JSON too, and its length.
#[inline]
pub(super) fn integral(text: &[u8]) -> Option<(Integral, usize)> {
    let minus = byte(text, 0) == b'-';
    let start = usize::from(minus);
    let mut magnitude = 0;
    let end = digits(text, start, &mut magnitude);
    if end == start || matches!(byte(text, end), b'.' | b'e' | b'E') || has_idle_zero(text, start, end) {
        return None;
    }
    if end - start > SAFE_DIGITS {
        magnitude = std::str::from_utf8(&text[start..end]).ok()?.parse().ok()?;
    }
    let number = Integral { negative: minus && magnitude != 0, magnitude };
    let fits = !number.negative || number.signed().is_some();
    fits.then_some((number, end))
}

/// Whether the digits from `start` on begin with a zero that JSON has no place for.
#[inline]
fn has_idle_zero(text: &[u8], start: usize, end: usize) -> bool {
    byte(text, start) == b'0' && end - start > 1
}

/// A number without exponent, and with so few digits that they are an integer of 64 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal<'a> {
    /// The number, and what follows it.
    text: &'a [u8],
    pub(super) length: usize,
    negative: bool,
    digits: u64,
    /// Digits of the fraction.
    places: usize,
}

impl<'a> Decimal<'a> {
    /// What `text` begins with, if it is such a number, in JSON too. A zero is the whole of an integer: no digit follows it
    /// there.
    // This is where the time goes that is spent on a body of numbers.
    #[expect(clippy::inline_always, reason = "it is called in one place, and was not inlined")]
    #[inline(always)]
    pub(super) fn read(text: &'a [u8]) -> Option<Self> {
        // Within an array, there is less to check.
        let padded;
        let window: &[u8; WINDOW] = if let Some(window) = text.first_chunk() {
            window
        } else {
            padded = Self::padded(text);
            &padded
        };
        let negative = window[0] == b'-';
        let start = usize::from(negative);
        let first = window[start].wrapping_sub(b'0');
        if first > 9 {
            return None;
        }
        let mut sum = u64::from(first);
        let mut point = start + 1;
        if first > 0 && window[point].is_ascii_digit() {
            sum = 0;
            point = digits(window, start, &mut sum);
        }
        let mut length = point;
        let mut places = 0;
        if byte(window, point) == b'.' {
            length = digits(window, point + 1, &mut sum);
            places = length - point - 1;
            if places == 0 {
                return None;
            }
        }
        let has_exponent = byte(window, length) | 0x20 == b'e';
        let is_known = length - start <= SAFE_DIGITS && !has_exponent;
        is_known.then_some(Self { text, length, negative, digits: sum, places })
    }

    /// Text that is shorter than a window, and zeros.
    #[cold]
    fn padded(text: &[u8]) -> [u8; WINDOW] {
        let mut window = [0; WINDOW];
        window[..text.len()].copy_from_slice(text);
        window
    }

    /// Correctly rounded.
    #[inline]
    pub(super) fn double(&self) -> f64 {
        if self.digits <= EXACT_INTEGERS { self.signed(self.quotient()) } else { self.parsed() }
    }

    /// The double, rounded once more.
    #[inline]
    pub(super) fn float(&self) -> f32 {
        if self.digits <= EXACT_INTEGERS || self.is_clear() {
            return self.signed(self.quotient()) as f32;
        }
        self.parsed() as f32
    }

    /// Clinger: where both operands are exact, one operation rounds once.
    #[inline]
    fn quotient(&self) -> f64 {
        // From a signed integer takes one instruction.
        let digits = if self.digits <= EXACT_INTEGERS { self.digits as i64 as f64 } else { self.digits as f64 };
        if self.places == 0 { digits } else { digits / EXACT_POWERS[self.places] }
    }

    /// Whether a quotient that was rounded twice, and is off by two units in the last place at most, is on the same side as
    /// the right one of the middle between two floats. It is none of the smallest floats, which have middles elsewhere: it
    /// has more digits than a double.
    #[inline]
    fn is_clear(&self) -> bool {
        const BELOW_FLOATS: u64 = (1 << (f64::MANTISSA_DIGITS - f32::MANTISSA_DIGITS)) - 1;
        const MIDDLE: u64 = BELOW_FLOATS / 2 + 1;
        (self.quotient().to_bits() & BELOW_FLOATS).abs_diff(MIDDLE) > 2
    }

    /// The original loses the sign of an integral zero.
    #[inline]
    fn signed(&self, value: f64) -> f64 {
        // A branch would be mispredicted for every other number.
        let sign = u64::from(self.negative) & u64::from(self.digits | self.places as u64 != 0);
        f64::from_bits(value.to_bits() ^ sign << 63)
    }

    #[cold]
    fn parsed(&self) -> f64 {
        parsed(self.text, self.length).map_or(f64::NAN, |(value, _)| value)
    }
}

/// The number that `text`, which is known to be valid, begins with, correctly rounded; and its length.
#[inline]
pub(super) fn real(text: &[u8]) -> Option<(f64, usize)> {
    match Decimal::read(text) {
        Some(decimal) => Some((decimal.double(), decimal.length)),
        None => any_real(text),
    }
}

/// The same for numbers of all kinds.
#[inline(never)]
fn any_real(text: &[u8]) -> Option<(f64, usize)> {
    let start = usize::from(byte(text, 0) == b'-');
    let point = digits_end(text, start);
    if point == start {
        return non_finite(text, start);
    }
    let mut end = point;
    if byte(text, end) == b'.' {
        end = digits_end(text, end + 1);
    }
    if matches!(byte(text, end), b'e' | b'E') {
        let is_signed = matches!(byte(text, end + 1), b'+' | b'-');
        end = digits_end(text, end + 1 + usize::from(is_signed));
    }
    parsed(text, end)
}

#[inline(never)]
fn parsed(text: &[u8], end: usize) -> Option<(f64, usize)> {
    let value = std::str::from_utf8(text.get(..end)?).ok()?.parse().ok()?;
    Some((value, end))
}

fn non_finite(text: &[u8], start: usize) -> Option<(f64, usize)> {
    let rest = text.get(start..)?;
    let words = [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("Inf", f64::INFINITY)];
    let (word, value) = words.into_iter().find(|(word, _)| rest.starts_with(word.as_bytes()))?;
    // The sign of NaN is lost in the original.
    let value = if start > 0 && !value.is_nan() { -value } else { value };
    Some((value, start + word.len()))
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
    fn real_numbers_agree_with_the_standard_library() {
        let mut seed = 3_u64;
        let mut below = |limit: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % limit
        };
        for _ in 0..100_000 {
            let mut text = if below(2) == 0 { "-" } else { "" }.to_owned();
            let integer: String = (0..=below(12)).map(|_| char::from(b'0' + below(10) as u8)).collect();
            let significant = integer.trim_start_matches('0');
            text += if significant.is_empty() { "0" } else { significant };
            if below(4) > 0 {
                text.push('.');
                for _ in 0..=below(20) {
                    text.push(char::from(b'0' + below(10) as u8));
                }
            }
            if below(4) == 0 {
                text += ["e", "E+", "e-"][below(3) as usize];
                text += &below(330).to_string();
            }
            let wanted: f64 = text.parse().expect("a number");
            let is_integral_zero = wanted == 0.0 && !text.contains(['.', 'e', 'E']);
            let wanted = if is_integral_zero { 0.0 } else { wanted };
            let (value, length) = real(format!("{text}]    ").as_bytes()).expect("a number");
            assert_eq!((value.to_bits(), length), (wanted.to_bits(), text.len()), "{text}");
            if let Some(decimal) = Decimal::read(text.as_bytes()) {
                assert_eq!(decimal.float().to_bits(), (wanted as f32).to_bits(), "{text}");
            }
        }
    }

    #[test]
    fn floats_are_rounded_as_their_doubles_are() {
        let mut seen = 0;
        for bits in (0x3580_0000_u32..0x4F80_0000).step_by(9_973) {
            let (low, high) = (f64::from(f32::from_bits(bits)), f64::from(f32::from_bits(bits + 1)));
            let middle = f64::midpoint(low, high);
            for step in -4_i64..=4 {
                let near = f64::from_bits(middle.to_bits().wrapping_add_signed(step));
                let places = 18_usize.saturating_sub(near.log10().max(0.0) as usize + 1);
                let text = format!("{near:.places$}");
                let Some(decimal) = Decimal::read(text.as_bytes()) else { continue };
                seen += 1;
                let wanted: f64 = text.parse().expect("a number");
                assert_eq!(decimal.float().to_bits(), (wanted as f32).to_bits(), "{text}");
            }
        }
        assert!(seen > 100_000, "{seen}");
    }

    #[test]
    fn what_json_has_no_place_for_is_no_number() {
        for text in ["1.", "1.e5", ".5", "-", "-.5", "+1", ""] {
            assert!(Decimal::read(text.as_bytes()).is_none(), "{text}");
            assert_eq!(integral(text.as_bytes()), None, "{text}");
        }
        for text in ["01", "-00.5", "00"] {
            let zero = Decimal::read(text.as_bytes()).expect("a zero");
            assert!(text.len() > zero.length && zero.double() == 0.0, "{text}");
            assert_eq!(integral(text.as_bytes()), None, "{text}");
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
