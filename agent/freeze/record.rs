//! What is frozen, in a file below /run: for a successor of the agent, should it and its freezer be killed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use prost::Message;
use quantix::message::agent::{FreezeReport, FreezeState};

use crate::telemetry::os;

/// The file. It is written before anything is frozen and after all is thawed, never meanwhile: on an odd
/// system /run is on a disk.
#[derive(Clone, Debug)]
pub struct Record(PathBuf);

/// Bytes of it: a report is smaller than a frame.
const MAX_SIZE: u64 = 256 * 1024;

impl Record {
    /// In the agent's directory for what does not outlive a boot.
    pub fn new(run: &Path) -> Self {
        Self(run.join("freeze"))
    }

    /// Replaces it.
    ///
    /// # Errors
    /// As open(2), write(2) and rename(2).
    pub fn write(&self, report: &FreezeReport) -> io::Result<()> {
        let directory = self.0.parent().unwrap_or(&self.0);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)?;
        let new = self.0.with_extension("new");
        let mut bytes = os::boot_id().into_bytes();
        bytes.push(b'\n');
        bytes.extend(report.encode_to_vec());
        fs::write(&new, bytes)?;
        fs::rename(&new, &self.0)
    }

    /// What it says of this boot.
    pub fn read(&self) -> Option<FreezeReport> {
        let mut bytes = Vec::new();
        File::open(&self.0)
            .ok()?
            .take(MAX_SIZE)
            .read_to_end(&mut bytes)
            .ok()?;
        let report = bytes
            .strip_prefix(os::boot_id().as_bytes())?
            .strip_prefix(b"\n")?;
        FreezeReport::decode(report).ok()
    }

    /// It tells of something that may still be frozen.
    pub fn is_left(report: &FreezeReport) -> bool {
        report.state() != FreezeState::Thawed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_of_this_boot_or_of_none() {
        let directory = std::env::temp_dir().join(format!("qx-record-{}", std::process::id()));
        let record = Record::new(&directory);
        assert_eq!(record.read(), None);
        let report = FreezeReport {
            state: FreezeState::Frozen.into(),
            error: "x".to_owned(),
            ..Default::default()
        };
        record.write(&report).unwrap();
        assert_eq!(record.read(), Some(report));
        let bytes = fs::read(directory.join("freeze")).unwrap();
        let mut of_another = bytes.clone();
        of_another[0] ^= 1;
        for bad in [
            &of_another[..],
            &bytes[..20],
            b"",
            &[&bytes[..], &[0xFF]].concat(),
        ] {
            fs::write(directory.join("freeze"), bad).unwrap();
            assert_eq!(record.read(), None);
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
