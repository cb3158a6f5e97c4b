//! What went wrong, as a canonical code and a message. Only the edges know HTTP numbers.

use std::borrow::Cow;
use std::fmt;

/// The canonical status codes, numbered as gRPC and TensorFlow number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

const CODES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "CANCELLED"),
    (Code::Unknown, "UNKNOWN"),
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

impl Code {
    pub const COUNT: usize = CODES.len();

    /// The code of a number; numbers nobody has assigned are `Unknown`.
    pub fn from_number(number: i32) -> Self {
        usize::try_from(number).ok().and_then(|index| CODES.get(index)).map_or(Self::Unknown, |(code, _)| *code)
    }

    /// The canonical name, such as `INVALID_ARGUMENT`.
    pub fn name(self) -> &'static str {
        CODES[self as usize].1
    }
}

/// A version that is loaded when it is asked for, and is not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asleep {
    pub name: String,
    pub version: i64,
}

/// An error that travels to whoever asked. Never holds [`Code::Ok`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: Cow<'static, str>,
    /// What has to be loaded first; then the same request may succeed.
    pub asleep: Option<Box<Asleep>>,
}

impl Status {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), asleep: None }
    }

    /// Whoever can wait for the version does so; to others it is unavailable.
    pub fn asleep(name: &str, version: i64) -> Self {
        let message = format!("Servable not loaded yet: {{name: {name} version: {version}}}");
        let asleep = Some(Box::new(Asleep { name: name.to_owned(), version }));
        Self { asleep, ..Self::new(Code::Unavailable, message) }
    }

    pub fn invalid_argument(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::NotFound, message)
    }

    pub fn failed_precondition(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::FailedPrecondition, message)
    }

    pub fn resource_exhausted(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::ResourceExhausted, message)
    }

    pub fn unimplemented(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Unimplemented, message)
    }

    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Internal, message)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_at_its_number() {
        for (index, (code, name)) in CODES.iter().enumerate() {
            assert_eq!(*code as usize, index, "{name}");
            assert_eq!(Code::from_number(index as i32), *code);
        }
        assert_eq!(Code::from_number(99), Code::Unknown);
        assert_eq!(Code::from_number(-1), Code::Unknown);
    }
}
