//! Why a host has lost a session.

use std::fmt;

/// What ended it. Shown to people as a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The guest answered a Ping of the session with another one, so it does not know it: its agent, or
    /// the guest, was restarted or put back to a snapshot.
    Forgotten,
    /// The guest ended it, and gave this reason.
    Ended(String),
    /// This side did: the stream was damaged, the connection is gone, or no answer came.
    Broken(&'static str),
}

impl Loss {
    /// It can come of a side that was put back, and hardly of anything else while the agent lives.
    pub fn may_be_revert(&self) -> bool {
        match self {
            Self::Forgotten => true,
            Self::Ended(why) => why == JOINED,
            Self::Broken(why) => *why == JOINED,
        }
    }

    /// The agent said that it was about to end.
    pub fn is_goodbye(&self) -> bool {
        matches!(self, Self::Ended(why) if why == GOODBYE)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Forgotten => f.write_str(
                "the guest opened another session: its agent or the guest was restarted, or put back",
            ),
            Self::Ended(why) => write!(f, "the guest ended the session: {why}"),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

/// What either side says when the number in a seal was not the next one. Nothing on the way loses or repeats
/// a frame, so one side was put back to a snapshot.
pub const JOINED: &str = "frames were lost, repeated or joined";

/// What an agent says in `SessionEnded` when it is about to end.
pub const GOODBYE: &str = "the agent is stopping";
