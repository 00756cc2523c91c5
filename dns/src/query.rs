//! The message as it came: header and question, read without allocation. Total: any bytes give a result.

use crate::{Answered, DropReason, Outcome, Query};

/// Length of a header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
const REFUSED: u8 = 5;

/// Refuses a query; drops what is none.
pub(crate) fn refuse(query: &Query<'_>, reply: &mut Vec<u8>) -> Outcome {
    let Some(header) = query.bytes.first_chunk::<HEADER>() else {
        return Outcome::Drop(DropReason::Short);
    };
    if header[2] & 0x80 != 0 {
        return Outcome::Drop(DropReason::IsReply);
    }
    reply.extend([header[0], header[1], 0x80 | (header[2] & 0x79), (header[3] & 0x10) | REFUSED]);
    reply.extend([0; 8]);
    Outcome::Reply(Answered { kind: 0, code: REFUSED.into(), truncated: false, slipped: false })
}
