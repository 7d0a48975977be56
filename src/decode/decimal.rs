//! Decimals: exact numbers of any length, kept as text.

/// Unscaled bytes of a decimal that are converted at most, about 9,800 digits. The conversion takes
/// quadratic time; PostgreSQL's largest would take a good fraction of a second.
const BYTES_MAX: usize = 4096;
const SCALE_MAX: u32 = 20_000;

/// Whether a text is `-?digits(.digits)?([eE][+-]?digits)?`: what is kept as sent.
pub fn is_decimal(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    are_digits(whole)
        && fraction.is_none_or(are_digits)
        && exponent.is_none_or(|text| are_digits(text.strip_prefix(['+', '-']).unwrap_or(text)))
}

fn are_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The names under which NaN and the infinities come (Debezium's `POSITIVE_INFINITY` included).
pub fn is_not_finite(text: &str) -> bool {
    let name = text.strip_prefix(['+', '-']).unwrap_or(text);
    ["nan", "inf", "infinity", "positive_infinity", "negative_infinity"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

/// The number `unscaled · 10^-scale`, `unscaled` being a big-endian two's complement; with exactly
/// `scale` digits behind the point. `None` when it has too many digits to convert.
pub fn from_bytes(unscaled: &[u8], scale: i32) -> Option<String> {
    if unscaled.is_empty() || unscaled.len() > BYTES_MAX || scale.unsigned_abs() > SCALE_MAX {
        return None;
    }
    let negative = unscaled.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut digits = magnitude(unscaled, negative);
    if scale < 0 && digits != "0" {
        digits.extend(std::iter::repeat_n('0', scale.unsigned_abs() as usize));
    }
    if scale > 0 {
        let scale = scale as usize;
        if digits.len() <= scale {
            digits.insert_str(0, &"0".repeat(scale + 1 - digits.len()));
        }
        digits.insert(digits.len() - scale, '.');
    }
    if negative {
        digits.insert(0, '-');
    }
    Some(digits)
}

/// Decimal digits of the absolute value.
fn magnitude(unscaled: &[u8], negative: bool) -> String {
    if unscaled.len() <= 16 {
        let mut bytes = if negative { [0xFF; 16] } else { [0; 16] };
        bytes[16 - unscaled.len()..].copy_from_slice(unscaled);
        return i128::from_be_bytes(bytes).unsigned_abs().to_string();
    }
    // Least significant group of nine digits first.
    const BASE: u64 = 1_000_000_000;
    let mut groups: Vec<u32> = vec![0];
    let mut multiply_add = |factor: u64, addend: u64| {
        let mut carry = addend;
        for group in &mut groups {
            let sum = u64::from(*group) * factor + carry;
            *group = (sum % BASE) as u32;
            carry = sum / BASE;
        }
        if carry > 0 {
            groups.push(carry as u32);
        }
    };
    // The absolute value of a negative number is its complement plus one.
    for byte in unscaled {
        multiply_add(256, u64::from(if negative { !byte } else { *byte }));
    }
    if negative {
        multiply_add(1, 1);
    }
    let mut text = String::with_capacity(groups.len() * 9);
    for (index, group) in groups.iter().rev().enumerate() {
        text.push_str(&if index == 0 { group.to_string() } else { format!("{group:09}") });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_have_one_syntax() {
        for good in ["0", "-0", "1.50", "-12.5e3", "1E-7", "1e+20", "007", "100000000000000000000"] {
            assert!(is_decimal(good), "{good}");
        }
        for bad in
            ["", "-", "+1", ".5", "5.", "1e", "1e+", "1.2.3", "1,5", " 1", "0x10", "NaN", "--1", "1e1.5"]
        {
            assert!(!is_decimal(bad), "{bad}");
        }
    }

    #[test]
    fn bytes_become_digits() {
        let cases: [(&[u8], i32, &str); 9] = [
            (&[0], 0, "0"),
            (&[0], 2, "0.00"),
            (&[0x6E], 2, "1.10"),
            (&[0xFF, 0x38], 2, "-2.00"),
            (&[0xFE, 0x1D, 0xC0], 2, "-1234.56"),
            (&[0x0D, 0x02, 0x72, 0xE5, 0xC3], 2, "558756592.03"),
            (&[1], 21, "0.000000000000000000001"),
            (&[5], -3, "5000"),
            (&[0xFF], 0, "-1"),
        ];
        for (bytes, scale, expected) in cases {
            assert_eq!(from_bytes(bytes, scale).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_too_long_to_convert_is_refused() {
        assert_eq!(from_bytes(&[], 0), None);
        assert!(from_bytes(&[0x7F; BYTES_MAX], 0).is_some());
        assert_eq!(from_bytes(&[0x7F; BYTES_MAX + 1], 0), None);
        assert_eq!(from_bytes(&[1], i32::MIN), None);
    }

    proptest! {
        /// Sign extension must not change the number, and takes it through the long way.
        #[test]
        fn the_long_way_agrees_with_the_short_one(number: i128, padding in 1usize..20, scale in 0i32..40) {
            let short = number.to_be_bytes();
            let mut long = vec![if number < 0 { 0xFF } else { 0 }; padding];
            long.extend_from_slice(&short);
            prop_assert_eq!(from_bytes(&short, scale), from_bytes(&long, scale));
        }
    }
}
