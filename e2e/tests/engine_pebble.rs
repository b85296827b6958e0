//! The engine alone, without Waxwing or Kubernetes, against real CAs: Pebble and step-ca.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod engine;

use std::path::{Path, PathBuf};

use e2e::{
    lab::{Lab, Parts, PebbleOptions},
    paths,
    sandbox::SILENT_ADDRESS,
};
use engine::{account, journal, request, run};
use tokio::{process::Command, sync::OnceCell, task::JoinSet};
use waxwing_acme::{Journal as _, KeyAlgorithm, Problem, Request, Retry, diagnose};

/// Where the example answers, beside this test's own edge.
const EXAMPLE_ADDRESS: &str = "127.0.0.9";

/// A Pebble that makes trouble: every second nonce is refused, and there is an alternate chain.
async fn shared() -> &'static Lab {
    static LAB: OnceCell<Lab> = OnceCell::const_new();
    let pebble = PebbleOptions { bad_nonces: 50, alternate_roots: 1, ..PebbleOptions::default() };
    let parts = Parts { pebble: Some(pebble), step_ca: true, ..Parts::default() };
    LAB.get_or_init(|| async { Lab::start("engine", parts).await.expect("the lab comes up") }).await
}

#[tokio::test]
async fn each_ca_issues_for_several_names() {
    let lab = shared().await;
    for (name, url) in
        [("pebble", lab.pebble().unwrap().directory()), ("step-ca", lab.step_ca().unwrap().directory())]
    {
        let account = account(lab, &url).await;
        let names = [format!("a.{name}.example.test"), format!("b.{name}.example.test")];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let journal = journal(name);
        let issued = run(&account, &request(&names), &journal).await.unwrap();
        assert_eq!(issued.leaf.dns_names, names, "{name}");
        let again = run(&account, &request(&names), &journal).await.unwrap();
        assert_eq!(issued.chain_pem, again.chain_pem, "{name}: what was not stored is downloaded again");
        journal.clear().await.unwrap();
        assert!(account.is_valid().await.unwrap(), "{name}");
    }
}

#[tokio::test]
async fn every_key_algorithm_is_signed() {
    let lab = shared().await;
    let account = account(lab, &lab.pebble().unwrap().directory()).await;
    // Pebble signs no Ed25519.
    for key in KeyAlgorithm::ALL.into_iter().filter(|key| *key != KeyAlgorithm::Ed25519) {
        let request = Request { key, ..request(&["keys.example.test"]) };
        let journal = journal(key.name());
        run(&account, &request, &journal).await.unwrap_or_else(|error| panic!("{key}: {error}"));
    }
}

