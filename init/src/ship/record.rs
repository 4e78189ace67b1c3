//! A line as a structured record, and what is the same for all records of a boot.

use std::sync::Arc;
use std::time::Duration;

use slipform_init::contract::event::{Event, Phase, ServiceState};
use slipform_init::contract::telemetry::{KERNEL_NAME, OWN_NAME};

/// Severity by RFC 5424 section 6.2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Severity {
    Emergency = 0,
    Alert = 1,
    Critical = 2,
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
    Debug = 7,
}

impl Severity {
    /// The one of a number; what is above 7 counts as debug.
    pub(crate) fn of(number: u8) -> Self {
        match number {
            0 => Self::Emergency,
            1 => Self::Alert,
            2 => Self::Critical,
            3 => Self::Error,
            4 => Self::Warning,
            5 => Self::Notice,
            6 => Self::Info,
            _ => Self::Debug,
        }
    }

    /// syslog.conf's short name.
    pub(crate) fn name(self) -> &'static str {
        [
            "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug",
        ][self as usize]
    }
}

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// A service's standard output.
    Out,
    /// A service's standard error.
    Err,
    /// A service's sd_notify.
    Notify,
    /// Init itself.
    Event,
    /// The kernel's log.
    Kernel,
}

impl Stream {
    /// The one of a number, if it is one.
    pub(crate) fn of(number: u8) -> Option<Self> {
        let all = [
            Self::Out,
            Self::Err,
            Self::Notify,
            Self::Event,
            Self::Kernel,
        ];
        all.get(usize::from(number)).copied()
    }

    /// The name in records.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
            Self::Notify => "notify",
            Self::Event => "event",
            Self::Kernel => "kernel",
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// CLOCK_MONOTONIC. The wall clock is added when the record is sent: until the
    /// time was asked for, it may stand far in the past.
    pub(crate) at: Duration,
    /// How bad.
    pub(crate) severity: Severity,
    /// From where.
    pub(crate) stream: Stream,
    /// The service; [`OWN_NAME`] and [`KERNEL_NAME`] for the other two.
    pub(crate) service: Box<str>,
    /// The line.
    pub(crate) text: Box<str>,
    /// Which boot said it, if it was not this one.
    pub(crate) past: Option<Arc<Past>>,
}

/// An earlier boot: what its records need to be written as it would have written them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Past {
    /// The machine as it was.
    pub(crate) identity: Identity,
    /// Its CLOCK_REALTIME less its CLOCK_MONOTONIC.
    pub(crate) offset: Duration,
}

/// What a record costs beside its texts: itself, and the allocator's headers.
const OVERHEAD: usize = size_of::<Record>() + 32;

impl Record {
    /// Bytes that it takes in memory, about.
    pub(crate) fn cost(&self) -> usize {
        OVERHEAD + self.service.len() + self.text.len()
    }

    /// One of init's own.
    pub(crate) fn own(at: Duration, severity: Severity, text: &str) -> Self {
        Self {
            at,
            severity,
            stream: Stream::Event,
            service: OWN_NAME.into(),
            text: text.into(),
            past: None,
        }
    }

    /// One of the kernel's.
    pub(crate) fn kernel(at: Duration, severity: Severity, text: &str) -> Self {
        Self {
            at,
            severity,
            stream: Stream::Kernel,
            service: KERNEL_NAME.into(),
            text: text.into(),
            past: None,
        }
    }

    /// A service's line. A prefix `<0>` to `<7>` is its severity (sd-daemon(3)).
    pub(crate) fn line(at: Duration, service: &str, stream: &str, line: &str) -> Self {
        let stream = match stream {
            "err" => Stream::Err,
            "notify" => Stream::Notify,
            _ => Stream::Out,
        };
        let (severity, text) = match line.as_bytes() {
            [b'<', digit @ b'0'..=b'7', b'>', ..] => (Severity::of(digit - b'0'), &line[3..]),
            _ if stream == Stream::Err => (Severity::Notice, line),
            _ => (Severity::Info, line),
        };
        Self {
            at,
            severity,
            stream,
            service: service.into(),
            text: text.into(),
            past: None,
        }
    }
}

/// How bad an event of init's is.
pub(crate) fn severity(event: &Event) -> Severity {
    match event {
        Event::Phase { .. } => Severity::Debug,
        Event::RootWrite { refused: false, .. } => Severity::Critical,
        Event::Error {
            phase: Phase::Verity,
            ..
        } => Severity::Critical,
        Event::Error { .. } => Severity::Error,
        Event::LayerRead { error, .. } if !error.is_empty() => Severity::Critical,
        Event::Service { state, .. } => match state {
            ServiceState::Failed => Severity::Error,
            ServiceState::Backoff => Severity::Warning,
            _ => Severity::Info,
        },
        Event::LogLoss { .. }
        | Event::Sink { up: false, .. }
        | Event::Network { bad: true, .. } => Severity::Warning,
        Event::Shutdown { .. } => Severity::Notice,
        _ => Severity::Info,
    }
}

