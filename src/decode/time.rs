//! Dates, times and timestamps: text and numbers in, one canonical text out.
//!
//! All have a fixed width, so that text order is the order of time: `2017-04-25`,
//! `09:01:35.123000`, `2017-04-25T09:01:35.123000Z`. Years are 0001 to 9999. A fraction finer than
//! a microsecond and a leap second are refused rather than rounded.

use jiff::SignedDuration;
use jiff::civil::{Date, DateTime, Time};

use crate::config::Encoding;

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
const DAY_SECONDS: i64 = 86_400;
const DAY_MICROS: i64 = DAY_SECONDS * 1_000_000;

/// Why a value is no date, time or timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Not of this form at all.
    Shape,
    /// Of the form, but it cannot be kept without changing it; says why.
    Range(&'static str),
}

const INFINITE: Flaw = Flaw::Range("is infinite");
const YEAR: Flaw = Flaw::Range("lies outside the years 0001 to 9999");
const FINE: Flaw = Flaw::Range("is finer than a microsecond");
const LEAP: Flaw = Flaw::Range("is a leap second");

/// `YYYY-MM-DD`, with an optional `Z` behind it.
pub fn date_from_text(text: &str) -> Result<String, Flaw> {
    check_special(text)?;
    let mut rest = text.as_bytes();
    let date = take_date(&mut rest)?;
    match rest {
        [] | [b'Z' | b'z'] => Ok(print_date(date)),
        _ => Err(Flaw::Shape),
    }
}

/// `HH:MM:SS` with an optional fraction and an optional `Z`. `24:00:00` is the end of the day.
pub fn time_from_text(text: &str) -> Result<String, Flaw> {
    let mut rest = text.as_bytes();
    let clock = take_clock(&mut rest)?;
    if !matches!(rest, [] | [b'Z' | b'z']) {
        return Err(Flaw::Shape);
    }
    let end_of_day = clock.hour == 24 && clock.minute == 0 && clock.second == 0 && clock.nanos == 0;
    if clock.hour > 23 && !end_of_day {
        return Err(Flaw::Shape);
    }
    let mut out = String::with_capacity(15);
    clock.print(&mut out)?;
    Ok(out)
}

/// RFC 3339, moved to UTC.
pub fn timestamp_from_text(text: &str) -> Result<String, Flaw> {
    check_special(text)?;
    let Instant { at, nanos } = Instant::parse(text)?;
    print_timestamp(at, nanos)
}

/// Seconds and nanoseconds since 1970 of an RFC 3339 time, for versions.
pub fn instant_from_text(text: &str) -> Result<[i64; 2], Flaw> {
    check_special(text)?;
    let Instant { at, nanos } = Instant::parse(text)?;
    Ok([at.duration_since(EPOCH).as_secs(), i64::from(nanos)])
}

/// A number since 1970-01-01 that is a whole number of days.
pub fn date_from_number(number: i64, unit: Encoding) -> Result<String, Flaw> {
    let days = match unit {
        Encoding::Days => number,
        _ => {
            let a_day = DAY_SECONDS.checked_mul(per_second(unit)?).ok_or(Flaw::Shape)?;
            if number % a_day != 0 {
                return Err(Flaw::Range("is not a whole number of days"));
            }
            number / a_day
        }
    };
    let date = at_second(days.checked_mul(DAY_SECONDS).ok_or(YEAR)?)?.date();
    if date.year() < 1 { Err(YEAR) } else { Ok(print_date(date)) }
}

/// A number since midnight, up to and including the end of the day.
pub fn time_from_number(number: i64, unit: Encoding) -> Result<String, Flaw> {
    let micros = micros(number, unit)?;
    if !(0..=DAY_MICROS).contains(&micros) {
        return Err(Flaw::Range("is not within one day"));
    }
    let seconds = micros / 1_000_000;
    // Bounded by a day: the casts lose nothing.
    let clock = Clock {
        hour: (seconds / 3600) as u8,
        minute: (seconds / 60 % 60) as u8,
        second: (seconds % 60) as u8,
        nanos: (micros % 1_000_000 * 1_000) as u32,
    };
    let mut out = String::with_capacity(15);
    clock.print(&mut out)?;
    Ok(out)
}

