//! The trace that a request belongs to, as W3C Trace Context writes it, and the spans that are made of it.
//!
//! Knows nothing of where spans go: what nobody collects costs a look at a thread's own variable.

use std::fmt;

use tracing::Span;

use super::Random;

/// The target by which spans are told from lines of the log.
pub const TARGET: &str = "blockremote::span";

const SAMPLED: u8 = 0b01;
/// Flags that mean something (Trace Context level 2): sampled, and an identifier that is random throughout.
const KNOWN_FLAGS: u8 = 0b11;
/// `00-<32>-<16>-<2>`: what every version begins with.
const LENGTH: usize = 55;

/// A place in a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceContext {
    /// The trace, as 32 hexadecimal digits in text; never 0.
    pub trace_id: u128,
    /// The span, as 16 of them; never 0.
    pub span_id: u64,
    /// Whether somebody records it, and how the trace's identifier was made.
    pub flags: u8,
}

impl TraceContext {
    /// What a caller's `traceparent` says; `None` where it says nothing that can be used
    /// (<https://www.w3.org/TR/trace-context/#traceparent-header>). A later version counts as far as it begins alike.
    pub fn parse(text: &str) -> Option<Self> {
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let mut parts = known.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let fits = parts.next().is_none()
            && [(version, 2), (trace, 32), (span, 16), (flags, 2)].iter().all(|(part, n)| part.len() == *n)
            && known.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        let rest_fits = match version {
            "00" => rest.is_empty(),
            "ff" => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        if !fits || !rest_fits {
            return None;
        }
        let (trace_id, span_id) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
        let flags = u8::from_str_radix(flags, 16).ok()? & KNOWN_FLAGS;
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, flags })
    }

    /// The same trace, in a span of our own.
    #[must_use]
    pub fn continued(self, random: &Random) -> Self {
        Self { span_id: random.u64() | 1, ..self }
    }

    /// Whether somebody records it.
    pub const fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The same place, recorded or not.
    #[must_use]
    pub const fn sampled(self, sampled: bool) -> Self {
        Self { flags: if sampled { self.flags | SAMPLED } else { self.flags & !SAMPLED }, ..self }
    }

    /// The trace's identifier, for a line of the log.
    pub fn trace_id_text(self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

impl fmt::Display for TraceContext {
    /// As a `traceparent` of version 00.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// A span for a part of the work that is under way; none where that work is not recorded.
pub fn step(name: &'static str) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    tracing::info_span!(target: TARGET, "step", otel.name = name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_goes_on_in_a_span_of_our_own() {
        let given = TraceContext::parse(GIVEN).map(|t| t.to_string());
        assert_eq!(given.as_deref(), Some(GIVEN));
        let ours = TraceContext::parse(GIVEN).map(|t| t.continued(&Random::seeded(1)));
        let ours = ours.map(|t| (t.trace_id_text(), t.is_sampled(), t.span_id != 0x00f0_67aa_0ba9_02b7));
        assert_eq!(ours, Some(("4bf92f3577b34da6a3ce929d0e0e4736".to_owned(), true, true)));
    }

    #[test]
    fn what_is_no_trace_is_none_and_a_later_version_counts_as_far_as_it_begins_alike() {
        let of = |text: &str| TraceContext::parse(text).is_some();
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        for (text, expected) in [
            (format!("00-{trace}-{span}-00"), true),
            (format!("cc-{trace}-{span}-01"), true),
            (format!("cc-{trace}-{span}-01-what-the-future-brings"), true),
            (format!("cc-{trace}-{span}-01.what"), false),
            (format!("00-{trace}-{span}-01-what"), false),
            (format!("ff-{trace}-{span}-01"), false),
            (format!("00-{}-{span}-01", "0".repeat(32)), false),
            (format!("00-{trace}-{}-01", "0".repeat(16)), false),
            (format!("00-{}-{span}-01", trace.to_uppercase()), false),
            (format!("00-{trace}{span}--01"), false),
            (format!("00-{trace}-{span}-0"), false),
            (format!("00-{trace}-{span}-+1"), false),
            (String::new(), false),
            ("é".repeat(40), false),
        ] {
            assert_eq!(of(&text), expected, "{text}");
        }
    }

    #[test]
    fn only_the_flags_that_mean_something_are_handed_on() {
        let flags = TraceContext::parse(&GIVEN.replace("-01", "-ff")).map(|t| t.flags);
        assert_eq!(flags, Some(3));
    }
}
