//! Lists of a guest that take several answers. A guest may make them up: each answer has to go on behind the one
//! before, and there are so many bytes of one list at most.

use prost::Message;
use quantix::error::{Code, Failure};

use super::Trouble;

/// Bytes of a list: some 200,000 processes, and what no honest guest comes near.
const MOST: usize = 16 * 1024 * 1024;

/// How far a list is.
#[derive(Debug)]
pub struct Pages {
    of: &'static str,
    bytes: usize,
}

impl Pages {
    /// Of these things.
    pub const fn of(of: &'static str) -> Self {
        Self { of, bytes: 0 }
    }

    /// Another answer has come, and there is more. Whether it `goes_on` says where it ended.
    ///
    /// # Errors
    /// INTERNAL: it does not go on. TOO_LARGE: there is no room for more.
    pub fn more(&mut self, page: &impl Message, goes_on: bool) -> Result<(), Trouble> {
        self.count(page.encoded_len(), goes_on)
            .map_err(Trouble::Failed)
    }

    fn count(&mut self, bytes: usize, goes_on: bool) -> Result<(), Failure> {
        self.bytes = self.bytes.saturating_add(bytes);
        let of = self.of;
        if !goes_on {
            let why = format!("the guest's list of {of} does not end");
            return Err(Failure::new(Code::Internal, why));
        }
        if self.bytes > MOST {
            let why = format!(
                "the guest has said 16 MiB of its {of}, and there is more: no more is taken of it"
            );
            return Err(Failure::new(Code::TooLarge, why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_without_an_end_is_given_up() {
        let mut pages = Pages::of("processes");
        assert!(pages.count(MOST, true).is_ok());
        let failure = pages.count(1, true).unwrap_err();
        assert_eq!(failure.code, Code::TooLarge);
        assert!(failure.message.contains("16 MiB of its processes"));
        let failure = Pages::of("users").count(1, false).unwrap_err();
        assert_eq!(failure.message, "the guest's list of users does not end");
    }
}
