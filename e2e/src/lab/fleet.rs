//! Several replicas of Waxwing behind one Service, as a Deployment has them: what kubelet and the endpoint
//! controller would do when one comes, goes or dies is done here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use k8s_openapi::{
    ByteString,
    api::{coordination::v1::Lease as LeaseObject, discovery::v1::EndpointSlice},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use rustix::process::Signal;
use serde_json::json;
use waxwing_api::reason;

use super::{
    Lab, Mark, OWN_NAMESPACE, Operator, OperatorOptions, Orders, Traefik, User,
    scenario::{PATIENCE, Scenario},
};
use crate::{
    Error,
    http::{Http, Response},
    probe,
    process::Process,
    sandbox::REPLICA_ADDRESSES,
};

/// The replicas, numbered from 0. Dropping it kills them.
pub struct Fleet<'lab> {
    lab: &'lab Lab,
    name: String,
    replicas: Vec<Operator>,
    serving: Mutex<BTreeSet<usize>>,
    http: Http,
    begun: Mark,
    ca_log: usize,
}

/// Who holds the Lease, and how often that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The number of the replica; `None` while nobody holds it.
    pub holder: Option<usize>,
    /// How often the holder has changed.
    pub transitions: i32,
}

impl<'lab> Fleet<'lab> {
    /// Prepares a replica for each of `environments`, with these variables beside those of its place. None runs yet.
    /// `name` begins the names of their logs and identities.
    pub async fn new(lab: &'lab Lab, name: &str, environments: &[&[(&str, &str)]]) -> Result<Self, Error> {
        let mut replicas = Vec::new();
        for ((number, more), address) in environments.iter().enumerate().zip(REPLICA_ADDRESSES) {
            let own = [
                ("POD_NAME", format!("{name}-{number}")),
                ("WAXWING_RESPONDER_LISTEN", format!("{address}:8089")),
                ("WAXWING_ADMIN_LISTEN", format!("{address}:9402")),
                ("WAXWING_ROUTE_QUIET_PERIOD", "10s".to_owned()),
                ("WAXWING_LOG_FORMAT", "json".to_owned()),
                ("WAXWING_LOG_LEVEL", "debug".to_owned()),
            ];
            let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
            let environment = own.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value));
            let options = OperatorOptions {
                name: format!("{name}-{number}"),
                environment: environment.collect(),
                ..OperatorOptions::default()
            };
            replicas.push(Operator::new(options, &lab.kubeconfig(User::Waxwing), &lab.places)?);
        }
        let server = lab.step_ca()?.directory();
        let issuer = json!({
            "apiVersion": "waxwing.dev/v1",
            "kind": "ClusterIssuer",
            "metadata": {"name": "step-ca"},
            "spec": {"acme": {
                "server": server,
                "privateKeySecretRef": {"name": "step-ca-account"},
                "caBundle": ByteString(lab.authority().pem().as_bytes().to_vec()),
                "solvers": [{"http01": {"ingress": {"ingressClassName": Traefik::CLASS}}}],
            }},
        });
        lab.apply(OWN_NAMESPACE, &issuer.to_string()).await?;
        // That of the fleet before.
        lab.take_lease_away(OWN_NAMESPACE).await?;
        Ok(Self {
            http: Http::new("")?,
            begun: lab.audit().mark()?,
            ca_log: lab.step_ca()?.process().log().len(),
            serving: Mutex::default(),
            lab,
            name: name.to_owned(),
            replicas,
        })
    }

    /// Starts some replicas, waits until they are ready, and sends challenges to them too.
    pub async fn start(&self, numbers: &[usize]) -> Result<(), Error> {
        for number in numbers {
            self.process(*number).start()?;
        }
        for number in numbers {
            self.ready(*number).await?;
        }
        self.serve(|serving| serving.extend(numbers)).await
    }

    /// A place for certificates, once the CA's issuer is ready.
    pub async fn scenario(&self, name: &str) -> Result<Scenario<'_>, Error> {
        let first = self.replicas.first().ok_or_else(|| Error::Invalid {
            what: "a fleet".to_owned(),
            why: "it has no replicas".to_owned(),
        })?;
        let scenario = Scenario::new(self.lab, first, self.lab.namespace(name).await?)?;
        scenario.cluster_issuer_is("step-ca", reason::ACCOUNT_REGISTERED).await?;
        Ok(scenario)
    }

    /// The process of a replica.
    pub fn process(&self, number: usize) -> &Process {
        #[allow(clippy::indexing_slicing)] // a test numbers what it has started
        self.replicas[number].process()
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&self, number: usize) -> Result<(), Error> {
        let url = format!("http://{}:9402/readyz", address(number));
        probe::ready(self.process(number), PATIENCE, || async { self.http.get(&url).await?.ok("readiness") })
            .await
            .map(|_| ())
    }

    /// What a replica answers to a challenge of `host`, asked directly.
    pub async fn challenge(&self, number: usize, host: &str) -> Result<Response, Error> {
        let url = format!("http://{}:8089/.well-known/acme-challenge/some-token", address(number));
        self.http.send(http::Method::GET, &url, &[("host", host)], bytes::Bytes::new()).await
    }

    /// What `waxwing_leader` says of a replica.
    pub async fn leads(&self, number: usize) -> Result<bool, Error> {
        let url = format!("http://{}:9402/metrics", address(number));
        let metrics = self.http.get(&url).await?.ok("metrics")?;
        Ok(metrics.lines().any(|line| line == "waxwing_leader 1"))
    }

    /// Sends no further challenge to a replica, as the endpoint controller does with one that ends or isn't ready.
    pub async fn leave(&self, number: usize) -> Result<(), Error> {
        self.serve(|serving| {
            serving.remove(&number);
        })
        .await
    }

    /// Sends challenges to a replica again.
    pub async fn join(&self, number: usize) -> Result<(), Error> {
        self.serve(|serving| {
            serving.insert(number);
        })
        .await
    }

    /// SIGKILL, and no further challenges.
    pub async fn kill(&self, number: usize) -> Result<(), Error> {
        self.process(number).kill();
        self.leave(number).await
    }

    /// SIGTERM as Kubernetes sends it: at the same time endpoints forget the replica.
    pub async fn terminate(&self, number: usize) -> Result<(), Error> {
        self.process(number).signal(Signal::TERM)?;
        self.leave(number).await
    }

    /// Waits until a replica has ended as it should.
    pub async fn ended(&self, number: usize) -> Result<(), Error> {
        let status = probe::until(&format!("the end of {}", pod(number)), PATIENCE, || async {
            self.process(number).ended().ok_or("it still runs")
        })
        .await?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Invalid { what: pod(number), why: format!("it ended with {status}") })
    }

    /// What the Lease says now.
    pub async fn lease(&self) -> Result<Lease, Error> {
        let api: Api<LeaseObject> = Api::namespaced(self.lab.client(User::Admin)?, OWN_NAMESPACE);
        let lease = api.get_opt("waxwing").await.map_err(Error::kube(|| "reading the Lease"))?;
        let spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
        let holder = spec.holder_identity.as_deref().and_then(|identity| self.number(identity));
        Ok(Lease { holder, transitions: spec.lease_transitions.unwrap_or_default() })
    }

    /// Waits until the Lease has been written so often: longer than its duration, if that is what it takes.
    pub async fn renewed(&self, times: usize) -> Result<(), Error> {
        let mark = self.lab.audit().mark()?;
        probe::until("renewals", PATIENCE, || async {
            let writes = self.lab.audit().writes_since(mark)?;
            let seen = writes.iter().filter(|write| write.resource == "leases" && write.code == 200).count();
            if seen >= times {
                return Ok(());
            }
            Err(Error::Invalid { what: "the Lease".to_owned(), why: format!("renewed {seen} times") })
        })
        .await
    }

    /// Waits until `expected` holds the Lease, or anyone who runs, and says so in its metrics too.
    pub async fn leader(&self, expected: Option<usize>) -> Result<usize, Error> {
        self.leader_that(|holder| expected.is_none_or(|expected| expected == holder)).await
    }

    /// Waits for a leader after `last`, which ends.
    pub async fn leader_after(&self, last: usize) -> Result<usize, Error> {
        self.leader_that(|holder| holder != last).await
    }

    async fn leader_that(&self, is_expected: impl Fn(usize) -> bool) -> Result<usize, Error> {
        probe::until("a leader", PATIENCE, || async {
            let lease = self.lease().await?;
            let waiting = |why: String| Error::Invalid { what: "the Lease".to_owned(), why };
            let holder = lease.holder.ok_or_else(|| waiting("nobody holds it".to_owned()))?;
            if !is_expected(holder) || self.process(holder).id().is_none() {
                return Err(waiting(format!("{} holds it still", pod(holder))));
            }
            if self.leads(holder).await? {
                Ok(holder)
            } else {
                Err(waiting(format!("{} doesn't say so", pod(holder))))
            }
        })
        .await
    }

    /// The orders that the CA has made and finalized since the fleet was made, by DNS name.
    pub fn orders(&self) -> Result<BTreeMap<String, Orders>, Error> {
        Ok(self.lab.step_ca()?.orders(self.ca_log))
    }

    /// Writes that took effect although another replica had taken the Lease before they arrived. Leases themselves and
    /// Events hold no state of certificates.
    pub fn writes_of_deposed(&self) -> Result<Vec<String>, Error> {
        let writes = self.lab.audit().writes_since(self.begun)?;
        let ours = writes
            .iter()
            .filter(|write| write.user == User::Waxwing.name() && (200..300).contains(&write.code));
        // Answered in this order: who renews or takes the Lease holds it from then on.
        let mut holders: Vec<(jiff::Timestamp, &str)> = Vec::new();
        let mut faults = Vec::new();
        for write in ours {
            if write.resource == "leases" {
                holders.push((write.answered, &write.agent));
                continue;
            }
            let holder = holders.iter().rev().find(|(since, _)| *since < write.received);
            let deposed = holder.is_some_and(|(_, holder)| *holder != write.agent);
            if deposed && write.resource != "events" {
                faults.push(format!("{} {} {}/{}", write.agent, write.verb, write.resource, write.name));
            }
        }
        Ok(faults)
    }

    /// The replica with this identity, if it is one of these.
    fn number(&self, identity: &str) -> Option<usize> {
        identity.strip_prefix(&self.name)?.strip_prefix('-')?.split('_').next()?.parse().ok()
    }

    async fn serve(&self, change: impl FnOnce(&mut BTreeSet<usize>)) -> Result<(), Error> {
        let endpoints: Vec<_> = {
            let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut serving);
            let ready = json!({"ready": true});
            serving
                .iter()
                .map(|number| json!({"addresses": [address(*number)], "conditions": ready}))
                .collect()
        };
        let api: Api<EndpointSlice> = Api::namespaced(self.lab.client(User::Admin)?, OWN_NAMESPACE);
        api.patch("waxwing", &PatchParams::default(), &Patch::Merge(json!({"endpoints": endpoints})))
            .await
            .map_err(Error::kube(|| "changing the endpoints of Waxwing's Service"))
            .map(|_| ())
    }
}

fn address(number: usize) -> &'static str {
    REPLICA_ADDRESSES.get(number).copied().unwrap_or_default()
}

fn pod(number: usize) -> String {
    format!("waxwing-{number}")
}
