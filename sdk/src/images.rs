//! Registering an image: a header, its bytes as they are read, and an end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll};

use stint_protocol::v1::register_image_request::Part;
use stint_protocol::v1::{Image, ImageEnd, ImageHeader, RegisterImageRequest};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_stream::Stream;
use tonic::Request;

use crate::client::Client;
use crate::error::Error;
use crate::limits;

const OPERATION: &str = "register the image";

/// Bytes to send.
pub type Source = Pin<Box<dyn AsyncRead + Send>>;

impl Client {
    /// Lists an image under a name. `open` gives its bytes from their beginning, once a try; none when they cannot be
    /// given again, which ends the tries. For a Docker reference they are empty. `sent` is told of bytes as they go.
    pub async fn register_image<O, F>(
        &self,
        header: ImageHeader,
        open: O,
        sent: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<Image, Error>
    where
        O: Fn() -> F,
        F: Future<Output = std::io::Result<Option<Source>>>,
    {
        let mut operation = self.operation(OPERATION);
        operation.try_timeout = limits::UPLOAD_TIMEOUT;
        operation.call_timeout = limits::UPLOAD_TIMEOUT;
        let failure: Arc<Mutex<Option<std::io::Error>>> = Arc::default();
        let note = |error| {
            *failure.lock().unwrap_or_else(|e| e.into_inner()) = Some(error);
            tonic::Status::cancelled("the bytes cannot be read")
        };
        let send = |mut stub: crate::call::Stub, request: Request<ImageHeader>| {
            let (opened, failure, sent) = (open(), failure.clone(), sent.clone());
            async move {
                let source = opened.await.map_err(note)?;
                let again = "the bytes cannot be sent again";
                let source = source.ok_or_else(|| tonic::Status::aborted(again))?;
                let (metadata, extensions, header) = request.into_parts();
                let parts = Parts::new(header, source, failure, sent);
                stub.register_image(Request::from_parts(metadata, extensions, parts)).await
            }
        };
        let result = self.peers.call(operation, header, send).await;
        match failure.lock().unwrap_or_else(|e| e.into_inner()).take() {
            Some(source) => Err(Error::Source(source)),
            None => result,
        }
    }
}

/// The messages of one try.
struct Parts {
    header: Option<ImageHeader>,
    source: Option<Source>,
    buffer: Vec<u8>,
    failure: Arc<Mutex<Option<std::io::Error>>>,
    sent: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Parts {
    fn new(
        header: ImageHeader,
        source: Source,
        failure: Arc<Mutex<Option<std::io::Error>>>,
        sent: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Self {
        let buffer = vec![0; limits::UPLOAD_PART_BYTES];
        Self { header: Some(header), source: Some(source), buffer, failure, sent }
    }

    /// Fills the buffer as far as the source gives bytes at once; how many.
    fn fill(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let Some(source) = &mut self.source else { return Poll::Ready(Ok(0)) };
        let mut filled = ReadBuf::new(&mut self.buffer);
        loop {
            let before = filled.filled().len();
            match source.as_mut().poll_read(context, &mut filled) {
                Poll::Pending if before == 0 => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if filled.filled().len() > before && filled.remaining() > 0 => {}
                Poll::Ready(Ok(())) | Poll::Pending => return Poll::Ready(Ok(filled.filled().len())),
            }
        }
    }
}

fn message(part: Part) -> Option<RegisterImageRequest> {
    Some(RegisterImageRequest { part: Some(part) })
}

impl Stream for Parts {
    type Item = RegisterImageRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(header) = self.header.take() {
            return Poll::Ready(message(Part::Header(header)));
        }
        if self.source.is_none() {
            return Poll::Ready(None);
        }
        match self.fill(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => {
                self.source = None;
                Poll::Ready(message(Part::End(ImageEnd {})))
            }
            Poll::Ready(Ok(count)) => {
                (self.sent)(count as u64);
                let chunk = bytes::Bytes::copy_from_slice(&self.buffer[..count]);
                Poll::Ready(message(Part::Chunk(chunk)))
            }
            Poll::Ready(Err(error)) => {
                // Without its end the peer registers nothing.
                *self.failure.lock().unwrap_or_else(|e| e.into_inner()) = Some(error);
                self.source = None;
                Poll::Ready(None)
            }
        }
    }
}
