//! The journal's lines as they leave the host: log records of OpenTelemetry with the ids of the call's trace.

use jiff::Timestamp;

use super::record::{Body, End, Who};
use crate::telemetry::records::{self, Line, Severity};

impl Body {
    /// Hands a line that is written to whoever sends it on. Never waits.
    pub(super) fn leave(&self, at: Timestamp, chain: &str, seq: u64, text: &str) {
        let (event, severity) = self.event();
        let mut attributes = Vec::new();
        let mut ids = (None, None);
        match self {
            Self::Begin(begin) => {
                attributes.extend([("whitelistmcp.call", begin.call.as_str()), ("whitelistmcp.tool", begin.tool)]);
                attributes.extend(of_whom(Some(&begin.who)));
                ids = (begin.trace.as_deref(), begin.span.as_deref());
            }
            Self::End(end) => {
                attributes.extend([("whitelistmcp.call", end.call()), ("whitelistmcp.outcome", end.outcome())]);
                ids = end.trace();
            }
            Self::Refused(refused) => {
                attributes.extend([("whitelistmcp.call", refused.call.as_str()), ("whitelistmcp.tool", refused.tool)]);
                attributes.extend([("error.type", refused.error.reason())]);
                attributes.extend(of_whom(refused.who.as_ref()));
                ids = (refused.trace.as_deref(), refused.span.as_deref());
            }
            Self::Decision(decision) => {
                attributes.push(("whitelistmcp.call", decision.call.as_str()));
                attributes.extend(of_whom(Some(&decision.who)));
            }
            Self::Vouched(carried) => attributes.push(("whitelistmcp.call", carried.call.as_str())),
            Self::Open(_)
            | Self::Observed(_)
            | Self::Head { .. }
            | Self::Adopted(_)
            | Self::Retired(_)
            | Self::Closed(_) => {}
        }
        let (trace_id, span_id) = ids;
        records::send_line(&Line {
            event,
            at,
            chain,
            seq,
            text,
            trace_id,
            span_id,
            attributes: &attributes,
            severity,
            replayed: false,
        });
    }

    fn event(&self) -> (&'static str, Severity) {
        let kind = match self {
            Self::Open(_) => "open",
            Self::Begin(_) => "begin",
            Self::End(end) => return (event_of("end"), end.severity()),
            Self::Refused(_) => "refused",
            // A rule that went, changed or is in nobody's books: somebody should look.
            Self::Observed(_) => return (event_of("observed"), Severity::Warning),
            Self::Decision(_) => "decision",
            Self::Vouched(_) => "vouched",
            Self::Head { .. } => "head",
            Self::Adopted(_) => "adopted",
            Self::Retired(_) => "retired",
            Self::Closed(_) => "closed",
        };
        (event_of(kind), Severity::Info)
    }
}

fn of_whom(who: Option<&Who>) -> Option<(&'static str, &str)> {
    who.map(|who| ("whitelistmcp.principal", who.id()))
}

impl End {
    fn severity(&self) -> Severity {
        match self.outcome() {
            "unknown" | "partly" => Severity::Warning,
            _ => Severity::Info,
        }
    }
}

const EVENTS: [(&str, &str); 11] = [
    ("begin", "whitelistmcp.audit.begin"),
    ("end", "whitelistmcp.audit.end"),
    ("refused", "whitelistmcp.audit.refused"),
    ("observed", "whitelistmcp.audit.observed"),
    ("decision", "whitelistmcp.audit.decision"),
    ("vouched", "whitelistmcp.audit.vouched"),
    ("head", "whitelistmcp.audit.head"),
    ("adopted", "whitelistmcp.audit.adopted"),
    ("retired", "whitelistmcp.audit.retired"),
    ("closed", "whitelistmcp.audit.closed"),
    ("open", "whitelistmcp.audit.open"),
];

/// The name of the event that a line of that type is.
pub(super) fn event_of(kind: &str) -> &'static str {
    EVENTS.iter().find(|(known, _)| *known == kind).map_or("whitelistmcp.audit.other", |(_, event)| event)
}
