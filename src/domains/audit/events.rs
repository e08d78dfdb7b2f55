//! Which entries of the log other systems are told of, and under which names. One table; a new event is a line here.
//!
//! Pure. Knows nothing of who is told, and how.

use super::model::Action;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $meaning:literal, [$($action:ident)*];)+) => {
        /// An event that integrations can be told of. The names are the wire's, and stable.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Event {
            $(#[doc = $meaning] $name,)+
        }

        impl Event {
            /// All of them, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// As on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// In words.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)+ }
            }

            const fn actions(self) -> &'static [Action] {
                match self { $(Self::$name => &[$(Action::$action),*],)+ }
            }
        }
    };
}

events! {
    DeviceBlocked = "device.blocked", "A device was blocked, by whatever rule or person.", [DeviceBlocked];
    DeviceUnblocked = "device.unblocked", "A blocked device was released.", [DeviceUnblocked];
    DeviceQuarantined = "device.quarantined", "A device was ordered to cut itself off from everything but the appliance.", [DeviceQuarantined];
    CommandEnforced = "command.enforced", "A device carried a command out.", [CommandEnforced];
    RefreshReused = "refresh.reused", "An old refresh token came back: somebody has a copy of a session.", [RefreshReused];
    AttestationFailed = "attestation.failed", "A device's proof of its hardware was refused, or was a replay.", [AttestationRefused AttestationReplayed];
    AuditCheckpoint = "audit.checkpoint", "A checkpoint of the forensic log was signed.", [AuditCheckpointed];
    QuotaExceeded = "quota.exceeded", "Something was refused because a limit is reached; at most once an hour for each limit.", [QuotaExceeded];
    VulnerabilityCreated = "vulnerability.created", "A weakness was found on a watched host.", [];
    CaseBreached = "case.breached", "A case is open for longer than was agreed.", [];
    IntegrationTest = "integration.test", "Somebody tries the integration out. It comes whatever is subscribed to.", [IntegrationTested];
}

impl Event {
    /// The event that an entry of the log is; `None` for most.
    pub fn of(action: Action) -> Option<Self> {
        Self::ALL.iter().copied().find(|event| event.actions().contains(&action))
    }
}

impl std::str::FromStr for Event {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|event| event.name() == text).ok_or("is not the name of an event")
    }
}

/// Whether a subscription (`device.blocked`, `device.*` or `*`) takes in an event.
pub fn takes_in(pattern: &str, event: Event) -> bool {
    match pattern.strip_suffix('*') {
        Some(stem) => event.name().starts_with(stem),
        None => event.name() == pattern,
    }
}

/// Whether a text is a subscription that can ever take something in.
pub fn is_pattern(text: &str) -> bool {
    let whole = text.strip_suffix('*').is_none_or(|stem| stem.is_empty() || stem.ends_with('.'));
    whole && Event::ALL.iter().any(|event| takes_in(text, *event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_and_an_action_is_one_event_at_most() {
        let mut seen = Vec::new();
        for event in Event::ALL.iter().copied() {
            assert_eq!(event.name().parse(), Ok(event));
            for action in event.actions() {
                assert!(!seen.contains(action), "{action:?} is two events");
                assert_eq!(Event::of(*action), Some(event));
                seen.push(*action);
            }
        }
        assert_eq!(Event::of(Action::LoginSucceeded), None);
    }

    #[test]
    fn a_star_takes_in_what_begins_like_it_and_nothing_else() {
        for (pattern, event, taken) in [
            ("*", Event::CaseBreached, true),
            ("device.*", Event::DeviceBlocked, true),
            ("device.*", Event::RefreshReused, false),
            ("device.blocked", Event::DeviceBlocked, true),
            ("device.blocked", Event::DeviceUnblocked, false),
        ] {
            assert_eq!(takes_in(pattern, event), taken, "{pattern} {event:?}");
            assert!(is_pattern(pattern), "{pattern}");
        }
        for bad in ["", "dev*", "device", "device.", "**", "device.*.x", "nothing.*", "device.blocked*"] {
            assert!(!is_pattern(bad), "{bad}");
        }
    }
}