/// What is the same for all records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Host name.
    pub(crate) host: String,
    /// Image name.
    pub(crate) image: String,
    /// Image version.
    pub(crate) version: String,
    /// SHA-256 of machine.json, hexadecimal: it names the layers by their root hashes,
    /// and the image's manifest names it.
    pub(crate) digest: String,
    /// The kernel's random id of this boot.
    pub(crate) boot: String,
    /// machine-id(5).
    pub(crate) machine: String,
}

/// Nanoseconds; what does not fit is as late as can be.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A wall-clock time, to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wall(pub(crate) Duration);

impl Wall {
    /// Nanoseconds since 1970.
    pub(crate) fn nanos(self) -> u64 {
        nanos(self.0)
    }
}

impl std::fmt::Display for Wall {
    /// RFC 3339 in UTC, microseconds (the most that RFC 5424 section 6.2.3 allows). The
    /// civil calendar by eras of 400 years from 1 March 0000.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The year 9999 is the last with four digits.
        let seconds = self.0.as_secs().min(253_402_300_799);
        let days = seconds / 86_400 + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 {
            shifted + 3
        } else {
            shifted - 9
        };
        let year = year + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let micros = self.0.subsec_micros();
        write!(
            out,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
        )
    }
}

/// What formats need beside the record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The machine.
    pub(crate) identity: &'a Identity,
    /// CLOCK_REALTIME less CLOCK_MONOTONIC.
    pub(crate) offset: Duration,
}

impl<'a> Context<'a> {
    /// The one of the boot that said `record`.
    pub(crate) fn of(self, record: &'a Record) -> Self {
        match &record.past {
            None => self,
            Some(past) => Self {
                identity: &past.identity,
                offset: past.offset,
            },
        }
    }

    /// When a record was made.
    pub(crate) fn wall(&self, record: &Record) -> Wall {
        Wall(record.at.saturating_add(self.offset))
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A machine for golden texts.
    pub(crate) fn identity() -> Identity {
        Identity {
            host: "shop-1".to_owned(),
            image: "shop".to_owned(),
            version: "1.2".to_owned(),
            digest: "ab".repeat(32),
            boot: "0b8d7b0c-2f5c-4d6f-9a52-5a1f8d8a7c11".to_owned(),
            machine: "4c4c4544004235108051b4c04f4e4d31".to_owned(),
        }
    }

    /// Wall clock of a monotonic 0 in golden texts: 2026-02-28 23:59:58.
    pub(crate) const OFFSET: Duration = Duration::from_secs(1_772_323_198);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        let text = |seconds, micros| {
            Wall(Duration::from_secs(seconds) + Duration::from_micros(micros)).to_string()
        };
        assert_eq!(text(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(text(951_782_399, 1), "2000-02-28T23:59:59.000001Z");
        assert_eq!(text(951_782_400, 0), "2000-02-29T00:00:00.000000Z");
        assert_eq!(text(1_772_323_198, 999_999), "2026-02-28T23:59:58.999999Z");
        assert_eq!(text(1_772_323_200, 0), "2026-03-01T00:00:00.000000Z");
        assert_eq!(text(4_107_542_400, 0), "2100-03-01T00:00:00.000000Z");
        assert_eq!(
            Wall(Duration::MAX).to_string(),
            "9999-12-31T23:59:59.999999Z"
        );
        assert_eq!(Wall(Duration::MAX).nanos(), u64::MAX);
    }

    #[test]
    fn a_service_may_say_how_bad_a_line_is() {
        let of = |stream, line| {
            let record = Record::line(Duration::ZERO, "web", stream, line);
            (record.severity, record.text.into_string())
        };
        assert_eq!(of("out", "<3>broken"), (Severity::Error, "broken".into()));
        assert_eq!(of("out", "<9>x"), (Severity::Info, "<9>x".into()));
        assert_eq!(of("out", "<3"), (Severity::Info, "<3".into()));
        assert_eq!(of("err", "x"), (Severity::Notice, "x".into()));
        assert_eq!(of("err", "<7>ä"), (Severity::Debug, "ä".into()));
        assert_eq!(of("err", "<ä"), (Severity::Notice, "<ä".into()));
    }
}
