//! What a target said, for people: one line, printable, bounded.

/// At most `bytes` of `text`; what cannot be printed becomes a dot, and white space one space.
pub(crate) fn printable(text: &[u8], bytes: usize) -> String {
    let mut shown = String::new();
    for c in String::from_utf8_lossy(&text[..text.len().min(bytes)]).chars() {
        let c = match c {
            c if c.is_whitespace() => ' ',
            // Marks that reorder text could make a line of a log read as something else.
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '.',
            c if c.is_control() => '.',
            c => c,
        };
        if c == ' ' && shown.ends_with(' ') {
            continue;
        }
        if shown.len() + c.len_utf8() > bytes {
            break;
        }
        shown.push(c);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_cannot_be_printed_is_replaced() {
        assert_eq!(printable(b"a\x1b[31m\r\n\t b\0", 100), "a.[31m b.");
        assert_eq!(printable("\u{202e}fdp.exe".as_bytes(), 100), ".fdp.exe");
        assert_eq!(printable(b"\xff\xfe", 100), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn it_is_never_longer_than_allowed() {
        assert_eq!(printable(&[b'x'; 5_000], 4_096).len(), 4_096);
        // A replacement has three bytes where the input had one.
        assert!(printable(&[0xff; 4_096], 4_096).len() <= 4_096);
        assert_eq!(printable("aé".as_bytes(), 2), "a\u{fffd}".get(..1).unwrap());
    }
}
