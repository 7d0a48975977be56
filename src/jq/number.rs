//! Numbers that keep their digits: what a document or a program says, and what is calculated of it, is
//! decimal and exact, or refused. Only a division that does not come out even is rounded.

use std::cmp::Ordering;
use std::fmt;
use std::rc::Rc;

/// Digits that can be calculated with; longer numbers can only be passed on and compared.
const DIGITS_MAX: usize = 38;
/// Longer exponents are those of nobody's numbers.
const EXPONENT_MAX: i64 = 100_000;

#[derive(Debug, Clone)]
pub enum Num {
    Int(i64),
    /// Valid JSON, as it was written.
    Text(Rc<str>),
}

/// Why there is no result; a sentence without the numbers.
pub type Flaw = &'static str;
const TOO_LONG: Flaw = "cannot calculate with more than 38 digits without losing some";
const BY_ZERO: Flaw = "cannot divide by zero";

impl Num {
    /// `None`: not a number as JSON writes them.
    pub fn parse(text: &str) -> Option<Num> {
        if !is_number(text) {
            return None;
        }
        match text.parse::<i64>() {
            // `-0` is not the integer 0.
            Ok(number) if number != 0 || !text.starts_with('-') => Some(Num::Int(number)),
            _ => Some(Num::Text(text.into())),
        }
    }

    /// Bytes that everything but passing it on has to look at.
    pub fn size(&self) -> usize {
        match self {
            Num::Int(_) => 0,
            Num::Text(text) => text.len(),
        }
    }

    /// A whole number of few digits, as for an index; what comes behind the point is cut.
    pub fn truncated(&self) -> Option<i64> {
        match self {
            Num::Int(number) => Some(*number),
            Num::Text(text) => i64::try_from(Decimal::parse(text)?.rounded(Rounding::Truncate).plain()?).ok(),
        }
    }

    pub fn is_integer(&self) -> bool {
        match self {
            Num::Int(_) => true,
            Num::Text(text) => Decimal::parse(text).is_some_and(|number| number.exponent >= 0),
        }
    }

    fn decimal(&self) -> Result<Decimal, Flaw> {
        match self {
            Num::Int(number) => Ok(Decimal { unscaled: i128::from(*number), exponent: 0 }.reduced()),
            Num::Text(text) => Decimal::parse(text).ok_or(TOO_LONG),
        }
    }

    pub fn add(&self, other: &Num) -> Result<Num, Flaw> {
        if let (Num::Int(a), Num::Int(b)) = (self, other)
            && let Some(sum) = a.checked_add(*b)
        {
            return Ok(Num::Int(sum));
        }
        let (a, b) = aligned(self.decimal()?, other.decimal()?)?;
        let unscaled = a.unscaled.checked_add(b.unscaled).ok_or(TOO_LONG)?;
        Decimal { unscaled, exponent: a.exponent }.number()
    }

    pub fn negated(&self) -> Num {
        match self {
            Num::Int(number) if *number != 0 && *number != i64::MIN => Num::Int(-number),
            Num::Int(number) => match number {
                0 => Num::Int(0),
                // Its digits, without the sign.
                number => Num::Text(number.unsigned_abs().to_string().into()),
            },
            Num::Text(text) => {
                let text = match text.strip_prefix('-') {
                    Some(rest) => rest.to_owned(),
                    None => format!("-{text}"),
                };
                Num::parse(&text).unwrap_or_else(|| Num::Text(text.into()))
            }
        }
    }

    pub fn sub(&self, other: &Num) -> Result<Num, Flaw> {
        self.add(&other.negated())
    }

    pub fn mul(&self, other: &Num) -> Result<Num, Flaw> {
        let (a, b) = (self.decimal()?, other.decimal()?);
        let unscaled = a.unscaled.checked_mul(b.unscaled).ok_or(TOO_LONG)?;
        Decimal { unscaled, exponent: a.exponent + b.exponent }.number()
    }

    /// Exact where it comes out even, else the nearest double, as jq has it.
    pub fn div(&self, other: &Num) -> Result<Num, Flaw> {
        let (a, b) = (self.decimal()?, other.decimal()?);
        if b.unscaled == 0 {
            return Err(BY_ZERO);
        }
        let mut unscaled = a.unscaled;
        for shift in 0..DIGITS_MAX as i64 {
            if unscaled % b.unscaled == 0 {
                let exponent = a.exponent - b.exponent - shift;
                return Decimal { unscaled: unscaled / b.unscaled, exponent }.number();
            }
            let Some(next) = unscaled.checked_mul(10) else { break };
            unscaled = next;
        }
        let quotient = self.nearest_double() / other.nearest_double();
        serde_json::Number::from_f64(quotient)
            .and_then(|number| Num::parse(&number.to_string()))
            .ok_or("divides to a number that is too large or too small")
    }

