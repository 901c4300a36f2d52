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

/// What an agent says in `SessionEnded` when it is about to end.
pub const GOODBYE: &str = "the agent is stopping";
