//! Reads the sources and checks who knows whom, so that the module map in docs/src/architecture.md stays true.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module of the operator may know of the others. `main.rs` and `lib.rs` are free.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("runtime", &[]),
    ("solver", &["runtime"]),
    ("issuer", &["runtime"]),
    ("source", &["runtime"]),
    ("certificate", &["issuer", "solver", "runtime"]),
    ("cli", &["certificate", "issuer", "runtime", "solver", "source"]),
];

/// Crates that a package must not import, in sources or manifest.
const FOREIGN: &[(&str, &[&str])] = &[
    ("operator/api", &["waxwing", "waxwing_acme", "e2e"]),
    (
        "operator/acme",
        &["waxwing", "waxwing_api", "e2e", "kube", "kube_core", "kube_client", "kube_runtime", "k8s_openapi"],
    ),
    ("operator", &["e2e"]),
];

/// Names that say what kind of code a file holds, not what it is for.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "misc", "manager"];

const LONGEST_FILE: usize = 700;

#[test]
fn modules_know_only_what_the_map_allows() {
    let source = root().join("operator/src");
    let modules: Vec<&str> = MAY_KNOW.iter().map(|(module, _)| *module).collect();
    let mut faults = Vec::new();
    for file in files(&source, "rs") {
        let path = module_path(file.strip_prefix(&source).unwrap());
        let Some(home) = path.first() else { continue };
        let Some((_, allowed)) = MAY_KNOW.iter().find(|(module, _)| module == home) else {
            faults.push(format!("{}: `{home}` is not in MAY_KNOW: say there what it may know", shown(&file)));
            continue;
        };
        for (line, known) in siblings_known(&fs::read_to_string(&file).unwrap(), path.len()) {
            if modules.contains(&known.as_str()) && known != *home && !allowed.contains(&known.as_str()) {
                faults.push(format!("{}:{line}: `{home}` must not know `{known}`", shown(&file)));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn packages_import_only_what_the_map_allows() {
    let mut faults = Vec::new();
    for (package, foreign) in FOREIGN {
        let package = root().join(package);
        for folder in ["src", "tests", "examples", "benches"] {
            for file in files(&package.join(folder), "rs") {
                for (line, name) in crates_named(&fs::read_to_string(&file).unwrap()) {
                    // Integration tests name the package that they test.
                    let own = package.ends_with("operator") && name == "waxwing";
                    if foreign.contains(&name.as_str()) && !own {
                        faults.push(format!("{}:{line}: imports `{name}`", shown(&file)));
                    }
                }
            }
        }
        let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
        for name in dependencies(&manifest) {
            if foreign.contains(&name.replace('-', "_").as_str()) {
                faults.push(format!("{}: depends on `{name}`", shown(&package.join("Cargo.toml"))));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_are_named_for_their_purpose_and_short_enough_to_read() {
    let mut faults = Vec::new();
    for file in files(&root().join("operator"), "rs").into_iter().chain(files(&root().join("e2e"), "rs")) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        if lines > LONGEST_FILE {
            faults.push(format!("{}: {lines} lines; split it by purpose", shown(&file)));
        }
        let relative = file.strip_prefix(root()).unwrap().with_extension("");
        for part in relative.iter().map(|part| part.to_string_lossy()) {
            if EMPTY_NAMES.contains(&part.as_ref()) {
                faults.push(format!("{}: `{part}` says nothing about its purpose", shown(&file)));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn shown(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).display().to_string()
}

/// Every file below `folder` with this extension, sorted; none where there is no such folder.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// `solver/http01/ingress.rs` is `[solver, http01, ingress]`; `solver/mod.rs` is `[solver]`; `main.rs` is `[]`.
fn module_path(file: &Path) -> Vec<String> {
    let mut path: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if path.last().is_some_and(|last| ["mod", "main", "lib"].contains(&last.as_str())) {
        path.pop();
    }
    path
}

/// The modules at the top of the crate that a file names by `crate::…` or by enough `super::`, with the line.
/// `depth` is how deep the file's own module is.
fn siblings_known(source: &str, depth: usize) -> BTreeSet<(usize, String)> {
    let tokens = tokens(source);
    let mut known = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        let mut after = at;
        let mut climbed = 0;
        while word_at(&tokens, after) == Some("super") && path_separator_at(&tokens, after + 1) {
            climbed += 1;
            after += 3;
        }
        if word_at(&tokens, at) == Some("crate") && path_separator_at(&tokens, at + 1) {
            after = at + 3;
        } else if climbed == 0 || climbed < depth {
            at = after.max(at + 1);
            continue;
        }
        known.extend(first_segments(&tokens, after));
        at = after;
    }
    known
}

/// What a path or a `{…}` list of paths starts with: `issuer::Key` gives `issuer`, `{a::B, c}` gives `a` and `c`.
fn first_segments(tokens: &[(usize, Token)], at: usize) -> Vec<(usize, String)> {
    match tokens.get(at) {
        Some((line, Token::Word(word))) => vec![(*line, word.clone())],
        Some((_, Token::Mark('{'))) => {
            let mut found = Vec::new();
            let mut depth = 0;
            for (index, (line, token)) in tokens.iter().enumerate().skip(at) {
                match token {
                    Token::Mark('{') => depth += 1,
                    Token::Mark('}') => depth -= 1,
                    Token::Word(word) => {
                        let starts = matches!(tokens.get(index - 1), Some((_, Token::Mark('{' | ','))));
                        if depth == 1 && starts {
                            found.push((*line, word.clone()));
                        }
                    }
                    Token::Mark(_) => {}
                }
                if depth == 0 {
                    break;
                }
            }
            found
        }
        _ => Vec::new(),
    }
}

/// Names that stand where a crate may: at the start of a path, or after `extern crate`.
fn crates_named(source: &str) -> BTreeSet<(usize, String)> {
    let tokens = tokens(source);
    let mut named = BTreeSet::new();
    for (index, (line, token)) in tokens.iter().enumerate() {
        let Token::Word(word) = token else { continue };
        let word_before = |back| index.checked_sub(back).and_then(|at| word_at(&tokens, at));
        let rooted = index >= 2 && path_separator_at(&tokens, index - 2);
        let continues = rooted
            && (word_before(3).is_some_and(|word| word != "use")
                || matches!(index.checked_sub(3).map(|at| &tokens[at].1), Some(Token::Mark('>'))));
        let imported = matches!(word_before(1), Some("use" | "crate"));
        if !continues && (rooted || imported || path_separator_at(&tokens, index + 1)) {
            named.insert((*line, word.clone()));
        }
    }
    named
}

/// The keys of every dependency section of a manifest, with or without a target.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section.ends_with("dependencies");
            if let Some((_, name)) = section.split_once("dependencies.") {
                found.push(name.to_owned());
            }
        } else if inside && !line.starts_with('#') {
            let name: String =
                line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_').collect();
            if !name.is_empty() {
                found.push(name);
            }
        }
    }
    found
}

#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Mark(char),
}

fn word_at(tokens: &[(usize, Token)], at: usize) -> Option<&str> {
    match tokens.get(at) {
        Some((_, Token::Word(word))) => Some(word),
        _ => None,
    }
}

fn path_separator_at(tokens: &[(usize, Token)], at: usize) -> bool {
    (at..at + 2).all(|at| matches!(tokens.get(at), Some((_, Token::Mark(':')))))
}

/// Words and marks with their lines, without comments, strings and character literals.
fn tokens(source: &str) -> Vec<(usize, Token)> {
    let text: Vec<char> = source.chars().collect();
    let mut found = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while let Some(&c) = text.get(at) {
        let start = at;
        let next = text.get(at + 1).copied();
        if c == '/' && next == Some('/') {
            at = end_of(&text, at, |rest| rest.starts_with(&['\n']));
        } else if c == '/' && next == Some('*') {
            at = end_of(&text, at, |rest| rest.starts_with(&['*', '/'])) + 2;
        } else if let Some(hashes) = raw_string_at(&text, at) {
            let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            at = end_of(&text, at + 2 + hashes, |rest| rest.starts_with(&close)) + close.len();
        } else if c == '"' {
            at = end_of_quoted(&text, at + 1, '"');
        } else if c == '\'' && (next == Some('\\') || text.get(at + 2) == Some(&'\'')) {
            at = end_of_quoted(&text, at + 1, '\'');
        } else if c.is_alphanumeric() || c == '_' {
            at = end_of(&text, at, |rest| !rest.first().is_some_and(|c| c.is_alphanumeric() || *c == '_'));
            found.push((line, Token::Word(text[start..at].iter().collect())));
        } else {
            at += 1;
            if !c.is_whitespace() {
                found.push((line, Token::Mark(c)));
            }
        }
        at = at.min(text.len());
        line += text[start..at].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn end_of(text: &[char], from: usize, ends: impl Fn(&[char]) -> bool) -> usize {
    (from..text.len()).find(|at| ends(&text[*at..])).unwrap_or(text.len())
}

fn end_of_quoted(text: &[char], from: usize, quote: char) -> usize {
    let mut at = from;
    while let Some(c) = text.get(at) {
        match c {
            '\\' => at += 2,
            c if *c == quote => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// The number of hashes of a raw string that starts here.
fn raw_string_at(text: &[char], at: usize) -> Option<usize> {
    let inside_word =
        at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_') && text[at - 1] != 'b';
    if text.get(at) != Some(&'r') || inside_word {
        return None;
    }
    let hashes = text[at + 1..].iter().take_while(|c| **c == '#').count();
    (text.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

#[test]
fn the_reader_finds_every_form_of_import() {
    let source = r##"
        // crate::comment and "a string with crate::quoted"
        use crate::{issuer::{Key, other::Deep}, solver};
        use super::super::runtime::Events;
        use super::near;
        const TEXT: &str = "crate::string"; const RAW: &str = r#"crate::raw "inner" "#;
        fn f<'a>(c: char) -> crate::certificate::Kind { let q = '"'; crate::source::x(q) }
    "##;
    let known: Vec<String> = siblings_known(source, 2).into_iter().map(|(_, name)| name).collect();
    assert_eq!(known, ["issuer", "solver", "runtime", "certificate", "source"]);

    let named: BTreeSet<String> =
        crates_named("use kube; use ::k8s_openapi::x; fn f() { kube_runtime::watcher(); a::waxwing::b() }")
            .into_iter()
            .map(|(_, name)| name)
            .collect();
    assert!(["kube", "k8s_openapi", "kube_runtime"].iter().all(|name| named.contains(*name)), "{named:?}");
    assert!(!named.contains("waxwing"), "{named:?}");

    let manifest = "[dependencies]\nkube.workspace = true\n[target.'cfg(unix)'.dependencies.ring]\nversion = \"1\"\n[lints]\nx = 1";
    assert_eq!(dependencies(manifest), ["kube", "ring"]);
}
