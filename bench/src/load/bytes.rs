//! Calls whose answers are received and not taken apart: a measuring caller that did would measure itself.

use crate::outcome::Outcome;
use bytes::Buf;
use http::uri::PathAndQuery;
use prost::Message;
use std::marker::PhantomData;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// Encodes requests, and of answers keeps the size.
#[derive(Debug)]
struct Unread<T>(PhantomData<T>);

impl<T> Default for Unread<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + 'static> Codec for Unread<T> {
    type Encode = T;
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self::default()
    }
    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<T: Message> Encoder for Unread<T> {
    type Item = T;
    type Error = Status;
    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buf).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<T: Message> Decoder for Unread<T> {
    type Item = usize;
    type Error = Status;
    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = buf.remaining();
        buf.advance(length);
        Ok(Some(length))
    }
}

/// One call: the size of its answer in bytes.
pub(crate) async fn unread<T: Message + 'static>(
    channel: &Channel,
    path: &'static str,
    request: T,
) -> Outcome<usize> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let path = PathAndQuery::from_static(path);
    Ok(grpc.unary(Request::new(request), path, Unread::default()).await?.into_inner())
}