    /// Of whole numbers, with the sign of the first; what comes behind a point is cut, as jq has it.
    pub fn rem(&self, other: &Num) -> Result<Num, Flaw> {
        let whole = |number: &Num| number.decimal()?.rounded(Rounding::Truncate).plain().ok_or(TOO_LONG);
        let (a, b) = (whole(self)?, whole(other)?);
        let unscaled = a.checked_rem(b).ok_or(BY_ZERO)?;
        Decimal { unscaled, exponent: 0 }.number()
    }

    pub fn round(&self, rounding: Rounding) -> Result<Num, Flaw> {
        match self {
            Num::Int(_) => Ok(self.clone()),
            Num::Text(_) => self.decimal()?.rounded(rounding).number(),
        }
    }

    pub fn abs(&self) -> Num {
        if self.is_negative() { self.negated() } else { self.clone() }
    }

    fn is_negative(&self) -> bool {
        match self {
            Num::Int(number) => *number < 0,
            Num::Text(text) => text.starts_with('-'),
        }
    }

    fn nearest_double(&self) -> f64 {
        match self {
            Num::Int(number) => *number as f64,
            // Every JSON number is one that can be read.
            Num::Text(text) => text.parse().unwrap_or(f64::INFINITY),
        }
    }
}

/// Towards which whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    Floor,
    Ceil,
    /// Halves away from zero.
    Nearest,
    Truncate,
}

/// `unscaled · 10^exponent`, without zeros at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decimal {
    unscaled: i128,
    exponent: i64,
}

impl Decimal {
    /// `None`: too many digits.
    fn parse(text: &str) -> Option<Decimal> {
        let Parts { negative, digits, exponent } = Parts::of(text);
        if digits.len() > DIGITS_MAX || exponent.abs() > EXPONENT_MAX {
            return None;
        }
        let unscaled: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        let unscaled = if negative { -unscaled } else { unscaled };
        Some(Decimal { unscaled, exponent: if unscaled == 0 { 0 } else { exponent } })
    }

    fn reduced(mut self) -> Decimal {
        if self.unscaled == 0 {
            return Decimal { unscaled: 0, exponent: 0 };
        }
        while self.unscaled % 10 == 0 {
            self.unscaled /= 10;
            self.exponent += 1;
        }
        self
    }

    /// As a whole number, if it is one of few digits.
    fn plain(self) -> Option<i128> {
        if self.exponent < 0 {
            return None;
        }
        self.unscaled.checked_mul(power(self.exponent)?)
    }

    fn rounded(self, rounding: Rounding) -> Decimal {
        if self.exponent >= 0 {
            return self;
        }
        let Some(one) = power(-self.exponent) else {
            // Nothing but zeros before the point: there are more places than digits.
            let unscaled = match rounding {
                Rounding::Floor if self.unscaled < 0 => -1,
                Rounding::Ceil if self.unscaled > 0 => 1,
                _ => 0,
            };
            return Decimal { unscaled, exponent: 0 };
        };
        let (whole, rest) = (self.unscaled / one, self.unscaled % one);
        let unscaled = match rounding {
            Rounding::Floor if rest < 0 => whole - 1,
            Rounding::Ceil if rest > 0 => whole + 1,
            // Compared without doubling, which could overflow.
            Rounding::Nearest if rest.abs() >= one - rest.abs() => whole + rest.signum(),
            _ => whole,
        };
        Decimal { unscaled, exponent: 0 }.reduced()
    }

    fn number(self) -> Result<Num, Flaw> {
        let Decimal { unscaled, exponent } = self.reduced();
        if exponent.abs() > EXPONENT_MAX {
            return Err("calculates a number that is too large or too small");
        }
        if let Some(number) = self.reduced().plain()
            && let Ok(number) = i64::try_from(number)
        {
            return Ok(Num::Int(number));
        }
        let digits = unscaled.unsigned_abs().to_string();
        if digits.len() > DIGITS_MAX {
            return Err(TOO_LONG);
        }
        let sign = if unscaled < 0 { "-" } else { "" };
        let places = usize::try_from(-exponent).unwrap_or(0);
        let text = match exponent {
            0..=20 => format!("{sign}{digits}{}", "0".repeat(exponent as usize)),
            -40..=-1 if places < digits.len() => {
                let (whole, fraction) = digits.split_at(digits.len() - places);
                format!("{sign}{whole}.{fraction}")
            }
            -40..=-1 => format!("{sign}0.{}{digits}", "0".repeat(places - digits.len())),
            _ => format!("{sign}{digits}e{exponent}"),
        };
        Ok(Num::Text(text.into()))
    }
}

