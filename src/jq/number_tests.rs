use super::*;
use proptest::prelude::*;

fn num(text: &str) -> Num {
    Num::parse(text).unwrap()
}

fn said(result: Result<Num, Flaw>) -> String {
    result.map_or_else(|flaw| format!("! {flaw}"), |number| number.to_string())
}

#[test]
fn what_is_calculated_is_exact() {
    let max = i64::MAX.to_string();
    for (a, op, b, expected) in [
        ("1", '+', "2", "3"),
        ("0.1", '+', "0.2", "0.3"),
        ("1.10", '+', "2.20", "3.3"),
        (&*max, '+', "1", "9223372036854775808"),
        ("9223372036854775808", '-', "1", &*max),
        ("12.34", '*', "100", "1234"),
        ("19.99", '*', "3", "59.97"),
        ("99999999999999999999", '+', "1", "100000000000000000000"),
        ("1e300", '+', "0", "1e300"),
        ("1e300", '+', "1", "! cannot calculate with more than 38 digits without losing some"),
        ("1e300", '*', "2", "2e300"),
        ("-0.001", '*', "0.001", "-0.000001"),
        ("5e-30", '+', "0", "0.000000000000000000000000000005"),
        ("1", '/', "8", "0.125"),
        ("10", '/', "2", "5"),
        ("1", '/', "3", "0.3333333333333333"),
        ("1", '/', "0", "! cannot divide by zero"),
        ("1e300", '/', "1e-300", "1e600"),
        ("7", '%', "3", "1"),
        ("-7", '%', "3", "-1"),
        ("7.9", '%', "3.9", "1"),
        ("7", '%', "0.5", "! cannot divide by zero"),
    ] {
        let (left, right) = (num(a), num(b));
        let result = match op {
            '+' => left.add(&right),
            '-' => left.sub(&right),
            '*' => left.mul(&right),
            '/' => left.div(&right),
            _ => left.rem(&right),
        };
        assert_eq!(said(result), expected, "{a} {op} {b}");
    }
}

#[test]
fn numbers_round_to_whole_ones() {
    use Rounding::{Ceil, Floor, Nearest, Truncate};
    for (text, rounding, expected) in [
        ("1.5", Floor, "1"),
        ("-1.5", Floor, "-2"),
        ("1.2", Ceil, "2"),
        ("-1.2", Ceil, "-1"),
        ("1.5", Nearest, "2"),
        ("2.5", Nearest, "3"),
        ("-1.5", Nearest, "-2"),
        ("1.49", Nearest, "1"),
        ("1.9", Truncate, "1"),
        ("-1.9", Truncate, "-1"),
        ("1e-90", Ceil, "1"),
        ("-1e-90", Floor, "-1"),
        ("1e-90", Nearest, "0"),
        ("12345678901234567890.5", Floor, "12345678901234567890"),
        ("1e30", Floor, "1000000000000000000000000000000e0"),
    ] {
        let expected = expected.trim_end_matches("e0");
        let result = num(text).round(rounding).unwrap();
        assert_eq!(result, num(expected), "{text} {rounding:?}");
    }
    assert_eq!(num("3.9").truncated(), Some(3));
    assert_eq!(num("1e99").truncated(), None);
}

#[test]
fn numbers_of_any_length_compare_by_value() {
    let long = "1".repeat(100);
    let longer = format!("{long}.5");
    let ascending = [
        "-1e400",
        &format!("-{long}"),
        "-2",
        "-1.5",
        "-1",
        "0",
        "1e-400",
        "0.5",
        "1",
        "1.0000001",
        "2",
        "10",
        "1e2",
        &long,
        &longer,
        "1e400",
    ];
    for (index, a) in ascending.iter().enumerate() {
        for (other, b) in ascending.iter().enumerate() {
            assert_eq!(num(a).cmp(&num(b)), index.cmp(&other), "{a} {b}");
        }
    }
    for (a, b) in [("1", "1.0"), ("10e-1", "1"), ("-0", "0"), ("0.0e9", "0"), ("100", "1e2")] {
        assert_eq!(num(a), num(b));
    }
}

#[test]
fn digits_stay_as_they_were_written() {
    for text in ["1.50", "-0", "1E5", "123456789012345678901234567890.10", "9223372036854775807"] {
        assert_eq!(num(text).to_string(), text);
    }
    assert_eq!(num(&i64::MIN.to_string()).negated().to_string(), "9223372036854775808");
    assert_eq!(num("1.50").negated().to_string(), "-1.50");
    assert_eq!(num("-1.50").abs().to_string(), "1.50");
    for text in ["", "-", "01", "1.", ".5", "1e", "1e+", "+1", "0x1", "1 ", "NaN", "Infinity", "1.2.3"] {
        assert!(Num::parse(text).is_none(), "{text}");
    }
}

proptest! {
    #[test]
    fn a_number_is_what_serde_json_says_it_is(text in "-?[0-9]{0,3}(\\.[0-9]{0,3})?([eE][+-]?[0-9]{0,2})?") {
        let valid = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
        prop_assert_eq!(is_number(&text), valid, "{}", text);
    }

    #[test]
    fn nothing_makes_it_panic(
        a in "-?(0|[1-9][0-9]{0,45})(\\.[0-9]{1,45})?(e[+-]?[0-9]{1,20})?",
        b in "-?(0|[1-9][0-9]{0,45})(\\.[0-9]{1,45})?(e[+-]?[0-9]{1,20})?",
    ) {
        let (a, b) = (num(&a), num(&b));
        for result in [a.add(&b), a.sub(&b), a.mul(&b), a.div(&b), a.rem(&b)].into_iter().flatten() {
            prop_assert!(is_number(&result.to_string()), "{}", result);
        }
        for rounding in [Rounding::Floor, Rounding::Ceil, Rounding::Nearest, Rounding::Truncate] {
            let _ = a.round(rounding);
        }
        let _ = (a.cmp(&b), a.truncated(), a.negated());
    }

    #[test]
    fn small_decimals_calculate_as_integers_do(a in -10_000i64..10_000, b in -10_000i64..10_000) {
        let cents = |n: i64| num(&format!("{}{}.{:02}", if n < 0 { "-" } else { "" }, n.abs() / 100, n.abs() % 100));
        prop_assert_eq!(cents(a).add(&cents(b)).unwrap(), cents(a + b));
        prop_assert_eq!(cents(a).sub(&cents(b)).unwrap(), cents(a - b));
        prop_assert_eq!(cents(a).mul(&num("100")).unwrap(), Num::Int(a));
        prop_assert_eq!(cents(a).cmp(&cents(b)), a.cmp(&b));
    }
}