/// A number since 1970-01-01T00:00:00Z.
pub fn timestamp_from_number(number: i64, unit: Encoding) -> Result<String, Flaw> {
    let (seconds, nanos) = match unit {
        Encoding::Days => (number.checked_mul(DAY_SECONDS).ok_or(YEAR)?, 0),
        _ => {
            let per_second = per_second(unit)?;
            let nanos = number.rem_euclid(per_second) * (1_000_000_000 / per_second);
            (number.div_euclid(per_second), nanos as u32)
        }
    };
    print_timestamp(at_second(seconds)?, nanos)
}

/// Seconds and nanoseconds since 1970-01-01T00:00:00Z.
pub fn timestamp_from_instant(seconds: i64, nanos: u32) -> Result<String, Flaw> {
    print_timestamp(at_second(seconds)?, nanos)
}

fn per_second(unit: Encoding) -> Result<i64, Flaw> {
    match unit {
        Encoding::Seconds => Ok(1),
        Encoding::Millis => Ok(1_000),
        Encoding::Micros => Ok(1_000_000),
        Encoding::Nanos => Ok(1_000_000_000),
        Encoding::Days | Encoding::Base64 | Encoding::Hex => Err(Flaw::Shape),
    }
}

fn micros(number: i64, unit: Encoding) -> Result<i64, Flaw> {
    let per_second = per_second(unit)?;
    if per_second > 1_000_000 {
        if number % 1_000 != 0 {
            return Err(FINE);
        }
        return Ok(number / 1_000);
    }
    number.checked_mul(1_000_000 / per_second).ok_or(Flaw::Range("is not within one day"))
}

fn at_second(second: i64) -> Result<DateTime, Flaw> {
    EPOCH.checked_add(SignedDuration::from_secs(second)).map_err(|_| YEAR)
}

/// PostgreSQL's infinities, and years that RFC 3339 cannot write (Debezium does: `-0043-03-15Z`).
fn check_special(text: &str) -> Result<(), Flaw> {
    let unsigned = text.strip_prefix(['+', '-']);
    let name = unsigned.unwrap_or(text);
    if name.eq_ignore_ascii_case("infinity") {
        return Err(INFINITE);
    }
    if unsigned.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit())) {
        return Err(YEAR);
    }
    Ok(())
}

/// An RFC 3339 time in UTC; a fraction of up to nine digits.
struct Instant {
    /// Whole seconds.
    at: DateTime,
    nanos: u32,
}

impl Instant {
    fn parse(text: &str) -> Result<Instant, Flaw> {
        let mut rest = text.as_bytes();
        let date = take_date(&mut rest)?;
        let [b'T' | b't' | b' ', tail @ ..] = rest else { return Err(Flaw::Shape) };
        rest = tail;
        let clock = take_clock(&mut rest)?;
        let offset_minutes = take_offset(&mut rest)?;
        if clock.hour > 23 || !rest.is_empty() {
            return Err(Flaw::Shape);
        }
        if clock.second > 59 {
            return Err(LEAP);
        }
        // Checked to be in range above: none of the casts loses anything.
        let time = Time::new(clock.hour as i8, clock.minute as i8, clock.second as i8, 0);
        let local = DateTime::from_parts(date, time.map_err(|_| Flaw::Shape)?);
        let at = match offset_minutes {
            0 => local,
            minutes => local.checked_sub(SignedDuration::from_secs(minutes * 60)).map_err(|_| YEAR)?,
        };
        Ok(Instant { at, nanos: clock.nanos })
    }
}

struct Clock {
    /// 0 to 24.
    hour: u8,
    minute: u8,
    /// 0 to 60.
    second: u8,
    nanos: u32,
}

impl Clock {
    fn print(&self, out: &mut String) -> Result<(), Flaw> {
        if self.second > 59 {
            return Err(LEAP);
        }
        if !self.nanos.is_multiple_of(1_000) {
            return Err(FINE);
        }
        push_digits(out, u32::from(self.hour), 2);
        out.push(':');
        push_digits(out, u32::from(self.minute), 2);
        out.push(':');
        push_digits(out, u32::from(self.second), 2);
        out.push('.');
        push_digits(out, self.nanos / 1_000, 6);
        Ok(())
    }
}

