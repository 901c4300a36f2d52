//! What a request can fail with: a stable code for programs, a line for people.

use std::fmt;

use crate::message::agent;

/// The codes of `Error.code`. They never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// No such file, user, VM or process.
    NotFound,
    /// The system refused it.
    Permission,
    /// A deadline passed.
    TimedOut,
    /// More than a bound allows.
    TooLarge,
    /// A queue or table is full; the same request may pass later.
    Busy,
    /// The guest's file systems are frozen.
    Frozen,
    /// The guest's configuration forbids it.
    Policy,
    /// This side does not know the request.
    Unsupported,
    /// The request makes no sense as it stands.
    Invalid,
    /// The asker took it back.
    Cancelled,
    /// The session ended before the answer; what became of the request is unknown.
    Disconnected,
    /// Anything else, most often the system's own error.
    Internal,
}

impl Code {
    const ALL: [(Self, &'static str); 12] = [
        (Self::NotFound, "NOT_FOUND"),
        (Self::Permission, "PERMISSION"),
        (Self::TimedOut, "TIMED_OUT"),
        (Self::TooLarge, "TOO_LARGE"),
        (Self::Busy, "BUSY"),
        (Self::Frozen, "FROZEN"),
        (Self::Policy, "POLICY"),
        (Self::Unsupported, "UNSUPPORTED"),
        (Self::Invalid, "INVALID"),
        (Self::Cancelled, "CANCELLED"),
        (Self::Disconnected, "DISCONNECTED"),
        (Self::Internal, "INTERNAL"),
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(code, _)| *code == self)
            .map_or("INTERNAL", |(_, word)| word)
    }

    /// A word from the wire; an unknown one (from a newer peer) is `Internal`.
    pub fn parse(word: &str) -> Self {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == word)
            .map_or(Self::Internal, |(code, _)| *code)
    }
}

/// Why a request failed. Its `Display` is one line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For programs.
    pub code: Code,
    /// For people: what failed, the system's text, the path, what to do next.
    pub message: String,
}

impl Failure {
    /// A failure with its line for people.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// A failed system call on `subject` (a path, a user's name).
    pub fn system(doing: &str, subject: &str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let code = match error.kind() {
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Code::Permission,
            ErrorKind::TimedOut => Code::TimedOut,
            ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory => Code::Invalid,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Code::TooLarge
            }
            _ => Code::Internal,
        };
        Self::new(code, format!("{doing} {subject}: {}", system_text(error)))
    }

    /// As it goes on the wire.
    pub fn to_wire(&self) -> agent::Error {
        agent::Error {
            severity: agent::Severity::Error.into(),
            code: self.code.as_str().to_owned(),
            message: self.message.clone(),
            details: Default::default(),
        }
    }

    /// As it came from the wire.
    pub fn from_wire(error: &agent::Error) -> Self {
        Self::new(Code::parse(&error.code), error.message.clone())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code.as_str())
    }
}

impl std::error::Error for Failure {}

/// The system's own words for an error, as strerror(3), without Rust's "(os error 2)".
pub fn system_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// [`system_text`] of a file of ours that could not be written.
pub fn write_text(error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::ReadOnlyFilesystem => "; a service's unit may be why (ReadWritePaths=)",
        _ => "",
    };
    system_text(error) + why
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire() {
        for (code, word) in Code::ALL {
            assert_eq!(Code::parse(word), code);
            assert_eq!(code.as_str(), word);
        }
        assert_eq!(Code::parse("FROM_THE_FUTURE"), Code::Internal);
    }

    #[test]
    fn a_failed_call_names_the_path_and_the_systems_words() {
        let error = std::io::Error::from_raw_os_error(2);
        let failure = Failure::system("open", "/no/such", &error);
        assert_eq!(failure.code, Code::NotFound);
        assert_eq!(failure.message, "open /no/such: No such file or directory");
    }
}
