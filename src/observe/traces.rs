//! Which requests are traced, and how their spans begin. Where spans go is [`super::otlp`]'s business.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::kernel::rate::{Quota, SlidingWindow};
use crate::kernel::trace::TraceContext;
use crate::kernel::{Random, Timestamp, limits};

/// Of so many requests, [`Traces::new`] is told how many are traced.
pub const PPM: u32 = 1_000_000;

/// Decides for each request.
#[derive(Debug, Default)]
pub struct Traces {
    /// Of a million requests whose client decides nothing; `None`: nobody collects spans.
    sampled_ppm: Option<u32>,
    /// Requests that were traced because their client asked for it.
    asked: SlidingWindow,
}

impl Traces {
    /// Traces so many of a million requests, and those whose client asks for it, within a limit: whoever reaches the
    /// appliance can ask. `None`: none at all.
    pub const fn new(sampled_ppm: Option<u32>) -> Self {
        Self { sampled_ppm, asked: SlidingWindow::new() }
    }

    /// Begins the work for a request: its span, which is none where it is not traced, and its place in a trace, where it
    /// has one. `span` makes the span of a request that is traced.
    pub fn begin(
        &self,
        caller: Option<TraceContext>,
        now: Timestamp,
        random: &Random,
        span: impl FnOnce() -> Span,
    ) -> (Span, Option<TraceContext>) {
        let Some(ppm) = self.sampled_ppm else {
            return (Span::none(), caller.map(|trace| trace.continued(random)));
        };
        let wanted = match caller {
            Some(trace) => {
                trace.is_sampled() && self.asked.admit(Quota::per_minute(limits::TRACES_ASKED_PER_MINUTE), now).admitted
            }
            None => random.u64() % u64::from(PPM) < u64::from(ppm),
        };
        let untraced = || caller.map(|trace| trace.continued(random).sampled(false));
        if !wanted {
            return (Span::none(), untraced());
        }
        let span = span();
        if let Some(trace) = caller {
            let parent = opentelemetry::Context::new().with_remote_span_context(remote(trace));
            // Fails only where nobody collects spans, and then the span is none.
            let _ = span.set_parent(parent);
        }
        match place_of(&span) {
            Some(place) => (span, Some(place)),
            None => (Span::none(), untraced()),
        }
    }
}

/// The `traceparent` for what is called on behalf of a span; `None` where it is not traced.
pub fn place_of(span: &Span) -> Option<TraceContext> {
    if span.is_none() {
        return None;
    }
    let context = span.context();
    let here = context.span().span_context().clone();
    here.is_valid().then(|| TraceContext {
        trace_id: u128::from_be_bytes(here.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(here.span_id().to_bytes()),
        flags: here.trace_flags().to_u8(),
    })
}

fn remote(trace: TraceContext) -> SpanContext {
    let (trace_id, span_id) = (TraceId::from(trace.trace_id), SpanId::from(trace.span_id));
    SpanContext::new(trace_id, span_id, TraceFlags::new(trace.flags), true, TraceState::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(sampled: bool) -> Option<TraceContext> {
        Some(TraceContext { trace_id: 7, span_id: 9, flags: 0 }.sampled(sampled))
    }

    #[test]
    fn where_nobody_collects_spans_a_caller_s_trace_goes_on_and_none_is_begun() {
        let (traces, random) = (Traces::new(None), Random::seeded(1));
        let never = || unreachable!("no span is made");
        let (_, none) = traces.begin(None, Timestamp::from_millis(1_000), &random, never);
        assert_eq!(none, None);
        let (_, place) = traces.begin(asked(true), Timestamp::from_millis(1_000), &random, never);
        assert_eq!(place.map(|p| (p.trace_id, p.span_id != 9, p.is_sampled())), Some((7, true, true)));
    }

    /// Whoever reaches the appliance can write `-01`: the collector and the appliance's memory must not be his.
    #[test]
    fn callers_that_ask_for_traces_get_so_many_a_minute() {
        let (traces, random) = (Traces::new(Some(0)), Random::seeded(1));
        let made = std::cell::Cell::new(0);
        let count = || {
            made.set(made.get() + 1);
            Span::none()
        };
        for _ in 0..5_000 {
            let (span, place) = traces.begin(asked(true), Timestamp::from_millis(60_000), &random, count);
            assert!(
                span.is_none() && place.is_some_and(|p| !p.is_sampled()),
                "no span, so it says that none is recorded"
            );
        }
        assert_eq!(made.get(), limits::TRACES_ASKED_PER_MINUTE);
        for (caller, note) in [(asked(false), "its caller does not record it"), (None, "none of a million")] {
            traces.begin(caller, Timestamp::from_millis(120_000), &random, || unreachable!("{note}"));
        }
    }

    #[test]
    fn of_the_others_as_many_are_traced_as_the_configuration_says() {
        for (ppm, fits) in [(0, 0..=0), (250_000, 2_300..=2_700), (PPM, 10_000..=10_000)] {
            let (traces, random) = (Traces::new(Some(ppm)), Random::seeded(2));
            let mut made = 0;
            for _ in 0..10_000 {
                traces.begin(None, Timestamp::from_millis(1_000), &random, || {
                    made += 1;
                    Span::none()
                });
            }
            assert!(fits.contains(&made), "{ppm} of a million: {made} of 10,000");
        }
    }
}
