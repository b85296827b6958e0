//! Errors of watches: what is told of them, and what helps.

use kube_runtime::watcher;

use crate::runtime::client::explain_watch;

/// What one source of a watch says when it fails.
#[derive(Debug)]
pub(super) struct Trouble {
    kind: &'static str,
    /// Its namespace, where that may be deleted while Waxwing works for others.
    namespace: Option<String>,
    /// That it was refused has been told.
    told: bool,
}

impl Trouble {
    pub(super) fn new(kind: &'static str, namespace: Option<String>) -> Self {
        Self { kind, namespace, told: false }
    }

    /// The source has been read.
    pub(super) fn is_over(&mut self) {
        self.told = false;
    }

    /// Tells of an error. True if there may be nothing to read: with a namespace its rights go, so that a deleted one
    /// is refused like one without rights (a list of one that isn't there is empty, never a 404).
    pub(super) fn tell(&mut self, error: &watcher::Error) -> bool {
        let kind = self.kind;
        if let (Some(403), Some(namespace)) = (code(error), &self.namespace) {
            // It may be so for ever.
            if !std::mem::replace(&mut self.told, true) {
                tracing::warn!(
                    kind,
                    namespace,
                    error = explain_watch(error),
                    "Waxwing may not read these, and takes the namespace for empty unless it has read it before: take \
                     it from watch.namespaces (--watch-namespaces) if it is gone, else create it and its rights, which \
                     the chart sets up"
                );
            }
            return true;
        }
        // The stream waits before it tries again, and goes on where it was if it can.
        match advice(error) {
            Advice::None => {
                tracing::warn!(kind, error = explain_watch(error), "the watch was interrupted; trying again");
            }
            Advice::ReadAgain => tracing::debug!(kind, "the watch fell behind; reading all again"),
            Advice::Say(advice) => {
                let error = explain_watch(error);
                tracing::warn!(kind, error, "the watch was refused; trying again; {advice}");
            }
        }
        false
    }
}

enum Advice {
    None,
    ReadAgain,
    Say(&'static str),
}

/// What helps against an error.
fn advice(error: &watcher::Error) -> Advice {
    match code(error) {
        Some(403) => Advice::Say("check Waxwing's RBAC, which the chart and deploy/rbac.yaml set up"),
        Some(404) => Advice::Say("install the CustomResourceDefinitions: waxwing crds | kubectl apply -f -"),
        Some(410) => Advice::ReadAgain,
        _ => Advice::None,
    }
}

/// The code of the API server's answer.
fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refused(code: u16) -> watcher::Error {
        watcher::Error::InitialListFailed(kube::Error::Api(Status::failure("no", "").with_code(code).boxed()))
    }

    #[test]
    fn only_a_namespace_that_may_be_gone_is_taken_for_empty() {
        let mut one_of_some = Trouble::new("Certificates", Some("shop".to_owned()));
        assert!(one_of_some.tell(&refused(403)));
        assert!(one_of_some.told);
        assert!(one_of_some.tell(&refused(403)));
        one_of_some.is_over();
        assert!(!one_of_some.told);
        // Without the kind's definition nothing can be read anywhere.
        assert!(!one_of_some.tell(&refused(404)));
        assert!(!one_of_some.tell(&watcher::Error::NoResourceVersion));
        assert!(!Trouble::new("Certificates", None).tell(&refused(403)));
    }
}
