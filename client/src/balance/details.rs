//! Removes from answers what tonic cannot read without a panic: `grpc-status-details-bin` that is no base64
//! (tonic 0.14.9, `Status::from_header_map`). An answer of a stranger must not end a task of ours.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;

const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Removes the details where they cannot be decoded; code and message stay.
pub(crate) fn sanitize(headers: &mut HeaderMap) {
    // tonic decodes the first value only; a second one would be no better.
    let broken = headers.get(DETAILS).is_some_and(|value| decode(value).is_none());
    if broken {
        headers.remove(DETAILS);
        tracing::debug!("dropped status details that are not base64");
    }
}

/// Decodes a binary header as tonic does.
pub(super) fn decode(value: &HeaderValue) -> Option<Bytes> {
    let alone = HeaderMap::from_iter([(DETAILS, value.clone())]);
    MetadataMap::from_headers(alone).get_bin(DETAILS.as_str())?.to_bytes().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    fn headers(details: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        headers.insert("grpc-message", HeaderValue::from_static("gone"));
        headers.insert(DETAILS, HeaderValue::from_bytes(details).unwrap());
        headers
    }

    #[test]
    fn details_that_would_panic_are_removed_and_the_rest_is_read() {
        for broken in [&b"!!!"[..], b"a", b"Zm9v====", b"\xff\xfe", b"Zm9v,Zm9v", b"Zm 9v"] {
            let mut headers = headers(broken);
            sanitize(&mut headers);
            let status = Status::from_header_map(&headers).unwrap();
            assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "gone"));
            assert!(status.details().is_empty());
        }
    }

    #[test]
    fn details_that_can_be_read_stay() {
        for (text, bytes) in [(&b"Zm9v"[..], &b"foo"[..]), (b"Zm8=", b"fo"), (b"Zm8", b"fo")] {
            let mut headers = headers(text);
            sanitize(&mut headers);
            assert_eq!(Status::from_header_map(&headers).unwrap().details(), bytes);
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            failure_persistence: None,
            ..proptest::test_runner::Config::default()
        })]

        #[test]
        fn no_details_panic(details in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            if HeaderValue::from_bytes(&details).is_ok() {
                let mut headers = headers(&details);
                sanitize(&mut headers);
                proptest::prop_assert!(Status::from_header_map(&headers).is_some());
            }
        }
    }
}
