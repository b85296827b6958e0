//! The name service of pods: Services by their cluster names, and everything else as the lab's name
//! server says.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client, api::ListParams};
use tokio::{
    net::UdpSocket,
    sync::{Semaphore, oneshot},
};

use super::DOMAIN;
use crate::{Error, lab::Dns, sandbox::NODE_ADDRESS};

/// Most questions at once.
const QUESTIONS: usize = 64;

/// Longest time for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers change with the cluster.
const LIFE: u32 = 1;

/// The name service: a thread, so that it belongs to no test's runtime. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Names {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Names {
    /// Starts it at port 53 of the node's address. `client` makes a client for its runtime.
    pub(super) fn start(
        client: impl FnOnce() -> Result<Client, Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let failed = || "starting the name service of pods";
        let (stop, stopped) = oneshot::channel();
        let (started, starting) = std::sync::mpsc::sync_channel(1);
        let serve = async move {
            let socket = UdpSocket::bind((NODE_ADDRESS, 53)).await.map_err(Error::io(failed));
            match socket.and_then(|socket| Ok((socket, client()?))) {
                Ok((socket, client)) => {
                    let _ = started.send(Ok(()));
                    tokio::select! {
                        () = serve(Arc::new(socket), client) => {}
                        _ = stopped => {}
                    }
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Error::io(failed))?;
        let thread = std::thread::Builder::new().name("names".to_owned());
        let thread = thread.spawn(move || runtime.block_on(serve)).map_err(Error::io(failed))?;
        starting.recv().map_err(Error::invalid(failed))??;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends with its runtime; a panic in it has been printed.
            let _ = thread.join();
        }
    }
}

async fn serve(socket: Arc<UdpSocket>, client: Client) {
    let room = Arc::new(Semaphore::new(QUESTIONS));
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        // Too many at once: who asked will ask again.
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let question = buffer.get(..length).unwrap_or_default().to_vec();
        let (socket, client) = (Arc::clone(&socket), client.clone());
        tokio::spawn(async move {
            let _permit = permit;
            if let Ok(Some(answer)) = tokio::time::timeout(PATIENCE, answer(&question, &client)).await {
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

/// The answer to a question; none when there is nothing to say, as when a packet was lost.
async fn answer(question: &[u8], client: &Client) -> Option<Vec<u8>> {
    let asked = Message::from_vec(question).ok()?;
    let query = asked.queries.first()?.clone();
    let name = query.name.to_lowercase().to_ascii();
    let Some(own) = below(&name, DOMAIN) else { return forward(question).await };
    let addresses = match own.split('.').collect::<Vec<_>>().as_slice() {
        [service, namespace, "svc"] => addresses(client, namespace, service).await.ok()?,
        // Deeper names are of pods, and shorter ones of nothing.
        _ => None,
    };
    let mut message = asked.into_response();
    message.metadata.authoritative = true;
    message.metadata.recursion_available = true;
    match addresses {
        None => message.metadata.response_code = ResponseCode::NXDomain,
        Some(addresses) if query.query_type == RecordType::A => {
            let record =
                |address| Record::from_rdata(Name::clone(&query.name), LIFE, RData::A(rdata::A(address)));
            message.add_answers(addresses.into_iter().map(record));
        }
        // It exists, and has no other kind of record.
        Some(_) => {}
    }
    message.to_vec().ok()
}

/// The labels of a name that are in front of `domain`.
fn below<'name>(name: &'name str, domain: &str) -> Option<&'name str> {
    let own = name.trim_end_matches('.').strip_suffix(domain)?;
    if own.is_empty() { Some(own) } else { own.strip_suffix('.') }
}

/// The address of a Service, or those of its endpoints when it has none of its own; `None` when there
/// is no such Service.
async fn addresses(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<Vec<Ipv4Addr>>, kube::Error> {
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let Some(service) = services.get_opt(name).await? else { return Ok(None) };
    let own = service.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
    if let Ok(own) = own.parse() {
        return Ok(Some(vec![own]));
    }
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let endpoints = slices
        .list(&of_service)
        .await?
        .items
        .into_iter()
        .flat_map(|slice| slice.endpoints.unwrap_or_default());
    let ready = endpoints.filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    Ok(Some(ready.flat_map(|endpoint| endpoint.addresses).filter_map(|ip| ip.parse().ok()).collect()))
}

/// What the lab's name server answers.
async fn forward(question: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.ok()?;
    socket.connect(Dns::ADDRESS).await.ok()?;
    socket.send(question).await.ok()?;
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).await.ok()?;
    buffer.truncate(length);
    Some(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_cluster_are_told_from_others() {
        assert_eq!(below("web.shop.svc.cluster.local.", DOMAIN), Some("web.shop.svc"));
        assert_eq!(below("cluster.local", DOMAIN), Some(""));
        assert_eq!(below("othercluster.local", DOMAIN), None);
        assert_eq!(below("shop.example.test.", DOMAIN), None);
    }
}
