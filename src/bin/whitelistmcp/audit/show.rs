//! `audit show`: calls, and doors.

use std::process::ExitCode;

use ipnet::IpNet;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use whitelistmcp::audit::show::{self, Call, Door, Filter, Records, Skipped};
use whitelistmcp::clock::Clock;

use super::Place;
use super::table::{self, Format};
use crate::{complain, fail};

/// Which calls or doors, and how they are printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Shows the rules that stood open, from when to when and for whom, in place of calls.
    #[arg(long, conflicts_with_all = ["tool", "outcome", "call", "changes"])]
    doors: bool,
    /// A name or part of it, an id, a subject, an OAuth client, an actor, an address.
    #[arg(long)]
    who: Option<String>,
    /// A security group, by id or by the name that the configuration gives it.
    #[arg(long)]
    group: Option<String>,
    /// An AWS account.
    #[arg(long)]
    account: Option<String>,
    /// A port.
    #[arg(long)]
    port: Option<u16>,
    /// An address or block.
    #[arg(long, value_parser = address)]
    address: Option<IpNet>,
    /// A tool. This, an outcome, a call's id and `--changes` pick among calls, and not among doors.
    #[arg(long)]
    tool: Option<String>,
    /// An outcome (done, denied, failed, partly, unknown, waiting, `not_done`, refused, unfinished) or an error's reason.
    #[arg(long)]
    outcome: Option<String>,
    /// A call's id.
    #[arg(long)]
    call: Option<String>,
    /// From then on: a time with its offset (RFC 3339), a date (UTC), or how long ago, such as 24h.
    #[arg(long, value_parser = moment, conflicts_with = "on")]
    since: Option<Timestamp>,
    /// Before that time.
    #[arg(long, value_parser = moment, conflicts_with = "on")]
    until: Option<Timestamp>,
    /// On that day (UTC).
    #[arg(long, value_parser = day)]
    on: Option<Date>,
    /// Changes alone, without reads.
    #[arg(long)]
    changes: bool,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn address(text: &str) -> Result<IpNet, String> {
    show::block(text).ok_or_else(|| format!("`{text}` is neither an address nor a block such as 203.0.113.0/24"))
}

/// Reads a moment: a time, a date, or how long ago.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Some(date) = date(text) {
        return begin(date).ok_or_else(|| format!("`{text}` is too far away"));
    }
    let ago = text.trim_end_matches("ago").trim().parse::<Span>().ok();
    let ago: Option<SignedDuration> = ago.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let ago = ago.filter(|ago| !ago.is_negative());
    let then = ago.and_then(|ago| Clock::system().now().checked_sub(ago).ok());
    then.ok_or_else(|| {
        let wrong = if text.parse::<DateTime>().is_ok() { "does not say its offset from UTC" } else { "is no time" };
        format!(
            "`{text}` {wrong}: give a time with its offset, like 2026-11-03T12:00:00Z or 2026-11-03T13:00:00+01:00, a date like 2026-11-03 (UTC), or how long ago, like 24h"
        )
    })
}

/// Reads a day.
fn day(text: &str) -> Result<Date, String> {
    date(text).ok_or_else(|| {
        format!("`{text}` is no day: give a date like 2026-11-03 (UTC); for times there are --since and --until")
    })
}

/// Reads a date and nothing else: jiff reads one out of a time as well, and lets go of the rest.
fn date(text: &str) -> Option<Date> {
    let is_date = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    text.parse().ok().filter(|_| is_date)
}

fn begin(date: Date) -> Option<Timestamp> {
    date.to_zoned(TimeZone::UTC).ok().map(|day| day.timestamp())
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let directory = match arguments.place.directory() {
        Ok(directory) => directory,
        Err(code) => return code,
    };
    let records = match Records::read(&directory) {
        Ok(records) => records,
        Err(error) => return fail(&error),
    };
    for skipped in &records.skipped {
        complain(&skipped.to_string());
    }
    let day = arguments.on.map(|date| (begin(date), date.tomorrow().ok().and_then(begin)));
    let (since, until) = day.unwrap_or((arguments.since, arguments.until));
    let filter = Filter {
        who: arguments.who.clone(),
        group: arguments.group.clone(),
        account: arguments.account.clone(),
        port: arguments.port,
        address: arguments.address,
        tool: arguments.tool.clone(),
        outcome: arguments.outcome.clone(),
        call: arguments.call.clone(),
        since,
        until,
        changes: arguments.changes,
    };
    if arguments.doors {
        let found = show::doors(&records, &filter);
        table::print(
            arguments.format,
            ["from", "to", "group", "source", "ports", "holders", "opened by", "closed by", "rule"],
            &found,
            door,
        );
    } else {
        let found = show::calls(&records, &filter);
        table::print(
            arguments.format,
            ["at", "who", "tool", "group", "outcome", "rules or reason", "ms", "call"],
            &found,
            call,
        );
    }
    // What is missing may be what was asked for.
    if records.skipped.iter().any(Skipped::is_loss) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// A group as it is spoken of: its name, where it has one.
fn spoken<'a>(name: &'a str, id: &'a str) -> &'a str {
    if name.is_empty() { id } else { name }
}

fn call(call: &Call) -> [String; 8] {
    let rules = if call.rules.is_empty() { call.reason.clone() } else { call.rules.join("; ") };
    let counted = call.counted.map(|counted| format!(" ({counted} times)")).unwrap_or_default();
    [
        seconds(call.at),
        call.who.clone(),
        call.tool.clone(),
        spoken(&call.name, &call.group).to_owned(),
        call.outcome.clone(),
        format!("{rules}{counted}"),
        call.ms.map(|ms| ms.to_string()).unwrap_or_default(),
        call.call.clone(),
    ]
}

fn door(door: &Door) -> [String; 9] {
    let holders = door.holders.iter().map(|holder| format!("{} until {}", holder.id, holder.until));
    let by = |call: &str, who: &str| if call.is_empty() { String::new() } else { format!("{who} ({call})") };
    let from = if door.opened_by.is_empty() { format!("≤{}", seconds(door.from)) } else { seconds(door.from) };
    let to = match door.to {
        Some(to) if door.closed_by.is_empty() => format!("≤{}", seconds(to)),
        Some(to) => seconds(to),
        None => "stands".to_owned(),
    };
    [
        from,
        to,
        spoken(&door.name, &door.group).to_owned(),
        door.source.clone(),
        door.ports.clone(),
        holders.collect::<Vec<_>>().join(", "),
        by(&door.opened_by, &door.opener),
        by(&door.closed_by, &door.closer),
        door.rule.clone(),
    ]
}
