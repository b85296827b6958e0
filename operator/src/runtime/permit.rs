//! A condition under which a request may be sent, asked again at the last moment.
//!
//! Between a caller's own check and the socket lies the wait for a connection. A process that is stopped there wakes
//! up to a world in which the check may no longer hold; so the request's body asks once more when it is written.
//! The API server doesn't act on a request whose body it hasn't got.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::http::Request;
use hyper::body::{Body, Frame, SizeHint};
use thiserror::Error;
use tower::BoxError;

/// The condition. A request carries it among its extensions.
#[derive(Clone)]
pub struct Permit(Arc<dyn Fn() -> bool + Send + Sync>);

/// A request that was broken off because its [`Permit`] no longer held.
#[derive(Debug, Error)]
#[error("the request was broken off before it was sent: what it was based on no longer holds")]
pub struct NotPermitted;

impl Permit {
    /// Holds while `holds` says so.
    pub fn new(holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(holds))
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({})", (self.0)())
    }
}

/// Makes a request's body ask its permit, if it has one.
pub fn guard<B>(request: Request<B>) -> Request<Guarded<B>> {
    let permit = request.extensions().get::<Permit>().cloned();
    request.map(|body| Guarded { body, permit })
}

/// A body that breaks off when its permit no longer holds.
#[derive(Debug)]
pub struct Guarded<B> {
    body: B,
    permit: Option<Permit>,
}

impl<B> Body for Guarded<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        if self.permit.as_ref().is_some_and(|Permit(holds)| !holds()) {
            return Poll::Ready(Some(Err(NotPermitted.into())));
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::body::{Body as AnyBody, to_bytes};

    use super::*;

    #[tokio::test]
    async fn a_body_is_sent_only_while_its_permit_holds() {
        let holds = Arc::new(AtomicBool::new(true));
        let request = || {
            let holds = Arc::clone(&holds);
            let mut request = Request::new(AnyBody::from("patch"));
            request.extensions_mut().insert(Permit::new(move || holds.load(Ordering::Relaxed)));
            guard(request)
        };
        let read = |request: Request<Guarded<AnyBody>>| to_bytes(AnyBody::new(request.into_body()), 64);
        let (early, late) = (request(), request());
        assert_eq!(read(early).await.unwrap(), "patch");
        holds.store(false, Ordering::Relaxed);
        assert!(read(late).await.unwrap_err().to_string().contains("broken off"));
        assert_eq!(read(guard(Request::new(AnyBody::from("get")))).await.unwrap(), "get");
    }
}
