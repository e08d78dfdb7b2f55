//! Canonical JSON (RFC 8785): the one text of a value, so that a signature over it can be checked by anybody.
//!
//! Members are sorted by their UTF-16 code units, numbers are written as ECMAScript writes them, nothing is spaced.
//! Knows nothing of signatures.

use std::fmt::Write as _;

use serde_json::{Number, Value};

/// How deep a value may nest.
pub const DEPTH_MAX: usize = 128;

/// Why a value has no canonical text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JcsError {
    /// An integer that a double cannot hold (RFC 8785, section 3.2.2.3): it would be signed as another number.
    #[error("an integer is too large for canonical JSON; write it as a string")]
    InexactInteger,
    /// NaN or an infinity.
    #[error("a number is not finite")]
    NotFinite,
    /// Deeper than [`DEPTH_MAX`].
    #[error("the value is nested deeper than 128 levels")]
    TooDeep,
}

/// The canonical text of `value`.
///
/// # Errors
/// [`JcsError`]. Integers up to 2^53, finite doubles and up to 128 levels never fail.
pub fn canonicalize(value: &Value) -> Result<String, JcsError> {
    let mut out = String::with_capacity(256);
    write_value(value, DEPTH_MAX, &mut out)?;
    Ok(out)
}

fn write_value(value: &Value, depth_left: usize, out: &mut String) -> Result<(), JcsError> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number_text(number)?),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            let depth_left = depth_left.checked_sub(1).ok_or(JcsError::TooDeep)?;
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_value(item, depth_left, out)?;
            }
            out.push(']');
        }
        Value::Object(map) => {
            let depth_left = depth_left.checked_sub(1).ok_or(JcsError::TooDeep)?;
            let mut members: Vec<(&String, &Value)> = map.iter().collect();
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (i, (name, member)) in members.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(name, out);
                out.push(':');
                write_value(member, depth_left, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            control if u32::from(control) < 0x20 => {
                // Writing into a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

fn number_text(number: &Number) -> Result<String, JcsError> {
    const EXACT_MAX: u64 = 1 << 53;
    if let Some(n) = number.as_i64() {
        return if n.unsigned_abs() <= EXACT_MAX { Ok(n.to_string()) } else { Err(JcsError::InexactInteger) };
    }
    if number.is_u64() {
        return Err(JcsError::InexactInteger); // above i64::MAX, so above 2^53
    }
    double_text(number.as_f64().ok_or(JcsError::NotFinite)?)
}

/// `Number.prototype.toString` of ECMAScript (ECMA-262, section 6.1.6.1.20).
fn double_text(x: f64) -> Result<String, JcsError> {
    if !x.is_finite() {
        return Err(JcsError::NotFinite);
    }
    if x == 0.0 {
        return Ok("0".to_owned()); // minus zero too
    }
    let digits_of = |text: &str| text.bytes().filter(u8::is_ascii_digit).count();
    // The exponent form has the fewest digits that read back to the same double, which is what ECMAScript asks for. Of two
    // texts that are as short and as near it wants the even one: rounding the exact value to as many digits gives that.
    let mut shortest = format!("{:e}", x.abs());
    let fraction_len = shortest.split('e').next().map_or(0, digits_of).saturating_sub(1);
    let even = format!("{:.fraction_len$e}", x.abs());
    if even.parse() == Ok(x.abs()) {
        shortest = even;
    }
    let (mantissa, exponent) = shortest.split_once('e').ok_or(JcsError::NotFinite)?;
    let exponent: i32 = exponent.parse().map_err(|_| JcsError::NotFinite)?;
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digit_count = i32::try_from(digits.len()).map_err(|_| JcsError::NotFinite)?;
    // The decimal point stands behind the digit with this number.
    let point = exponent + 1;
    let zeros = |n: i32| "0".repeat(usize::try_from(n).unwrap_or(0));
    let split = |at: i32| digits.split_at_checked(usize::try_from(at).unwrap_or(0)).unwrap_or((&digits, ""));
    let body = if digit_count <= point && point <= 21 {
        format!("{digits}{}", zeros(point - digit_count))
    } else if 0 < point && point <= 21 {
        let (whole, fraction) = split(point);
        format!("{whole}.{fraction}")
    } else if -6 < point && point <= 0 {
        format!("0.{}{digits}", zeros(-point))
    } else {
        let (first, rest) = split(1);
        let dot = if rest.is_empty() { "" } else { "." };
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{first}{dot}{rest}e{sign}{}", exponent.unsigned_abs())
    };
    Ok(if x < 0.0 { format!("-{body}") } else { body })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    /// RFC 8785, appendix B.
    #[test]
    fn numbers_are_written_as_the_rfc_prints_them() {
        for (bits, text) in [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            assert_eq!(double_text(f64::from_bits(bits)).as_deref(), Ok(text), "{bits:016x}");
        }
        for bits in [0x7fff_ffff_ffff_ffff, 0x7ff0_0000_0000_0000, 0xfff0_0000_0000_0000] {
            assert_eq!(double_text(f64::from_bits(bits)), Err(JcsError::NotFinite), "{bits:016x}");
        }
    }

    /// RFC 8785, sections 3.2.2 and 3.2.3.
    #[test]
    fn the_printed_examples_come_out_letter_by_letter() {
        // Read by the standard library, because the JSON parser's doubles may be a last bit off.
        let number = |text: &str| text.parse::<f64>().unwrap();
        let text: Value = serde_json::from_str(r#""\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/""#).unwrap();
        let value = json!({
            "numbers": [
                number("333333333.33333329"), number("1E30"), number("4.50"), number("2e-3"),
                number("0.000000000000000000000000001")
            ],
            "string": text,
            "literals": [null, true, false],
        });
        assert_eq!(
            canonicalize(&value).unwrap(),
            r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#
        );
        let value: Value = serde_json::from_str(
            r#"{
                "\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
                "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control",
                "\u00f6": "Latin Small Letter O With Diaeresis"
            }"#,
        )
        .unwrap();
        assert_eq!(
            canonicalize(&value).unwrap(),
            "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u{80}\":\"Control\",\
             \"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\
             \"😀\":\"Emoji: Grinning Face\",\"\u{fb33}\":\"Hebrew Letter Dalet With Dagesh\"}"
        );
    }

    #[test]
    fn a_number_that_would_be_signed_as_another_is_refused() {
        assert_eq!(canonicalize(&json!([0, -1, 9_007_199_254_740_992_u64])).unwrap(), "[0,-1,9007199254740992]");
        for n in [json!(9_007_199_254_740_993_u64), json!(u64::MAX), json!(i64::MIN)] {
            assert_eq!(canonicalize(&n), Err(JcsError::InexactInteger), "{n}");
        }
    }

    #[test]
    fn nesting_has_a_limit_and_no_overflow() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        assert!(canonicalize(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(canonicalize(&nested(DEPTH_MAX + 1)), Err(JcsError::TooDeep));
    }

    proptest::proptest! {
        /// Whatever double it is, the text reads back to the same number, and nothing shorter does.
        #[test]
        fn every_finite_double_reads_back_the_same(bits: u64) {
            let x = f64::from_bits(bits);
            if x.is_finite() {
                let text = double_text(x).unwrap();
                proptest::prop_assert!(text.parse::<f64>().unwrap() == x);
                // Another implementation finds the same digits, if in another layout.
                let digits = |text: &str| {
                    let mantissa = text.split('e').next().unwrap_or_default();
                    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
                    digits.trim_matches('0').to_owned()
                };
                proptest::prop_assert_eq!(digits(&text), digits(&json!(x).to_string()));
            }
        }
    }
}