#[tokio::test]
async fn profiles_alternate_chains_and_replacement() {
    let lab = shared().await;
    let pebble = lab.pebble().unwrap();
    let account = account(lab, &pebble.directory()).await;
    assert!(account.directory().meta().profiles.contains_key("shortlived"));
    let journal = journal("profile");
    let plain = run(&account, &request(&["profile.example.test"]), &journal).await.unwrap();
    journal.clear().await.unwrap();

    let other_root = common_name(&pebble.root(1).await.unwrap());
    let wishes = Request {
        profile: Some("shortlived".into()),
        preferred_chain: Some(other_root.clone()),
        replaces: plain.leaf.ari_id.clone(),
        ..request(&["profile.example.test"])
    };
    let issued = run(&account, &wishes, &journal).await.unwrap();
    let days = issued.leaf.not_after.duration_since(issued.leaf.not_before).as_hours() / 24;
    assert!(days <= 6, "{days} days");
    assert!(journal.load().await.unwrap().unwrap().replaces.is_some());
    assert_eq!(topmost_issuer(&issued.chain_pem), other_root);
    journal.clear().await.unwrap();

    // Pebble says alreadyReplaced; the certificate comes all the same.
    run(&account, &wishes, &journal).await.unwrap();
    assert!(journal.load().await.unwrap().unwrap().replaces.is_none());

    let made_up = Request { profile: Some("made-up".into()), ..request(&["profile.example.test"]) };
    let error = run(&account, &made_up, &engine::journal("made-up")).await.unwrap_err();
    assert_eq!(error.problem().map(Problem::acme_type), Some("invalidProfile"), "{error}");
    assert_eq!(error.class().retry, Retry::AfterChange);
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_explains_itself() {
    let lab = shared().await;
    let account = account(lab, &lab.pebble().unwrap().directory()).await;
    lab.dns().set("refused.example.test", &[SILENT_ADDRESS.parse().unwrap()]).await.unwrap();
    lab.dns().set("nowhere.example.test", &[]).await.unwrap();
    for (name, expected) in [
        ("refused.example.test", format!("refused.example.test resolves to {SILENT_ADDRESS}; port 80 of")),
        ("nowhere.example.test", "nowhere.example.test: the name has no A or AAAA record".to_owned()),
    ] {
        let journal = journal(name);
        let error = run(&account, &request(&[name]), &journal).await.unwrap_err();
        assert_eq!(error.identifier().map(ToString::to_string).as_deref(), Some(name), "{error}");
        let said = diagnose(&error, &error.evidence);
        assert!(said.cause.contains(&expected), "{said}");
        assert!(journal.load().await.unwrap().is_none(), "nothing to go on with");
    }
    let blocked = run(&account, &request(&["www.blocked.test"]), &journal("blocked")).await.unwrap_err();
    assert_eq!(blocked.problem().map(Problem::acme_type), Some("rejectedIdentifier"), "{blocked}");
}

#[tokio::test]
async fn two_hundred_at_once_all_end() {
    let lab = shared().await;
    let account = account(lab, &lab.step_ca().unwrap().directory()).await;
    let mut all = JoinSet::new();
    for index in 0..200 {
        let account = account.clone();
        all.spawn(async move {
            let name = format!("n{index}.load.example.test");
            let journal = journal(&name);
            // step-ca answers serverInternal to a few percent of a load: the order stays, and is gone on with.
            for _ in 0..5 {
                match run(&account, &request(&[&name]), &journal).await {
                    Ok(issued) => return Ok(issued),
                    Err(error) if error.class().retry == Retry::AfterChange => return Err(error.to_string()),
                    Err(_) => {}
                }
            }
            Err(format!("{name}: still not"))
        });
    }
    let mut issued = 0;
    while let Some(one) = all.join_next().await {
        one.unwrap().unwrap();
        issued += 1;
    }
    assert_eq!(issued, 200);
}

#[tokio::test]
async fn the_example_obtains_a_certificate_without_kubernetes() {
    let lab = shared().await;
    let out = paths::volatile().join("example");
    let bundle = paths::volatile().join("example-roots.pem");
    std::fs::write(&bundle, lab.authority().pem()).unwrap();
    lab.dns().set("example.example.test", &[EXAMPLE_ADDRESS.parse().unwrap()]).await.unwrap();
    let directory = lab.pebble().unwrap().directory();

    let flags = ["--directory", &directory, "--name", "example.example.test", "--address", EXAMPLE_ADDRESS];
    let (ok, said) = example(&out, &flags).await;
    assert!(!ok && said.contains("unknown authority") && said.contains("error: "), "{said}");

    let bundle = ["--ca-bundle", bundle.to_str().unwrap()];
    let (ok, said) = example(&out, &[&flags[..], &bundle[..]].concat()).await;
    assert!(ok && said.contains("created and saved"), "{said}");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let leaf = waxwing_acme::inspect(&read("chain.pem"), &read("key.pem")).unwrap();
    assert_eq!(leaf.dns_names, ["example.example.test"]);
    assert!(!out.join("order.json").exists());
}

/// Runs the engine's example; gives whether it succeeded and all that it said.
async fn example(out: &Path, flags: &[&str]) -> (bool, String) {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    // Cargo's runner would put it into a sandbox of its own.
    let runners =
        std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().ends_with("_RUNNER"));
    let mut command = Command::new(cargo);
    for runner in runners {
        command.env_remove(runner);
    }
    let output = command
        .args([
            "run",
            "--quiet",
            "--locked",
            "--offline",
            "--package",
            "waxwing-acme",
            "--example",
            "obtain",
            "--",
        ])
        .args(flags)
        .arg("--out")
        .arg(out)
        .current_dir(paths::workspace())
        .output()
        .await
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn common_name(pem: &str) -> String {
    let certificates = certificates(pem);
    let (_, parsed) = x509_parser::parse_x509_certificate(certificates.last().unwrap()).unwrap();
    parsed.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
}

fn topmost_issuer(pem: &str) -> String {
    let certificates = certificates(pem);
    let (_, parsed) = x509_parser::parse_x509_certificate(certificates.last().unwrap()).unwrap();
    parsed.issuer().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
}

fn certificates(pem: &str) -> Vec<Vec<u8>> {
    x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()).map(|one| one.unwrap().contents).collect()
}
