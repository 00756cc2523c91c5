//! A tonic codec whose replies are bytes already: encoded once and shared between callers.

use bytes::{BufMut, Bytes};
use prost::Message;
use std::marker::PhantomData;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// A reply in two parts that are sent one after the other: protobuf messages concatenate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// What is made for this call.
    pub own: Bytes,
    /// What is shared with other callers.
    pub shared: Bytes,
}

impl Encoded {
    /// A reply that nobody shares.
    pub fn of<M: Message>(message: &M) -> Self {
        Self { own: message.encode_to_vec().into(), shared: Bytes::new() }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.own.len() + self.shared.len()
    }

    /// Whether it is the empty message.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Encoded {
    fn from(shared: Bytes) -> Self {
        Self { own: Bytes::new(), shared }
    }
}

/// Decodes requests of type `Q`, sends [`Encoded`] replies.
#[derive(Debug)]
pub struct EncodedCodec<Q> {
    buffer: usize,
    request: PhantomData<fn() -> Q>,
}

impl<Q> EncodedCodec<Q> {
    /// For calls with one reply.
    pub fn unary() -> Self {
        Self { buffer: 4 * 1024, request: PhantomData }
    }

    /// For streams of small messages: a small buffer each, thousands of streams.
    pub fn streaming() -> Self {
        Self { buffer: 512, request: PhantomData }
    }
}

impl<Q: Message + Default + 'static> Codec for EncodedCodec<Q> {
    type Encode = Encoded;
    type Decode = Q;
    type Encoder = EncodedEncoder;
    type Decoder = RequestDecoder<Q>;

    fn encoder(&mut self) -> EncodedEncoder {
        EncodedEncoder { buffer: self.buffer }
    }

    fn decoder(&mut self) -> RequestDecoder<Q> {
        RequestDecoder(PhantomData)
    }
}

/// Copies the bytes.
#[derive(Debug)]
pub struct EncodedEncoder {
    buffer: usize,
}

impl Encoder for EncodedEncoder {
    type Item = Encoded;
    type Error = Status;

    fn encode(&mut self, item: Encoded, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(item.len());
        buf.put(item.own);
        buf.put(item.shared);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(self.buffer, 32 * 1024)
    }
}

/// Decodes with prost.
#[derive(Debug)]
pub struct RequestDecoder<Q>(PhantomData<fn() -> Q>);

impl<Q: Message + Default> Decoder for RequestDecoder<Q> {
    type Item = Q;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Q>, Status> {
        let decoded = Q::decode(buf).map_err(|error| {
            Status::invalid_argument(format!("the request is malformed: {error}"))
        })?;
        Ok(Some(decoded))
    }
}
