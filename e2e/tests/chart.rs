//! The chart without a cluster: what it renders, what it refuses, and that nothing made from it is stale.
//! `make manifests` writes what these tests compare.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "chart/helm.rs"]
mod helm;
#[path = "chart/renders.rs"]
mod renders;
#[path = "http01/rights.rs"]
mod rights;
#[path = "chart/schemas.rs"]
mod schemas;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    process::Command,
};

use e2e::{Error, lab::OperatorOptions, paths};
use helm::{chart, printed, said};
use renders::{objects, render, render_set, sets, values_of};
use schemas::kubeconform;
use serde_json::{Value, json};

/// What a plain manifest starts with: Helm makes a namespace by a flag instead.
const NAMESPACE: &str = "\
# Rendered from charts/waxwing by `make manifests`, with the chart's defaults.
#   kubectl apply --server-side -f crds/ -f deploy/waxwing.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: waxwing-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
";

const RIGHTS: &str = "\
# Rendered from charts/waxwing by `make manifests`: what Waxwing may do, to be bound to whoever runs it.
";

#[test]
fn lint_finds_nothing() -> Result<(), Error> {
    let mut arguments = vec![Vec::new()];
    arguments.extend(sets().iter().map(|set| vec!["--values".to_owned(), values_of(set)]));
    for arguments in arguments {
        let mut helm = helm::helm()?;
        let output = helm.args(["lint", "--strict", "."]).args(&arguments).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    Ok(())
}

#[test]
fn kubeconform_finds_nothing() -> Result<(), Error> {
    let mut manifests = vec![("defaults".to_owned(), printed(&render("waxwing", "waxwing-system", &[])?))];
    for set in sets() {
        let rendered = printed(&render_set(&set)?);
        manifests.push((set, rendered));
    }
    manifests.extend(plain_manifests()?.map(|(file, yaml)| (file.to_owned(), yaml)));
    for (name, yaml) in manifests {
        let wanted = json!({
            "resources": [],
            "summary": {"valid": objects(&yaml).len(), "invalid": 0, "errors": 0, "skipped": 0},
        });
        assert_eq!(kubeconform(&yaml)?, wanted, "{name}");
    }
    Ok(())
}

#[test]
fn kubeconform_finds_mistakes() -> Result<(), Error> {
    let rendered = objects(&printed(&render_set("everything")?));
    for (kind, place, field, value) in [
        ("Deployment", "/spec/template/spec/containers/0", "imagePulPolicy", json!("Always")),
        ("Deployment", "/spec", "replicas", json!("two")),
        ("ServiceMonitor", "/spec/endpoints/0", "intervall", json!("30s")),
        ("ServiceMonitor", "/metadata", "label", json!({})),
        ("PodMonitor", "/spec/podMetricsEndpoints/0", "scheme", json!("gopher")),
        ("ClusterIssuer", "/spec/acme", "servers", json!([])),
    ] {
        let mut object = rendered.iter().find(|object| object["kind"] == kind).unwrap().clone();
        assert_eq!(kubeconform(&object.to_string())?["summary"]["valid"], 1, "{kind}");
        object.pointer_mut(place).unwrap()[field] = value;
        let answer = kubeconform(&object.to_string())?;
        assert_eq!(answer["summary"]["invalid"], 1, "{kind} with another {field}");
        let message = answer["resources"][0]["msg"].as_str().unwrap();
        assert!(message.contains(field), "{field}: {message}");
    }
    let unknown =
        json!({"apiVersion": "waxwing.dev/v1", "kind": "ClusterIssue", "metadata": {"name": "typo"}});
    assert_eq!(kubeconform(&unknown.to_string())?["summary"]["errors"], 1);
    Ok(())
}

#[test]
fn plain_manifests_are_what_the_chart_renders() -> Result<(), Error> {
    for (file, wanted) in plain_manifests()? {
        current(&paths::workspace().join(file), &wanted);
    }
    Ok(())
}

#[test]
fn everything_has_one_version() -> Result<(), Error> {
    let version = env!("CARGO_PKG_VERSION");
    let about: Value = serde_yaml::from_str(&paths::read(&chart().join("Chart.yaml"))?).unwrap();
    assert_eq!((&about["version"], &about["appVersion"]), (&json!(version), &json!(version)));
    let containerfile = paths::read(&paths::workspace().join("deploy/Containerfile"))?;
    assert!(containerfile.contains(&format!("\nARG VERSION={version}\n")), "{containerfile}");
    Ok(())
}

#[test]
fn sets_of_values_render_as_before() -> Result<(), Error> {
    for set in sets() {
        let rendered = printed(&render_set(&set)?);
        current(&Path::new(&values_of(&set)).with_file_name("render.yaml"), &rendered);
    }
    Ok(())
}

#[test]
fn a_namespaced_release_has_nothing_cluster_wide() -> Result<(), Error> {
    let rendered = printed(&render("waxwing", "waxwing-system", &["--values", &values_of("namespaced")])?);
    for object in objects(&rendered) {
        assert!(object["metadata"]["namespace"].is_string(), "{object}");
    }
    Ok(())
}

#[test]
fn crds_are_the_generated_ones_and_stay() -> Result<(), Error> {
    let crds = |arguments: &[&str]| -> Result<Vec<Value>, Error> {
        let mut objects = objects(&printed(&render("waxwing", "waxwing-system", arguments)?));
        objects.retain(|object| object["kind"] == "CustomResourceDefinition");
        Ok(objects)
    };
    let rendered = crds(&[])?;
    assert_eq!(rendered.len(), 3);
    for crd in &rendered {
        let name = crd["metadata"]["name"].as_str().unwrap();
        let (plural, group) = name.split_once('.').unwrap();
        let file = paths::workspace().join(format!("crds/{group}_{plural}.yaml"));
        assert_eq!(crd["spec"], objects(&paths::read(&file)?)[0]["spec"]);
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
    assert!(crds(&["--set", "crds.keep=false"])?.iter().all(|crd| crd["metadata"]["annotations"].is_null()));
    assert!(crds(&["--set", "crds.install=false"])?.is_empty());
    Ok(())
}

#[test]
fn waxwing_knows_every_flag_that_it_is_given() -> Result<(), Error> {
    let waxwing = OperatorOptions::default().program;
    assert!(waxwing.exists(), "cargo build -p waxwing");
    for set in sets() {
        for object in
            objects(&printed(&render("waxwing", "waxwing-system", &["--values", &values_of(&set)])?))
        {
            let pod = match object["kind"].as_str() {
                Some("Deployment") => &object["spec"]["template"]["spec"],
                // That of helm test.
                Some("Pod") => &object["spec"],
                _ => continue,
            };
            let arguments = &pod["containers"][0]["args"];
            let arguments = arguments.as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
            // Flags are read before --help is obeyed.
            let output = Command::new(&waxwing).args(arguments).arg("--help").output().unwrap();
            assert!(output.status.success(), "{set}: {}", said(&output));
        }
    }
    Ok(())
}

#[test]
fn mistakes_are_refused() -> Result<(), Error> {
    for (mistake, word) in [
        ("replica=3", "replica"),
        ("replicas=0", "replicas"),
        ("image.digest=sha256:abc", "digest"),
        ("log.format=xml", "format"),
        ("log.level=warning", "level"),
        ("leaderElection.leaseDuration=15", "leaseDuration"),
        ("leaderElection.leaseDuration=10s", "longer than renewDeadline (10s): try 15s and 10s"),
        ("leaderElection.renewDeadline=2000ms", "longer than retryPeriod (2s): try 10s and 2s"),
        ("leaderElection.retryPeriod=99ms", "at least 100ms"),
        ("leaderElection.leaseDuration=10m1s", "at most 10m"),
        ("listenAddress=localhost", "listenAddress"),
        ("listenAddress=[::]", "listenAddress"),
        ("http01.selfCheck.nameservers={dns.example}", "nameservers"),
        ("http01.selfCheck.nameservers={[fd00::53]}", "nameservers"),
        ("http01.selfCheck.nameservers={10.0.0.53:65536}", "nameservers"),
        ("podDisruptionBudget.maxUnavailable=0", "maxUnavailable"),
        ("podDisruptionBudget.maxUnavailable=0%", "maxUnavailable"),
        ("responder.service.port=0", "port"),
        ("metrics.serviceMonitor.enabled=true", "enabled"),
    ] {
        let output = render("waxwing", "waxwing-system", &["--set", mistake])?;
        assert!(!output.status.success() && said(&output).contains(word), "{mistake}: {}", said(&output));
    }
    let issuer = "watch.namespaces={shop},clusterIssuer.create=true";
    let output = render("waxwing", "waxwing-system", &["--set", issuer])?;
    assert!(said(&output).contains("an Issuer in each namespace"), "{}", said(&output));
    let monitor = "metrics.service.create=false,metrics.serviceMonitor.create=true";
    let output = render("waxwing", "waxwing-system", &["--set", monitor])?;
    assert!(said(&output).contains("metrics.podMonitor.create instead"), "{}", said(&output));
    Ok(())
}

/// Tests of solvers in the lab stand on these.
#[test]
fn rights_of_solvers_are_those_that_the_lab_gives() -> Result<(), Error> {
    let roles = |set: &str| {
        render("waxwing", "waxwing-system", &["--show-only", "templates/rbac/roles.yaml", "--set", set])
    };
    let usual = rules(&printed(&roles("http01.rights.pod=false")?));
    for (value, lab) in
        [("pod", rights::PODS), ("inPlace", rights::IN_PLACE), ("gatewayHTTPRoute", rights::GATEWAY)]
    {
        let chart = rules(&printed(&roles(&format!("http01.rights.{value}=true"))?));
        let lab: BTreeSet<_> = usual.union(&rules(lab)).cloned().collect();
        let difference: Vec<_> = chart.symmetric_difference(&lab).collect();
        assert!(difference.is_empty(), "http01.rights.{value}: {difference:?}");
        assert!(chart.len() > usual.len(), "http01.rights.{value}");
    }
    Ok(())
}

/// What the roles allow: API group, resource and verb, with the names that it is about.
fn rules(yaml: &str) -> BTreeSet<[String; 4]> {
    let mut allowed = BTreeSet::new();
    for role in objects(yaml) {
        for rule in role["rules"].as_array().into_iter().flatten() {
            let words = |key: &str| {
                rule[key]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|word| word.as_str().unwrap().to_owned())
                    .collect::<Vec<_>>()
            };
            for group in words("apiGroups") {
                for resource in words("resources") {
                    for verb in words("verbs") {
                        allowed.insert([
                            group.clone(),
                            resource.clone(),
                            verb,
                            words("resourceNames").join(" "),
                        ]);
                    }
                }
            }
        }
    }
    allowed
}

#[test]
fn values_and_their_schema_say_the_same() -> Result<(), Error> {
    let text = paths::read(&chart().join("values.yaml"))?;
    let values: Value = serde_yaml::from_str(&text).unwrap();
    let schema: Value = serde_json::from_str(&paths::read(&chart().join("values.schema.json"))?).unwrap();
    let mut described = BTreeMap::new();
    compare("", &values, &schema, &mut described);
    assert_eq!(comments(&text), described);
    Ok(())
}

/// The files in `deploy/` that are made from the chart, and what belongs into them.
fn plain_manifests() -> Result<[(&'static str, String); 2], Error> {
    let all = render("waxwing", "waxwing-system", &["--set", "crds.install=false", "--skip-tests"])?;
    let rights = render("waxwing", "waxwing-system", &["--show-only", "templates/rbac/roles.yaml"])?;
    Ok([
        ("deploy/waxwing.yaml", format!("{NAMESPACE}{}", plain(&printed(&all)))),
        ("deploy/rbac.yaml", format!("{RIGHTS}{}", plain(&printed(&rights)))),
    ])
}

/// Fails when `file` isn't `wanted`; writes it instead when told to.
fn current(file: &Path, wanted: &str) {
    let tidy: Vec<&str> = wanted.lines().map(str::trim_end).collect();
    let wanted = tidy.join("\n") + "\n";
    if env::var_os("WAXWING_WRITE").is_some() {
        fs::write(file, wanted).unwrap();
        return;
    }
    let present = fs::read_to_string(file).unwrap_or_default();
    for (number, (present, wanted)) in present.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(present, wanted, "{}:{}; make manifests writes it anew", file.display(), number + 1);
    }
    assert_eq!(present.len(), wanted.len(), "{}: make manifests writes it anew", file.display());
}

/// Without what only Helm has a use for.
fn plain(rendered: &str) -> String {
    let helms = ["# Source: ", "helm.sh/chart: ", "app.kubernetes.io/managed-by: Helm"];
    let kept = rendered.lines().filter(|line| !helms.iter().any(|word| line.trim_start().starts_with(word)));
    kept.collect::<Vec<_>>().join("\n")
}

/// Collects the descriptions, and fails where a value has no place in the schema or the other way round.
fn compare(path: &str, value: &Value, schema: &Value, described: &mut BTreeMap<String, String>) {
    if let Some(description) = schema["description"].as_str() {
        described.insert(path.to_owned(), description.to_owned());
    }
    let Some(properties) = schema["properties"].as_object() else {
        let default = &schema["default"];
        assert!(default.is_null() || default == value, "{path}: the schema's default is {default}");
        return;
    };
    for (name, value) in value.as_object().unwrap() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let schema = properties.get(name).unwrap_or_else(|| panic!("the schema lacks {path}"));
        compare(&path, value, schema, described);
    }
    for name in properties.keys() {
        // Helm's own.
        let known = value.get(name).is_some() || name == "global";
        assert!(known, "values.yaml lacks {path}.{name}");
    }
    assert_eq!(schema["additionalProperties"], false, "{path}");
}

/// The comment above each key.
fn comments(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        let depth = line.len() - trimmed.len();
        if let Some(words) = trimmed.strip_prefix("# ") {
            comment.push(words);
            continue;
        }
        let key = trimmed.split_once(':').map(|(key, _)| key).filter(|key| !key.starts_with('-'));
        if let Some(key) = key {
            path.retain(|(above, _)| *above < depth);
            path.push((depth, key));
            if !comment.is_empty() {
                let path: Vec<&str> = path.iter().map(|(_, key)| *key).collect();
                found.insert(path.join("."), comment.join(" "));
            }
        }
        comment.clear();
    }
    found
}
