//! How much may be on its way, on each of the connections between a worker, the owner of a guest, and the guest's agent.
//!
//! A connection is shared by all that is asked of a guest, and whoever asks may read slowly. h2 ends a connection on
//! which too many short frames have not been read: half of [`SESSION`] is the budget, and each such frame costs what it
//! is shorter than 256 bytes (h2 0.4.20, `DataFrameBudget::resolve` and `Counts::record_data_frame`). These numbers let
//! all [`STREAMS`] be full of unread output, of which no line is shorter than 60 bytes. That may take some 45 MiB: an owner
//! has 64 MiB beside its guest's memory.

/// Streams that may be open.
pub const STREAMS: u32 = 256;
/// Bytes for one stream. It is small for the sake of the budget, and enough for peers on one host.
pub const STREAM: u32 = 32 * 1024;
/// Bytes for all of them. Payload never comes near it: it is there for the budget.
pub const SESSION: u32 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_are_full_of_unread_lines_stay_within_the_budget() {
        let (line, threshold) = (60, 256);
        let spent = STREAMS * (STREAM / line) * (threshold - line);
        assert!(spent <= SESSION / 2, "{spent}");
    }
}