fn power(exponent: i64) -> Option<i128> {
    10_i128.checked_pow(u32::try_from(exponent).ok()?)
}

/// Both with the smaller exponent.
fn aligned(a: Decimal, b: Decimal) -> Result<(Decimal, Decimal), Flaw> {
    // Zero has no digits to lose, whatever the exponent of the other.
    let exponent = match (a.unscaled, b.unscaled) {
        (0, _) => b.exponent,
        (_, 0) => a.exponent,
        _ => a.exponent.min(b.exponent),
    };
    let shifted = |number: Decimal| {
        let unscaled = match number.unscaled {
            0 => Some(0),
            unscaled => power(number.exponent - exponent).and_then(|factor| unscaled.checked_mul(factor)),
        };
        Some(Decimal { unscaled: unscaled?, exponent })
    };
    shifted(a).zip(shifted(b)).ok_or(TOO_LONG)
}

/// A number of any length: `0.digits · 10^(exponent + number of digits)`.
struct Parts {
    negative: bool,
    /// Without zeros in front and at the end; empty for zero.
    digits: String,
    exponent: i64,
}

impl Parts {
    /// Of a valid JSON number.
    fn of(text: &str) -> Parts {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => (text, "0"),
        };
        // One that is too long to read is as good as the largest there is.
        let exponent: i64 = exponent.parse().unwrap_or(match exponent.starts_with('-') {
            true => -(i64::MAX / 4),
            false => i64::MAX / 4,
        });
        let exponent = exponent.clamp(-(i64::MAX / 4), i64::MAX / 4);
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        let kept = digits.trim_end_matches('0');
        let exponent = exponent - fraction.len() as i64 + (digits.len() - kept.len()) as i64;
        Parts { negative: negative && !kept.is_empty(), digits: kept.to_owned(), exponent }
    }

    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    fn cmp_size(&self, other: &Parts) -> Ordering {
        let order = |parts: &Parts| parts.exponent.saturating_add(parts.digits.len() as i64);
        // Digits behind the point compare as texts do.
        order(self).cmp(&order(other)).then_with(|| self.digits.cmp(&other.digits))
    }
}

/// By value: `1`, `1.0` and `10e-1` are equal.
impl Ord for Num {
    fn cmp(&self, other: &Num) -> Ordering {
        if let (Num::Int(a), Num::Int(b)) = (self, other) {
            return a.cmp(b);
        }
        let (a, b) = (Parts::of(&self.to_string()), Parts::of(&other.to_string()));
        match a.sign().cmp(&b.sign()) {
            Ordering::Equal if a.digits.is_empty() => Ordering::Equal,
            Ordering::Equal if a.negative => b.cmp_size(&a),
            Ordering::Equal => a.cmp_size(&b),
            unequal => unequal,
        }
    }
}

impl PartialOrd for Num {
    fn partial_cmp(&self, other: &Num) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Num {
    fn eq(&self, other: &Num) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Num {}

impl fmt::Display for Num {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Num::Int(number) => write!(f, "{number}"),
            Num::Text(text) => f.write_str(text),
        }
    }
}

/// Whether a text is a number in JSON.
pub fn is_number(text: &str) -> bool {
    fn digits(text: &str) -> &str {
        text.trim_start_matches(|c: char| c.is_ascii_digit())
    }
    let text = text.strip_prefix('-').unwrap_or(text);
    let rest = digits(text);
    let whole = &text[..text.len() - rest.len()];
    if whole.is_empty() || whole.len() > 1 && whole.starts_with('0') {
        return false;
    }
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => {
            let rest = digits(fraction);
            if rest.len() == fraction.len() {
                return false;
            }
            rest
        }
        None => rest,
    };
    match rest.strip_prefix(['e', 'E']) {
        Some(exponent) => {
            let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            !exponent.is_empty() && digits(exponent).is_empty()
        }
        None => rest.is_empty(),
    }
}

#[cfg(test)]
#[path = "number_tests.rs"]
mod tests;
