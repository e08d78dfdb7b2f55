//! What a name that people read may hold: the names of people, roles and teams.
//!
//! A name must be the one it seems to be. What cannot be seen, or turns the reading around, lets one name pass for
//! another. Pure; knows no tables.

/// Characters of a user's name.
pub const USER_NAME_MAX: usize = 128;
/// Characters of the name of a role or a team.
pub const GROUP_NAME_MAX: usize = 64;
/// Characters of an address for mail (RFC 5321, section 4.5.3.1.3, less the angle brackets).
pub const EMAIL_MAX: usize = 254;

/// Characters without a shape of their own: joiners, marks of direction, fillers, the marks of broken text.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffd}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether a text is a name: 1 to `max` characters, all of them to be seen, no blank at either end.
///
/// # Errors
/// What is wrong, to be said of the member that holds it.
pub fn check(text: &str, max: usize) -> Result<(), String> {
    if !(1..=max).contains(&text.chars().count()) {
        return Err(format!("must have 1 to {max} characters"));
    }
    if text.trim() != text {
        return Err("must not begin or end with a blank".to_owned());
    }
    if text.chars().any(|c| c.is_control() || is_unseen(c) || (c.is_whitespace() && c != ' ')) {
        return Err("must have printable characters only".to_owned());
    }
    Ok(())
}

/// Whether a text may be an address for mail. Nothing is sent to it from here, so its form is judged loosely.
///
/// # Errors
/// What is wrong, to be said of the member that holds it.
pub fn check_email(text: &str) -> Result<(), String> {
    check(text, EMAIL_MAX)?;
    let parts = text.rsplit_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if parts && !text.contains(' ') { Ok(()) } else { Err("must be an address such as name@example.org".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_it_seems_to_be() {
        for good in ["a", "Ada Lovelace", "ada@example.org", "Jürgen", "山田", "o'neil-2", &"x".repeat(128)] {
            assert_eq!(check(good, USER_NAME_MAX), Ok(()), "{good:?}");
        }
        for bad in [
            "",
            " ",
            " ada",
            "ada ",
            "ada\u{a0}",
            "ada\u{3000}b",
            "a\0b",
            "a\nb",
            "a\u{7f}",
            "a\u{85}b",
            "ad\u{200b}a",
            "nimda\u{202e}",
            "a\u{2028}b",
            "ad\u{ad}a",
            "\u{feff}ada",
            &"x".repeat(129),
        ] {
            assert!(check(bad, USER_NAME_MAX).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn an_address_has_two_sides_and_no_blank() {
        for (text, good) in [("a@b", true), ("@b", false), ("a@", false), ("a b@c", false), ("ab", false)] {
            assert_eq!(check_email(text).is_ok(), good, "{text:?}");
        }
    }
}
