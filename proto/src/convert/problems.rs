//! What is wrong with a request: all of it where that is cheap, each with the path of its field.

use rollcall_core::name::{Invalid, shown};
use std::fmt;

/// Why a message was refused: fields that are wrong, at least one, at most 16.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub Vec<Invalid>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, invalid) in self.0.iter().enumerate() {
            let gap = if i == 0 { "" } else { "; " };
            write!(f, "{gap}{invalid}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

impl From<Invalid> for Refused {
    fn from(invalid: Invalid) -> Self {
        Self(vec![invalid])
    }
}

/// Collects what is wrong while a request is taken apart.
#[derive(Debug, Default)]
pub(super) struct Problems {
    invalid: Vec<Invalid>,
}

impl Problems {
    const MOST: usize = 16;

    /// Notes a problem.
    pub(super) fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.invalid.push(Invalid::new(field, problem));
    }

    /// The value, or nothing and a note.
    pub(super) fn take<T>(&mut self, result: Result<T, Invalid>) -> Option<T> {
        result.map_err(|invalid| self.invalid.push(invalid)).ok()
    }

    /// A field that must be there.
    pub(super) fn need<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.add(field, "is required");
        }
        value
    }

    /// Takes apart what stands in the field `outer`.
    pub(super) fn within<T>(
        &mut self,
        outer: impl Fn() -> String,
        inner: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let before = self.invalid.len();
        let value = inner(self);
        for found in self.invalid.iter_mut().skip(before) {
            let outer = outer();
            found.field =
                if found.field.is_empty() { outer } else { format!("{outer}.{}", found.field) };
        }
        value
    }

    /// Takes apart each element of the list `field`; gives up when enough is wrong.
    pub(super) fn each<T, U>(
        &mut self,
        field: &str,
        list: Vec<T>,
        mut one: impl FnMut(&mut Self, T) -> Option<U>,
    ) -> Option<Vec<U>> {
        let mut all = Vec::with_capacity(list.len());
        let mut whole = true;
        for (i, item) in list.into_iter().enumerate() {
            match self.within(|| format!("{field}[{i}]"), |problems| one(problems, item)) {
                Some(item) => all.push(item),
                None => whole = false,
            }
            if self.invalid.len() >= Self::MOST {
                return None;
            }
        }
        whole.then_some(all)
    }

    /// Whether the count of a list is within its bounds.
    pub(super) fn count(
        &mut self,
        field: &str,
        count: usize,
        min: usize,
        max: usize,
    ) -> Option<()> {
        if (min..=max).contains(&count) {
            return Some(());
        }
        self.add(field, format!("{count} given, {min} to {max} are allowed"));
        None
    }

    /// A number of 16 bits.
    pub(super) fn u16(&mut self, field: &str, value: u32) -> Option<u16> {
        let small = u16::try_from(value).ok();
        if small.is_none() {
            self.add(field, format!("{value}: 0 to 65535 are allowed"));
        }
        small
    }

    /// A known value of an enumeration.
    pub(super) fn known<E: TryFrom<i32>>(&mut self, field: &str, value: i32) -> Option<E> {
        let known = E::try_from(value).ok();
        if known.is_none() {
            self.add(field, format!("{value} is not a known value"));
        }
        known
    }

    /// A duration; unset is fine.
    #[expect(
        clippy::option_option,
        reason = "the outer one tells of a refusal, as everywhere here"
    )]
    pub(super) fn duration(
        &mut self,
        field: &str,
        value: Option<prost_types::Duration>,
    ) -> Option<Option<std::time::Duration>> {
        let Some(value) = value else { return Some(None) };
        let parts = (u64::try_from(value.seconds), u32::try_from(value.nanos));
        if let (Ok(seconds), Ok(nanos)) = parts
            && nanos < 1_000_000_000
        {
            return Some(Some(std::time::Duration::new(seconds, nanos)));
        }
        self.add(
            field,
            format!(
                "{}s and {}ns: neither may be negative, and nanos are below 1000000000",
                value.seconds, value.nanos
            ),
        );
        None
    }

    /// A value that must not be longer than `max` bytes of the alphabet of names, folded to lower case.
    pub(super) fn prefix(&mut self, field: &str, text: &str) -> Option<String> {
        let max = rollcall_core::name::Label::MAX;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if text.len() > max || !text.bytes().all(allowed) {
            let problem =
                format!("{}: 0 to {max} letters, digits and hyphens are allowed", shown(text));
            self.add(field, problem);
            return None;
        }
        Some(text.to_ascii_lowercase())
    }

    /// The value, if nothing was wrong.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, Refused> {
        match value {
            Some(value) if self.invalid.is_empty() => Ok(value),
            _ if !self.invalid.is_empty() => {
                self.invalid.truncate(Self::MOST);
                Err(Refused(self.invalid))
            }
            // Nothing is refused without a note; should it be, the caller must not take it for accepted.
            _ => Err(Invalid::new("request", "was refused without a reason").into()),
        }
    }
}
