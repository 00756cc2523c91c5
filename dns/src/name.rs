//! A domain name as a query carries it: read once from the wire, folded to lower case, on the stack.
//!
//! Total and without allocation. Compression pointers are refused: a question has nothing before it to point to.

use std::fmt;

/// Longest name in wire form (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 255;
/// Most labels of such a name, the root not counted.
const LABELS_MAX: usize = 127;
const LABEL_MAX: usize = 63;

/// A name in lower case (RFC 4343).
#[derive(Clone)]
pub(crate) struct Name {
    wire: [u8; NAME_MAX],
    len: u8,
    starts: [u8; LABELS_MAX],
    count: u8,
}

impl Name {
    /// Reads the name at the beginning of `bytes`. `None` where it is cut short, too long, or holds a pointer or an
    /// unknown kind of label.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut name = Self { wire: [0; NAME_MAX], len: 0, starts: [0; LABELS_MAX], count: 0 };
        let mut at = 0;
        loop {
            let length = usize::from(*bytes.get(at)?);
            let end = at + 1 + length;
            // One byte of the limit is the root label's.
            if length > LABEL_MAX || end > NAME_MAX - usize::from(length > 0) {
                return None;
            }
            let label = bytes.get(at..end)?;
            name.wire[at..end].copy_from_slice(label);
            name.wire[at + 1..end].make_ascii_lowercase();
            name.len = u8::try_from(end).ok()?;
            if length == 0 {
                return Some(name);
            }
            name.starts[usize::from(name.count)] = u8::try_from(at).ok()?;
            name.count += 1;
            at = end;
        }
    }

    /// The whole name, the root label last.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire[..usize::from(self.len)]
    }

    /// Number of labels, the root not counted.
    pub(crate) fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Where the label begins in [`Name::wire`]; the root label where `index` is the number of labels.
    pub(crate) fn start(&self, index: usize) -> usize {
        if index < self.count() {
            usize::from(self.starts[index])
        } else {
            usize::from(self.len).saturating_sub(1)
        }
    }

    /// The bytes of one label; empty beyond the last.
    pub(crate) fn label(&self, index: usize) -> &[u8] {
        if index >= self.count() {
            return &[];
        }
        let start = self.start(index);
        let length = usize::from(self.wire[start]);
        &self.wire[start + 1..start + 1 + length]
    }

    /// Where it ends with `suffix` (in lower case, on the border of a label): the number of labels before that.
    pub(crate) fn before(&self, suffix: &[u8]) -> Option<usize> {
        let at = self.wire().len().checked_sub(suffix.len())?;
        let index = (0..=self.count()).find(|index| self.start(*index) == at)?;
        (&self.wire()[at..] == suffix).then_some(index)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for index in 0..self.count() {
            write!(f, "{}.", self.label(index).escape_ascii())?;
        }
        Ok(())
    }
}

/// The labels of a name that are still to be read, taken from the right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labels<'a> {
    name: &'a Name,
    left: usize,
}

impl<'a> Labels<'a> {
    /// The first `left` labels of `name`.
    pub(crate) fn new(name: &'a Name, left: usize) -> Self {
        Self { name, left: left.min(name.count()) }
    }

    /// How many are left.
    pub(crate) fn len(&self) -> usize {
        self.left
    }

    /// Whether none is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The next label, without taking it. A label that is not ASCII is no word of ours: it reads as the empty text,
    /// which no label is.
    pub(crate) fn peek(&self) -> Option<&'a str> {
        let index = self.left.checked_sub(1)?;
        let label = self.name.label(index);
        let text = std::str::from_utf8(label).ok().filter(|text| text.is_ascii());
        Some(text.unwrap_or_default())
    }

    /// Takes the next label.
    pub(crate) fn pop(&mut self) -> Option<&'a str> {
        let label = self.peek()?;
        self.left -= 1;
        Some(label)
    }
}

impl<'a> Iterator for Labels<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.pop()
    }
}

#[cfg(test)]
pub(crate) fn wire(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend(label.bytes());
    }
    wire.push(0);
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_folded_and_cut_into_labels() {
        let name = Name::read(&wire("Web.SERVICE.consul")).unwrap();
        assert_eq!(name.wire(), wire("web.service.consul"));
        assert_eq!(name.before(&wire("consul")), Some(2));
        assert_eq!(name.before(&wire("sul")), None);
        assert_eq!(name.before(&wire("")), Some(3));
        let labels: Vec<&str> = Labels::new(&name, 3).collect();
        assert_eq!(labels, ["consul", "service", "web"]);
    }

    #[test]
    fn the_longest_name_is_read_and_one_byte_more_is_not() {
        let label = "a".repeat(63);
        let rest = format!("{label}.{label}.{label}.");
        assert_eq!(
            Name::read(&wire(&format!("{rest}{}", "a".repeat(61)))).unwrap().wire().len(),
            255
        );
        assert!(Name::read(&wire(&format!("{rest}{}", "a".repeat(62)))).is_none());
        assert_eq!(Name::read(&wire(&["a"; 127].join("."))).unwrap().count(), 127);
        assert!(Name::read(&wire(&["a"; 128].join("."))).is_none());
        assert_eq!(Name::read(&[0]).unwrap().count(), 0);
    }

    #[test]
    fn what_is_cut_short_or_points_somewhere_is_no_name() {
        for bytes in
            [&b""[..], b"\x03ab", b"\x01a", b"\xc0\x0c", b"\x01a\xc0\x0c", b"\x40", b"\x80\0"]
        {
            assert!(Name::read(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn a_label_of_any_bytes_is_kept_but_reads_as_no_word() {
        let name = Name::read(b"\x02\xff\0\x03a.b\0").unwrap();
        assert_eq!(name.label(0), b"\xff\0");
        let labels: Vec<&str> = Labels::new(&name, 2).collect();
        assert_eq!(labels, ["a.b", ""]);
    }
}
