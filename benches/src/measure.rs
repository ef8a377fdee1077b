//! What is measured, in which unit, and how it is written.

use serde::Serialize;

/// A quantity; values are in the unit that its name in JSON ends with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// Whole answers.
    AnswersPerS,
    /// Body bytes.
    BytesPerS,
    /// From the first request to the last byte, or from a start to the first answer.
    ElapsedS,
    /// Half of the answers were whole within this time.
    LatencyP50S,
    /// And 99 of 100 within this.
    LatencyP99S,
    /// CPU time of the server over elapsed time. Near 1 a server on one core is what limits.
    CpuPart,
    /// CPU time of the server.
    CpuS,
    /// CPU time of the server for a gigabyte of bodies.
    CpuSPerGb,
    /// CPU time of who sends for a gigabyte.
    SenderCpuSPerGb,
    /// CPU time of who receives for a gigabyte.
    ReceiverCpuSPerGb,
    /// Requests that the origin had.
    OriginRequests,
    /// Body bytes that the origin sent.
    OriginBytes,
    /// Longest poll of a task in a window of 100 ms: what 99 of 100 windows did not exceed.
    LongestPollP99S,
    /// Resident memory that is its own: heap, stacks, buffers.
    OwnBytes,
    /// Resident memory without pages of mapped files, which are page cache, and with page tables.
    OwnAndPageTablesBytes,
    /// Resident pages of mapped files: slabs, its own binary.
    MappedBytes,
    /// Page tables.
    PageTablesBytes,
    /// Part of the accesses that found their piece.
    HitPart,
}

impl Measure {
    /// Head of its column, with the unit.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::AnswersPerS => "answers/s",
            Self::BytesPerS => "GB/s",
            Self::ElapsedS => "s",
            Self::LatencyP50S => "p50 ms",
            Self::LatencyP99S => "p99 ms",
            Self::CpuPart => "CPU",
            Self::CpuS => "CPU s",
            Self::CpuSPerGb => "CPU s/GB",
            Self::SenderCpuSPerGb => "sender's CPU s/GB",
            Self::ReceiverCpuSPerGb => "receiver's CPU s/GB",
            Self::OriginRequests => "origin requests",
            Self::OriginBytes => "origin MB",
            Self::LongestPollP99S => "longest poll ms, p99 ≤",
            Self::OwnBytes => "own MiB",
            Self::OwnAndPageTablesBytes => "own and page tables MiB",
            Self::MappedBytes => "mapped MiB",
            Self::PageTablesBytes => "page tables MiB",
            Self::HitPart => "hits %",
        }
    }

    /// In the unit of the title.
    pub(crate) fn shown(self, value: f64) -> String {
        let mib = f64::from(1 << 20);
        match self {
            Self::AnswersPerS | Self::OriginRequests => digits(value),
            Self::BytesPerS => digits(value / 1e9),
            Self::LatencyP50S | Self::LatencyP99S | Self::LongestPollP99S => digits(value * 1e3),
            Self::CpuPart if value < 0.1 => format!("{:.1} %", value * 1e2),
            Self::CpuPart => format!("{:.0} %", value * 1e2),
            Self::HitPart => format!("{:.2}", value * 1e2),
            Self::ElapsedS
            | Self::CpuS
            | Self::CpuSPerGb
            | Self::SenderCpuSPerGb
            | Self::ReceiverCpuSPerGb => digits(value),
            Self::OriginBytes => digits(value / 1e6),
            Self::OwnBytes | Self::OwnAndPageTablesBytes | Self::MappedBytes | Self::PageTablesBytes => {
                format!("{:.1}", value / mib)
            }
        }
    }

    /// Whether more is better.
    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Self::AnswersPerS | Self::BytesPerS | Self::HitPart)
    }
}

/// Three digits that mean something.
pub(crate) fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        99.95.. => 0,
        9.995.. => 1,
        0.9995.. => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}
