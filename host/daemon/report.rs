//! The last report of a guest, kept as small as it came: decoded it is four times as big, and there are thousands.

use prost::Message as _;
use quantix::message::agent::Telemetry;
use quantix::time::Time;

/// What a guest reported, and when that came.
#[derive(Debug)]
pub struct Report {
    encoded: Box<[u8]>,
    /// When it came.
    pub at: Time,
}

impl Report {
    /// The report that came at `at`.
    pub fn new(telemetry: &Telemetry, at: Time) -> Self {
        let encoded = telemetry.encode_to_vec().into_boxed_slice();
        Self { encoded, at }
    }

    /// What it said.
    pub fn telemetry(&self) -> Telemetry {
        // It was encoded here.
        Telemetry::decode(&*self.encoded).unwrap_or_default()
    }
}
