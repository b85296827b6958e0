//! instant-acme's own flow, through the lab's HTTP client: nothing in it is the engine's.

use std::{future::Future, pin::Pin};

use bytes::Bytes;
use e2e::http::Http;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{
    Account, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, Error, HttpClient, Identifier,
    NewAccount, NewOrder, OrderStatus, RetryPolicy, RevocationReason, RevocationRequest,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use crate::stage::Stage;

struct Client(Http);

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let http = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let headers: Vec<(&str, &str)> =
                parts.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
            let answer = http.send(parts.method, &parts.uri.to_string(), &headers, body).await;
            let answer = answer.map_err(|error| Error::Other(Box::new(error)))?;
            let mut response = Response::new(Full::new(Bytes::from(answer.body)));
            (*response.status_mut(), *response.headers_mut()) = (answer.status, answer.headers);
            Ok(BytesResponse::from(response))
        })
    }
}

/// An issuance from account to certificate, and its revocation.
pub async fn issue_and_revoke(stage: &Stage, name: &str) -> String {
    let client = Box::new(Client(Http::new(stage.authority.pem()).unwrap()));
    let new_account = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
    let (account, _) =
        Account::builder_with_http(client).create(&new_account, stage.ca.directory(), None).await.unwrap();
    let identifiers = [Identifier::Dns(name.to_owned())];
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await.unwrap();
    assert_eq!(order.state().status, OrderStatus::Pending);
    {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.unwrap();
            assert_eq!(authorization.status, AuthorizationStatus::Pending);
            let mut challenge = authorization.challenge(ChallengeType::Http01).unwrap();
            let answer = challenge.key_authorization();
            stage.edge.answer(&challenge.token, answer.as_str());
            challenge.set_ready().await.unwrap();
        }
    }
    assert_eq!(order.poll_ready(&RetryPolicy::default()).await.unwrap(), OrderStatus::Ready);
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::new([name.to_owned()]).unwrap().serialize_request(&key).unwrap();
    order.finalize_csr(csr.der()).await.unwrap();
    let chain = order.poll_certificate(&RetryPolicy::default()).await.unwrap();
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    let request = RevocationRequest { certificate: &leaf, reason: Some(RevocationReason::Superseded) };
    account.revoke(&request).await.unwrap();
    assert!(matches!(account.revoke(&request).await, Err(Error::Api(_))), "once is enough");
    chain
}