fn take_date(rest: &mut &[u8]) -> Result<Date, Flaw> {
    let year = take_number(rest, 4)?;
    take(rest, b'-')?;
    let month = take_number(rest, 2)?;
    take(rest, b'-')?;
    let day = take_number(rest, 2)?;
    // Four and two digits: the casts lose nothing.
    let date = Date::new(year as i16, month as i8, day as i8).map_err(|_| Flaw::Shape)?;
    // The year 0000 is 1 BC.
    if year == 0 { Err(YEAR) } else { Ok(date) }
}

fn take_clock(rest: &mut &[u8]) -> Result<Clock, Flaw> {
    let hour = take_number(rest, 2)?;
    take(rest, b':')?;
    let minute = take_number(rest, 2)?;
    take(rest, b':')?;
    let second = take_number(rest, 2)?;
    if hour > 24 || minute > 59 || second > 60 {
        return Err(Flaw::Shape);
    }
    let nanos = take_fraction(rest)?;
    Ok(Clock { hour: hour as u8, minute: minute as u8, second: second as u8, nanos })
}

fn take_fraction(rest: &mut &[u8]) -> Result<u32, Flaw> {
    let [b'.', tail @ ..] = rest else { return Ok(0) };
    *rest = tail;
    let (mut nanos, mut unit, mut digits) = (0, 100_000_000, 0);
    while let [digit @ b'0'..=b'9', tail @ ..] = rest {
        let digit = u32::from(digit - b'0');
        if unit == 0 && digit != 0 {
            return Err(FINE);
        }
        nanos += digit * unit;
        unit /= 10;
        digits += 1;
        *rest = tail;
    }
    if digits == 0 { Err(Flaw::Shape) } else { Ok(nanos) }
}

/// Minutes east of UTC.
fn take_offset(rest: &mut &[u8]) -> Result<i64, Flaw> {
    let [sign, tail @ ..] = rest else { return Err(Flaw::Shape) };
    *rest = tail;
    let sign = match sign {
        b'Z' | b'z' => return Ok(0),
        b'+' => 1,
        b'-' => -1,
        _ => return Err(Flaw::Shape),
    };
    let hours = take_number(rest, 2)?;
    take(rest, b':')?;
    let minutes = take_number(rest, 2)?;
    if hours > 23 || minutes > 59 {
        return Err(Flaw::Shape);
    }
    Ok(sign * i64::from(hours * 60 + minutes))
}

fn take(rest: &mut &[u8], byte: u8) -> Result<(), Flaw> {
    match rest {
        [first, tail @ ..] if *first == byte => {
            *rest = tail;
            Ok(())
        }
        _ => Err(Flaw::Shape),
    }
}

fn take_number(rest: &mut &[u8], digits: usize) -> Result<u32, Flaw> {
    let (number, tail) = rest.split_at_checked(digits).ok_or(Flaw::Shape)?;
    *rest = tail;
    let mut value = 0;
    for digit in number {
        if !digit.is_ascii_digit() {
            return Err(Flaw::Shape);
        }
        value = value * 10 + u32::from(digit - b'0');
    }
    Ok(value)
}

fn print_timestamp(at: DateTime, nanos: u32) -> Result<String, Flaw> {
    if !nanos.is_multiple_of(1_000) {
        return Err(FINE);
    }
    if at.year() < 1 {
        return Err(YEAR);
    }
    let mut out = String::with_capacity(27);
    push_date(&mut out, at.date());
    out.push('T');
    // jiff's ranges: never negative.
    push_digits(&mut out, at.hour() as u32, 2);
    out.push(':');
    push_digits(&mut out, at.minute() as u32, 2);
    out.push(':');
    push_digits(&mut out, at.second() as u32, 2);
    out.push('.');
    push_digits(&mut out, nanos / 1_000, 6);
    out.push('Z');
    Ok(out)
}

fn print_date(date: Date) -> String {
    let mut out = String::with_capacity(10);
    push_date(&mut out, date);
    out
}

fn push_date(out: &mut String, date: Date) {
    push_digits(out, date.year() as u32, 4);
    out.push('-');
    push_digits(out, date.month() as u32, 2);
    out.push('-');
    push_digits(out, date.day() as u32, 2);
}

fn push_digits(out: &mut String, number: u32, width: u32) {
    for place in (0..width).rev() {
        out.push(char::from(b'0' + (number / 10u32.pow(place) % 10) as u8));
    }
}
