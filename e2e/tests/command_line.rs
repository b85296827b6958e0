//! The verbs for users, by the real program and with no more rights than they need.

use std::{os::unix::fs::symlink, path::Path, process::Output};

use e2e::{
    Error,
    lab::{
        OperatorOptions, Parts, TraefikOptions, User,
        scenario::{Scenario, Stage},
    },
    parts::Part,
};
use serde_json::{Value, json};
use tokio::process::Command;
use waxwing_api::{Certificate, reason};

#[tokio::test]
async fn renew_and_status() -> Result<(), Error> {
    let parts = Parts { step_ca: true, traefik: Some(TraefikOptions::default()), ..Parts::default() };
    let stage = Stage::start("command-line", parts).await?;
    let s = stage.scenario("verbs").await?;
    s.certify("shop", json!({"dnsNames": [s.routed("shop")]})).await?;
    s.ready("shop").await?;
    s.certify("lost", json!({"dnsNames": [s.routed("lost")], "issuerRef": {"name": "misspelt"}})).await?;
    s.stopped("lost", reason::ISSUER_NOT_FOUND).await?;

    renewing_needs_patch_alone(&s).await?;
    a_plugin_of_kubectl(&s).await?;
    by_selector(&s).await?;
    pages(&s).await?;
    Ok(())
}

async fn renewing_needs_patch_alone(s: &Scenario<'_>) -> Result<(), Error> {
    let refused = waxwing(s, User::Tenant, &["renew", "shop"]).await?;
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("forbidden"), "{refused:?}");

    allow(s, &json!([{"apiGroups": ["waxwing.dev"], "resources": ["certificates"], "verbs": ["patch"]}]))
        .await?;
    let asked = waxwing(s, User::Tenant, &["renew", "shop", "absent"]).await?;
    assert!(!asked.status.success(), "one of two");
    let (said, why) = (text(&asked.stdout), text(&asked.stderr));
    assert!(said.contains(&format!("{}/shop: A renewal is asked for", s.namespace())), "{said}");
    let count = "1 of 2 Certificates couldn't be asked to renew";
    assert!(why.contains("\"absent\" not found") && why.contains(count), "{why}");
    revision(s, 2).await
}

/// As `kubectl waxwing`, where it is found on PATH under kubectl's name for it.
async fn a_plugin_of_kubectl(s: &Scenario<'_>) -> Result<(), Error> {
    let bin = s.lab().logs().join("bin");
    std::fs::create_dir_all(&bin).map_err(Error::io(|| "making a directory of programs"))?;
    symlink(OperatorOptions::default().program, bin.join("kubectl-waxwing"))
        .map_err(Error::io(|| "linking kubectl-waxwing"))?;
    let kubectl = Part::Kubernetes.program("kubectl")?;
    let asked = run(s, &kubectl, User::Tenant, &["waxwing", "renew", "shop"], &bin).await?;
    assert!(asked.status.success(), "{asked:?}");
    revision(s, 3).await
}

async fn by_selector(s: &Scenario<'_>) -> Result<(), Error> {
    let none = waxwing(s, User::Admin, &["renew", "-l", "team=nobody"]).await?;
    assert!(!none.status.success() && text(&none.stderr).contains("no such Certificate"), "{none:?}");
    let all = waxwing(s, User::Admin, &["renew", "--all"]).await?;
    let said = text(&all.stdout);
    assert!(said.contains("shop: A renewal is asked for"), "{all:?}");
    assert!(said.contains("lost: It was stopped") && said.contains("IssuerNotFound"), "{said}");
    revision(s, 4).await
}

async fn pages(s: &Scenario<'_>) -> Result<(), Error> {
    s.ready("shop").await?;
    let page = waxwing(s, User::Admin, &["status", "certificate", "shop"]).await?;
    let page_text = text(&page.stdout);
    assert!(page_text.starts_with(&format!("{}/shop  READY  renews in", s.namespace())), "{page:?}");
    for part in ["ClusterIssuer/step-ca: Ready", "shop-tls: of this Certificate", "Event", "Serial"] {
        assert!(page_text.contains(part), "{part}: {page_text}");
    }
    assert!(!page_text.contains('\x1b') && !page_text.contains("PRIVATE"), "{page_text}");

    let page = waxwing(s, User::Admin, &["status", "lost", "-o", "json"]).await?;
    let json: Value = serde_json::from_slice(&page.stdout).map_err(Error::invalid(|| "reading the page"))?;
    assert_eq!(json["ready"], false);
    assert_eq!(json["summary"], "stopped: IssuerNotFound");
    assert_eq!(json["issuer"], "Issuer/misspelt: doesn't exist");
    assert_eq!(json.get("retry"), None, "no attempt has failed");

    // With the Certificate alone, what else there is stays unknown.
    allow(s, &json!([{"apiGroups": ["waxwing.dev"], "resources": ["certificates"], "verbs": ["get"]}]))
        .await?;
    let page = text(&waxwing(s, User::Tenant, &["status", "shop"]).await?.stdout);
    assert!(page.contains("Secret   shop-tls\n") && !page.contains("Event"), "{page}");

    let absent = waxwing(s, User::Admin, &["status", "absent"]).await?;
    assert!(!absent.status.success() && text(&absent.stderr).contains("\"absent\" not found"), "{absent:?}");
    let kind = waxwing(s, User::Admin, &["status", "pod", "shop"]).await?;
    assert!(!kind.status.success() && text(&kind.stderr).contains("write waxwing status certificate"));
    Ok(())
}

/// Lets the tenant do this in the namespace, and nothing else.
async fn allow(s: &Scenario<'_>, rules: &Value) -> Result<(), Error> {
    let api = "rbac.authorization.k8s.io";
    let role = json!({"apiVersion": format!("{api}/v1"), "kind": "Role",
        "metadata": {"name": "tenant"}, "rules": rules});
    let binding = json!({"apiVersion": format!("{api}/v1"), "kind": "RoleBinding",
        "metadata": {"name": "tenant"},
        "roleRef": {"apiGroup": api, "kind": "Role", "name": "tenant"},
        "subjects": [{"apiGroup": api, "kind": "User", "name": User::Tenant.name()}]});
    s.lab().apply(s.namespace(), &role.to_string()).await?;
    s.lab().apply(s.namespace(), &binding.to_string()).await
}

async fn waxwing(s: &Scenario<'_>, user: User, arguments: &[&str]) -> Result<Output, Error> {
    run(s, &OperatorOptions::default().program, user, arguments, s.lab().logs()).await
}

async fn run(
    s: &Scenario<'_>,
    program: &Path,
    user: User,
    arguments: &[&str],
    path: &Path,
) -> Result<Output, Error> {
    Command::new(program)
        .args(arguments)
        .args(["-n", s.namespace()])
        .env("KUBECONFIG", s.lab().kubeconfig(user))
        .env("PATH", path)
        .output()
        .await
        .map_err(Error::io(|| format!("running {}", program.display())))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn revision(s: &Scenario<'_>, revision: i64) -> Result<(), Error> {
    s.until(s.api::<Certificate>(), "shop", |certificate| {
        let found = certificate.and_then(|one| one.status.clone()?.revision);
        if found == Some(revision) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
}
