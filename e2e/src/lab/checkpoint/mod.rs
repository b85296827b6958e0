//! A checkpoint that everything passes which one Waxwing asks of the API server and of the CA: it counts the requests,
//! and kills Waxwing at a chosen one.
//!
//! Both servers are reached through a [`relay`] each; the [`tally`] is common to both.

mod asked;
mod relay;
mod tally;

use std::sync::Arc;

pub use tally::{Moment, Point, Run};

use self::{
    asked::Asked,
    relay::{Relay, Upstream},
    tally::Tally,
};
use super::{API_URL, StepCa};
use crate::{Error, pki::Authority};

/// The ways of one Waxwing to its servers. It belongs to the runtime that it was made in.
#[derive(Debug)]
pub struct Checkpoint {
    tally: Arc<Tally>,
    api: Relay,
    ca: Relay,
}

impl Checkpoint {
    /// Opens it for a Waxwing whose own namespace this is.
    pub(super) async fn open(authority: &Authority, own_namespace: &str) -> Result<Self, Error> {
        let tally = Arc::new(Tally::default());
        let own = own_namespace.to_owned();
        let api_server = Upstream {
            base: API_URL.to_owned(),
            asked: Box::new(move |method, uri| asked::api_server(method, uri, &own)),
        };
        let ca = Upstream {
            base: StepCa::URL.to_owned(),
            asked: Box::new(|method, uri| Asked::Once(asked::ca(method, uri))),
        };
        Ok(Self {
            api: Relay::start(api_server, Arc::clone(&tally), authority).await?,
            ca: Relay::start(ca, Arc::clone(&tally), authority).await?,
            tally,
        })
    }

    /// Where the API server is asked.
    pub fn api_url(&self) -> String {
        self.api.url()
    }

    /// The directory of the CA. All URLs that the CA makes lead through here too.
    pub fn ca_directory(&self) -> String {
        self.ca.url() + StepCa::DIRECTORY_PATH
    }

    /// Begins to count. At `point`, if there is one, `kill` is called: it must have killed Waxwing when it returns.
    pub fn begin(&self, point: Option<Point>, kill: impl FnOnce() + Send + 'static) {
        self.tally.begin(point, Box::new(kill));
    }

    /// Returns when Waxwing has been killed.
    pub async fn killed(&self) {
        self.tally.struck().await;
    }

    /// Ends the count; nobody is killed any more.
    pub fn end(&self) -> Run {
        self.tally.end()
    }

    /// Waits until nothing has been asked for a while, watches and leases aside.
    pub async fn quiet(&self) -> Result<(), Error> {
        self.tally.quiet().await
    }
}
